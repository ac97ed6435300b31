"""The locks of a history, on each kind of database."""

from __future__ import annotations

import datetime
import threading

import pytest

from caliban.history.store import HistoryStore
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, JobRequest, Submission


def test_a_lock_is_found_by_what_it_was_resolved_from(url: str) -> None:
    with HistoryStore.open(url) as store:
        assert store.locks.find("a") is None
        assert store.locks.keep("project", "a", "six==1.16\n") == "six==1.16\n"
        assert store.locks.keep("project", "b", "ünï") == "ünï"
    with HistoryStore.open(url) as store:
        assert [store.locks.find(each) for each in "abc"] == ["six==1.16\n", "ünï", None]


def test_the_first_lock_counts_unless_it_is_replaced_by_name(url: str) -> None:
    with HistoryStore.open(url) as store:
        store.locks.keep("project", "a", "first")
        assert store.locks.keep("project", "a", "second") == "first"
        assert store.locks.keep("project", "a", "third", replaces="first") == "third"
        # Somebody else has replaced it since it was read.
        assert store.locks.keep("project", "a", "fourth", replaces="first") == "third"
        assert store.locks.find("a") == "third"


def test_the_newest_lock_of_a_project_is_found(url: str) -> None:
    with HistoryStore.open(url) as store:
        for project, declaration in (("mine", "a"), ("mine", "b"), ("yours", "c")):
            store.locks.keep(project, declaration, f"lock of {declaration}")
        assert store.locks.newest("mine") == "lock of b"
        assert store.locks.newest("other") is None


def test_of_several_at_one_moment_all_get_the_same(url: str) -> None:
    HistoryStore.open(url).close()
    kept: list[str] = []

    def keep(lock: str) -> None:
        with HistoryStore.open(url) as store:
            kept.append(store.locks.keep("project", "a", lock))

    threads = [threading.Thread(target=keep, args=(str(number),)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == 5
    assert len(set(kept)) == 1


@pytest.mark.parametrize("lock", ["six==1.17", ""])
def test_the_same_experiment_with_another_lock_is_the_same_experiment(url: str, lock: str) -> None:
    def record(store: HistoryStore, uid: str, spec: dict[str, str]) -> None:
        request = JobRequest(uid, Experiment((), {"seed": 1}), "image", "sweep", 0)
        store.record("totoro", "sweep", "", spec, [request], planned)

    def planned(_number: int, request: JobRequest) -> tuple[Submission, Handle]:
        return Submission("local", "", {}), Handle("local", "", request.uid)

    newer = {"mode": "cpu", **({"lock": lock} if lock else {})}
    with HistoryStore.open(url) as store:
        store.group("totoro", "sweep", datetime.datetime.now(datetime.UTC))
        record(store, "old", {"mode": "cpu", "lock": "six==1.16"})
        record(store, "new", newer)
        jobs = store.group_jobs("totoro", "sweep", 0)
    assert [job.uid for job in jobs] == ["old", "new"]
    assert len({job.experiment_id for job in jobs}) == 1
    # What it was recorded with last: this is what it would be run with again.
    assert jobs[-1].container_spec == newer
