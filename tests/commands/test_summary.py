"""The exit code of a launch whose experiments another caliban runs."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import cast

import pytest

from caliban import process
from caliban.commands import summary
from caliban.history.store import DEFAULT_URL, HistoryStore
from caliban.launch import Execution, Sweep
from caliban.model.experiment import Experiment
from caliban.model.job import JobRequest, Outcome, Status, Submission
from caliban.platform.local import LocalBackend
from tests.conftest import USER
from tests.report import sweeps

NOW = datetime.datetime(2026, 11, 21, 3, 43, 41, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (Status.SUBMITTED, 1),
        (Status.RUNNING, 1),
        (Status.FAILED, 1),
        (Status.STOPPED, 1),
        (Status.SUCCEEDED, 0),
    ],
)
def test_only_what_another_caliban_has_brought_to_success_has_succeeded(
    now: Status, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with HistoryStore.open(DEFAULT_URL) as store:
        store.group(USER, "two", NOW)
        request = JobRequest("0" * 16, Experiment((), {"n": 1}), "i", "two", 0)
        plan = (Submission("local", "here", {}), None)
        store.record(USER, "two", process.identity(), {}, [request], lambda *_: plan)
        seen = store.jobs([request.uid])
        store.settle({request.uid: Outcome(now)})
        nobody = cast(LocalBackend, None)
        assert summary.see_through(nobody, store, "two", Sweep([], seen), Execution()) == code
    said = capsys.readouterr().err
    assert "Skipped: 1 experiment being run by another caliban" in said
    assert ("'caliban status --watch --xgroup two' waits" in said) == (code == 1)


def test_why_jobs_have_failed_is_told_once_for_all_that_failed_so(home: Path) -> None:
    with HistoryStore.open(DEFAULT_URL) as store:
        jobs = store.jobs(sweeps.record(store, "sweep", 200))
        failed = [job for job in jobs if job.outcome.status is Status.FAILED]
        lines = list(summary._causes(store, [job.uid for job in failed]))
        alone = list(summary._causes(store, [failed[0].uid]))
    assert lines == [
        "  14 jobs (14, 16, 30, 44, 54, ...): FloatingPointError: the loss is nan",
        "  9 jobs (9, 25, 76, 79, 81, ...): out of memory",
    ]
    assert alone == ["  cause: out of memory"]
