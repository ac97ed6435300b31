"""Jobs are sent to a cloud that loses answers, refuses, and is too busy: each is there once."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import threading
import time as real
from collections.abc import Iterator
from dataclasses import replace

import pytest

from caliban import dispatch, launch, process
from caliban.errors import RefusedError, UnknownOutcomeError
from caliban.history.store import HistoryStore
from caliban.interrupt import Interruption
from caliban.model.job import Status
from caliban.platform.rest import Session
from caliban.platform.vertex import VertexBackend
from caliban.remote import submit
from caliban.remote.backends import Backends
from caliban.remote.submit import Submitter
from tests.google_cloud import faults
from tests.google_cloud.client import credentials
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault
from tests.remote.conftest import Opened, Told, jobs_of, record, send, uids, wanted

CREATE, LIST, CANCEL = "customJobs.create", "customJobs.list", "customJobs.cancel"


def dead() -> str:
    """The identity of a process that has ended."""
    code = "from caliban import process; print(process.identity())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def disown(store: HistoryStore) -> None:
    """Makes it so that whoever has recorded the jobs has died."""
    mine = {job.uid: job.owner for job in jobs_of(store) if job.owner}
    assert store.adopt(mine, dead()) == set(mine)


def test_every_job_is_there_once_and_recorded(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    told = Told()
    jobs = record(backends, store, wanted(60))
    assert {job.outcome.status for job in jobs_of(store)} == {Status.SUBMITTED}
    assert {job.handle for job in jobs_of(store)} == {None}
    sent = send(backends, store, jobs, told)
    assert uids(cloud) == sorted(job.uid for job in jobs)
    there = {job["labels"]["caliban_uid"]: job["name"] for job in cloud.vertex.jobs}
    for job in jobs_of(store):
        assert job.handle is not None
        assert there[job.uid].endswith(f"/{job.handle.id}")
    assert sent.problem is None
    assert sent.handles == {job.uid: job.handle for job in jobs_of(store)}
    assert sorted(number for number, _ in told.accepted_ones) == [job.id for job in jobs]


def test_new_jobs_cost_one_request_each(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    send(backends, store, record(backends, store, wanted(20)))
    assert [each.method for each in cloud.server.records] == [CREATE] * 20


def trouble(count: int) -> Fault | None:
    return {
        2: faults.ANSWER_LOST,
        4: faults.UNAVAILABLE,
        5: faults.TOO_MANY,
        7: faults.REQUEST_LOST,
        8: faults.ACCEPTED_BUT_UNAVAILABLE,
    }.get(count % 10)


def test_lost_answers_and_busy_servers_make_neither_more_nor_fewer(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    cloud.faults.add(CREATE, trouble)
    jobs = record(backends, store, wanted(80))
    sent = send(backends, store, jobs)
    assert uids(cloud) == sorted(job.uid for job in jobs)
    assert len(sent.handles) == 80
    assert all(job.handle for job in jobs_of(store))


def test_what_is_refused_has_failed_and_the_others_go_on(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    launched = wanted(5)
    jobs = record(backends, store, launched)
    jobs[2].submission.payload["body"]["displayName"] = ""
    told = Told()
    sent = send(backends, store, jobs, told)
    assert list(sent.refused) == [jobs[2].uid]
    assert len(cloud.vertex.jobs) == 4
    refused = jobs_of(store)[2]
    assert refused.outcome.status is Status.FAILED
    assert "displayName: must have 1 to 128 characters" in refused.outcome.reason
    assert refused.report.cause == refused.outcome.reason
    assert refused.outcome.finished is not None
    assert [number for number, _ in told.refused_ones] == [refused.id]


@pytest.mark.parametrize(
    ("fault", "status"),
    [(Fault(status=403), 403), (faults.ALL_IN_USE, 429), (Fault(status=404), 404)],
)
def test_after_a_refusal_of_all_nothing_more_is_sent(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore, fault: Fault, status: int
) -> None:
    cloud.faults.add(CREATE, lambda count: fault if count > 10 else None)
    jobs = record(backends, store, wanted(100))
    sent = send(backends, store, jobs)
    assert isinstance(sent.problem, RefusedError)
    assert sent.problem.status == status
    # Those that were under way at that moment, and no others.
    assert len(cloud.server.calls(CREATE)) <= 10 + VertexBackend.AT_A_TIME
    assert sent.refused == {}
    unsent = [job for job in jobs_of(store) if job.handle is None]
    assert len(unsent) == 90
    assert {job.outcome.status for job in unsent} == {Status.SUBMITTED}
    # Once that has been seen to, it goes on where it was.
    cloud.faults.clear()
    disown(store)
    pending = dispatch.again(backends.of("vertex"), store, jobs_of(store))
    assert len(pending.jobs) == 90
    send(backends, store, [*pending.jobs])
    assert uids(cloud) == sorted(job.uid for job in jobs)


def test_a_cloud_that_is_out_of_order_gets_no_more(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    cloud.faults.add(CREATE, faults.REQUEST_LOST)
    cloud.faults.add(LIST, faults.UNAVAILABLE)
    sent = send(backends, store, record(backends, store, wanted(100)))
    assert isinstance(sent.problem, UnknownOutcomeError)
    assert len(sent.handles) == 0
    assert len(cloud.server.calls(CREATE)) <= 2 * VertexBackend.AT_A_TIME
    assert {job.outcome.status for job in jobs_of(store)} == {Status.SUBMITTED}


class TestGoingOn:
    def test_finds_what_was_sent_and_sends_the_rest(
        self, cloud: GoogleCloud, backends: Backends, store: HistoryStore
    ) -> None:
        jobs = record(backends, store, wanted(30))
        # Killed after it had sent ten of them, of which it had recorded five.
        backend = backends.of("vertex")
        handles = {job.uid: backend.submit(job.submission, is_new=True) for job in jobs[:10]}
        store.settle({}, dict(list(handles.items())[:5]))
        disown(store)
        before = len(cloud.server.calls(LIST))
        pending = dispatch.again(backend, store, jobs_of(store))
        assert {job.uid for job in pending.superfluous} == {job.uid for job in jobs[:5]}
        assert [job.uid for job in pending.jobs] == [job.uid for job in jobs[5:]]
        told = Told()
        sent = send(backends, store, [*pending.jobs], told)
        assert uids(cloud) == sorted(job.uid for job in jobs)
        assert len(sent.handles) == 25
        assert {uid: sent.handles[uid] for uid in list(handles)[5:]} == dict(
            list(handles.items())[5:]
        )
        assert all(job.handle for job in jobs_of(store))
        # One list for the group; and for each that is sent now, which might still arrive, one
        # before that and one after it.
        assert len(cloud.server.calls(LIST)) - before == 1 + 2 * 20

    def test_sends_last_what_may_still_be_on_its_way(
        self, cloud: GoogleCloud, backends: Backends, store: HistoryStore
    ) -> None:
        jobs = record(backends, store, wanted(3 * VertexBackend.AT_A_TIME))
        first = {job.uid for job in jobs[: VertexBackend.AT_A_TIME]}
        disown(store)
        pending = dispatch.again(backends.of("vertex"), store, jobs_of(store))
        send(backends, store, [*pending.jobs])
        sent = [call.body["labels"]["caliban_uid"] for call in cloud.server.calls(CREATE)]
        assert len(sent) == 3 * VertexBackend.AT_A_TIME
        # Several threads send them: the order is not exact.
        assert not first & {*sent[: VertexBackend.AT_A_TIME]}

    def test_also_a_new_launch_of_the_same_takes_over_what_was_not_sent(
        self, cloud: GoogleCloud, backends: Backends, store: HistoryStore
    ) -> None:
        first = record(backends, store, wanted(4))
        disown(store)
        again = record(backends, store, wanted(6))
        assert [job.uid for job in again[:4]] == [job.uid for job in first]
        assert [job.is_new for job in again] == [False] * 4 + [True] * 2
        send(backends, store, again)
        assert len(uids(cloud)) == len(jobs_of(store)) == 6

    def test_leaves_alone_what_another_caliban_is_sending(
        self, backends: Backends, store: HistoryStore
    ) -> None:
        record(backends, store, wanted(4))
        pending = dispatch.record(backends.of("vertex"), store, wanted(4))
        assert pending.jobs == []
        assert len(pending.superfluous) == 4

    def test_sends_another_job_for_what_has_failed(
        self, cloud: GoogleCloud, backends: Backends, store: HistoryStore
    ) -> None:
        send(backends, store, record(backends, store, wanted(3, output_url="gs://b/out")))
        from caliban.model.job import Outcome

        failed, running, succeeded = jobs_of(store)
        store.settle(
            {
                failed.uid: Outcome(Status.FAILED, 1, "exit code 1"),
                running.uid: Outcome(Status.RUNNING),
                succeeded.uid: Outcome(Status.SUCCEEDED, 0),
            }
        )
        left = launch.left(store, failed.user, failed.group)
        pending = dispatch.again(backends.of("vertex"), store, left)
        assert [job.uid for job in pending.superfluous] == [running.uid]
        (again,) = pending.jobs
        send(backends, store, [again])
        old, new = (
            job["jobSpec"]
            for job in cloud.vertex.jobs
            if job["labels"]["caliban_uid"] in (failed.uid, again.uid)
        )
        assert new["workerPoolSpecs"] == [
            {
                **pool,
                "containerSpec": {
                    **pool["containerSpec"],
                    "env": new["workerPoolSpecs"][0]["containerSpec"]["env"],
                },
            }
            for pool in old["workerPoolSpecs"]
        ]
        # It writes where no other job does.
        outputs = [each["baseOutputDirectory"]["outputUriPrefix"] for each in (old, new)]
        assert outputs == [
            f"gs://b/out/night/{failed.id}-{failed.uid[:6]}",
            f"gs://b/out/night/{again.id}-{again.uid[:6]}",
        ]

    def test_says_that_the_cloud_cannot_be_asked_what_it_has(
        self, cloud: GoogleCloud, backends: Backends, store: HistoryStore
    ) -> None:
        record(backends, store, wanted(3))
        disown(store)
        pending = dispatch.again(backends.of("vertex"), store, jobs_of(store))
        cloud.faults.add(LIST, Fault(status=403))
        sent = send(backends, store, [*pending.jobs])
        assert isinstance(sent.problem, RefusedError)
        assert cloud.server.calls(CREATE) == []


class Stopping:
    """Somebody who stops jobs as soon as that is wished, and an answer that waits for it."""

    def __init__(self, store: HistoryStore, uids: list[str]) -> None:
        self.wished = threading.Event()
        done = threading.Event()
        self.awaited = Fault(accepted=True, held=done)

        def stop() -> None:
            self.wished.wait(60)
            store.cancel_unsent(uids, datetime.datetime.now(datetime.UTC))
            done.set()

        self._thread = threading.Thread(target=stop)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()


class TestStopping:
    def test_what_somebody_stops_before_it_was_sent_is_not_sent(
        self,
        cloud: GoogleCloud,
        backends: Backends,
        store: HistoryStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(VertexBackend, "AT_A_TIME", 8)
        monkeypatch.setattr(submit, "_GLANCE", 0.1)
        jobs = record(backends, store, wanted(40))
        last = [job.uid for job in jobs[-10:]]
        stopping = Stopping(store, last)
        cloud.faults.add(
            CREATE, faults.told(stopping.wished, 1, replace(stopping.awaited, delay=0.4))
        )
        told = Told()
        with stopping:
            sent = send(backends, store, jobs, told)
        assert sent.stopped == set(last)
        assert uids(cloud) == sorted(job.uid for job in jobs[:-10])
        assert sorted(told.stopped_ones) == [job.id for job in jobs[-10:]]

    def test_what_somebody_stops_while_it_is_sent_is_stopped_there(
        self, cloud: GoogleCloud, backends: Backends, store: HistoryStore
    ) -> None:
        jobs = record(backends, store, wanted(3))
        stopping = Stopping(store, [jobs[1].uid])
        cloud.faults.add(CREATE, faults.told(stopping.wished, 3, stopping.awaited))
        with stopping:
            sent = send(backends, store, jobs)
        assert sent.stopped == {jobs[1].uid}
        states = {job["labels"]["caliban_uid"]: job["state"] for job in cloud.vertex.jobs}
        assert states[jobs[1].uid] == "JOB_STATE_CANCELLED"
        assert states[jobs[0].uid] == "JOB_STATE_RUNNING"
        assert jobs_of(store)[1].outcome.status is Status.STOPPED


@pytest.fixture
def patient(cloud: GoogleCloud) -> Iterator[Backends]:
    """Backends that wait for real."""
    opened = Opened()
    session = Session(credentials(cloud), opened.waits.clock)
    opened._opened["vertex"] = VertexBackend(session, cloud.environment(), per_minute=6)
    yield opened
    session.close()


class TestInterruption:
    @pytest.mark.parametrize("signals", [1, 2])
    def test_ends_after_what_is_being_sent_and_not_after_waits(
        self, cloud: GoogleCloud, patient: Backends, store: HistoryStore, signals: int
    ) -> None:
        jobs = record(patient, store, wanted(100))
        sending = threading.Event()
        cloud.faults.add(CREATE, faults.told(sending, 1, faults.slow(1 if signals == 1 else 20)))
        told = Told()

        def interrupt() -> None:
            sending.wait(60)
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGINT)
                while not told.notes and real.monotonic() - began < 30:  # it has not been noticed
                    real.sleep(0.05)

        thread = threading.Thread(target=interrupt)
        began = real.monotonic()
        with Interruption() as interruption:
            thread.start()
            backend = patient.of("vertex")
            sent = Submitter(backend, store, told, interruption, patient.waits).run(jobs)
        thread.join()
        # At 6 a minute, the second would have been sent after 10 s, and all after 990 s.
        assert real.monotonic() - began < 10
        assert sent.is_interrupted
        assert sent.problem is None
        # The first was on its way; a second ^C doesn't wait for it.
        assert len(sent.handles) == (1 if signals == 1 else 0)
        assert len([job for job in jobs_of(store) if job.handle]) == len(sent.handles)
        assert told.notes == ["Waiting for answers that are due; ^C again doesn't."]

    def test_ends_the_search_for_what_was_sent_before(
        self, cloud: GoogleCloud, patient: Backends, store: HistoryStore
    ) -> None:
        record(patient, store, wanted(3))
        disown(store)
        pending = dispatch.again(patient.of("vertex"), store, jobs_of(store))
        cloud.faults.add(LIST, Fault(status=429, retry_after=60))
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        began = real.monotonic()
        with Interruption() as interruption:
            timer.start()
            submitter = Submitter(patient.of("vertex"), store, Told(), interruption, patient.waits)
            sent = submitter.run([*pending.jobs])
        assert real.monotonic() - began < 30
        assert sent.is_interrupted
        assert sent.problem is None
        assert len(pending.jobs) == 3
        assert cloud.vertex.jobs == []


def test_a_job_belongs_to_who_records_it_until_it_is_there(
    backends: Backends, store: HistoryStore
) -> None:
    jobs = record(backends, store, wanted(1))
    assert jobs_of(store)[0].owner == process.identity()
    send(backends, store, jobs)
    assert jobs_of(store)[0].owner == ""
