"""What `caliban status` prints of a job: as lines for people, and as JSON."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from caliban.commands.status import as_json, render
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, Job, Outcome, Status, Submission

NOW = datetime.datetime(2026, 11, 21, 3, 43, 41, tzinfo=datetime.UTC)
HANDLE = Handle("local", "here", "caliban-0123456789abcdef")


def job(
    payload: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
    status: Status = Status.SUCCEEDED,
    started: datetime.datetime | None = NOW,
    live: bool = False,
) -> Job:
    spec = {"mode": "cpu", "directory": "/p", "module": {"name": "trainer.train"}}
    return Job(
        id=6,
        uid="0123456789abcdef",
        user="tester",
        group="tuning",
        experiment_id=3,
        experiment=Experiment(("--epochs", "20"), {"learning_rate": 0.1}),
        container_spec_id=1,
        container_spec={**spec, "live": True} if live else spec,
        submission=Submission("local", "here", payload or {}),
        handle=HANDLE,
        image="sha256:4d3da2be160512345678",
        outcome=Outcome(
            status, 0, "", started, NOW + datetime.timedelta(seconds=1.9) if started else None
        ),
        owner="",
        created=NOW,
        details=details or {},
    )


def lines(*jobs: Job) -> list[str]:
    return list(render(jobs, ""))


def test_this_is_how_a_job_is_shown() -> None:
    when = NOW.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert lines(job()) == [
        "xgroup tuning:",
        "docker config 1: job_mode: CPU, build url: /p, extra dirs: None",
        "  experiment id 3: trainer.train --epochs 20 --learning_rate 0.1",
        f"    job 6        SUCCEEDED    LOCAL {when} container: 4d3da2be1605 in 1.9 s",
    ]


def test_live_code_is_named_by_its_digest() -> None:
    _, config, _, shown = lines(job(details={"code": "sha256:3f2a91bc0d1277"}, live=True))
    assert config == "docker config 1: job_mode: CPU, build url: /p, extra dirs: None, live code"
    assert shown.endswith(" container: 4d3da2be1605 live code: 3f2a91bc0d12 in 1.9 s")


def test_the_files_of_a_job_have_a_line_of_their_own() -> None:
    written = job({"output": "/results/tuning/6"})
    shown = lines(written, written)
    assert shown[4] == "      files: /results/tuning/6"
    assert shown[3].startswith("    job 6 ")
    assert shown[5:] == shown[3:5]


def test_a_job_that_was_never_started_has_no_files() -> None:
    for status in (Status.SUBMITTED, Status.STOPPED):
        waiting = job({"output": "/results/tuning/6"}, status=status, started=None)
        assert len(lines(waiting)) == 4
        assert as_json(waiting)["output"] is None


def test_programs_find_both_in_the_json() -> None:
    found = as_json(job({"output": "/results/6"}, {"code": "sha256:3f2a"}, live=True))
    assert (found["output"], found["code"]) == ("/results/6", "sha256:3f2a")
    found = as_json(job())
    assert (found["output"], found["code"]) == (None, None)


def test_details_of_another_kind_do_no_harm() -> None:
    old = dataclasses.replace(job(details={"code": 3, "ret_code": 1}), handle=None)
    assert as_json(old)["code"] is None
    assert "live code" not in "\n".join(lines(old))
