"""Jobs that somebody stops, in the history."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator

import pytest

from caliban.history.store import HistoryStore
from caliban.model.job import Outcome, Status
from tests.history.test_store import record, sweep, uids

NOW = datetime.datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)


@pytest.fixture
def store(url: str) -> Iterator[HistoryStore]:
    with HistoryStore.open(url) as opened:
        yield opened


def test_a_job_that_waits_is_either_stopped_or_started(store: HistoryStore, url: str) -> None:
    entries = sweep(40)
    record(store, *entries)
    names = uids(entries)
    cancelled: list[str] = []

    def cancel() -> None:
        with HistoryStore.open(url) as other:
            for uid in reversed(names):
                cancelled.extend(other.cancel([uid], NOW))

    thread = threading.Thread(target=cancel)
    thread.start()
    claimed = [uid for uid in names if store.claim(uid, "host/1/2", NOW)]
    thread.join()
    assert sorted(claimed + cancelled) == sorted(names)
    for job in store.jobs(names):
        expected = Status.RUNNING if job.uid in claimed else Status.STOPPED
        assert job.outcome.status is expected
    for uid in cancelled:
        outcome = store.outcome(uid)
        assert (outcome.reason, outcome.started) == ("stopped before it started", None)
        assert not store.claim(uid, "host/1/2", NOW)


def test_only_running_jobs_are_asked_to_stop(store: HistoryStore) -> None:
    entries = sweep(3)
    record(store, *entries)
    running, ended, waiting = uids(entries)
    store.settle({running: Outcome(Status.RUNNING), ended: Outcome(Status.FAILED, 1)})
    assert store.request_stop([waiting, ended, running, "unknown"], NOW) == [running]
    asked = {job.uid: job.stop_requested for job in store.jobs([running, ended, waiting])}
    assert asked == {running: NOW, ended: None, waiting: None}
    assert store.cancel([waiting, ended, running, "unknown"], NOW) == [waiting]


def test_a_wish_to_stop_is_taken_back_only_by_whose_it_is(store: HistoryStore) -> None:
    entries = sweep(2)
    record(store, *entries)
    mine, of_another = uids(entries)
    store.settle({uid: Outcome(Status.RUNNING) for uid in (mine, of_another)})
    store.request_stop([mine, of_another], NOW)
    store.request_stop([of_another], NOW + SECOND)
    store.withdraw_stop([mine, of_another], NOW)
    asked = {job.uid: job.stop_requested for job in store.jobs([mine, of_another])}
    assert asked == {mine: None, of_another: NOW + SECOND}


@pytest.mark.parametrize(
    ("status", "finished", "recorded"),
    [
        (Status.FAILED, NOW + SECOND, Status.STOPPED),
        (Status.FAILED, None, Status.STOPPED),
        (Status.SUCCEEDED, NOW + SECOND, Status.STOPPED),  # it took leave in order
        (Status.SUCCEEDED, NOW - SECOND, Status.SUCCEEDED),  # by itself, a moment before
        (Status.RUNNING, None, Status.RUNNING),
    ],
)
def test_what_becomes_of_a_job_that_was_asked_to_stop(
    store: HistoryStore,
    status: Status,
    finished: datetime.datetime | None,
    recorded: Status,
) -> None:
    entries = sweep(2)
    record(store, *entries)
    asked, other = uids(entries)
    store.settle({uid: Outcome(Status.RUNNING) for uid in (asked, other)})
    store.request_stop([asked], NOW)
    store.settle({uid: Outcome(status, reason="why", finished=finished) for uid in (asked, other)})
    expected = "stopped" if recorded is Status.STOPPED else "why"
    assert store.outcome(asked) == Outcome(recorded, reason=expected, finished=finished)
    assert store.outcome(other) == Outcome(status, reason="why", finished=finished)


def test_jobs_are_found_by_their_uids(store: HistoryStore) -> None:
    entries = sweep(2000)
    ids = record(store, *entries)
    assert [job.id for job in store.jobs([*reversed(uids(entries)), "unknown"])] == ids
    assert store.jobs([]) == []
