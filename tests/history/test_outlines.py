"""Jobs in outline, on both databases."""

from __future__ import annotations

import datetime

from caliban.history.store import HistoryStore
from caliban.model.experiment import Experiment
from caliban.model.job import JobRequest, Outcome, Status, Submission
from caliban.model.report import Report

NOW = datetime.datetime(2026, 11, 21, 3, 43, 41, tzinfo=datetime.UTC)


def record(store: HistoryStore, uid: str, seed: int, status: Status, spec: str = "cpu") -> None:
    """Writes down a job of the group g."""
    request = JobRequest(uid, Experiment(("--a", "1"), {"seed": seed}), "image", "g", 0)
    sent = Submission("local", "here", {})
    store.group("totoro", "g", NOW)
    store.record("totoro", "g", "", {"mode": spec}, [request], lambda *_: (sent, None))
    report = Report({"accuracy": 0.5}, "KeyError" if status is Status.FAILED else "")
    store.settle({uid: Outcome(status, 0, "exit code 1", NOW, NOW)}, reports={uid: report})


def test_the_newest_jobs_of_each_experiment_are_read_and_counted(url: str) -> None:
    with HistoryStore.open(url) as store:
        record(store, "a", 1, Status.FAILED)
        record(store, "b", 2, Status.SUCCEEDED)
        record(store, "c", 1, Status.FAILED)
        record(store, "d", 1, Status.STOPPED)
        record(store, "e", 3, Status.FAILED, "gpu")
        uids = {n: [each.uid for each in store.outlines("totoro", "g", n)] for n in (0, 1, 2)}
        assert uids == {0: ["a", "c", "d", "b", "e"], 1: ["d", "b", "e"], 2: ["c", "d", "b", "e"]}
        [failed] = store.outlines("totoro", "g", 1, Status.FAILED)
        assert (failed.uid, failed.cause, failed.metrics) == ("e", "KeyError", {"accuracy": 0.5})
        assert failed.experiment == Experiment(("--a", "1"), {"seed": 3})
        assert failed.container_spec_id != store.outlines("totoro", "g", 1)[0].container_spec_id
        counted = {(each.status, each.number, each.uid) for each in store.tallies("totoro", "g")}
        assert counted == {
            (Status.STOPPED, 1, "d"),
            (Status.SUCCEEDED, 1, "b"),
            (Status.FAILED, 1, "e"),
        }
        assert [each.uid for each in store.recent_outlines("totoro", 2)] == ["e", "d"]
        assert [each.uid for each in store.recent_outlines("totoro", 9, before=3)] == ["b", "a"]
        assert store.recent_outlines("mei", 9) == []
