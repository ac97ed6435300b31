"""What jobs for elsewhere ask of the store, on both databases: recorded, then sent, or not."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace

import pytest

from caliban.history.store import HistoryStore
from caliban.model.job import Handle, Job, Outcome, Status
from tests.history.recent import recent_jobs
from tests.history.test_store import NOW, Entry, entry, record, uids

LATER = NOW + datetime.timedelta(minutes=5)
TARGET = "p1/us-central1"


@pytest.fixture
def store(url: str) -> Iterator[HistoryStore]:
    with HistoryStore.open(url) as opened:
        yield opened


def there(number: int) -> list[Entry]:
    """Jobs for elsewhere, which nobody has sent yet."""
    found = [entry({"step": step}) for step in range(number)]
    return [
        (request, replace(submission, platform="vertex", target=TARGET), None)
        for request, submission, _ in found
    ]


def send(store: HistoryStore, *entries: Entry) -> None:
    handles = {each[0].uid: Handle("vertex", TARGET, each[0].uid[:4]) for each in entries}
    store.settle({}, handles)


def by_uid(store: HistoryStore) -> dict[str, Job]:
    return {job.uid: job for job in recent_jobs(store, "totoro")}


def test_a_job_that_has_been_sent_is_found_there_and_needs_no_owner(store: HistoryStore) -> None:
    sent, unsent = jobs = there(2)
    record(store, *jobs, owner="me")
    send(store, sent)
    found = by_uid(store)
    uid = sent[0].uid
    assert found[uid].handle == Handle("vertex", TARGET, uid[:4])
    assert (found[uid].owner, found[unsent[0].uid].owner) == ("", "me")
    assert found[unsent[0].uid].handle is None
    # Whoever has sent them may still be there: what is there is asked about all the same.
    assert [job.uid for job in store.open_jobs("totoro", None, lambda owner: owner == "me")] == [
        uid
    ]


def test_only_what_has_not_been_sent_is_cancelled(store: HistoryStore) -> None:
    sent, unsent, ended = jobs = there(3)
    record(store, *jobs, owner="me")
    send(store, sent)
    store.settle({ended[0].uid: Outcome(Status.FAILED, reason="refused", finished=NOW)})
    assert store.cancel_unsent([*uids(jobs), "no such job"], LATER) == [unsent[0].uid]
    outcomes = {uid: job.outcome for uid, job in by_uid(store).items()}
    assert outcomes == {
        sent[0].uid: Outcome(Status.SUBMITTED),
        unsent[0].uid: Outcome(Status.STOPPED, reason="stopped before it was sent", finished=LATER),
        ended[0].uid: Outcome(Status.FAILED, reason="refused", finished=NOW),
    }


def test_one_sees_which_jobs_have_been_ended_meanwhile(store: HistoryStore) -> None:
    first, second, third = jobs = there(3)
    record(store, *jobs, owner="me")
    store.cancel_unsent([second[0].uid], LATER)
    store.settle({third[0].uid: Outcome(Status.RUNNING)})
    assert store.ended([*uids(jobs), "no such job"]) == {second[0].uid}
    assert store.ended([]) == set()
    assert first[0].uid not in store.ended([first[0].uid])


def test_also_a_job_that_waits_elsewhere_can_be_asked_to_end(store: HistoryStore) -> None:
    queued, running, ended = jobs = there(3)
    record(store, *jobs, owner="me")
    send(store, *jobs)
    store.settle({running[0].uid: Outcome(Status.RUNNING, started=NOW)})
    store.settle({ended[0].uid: Outcome(Status.SUCCEEDED, 0, finished=NOW)})
    assert store.request_stop(uids(jobs), LATER) == [running[0].uid]
    asked = store.request_stop(uids(jobs), LATER, waiting=True)
    assert sorted(asked) == sorted([queued[0].uid, running[0].uid])
    store.settle(dict.fromkeys(uids(jobs), Outcome(Status.FAILED, 1, "exit code 1")))
    statuses = {uid: job.outcome.status for uid, job in by_uid(store).items()}
    assert statuses == {
        queued[0].uid: Status.STOPPED,
        running[0].uid: Status.STOPPED,
        ended[0].uid: Status.SUCCEEDED,
    }


def test_why_a_job_waits_is_kept_as_long_as_it_does(store: HistoryStore) -> None:
    (job,) = there(1)
    record(store, job, owner="me")
    send(store, job)
    waits = Outcome(Status.SUBMITTED, reason="Unschedulable: 0/1 nodes have nvidia.com/gpu")
    store.settle({job[0].uid: waits})
    assert store.outcome(job[0].uid) == waits
    store.settle({job[0].uid: Outcome(Status.RUNNING, started=NOW)})
    assert store.outcome(job[0].uid) == Outcome(Status.RUNNING, started=NOW)
