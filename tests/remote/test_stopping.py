"""Jobs elsewhere are ended: those there, those on their way, and those not sent yet."""

from __future__ import annotations

from caliban.history.store import HistoryStore
from caliban.model.job import Outcome, Status
from caliban.remote import parallel, refresh, stopping
from caliban.remote.backends import Backends
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import REQUEST_LOST, Fault
from tests.remote.conftest import jobs_of, record, send, wanted
from tests.remote.test_submit import disown


def states(cloud: GoogleCloud) -> dict[str, str]:
    return {
        job["labels"]["caliban_uid"]: job["state"].removeprefix("JOB_STATE_")
        for job in cloud.vertex.jobs
    }


def test_jobs_are_asked_to_end_where_they_are(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    jobs = record(backends, store, wanted(3))
    send(backends, store, jobs[:2])
    there, also_there, unsent = jobs_of(store)
    store.settle({also_there.uid: Outcome(Status.RUNNING)})
    stopped = stopping.stop(store, backends, jobs_of(store))
    assert stopped.asked == {there.uid, also_there.uid}
    # This process is alive, and about to send it; it looks before that.
    assert stopped.cancelled == {unsent.uid}
    assert stopped.lost == {}
    assert set(states(cloud).values()) == {"CANCELLED"}
    refresh.refresh(store, jobs_of(store)[:2], backends)
    assert [job.outcome.status for job in jobs_of(store)] == [Status.STOPPED] * 3
    assert jobs_of(store)[2].outcome.reason == "stopped before it was sent"


def test_a_job_that_was_sent_by_a_caliban_that_was_killed_is_found_and_ended(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    sent, unsent = record(backends, store, wanted(2))
    backends.of("vertex").submit(sent.submission, is_new=True)
    disown(store)
    stopped = stopping.stop(store, backends, jobs_of(store))
    assert (stopped.asked, stopped.cancelled) == ({sent.uid}, {unsent.uid})
    assert states(cloud) == {sent.uid: "CANCELLED"}
    assert jobs_of(store)[0].handle is not None


def test_what_cannot_be_asked_is_told_and_stays_open(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    jobs = record(backends, store, wanted(2))
    send(backends, store, jobs[:1])
    disown(store)
    refused = Fault(status=403, message="not for you")
    cloud.faults.add("customJobs.list", refused)
    cloud.faults.add("customJobs.cancel", refused)
    stopped = stopping.stop(store, backends, jobs_of(store))
    assert stopped.asked == stopped.cancelled == set()
    assert set(stopped.lost) == {job.uid for job in jobs}
    assert all("not for you" in why for why in stopped.lost.values())
    assert next(iter(stopped.hints)).startswith("Your account needs a role there: ")
    assert {job.outcome.status for job in jobs_of(store)} == {Status.SUBMITTED}
    assert states(cloud) == {jobs[0].uid: "RUNNING"}


def test_a_place_that_never_answers_is_not_asked_for_each_of_its_jobs(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    send(backends, store, record(backends, store, wanted(40)))
    cloud.faults.add("customJobs.cancel", REQUEST_LOST)
    stopped = stopping.stop(store, backends, jobs_of(store))
    assert len(stopped.lost) == 40
    assert all("no answer from" in why for why in stopped.lost.values())
    # Those that are asked at the same time, each of them a few times.
    assert len(cloud.server.calls("customJobs.cancel")) <= parallel.THREADS * 5


def test_a_job_that_could_not_be_asked_and_fails_later_has_failed(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    send(backends, store, record(backends, store, wanted(2)))
    cloud.faults.add("customJobs.cancel", Fault(status=403, message="not for you"))
    first = jobs_of(store)[0]
    assert set(stopping.stop(store, backends, [first]).lost) == {first.uid}
    assert jobs_of(store)[0].stop_requested is None
    # What was asked for before stays asked for, whatever becomes of the next attempt.
    cloud.faults.clear()
    second = jobs_of(store)[1]
    assert stopping.stop(store, backends, [second]).asked == {second.uid}
    cloud.faults.add("customJobs.cancel", Fault(status=403, message="not for you"))
    stopping.stop(store, backends, jobs_of(store))
    store.settle({job.uid: Outcome(Status.FAILED, 3) for job in jobs_of(store)})
    assert [job.outcome.status for job in jobs_of(store)] == [Status.FAILED, Status.STOPPED]


def test_a_job_that_had_ended_by_itself_is_in_no_list(
    backends: Backends, store: HistoryStore
) -> None:
    send(backends, store, record(backends, store, wanted(1)))
    seen = jobs_of(store)
    store.settle({seen[0].uid: Outcome(Status.SUCCEEDED, 0)})
    stopped = stopping.stop(store, backends, seen)
    assert stopped == stopping.Stopped()
