"""Jobs on Vertex AI: each exactly once, whatever the network does; asked about, stopped, read."""

from __future__ import annotations

import datetime
import json
import os
import queue
import threading
import time as real
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from caliban.errors import RefusedError, UnknownOutcomeError
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, JobRequest, Outcome, Status, Submission
from caliban.platform.base import Backend
from caliban.platform.rest import Session
from caliban.platform.vertex import VertexBackend, console_url, log_command
from caliban.platform.vertex_job import Options, plan
from tests.google_cloud import faults
from tests.google_cloud.client import FakeTime, SharedTime, credentials
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault, Quota
from tests.google_cloud.test_schema import CAPTURES
from tests.google_cloud.vertex import Pace, failure

CREATE, LIST, GET = "customJobs.create", "customJobs.list", "customJobs.get"


@pytest.fixture
def backend(cloud: GoogleCloud, session: Session, monkeypatch: pytest.MonkeyPatch) -> VertexBackend:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return VertexBackend(session, os.environ)


def request(number: int, region: str = "us-central1", group: str = "night") -> JobRequest:
    """The n-th job of a sweep."""
    settings = Options("p1", region, "n1-highcpu-32").to_json()
    experiment = Experiment((), {"lr": number})
    image = "us-docker.pkg.dev/p1/caliban/train"
    return JobRequest(f"{number:016x}", experiment, image, group, number, settings)


def submission(number: int, region: str = "us-central1", group: str = "night") -> Submission:
    return plan(request(number, region, group))


def submit(backend: VertexBackend, number: int, region: str = "us-central1") -> list[Handle]:
    return [backend.submit(submission(each, region), is_new=True) for each in range(number)]


def add(cloud: GoogleCloud, number: int) -> list[Handle]:
    """Puts jobs into the cloud that were submitted some time ago."""
    parent = "projects/p1/locations/us-central1"
    made = [cloud.vertex.add(parent, submission(each).payload["body"]) for each in range(number)]
    return [
        Handle(*("vertex", "p1/us-central1", job["name"].rpartition("/")[2]), request(each).uid)
        for each, job in enumerate(made)
    ]


def uids(cloud: GoogleCloud) -> list[str]:
    """The uids of the jobs that there are."""
    return sorted(job["labels"]["caliban_uid"] for job in cloud.vertex.jobs)


def test_it_plans_as_every_backend_does(backend: VertexBackend) -> None:
    any_backend: Backend = backend
    assert any_backend.plan(request(7)) == submission(7)


class TestSubmit:
    def test_makes_the_job_that_was_planned(
        self, cloud: GoogleCloud, backend: VertexBackend
    ) -> None:
        planned = submission(7)
        handle = backend.submit(planned)
        (job,) = cloud.vertex.jobs
        assert job.items() > planned.payload["body"].items()
        assert handle == Handle("vertex", "p1/us-central1", job["name"].rpartition("/")[2])

    @pytest.mark.parametrize("is_new", [True, False])
    @pytest.mark.parametrize(
        "fault",
        [
            faults.ANSWER_LOST,
            faults.REQUEST_LOST,
            faults.UNAVAILABLE,
            faults.ACCEPTED_BUT_UNAVAILABLE,
            faults.TOO_MANY,
            faults.EXPIRED,
        ],
    )
    def test_makes_one_job_whatever_happens(
        self, cloud: GoogleCloud, backend: VertexBackend, fault: Fault, is_new: bool
    ) -> None:
        cloud.faults.add(CREATE, faults.first(2, fault))
        handle = backend.submit(submission(7), is_new)
        assert [job["name"].rpartition("/")[2] for job in cloud.vertex.jobs] == [handle.id]

    @pytest.mark.parametrize("is_new", [True, False])
    def test_stops_the_second_job_if_the_first_comes_after_all(
        self, cloud: GoogleCloud, backend: VertexBackend, is_new: bool
    ) -> None:
        planned = submission(7)

        def late(count: int) -> Fault | None:
            if count == 1 and is_new:
                return faults.REQUEST_LOST
            cloud.vertex.add("projects/p1/locations/us-central1", planned.payload["body"])
            return None

        cloud.faults.add(CREATE, late)
        handle = backend.submit(planned, is_new)
        first, second = cloud.vertex.jobs
        assert first["name"].endswith(handle.id)
        assert first["state"] == "JOB_STATE_RUNNING"
        assert second["state"] == "JOB_STATE_CANCELLED"

    def test_makes_no_second_job_of_one(self, cloud: GoogleCloud, backend: VertexBackend) -> None:
        handles = {backend.submit(submission(7)) for _ in range(3)}
        assert len(handles) == len(cloud.vertex.jobs) == 1

    @pytest.mark.parametrize("file", sorted(CAPTURES.glob("vertex-*.json")), ids=lambda f: f.stem)
    def test_goes_where_gcloud_sends_a_job(
        self, cloud: GoogleCloud, backend: VertexBackend, file: Path
    ) -> None:
        submit(backend, 1)
        captured = json.loads(file.read_text())
        (record,) = cloud.server.records
        assert captured["method"] == "POST"
        assert record.method == CREATE
        assert record.path == f"/aiplatform{captured['path']}"

    def test_asks_nothing_more_for_a_new_job(
        self, cloud: GoogleCloud, backend: VertexBackend
    ) -> None:
        backend.submit(submission(7), is_new=True)
        assert [record.method for record in cloud.server.records] == [CREATE]

    @pytest.mark.parametrize("answer", [{}, {"name": 5}, {"name": None}, []])
    def test_looks_for_a_job_after_an_answer_that_is_none(
        self, cloud: GoogleCloud, backend: VertexBackend, answer: object
    ) -> None:
        cloud.faults.add(CREATE, faults.first(1, Fault(accepted=True, answer=answer)))
        (handle,) = submit(backend, 1)
        assert [job["name"].rpartition("/")[2] for job in cloud.vertex.jobs] == [handle.id]

    def test_says_what_is_wrong_with_a_job(
        self, cloud: GoogleCloud, backend: VertexBackend
    ) -> None:
        wrong = submission(7)
        wrong.payload["body"]["displayName"] = ""
        with pytest.raises(RefusedError, match="displayName: must have 1 to 128 characters"):
            backend.submit(wrong)

    def test_says_that_nobody_knows_and_finds_out_later(
        self, cloud: GoogleCloud, backend: VertexBackend
    ) -> None:
        cloud.faults.add(CREATE, faults.first(1, faults.ANSWER_LOST))
        cloud.faults.add(LIST, faults.UNAVAILABLE)
        with pytest.raises(UnknownOutcomeError):
            backend.submit(submission(7), is_new=True)
        cloud.faults.clear()
        backend.submit(submission(7))
        assert len(cloud.vertex.jobs) == 1


THREADS = VertexBackend.AT_A_TIME


def submit_in_threads(
    cloud: GoogleCloud,
    time: SharedTime,
    numbers: Sequence[int],
    is_new: bool,
    per_minute: float = 60,
) -> dict[int, Handle]:
    """Submits jobs as a launch does: so many at a time."""
    session = Session(credentials(cloud), time.clock)
    backend = VertexBackend(session, cloud.environment(), per_minute)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in numbers:
        waiting.put(number)
    handles: dict[int, Handle] = {}
    errors: list[Exception] = []

    def work() -> None:
        try:
            while not waiting.empty():
                number = waiting.get_nowait()
                handles[number] = backend.submit(submission(number), is_new)
        except queue.Empty:
            pass
        except Exception as error:
            errors.append(error)
            raise
        finally:
            time.leave()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    session.close()
    assert errors == []
    return handles


def _created(job: Mapping[str, Any]) -> float:
    """When a job was made, in seconds since the epoch."""
    return datetime.datetime.fromisoformat(job["createTime"]).timestamp()


def trouble(count: int) -> Fault | None:
    """Every tenth answer is lost, every tenth is a 503, and there are bursts of 429."""
    if 40 <= count % 100 < 45:
        return faults.TOO_MANY
    return {3: faults.ANSWER_LOST, 7: faults.UNAVAILABLE}.get(count % 10)


class TestSweeps:
    @pytest.mark.parametrize("per_minute", [60, 600])
    def test_of_500_jobs_have_500_in_the_time_that_the_quota_allows(self, per_minute: int) -> None:
        time = SharedTime(THREADS)
        with GoogleCloud(time) as cloud:
            cloud.vertex.quota = Quota(per_minute, time)
            cloud.faults.add(CREATE, trouble)
            start = time.now
            handles = submit_in_threads(cloud, time, range(500), True, per_minute)
            seconds = time.now - start
            assert uids(cloud) == [f"{number:016x}" for number in range(500)]
            ids = {job["name"].rpartition("/")[2] for job in cloud.vertex.jobs}
            assert {handle.id for handle in handles.values()} == ids
            assert len(handles) == 500
            made = sorted(_created(job) - start for job in cloud.vertex.jobs)
        allowed = 500 * 60 / per_minute
        assert allowed * 0.95 <= made[-10] <= allowed * 1.05
        # Whatever the rate, what fails at the very end, once or twice, is looked for: 1.5 s each
        # time, with a little more before the third attempt.
        assert seconds <= allowed * 1.05 + 1.5 + 2.5

    def test_that_are_submitted_again_stay_the_same(self) -> None:
        with GoogleCloud(time := SharedTime(THREADS)) as cloud:
            first = submit_in_threads(cloud, time, range(60), is_new=True)
            again = SharedTime(THREADS)
            cloud.faults.add(CREATE, trouble)
            second = submit_in_threads(cloud, again, range(90), is_new=False)
            assert {number: second[number] for number in first} == first
            assert len(uids(cloud)) == len(set(uids(cloud))) == 90

    def test_know_how_long_they_take(self, backend: VertexBackend) -> None:
        assert backend.seconds("p1/us-central1", 500) == pytest.approx(500)

    def test_have_a_quota_in_each_region(self, backend: VertexBackend, time: FakeTime) -> None:
        start = time.now
        assert backend.bucket("p1/us-east1") is not backend.bucket("p1/us-central1")
        submit(backend, 20, "us-central1")
        submit(backend, 10, "us-east1")
        assert time.now - start == pytest.approx(19)

    def test_that_were_interrupted_are_found_by_their_group(
        self, cloud: GoogleCloud, backend: VertexBackend
    ) -> None:
        handles = submit(backend, 3)
        backend.submit(submission(9, group="another"), is_new=True)
        found = backend.find("p1/us-central1", "night")
        assert found == {f"{number:016x}": handle for number, handle in enumerate(handles)}
        assert len(cloud.server.calls(LIST)) == 1


class TestStatus:
    def test_is_asked_for_in_one_list_a_region(
        self, cloud: GoogleCloud, backend: VertexBackend
    ) -> None:
        cloud.vertex.pace = Pace(waits=0)
        handles = [*submit(backend, 3), *submit(backend, 2, "us-east1")]
        cloud.vertex.end(cloud.vertex.jobs[0]["name"], "FAILED", failure(7))
        cloud.vertex.end(cloud.vertex.jobs[1]["name"], "SUCCEEDED")
        found = backend.status(handles)
        assert [found[handle].status.value for handle in handles] == [
            *("FAILED", "SUCCEEDED", "RUNNING", "RUNNING", "RUNNING"),
        ]
        assert found[handles[0]].reason == "exit code 7"
        assert len(cloud.server.calls(LIST)) == 2
        assert cloud.server.calls(GET) == []

    def test_of_2000_jobs_takes_few_requests(
        self, cloud: GoogleCloud, backend: VertexBackend
    ) -> None:
        handles = add(cloud, 2000)
        assert len(backend.status(handles)) == 2000
        assert len(cloud.server.records) == 20

    def test_reads_no_more_pages_than_it_needs(
        self, cloud: GoogleCloud, backend: VertexBackend
    ) -> None:
        handles = add(cloud, 250)
        assert len(backend.status(handles[-5:])) == 5
        assert len(cloud.server.calls(LIST)) == 1

    @pytest.mark.parametrize(("number", "requests"), [(1, 1), (35, 1), (36, 3), (200, 7)])
    def test_of_old_jobs_in_a_busy_project_reads_no_list_of_all(
        self, cloud: GoogleCloud, backend: VertexBackend, number: int, requests: int
    ) -> None:
        handles = add(cloud, 1000)[:number]
        found = backend.status(handles)
        assert {outcome.status for outcome in found.values()} == {Status.RUNNING}
        assert len(found) == number
        assert len(cloud.server.records) == requests
        assert max(len(each.path) for each in cloud.server.records) < 2000

    def test_of_jobs_that_are_gone_is_missing(
        self, cloud: GoogleCloud, backend: VertexBackend
    ) -> None:
        kept, lost = submit(backend, 2)
        cloud.vertex.forget(cloud.vertex.jobs[1]["name"])
        assert set(backend.status([kept, lost])) == {kept}

    def test_of_a_region_out_of_reach_is_unknown_and_of_others_is_not(
        self, cloud: GoogleCloud, backend: VertexBackend
    ) -> None:
        (here,), (there,) = submit(backend, 1), submit(backend, 1, "us-east1")
        cloud.faults.add(LIST, faults.REQUEST_LOST, "us-east1")
        found = backend.status([here, there])
        assert found[here].status is Status.RUNNING
        assert found[there].status is Status.UNKNOWN
        assert "no answer from" in found[there].reason

    @pytest.mark.parametrize(
        "jobs",
        [
            None,
            "x",
            [{}],
            [{"name": 5}],
            [{"name": "x/1", "state": "JOB_STATE_RUNNING", "startTime": "yesterday"}],
            [{"name": "x/1", "state": "JOB_STATE_FAILED", "error": "x"}],
        ],
    )
    def test_is_unknown_after_an_answer_that_is_none(
        self, cloud: GoogleCloud, backend: VertexBackend, jobs: object
    ) -> None:
        cloud.faults.add(LIST, Fault(answer={"customJobs": jobs}))
        handle = Handle("vertex", "p1/us-central1", "1", "0f")
        found = backend.status([handle])[handle]
        assert found.status is Status.UNKNOWN
        assert "answers what Google doesn't" in found.reason

    def test_of_a_region_that_never_answers_is_not_waited_for(
        self, cloud: GoogleCloud, backend: VertexBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (here,), (there,) = submit(backend, 1), submit(backend, 1, "us-east1")
        monkeypatch.setattr("caliban.platform.vertex._PATIENCE", 2.0)
        cloud.faults.add(LIST, faults.slow(30), "us-east1")
        before = real.monotonic()
        found = backend.status([here, there])
        assert real.monotonic() - before < 20
        assert found[here].status is Status.RUNNING
        assert found[there] == Outcome(Status.UNKNOWN, reason="p1/us-east1 doesn't answer")

    def test_of_a_region_that_asks_to_wait_says_so(
        self, cloud: GoogleCloud, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = Session(credentials(cloud))
        patient = VertexBackend(session, cloud.environment())
        monkeypatch.setattr("caliban.platform.vertex._PATIENCE", 2.0)
        cloud.faults.add(LIST, Fault(status=429, retry_after=60))
        (handle,) = add(cloud, 1)
        found = patient.status([handle])[handle]
        session.close()
        assert found.status is Status.UNKNOWN
        assert found.reason.startswith("Google asks to wait until ")

    def test_of_nothing_asks_nobody(self, cloud: GoogleCloud, backend: VertexBackend) -> None:
        assert backend.status([]) == {}
        assert cloud.server.records == []


class TestStop:
    def test_ends_a_job(self, cloud: GoogleCloud, backend: VertexBackend) -> None:
        (handle,) = submit(backend, 1)
        cloud.faults.add("customJobs.cancel", faults.first(1, faults.ANSWER_LOST))
        backend.stop(handle)
        assert backend.status([handle])[handle].status is Status.STOPPED

    def test_needs_nothing_of_one_that_has_ended_or_is_gone(
        self, cloud: GoogleCloud, backend: VertexBackend
    ) -> None:
        (handle,) = submit(backend, 1)
        cloud.vertex.end(cloud.vertex.jobs[0]["name"], "SUCCEEDED")
        backend.stop(handle)
        assert backend.status([handle])[handle].status is Status.SUCCEEDED
        cloud.vertex.forget(cloud.vertex.jobs[0]["name"])
        backend.stop(handle)

    def test_says_if_it_may_not(self, cloud: GoogleCloud, backend: VertexBackend) -> None:
        (handle,) = submit(backend, 1)
        cloud.faults.add("customJobs.cancel", Fault(status=403))
        with pytest.raises(RefusedError) as error:
            backend.stop(handle)
        assert error.value.reason == "PERMISSION_DENIED"


class TestLogs:
    @pytest.fixture
    def job(self, cloud: GoogleCloud, backend: VertexBackend) -> Handle:
        return submit(backend, 1)[0]

    def write(self, cloud: GoogleCloud, *lines: str) -> None:
        for line in lines:
            cloud.logs.write(cloud.vertex.jobs[0]["name"], line)

    def test_are_the_lines_of_the_job_alone(
        self, cloud: GoogleCloud, backend: VertexBackend, job: Handle
    ) -> None:
        self.write(cloud, "accuracy 0.97", "größer", "")
        cloud.logs.write("projects/p1/locations/us-central1/customJobs/1", "another's")
        assert list(backend.logs(job)) == [b"accuracy 0.97\n", "größer\n".encode(), b"\n"]

    def test_of_thousands_of_lines_are_read_in_pages(
        self, cloud: GoogleCloud, backend: VertexBackend, job: Handle
    ) -> None:
        self.write(cloud, *(f"step {number}" for number in range(2500)))
        found = list(backend.logs(job))
        assert found == [f"step {number}\n".encode() for number in range(2500)]
        assert len(cloud.server.calls("entries.list")) == 3

    def test_have_halves_of_letters_replaced_and_what_is_structured_as_json(
        self, cloud: GoogleCloud, backend: VertexBackend, job: Handle
    ) -> None:
        self.write(cloud, "a\ud800b")
        answer = {
            "entries": [
                {"insertId": name, "timestamp": "2026-11-21T10:00:00.123456789Z", **payload}
                for name, payload in (
                    ("1", {"textPayload": "a\ud800b"}),
                    ("2", {"jsonPayload": {"step": 3, "who": "größer"}}),
                    ("3", {"jsonPayload": {"message": {"loss": 0.5}}}),
                    ("4", {}),
                )
            ]
        }
        assert list(backend.logs(job)) == [b"a?b\n"]
        cloud.faults.add("entries.list", Fault(answer=answer))
        lines = ["a?b", '{"step": 3, "who": "größer"}', '{"loss": 0.5}', ""]
        assert list(backend.logs(job)) == [f"{line}\n".encode() for line in lines]

    @pytest.mark.parametrize("entries", [None, "x", [{}], [{"insertId": "1", "timestamp": "x"}]])
    @pytest.mark.parametrize("how", [{}, {"tail": 3}, {"follow": True}])
    def test_that_are_none_are_told(
        self,
        cloud: GoogleCloud,
        backend: VertexBackend,
        job: Handle,
        entries: object,
        how: dict[str, Any],
    ) -> None:
        cloud.faults.add("entries.list", Fault(answer={"entries": entries}))
        with pytest.raises(UnknownOutcomeError, match="answers what Google doesn't"):
            list(backend.logs(job, **how))

    @pytest.mark.parametrize("tail", [0, 1, 2, 9])
    def test_may_be_the_last_few(
        self, cloud: GoogleCloud, backend: VertexBackend, job: Handle, tail: int
    ) -> None:
        self.write(cloud, "one", "two", "three")
        lines = [b"one\n", b"two\n", b"three\n"]
        assert list(backend.logs(job, tail=tail)) == lines[3 - min(tail, 3) :]

    def follow(
        self,
        cloud: GoogleCloud,
        backend: VertexBackend,
        job: Handle,
        time: FakeTime,
        tail: int | None = None,
    ) -> list[bytes]:
        """Follows a job that prints three more lines, the last of which comes late."""
        name = cloud.vertex.jobs[0]["name"]
        start = time.now
        self.write(cloud, "one", "two")
        cloud.logs.write(name, "three", at=start + 12)
        cloud.logs.write(name, "four", at=start + 31)
        cloud.logs.write(name, "five", at=start + 33)
        cloud.vertex.pace = Pace(waits=0, runs=30)
        found = list(backend.logs(job, follow=True, tail=tail))
        assert time.now - start == pytest.approx(45, abs=6)
        return found

    def test_grow_until_the_job_has_ended_and_a_little_longer(
        self, cloud: GoogleCloud, backend: VertexBackend, job: Handle, time: FakeTime
    ) -> None:
        lines = [b"one\n", b"two\n", b"three\n", b"four\n", b"five\n"]
        assert self.follow(cloud, backend, job, time) == lines

    @pytest.mark.parametrize(("tail", "first"), [(0, 2), (1, 1), (9, 0)])
    def test_grow_from_the_last_few_on(
        self,
        cloud: GoogleCloud,
        backend: VertexBackend,
        job: Handle,
        time: FakeTime,
        tail: int,
        first: int,
    ) -> None:
        lines = [b"one\n", b"two\n", b"three\n", b"four\n", b"five\n"]
        assert self.follow(cloud, backend, job, time, tail) == lines[first:]

    def test_have_lines_that_come_late_and_between_others(
        self, cloud: GoogleCloud, backend: VertexBackend, job: Handle, time: FakeTime
    ) -> None:
        name = cloud.vertex.jobs[0]["name"]
        start = time.now
        cloud.vertex.pace = Pace(waits=0, runs=20)
        self.write(cloud, "one")
        lines: Iterator[bytes] = backend.logs(job, follow=True)
        assert next(lines) == b"one\n"
        cloud.logs.write(name, "three", at=start)
        assert next(lines) == b"three\n"
        cloud.logs.write(name, "two", at=start - 30)
        assert list(lines) == [b"two\n"]

    def test_of_a_job_that_is_gone_end(
        self, cloud: GoogleCloud, backend: VertexBackend, job: Handle
    ) -> None:
        self.write(cloud, "one")
        cloud.vertex.forget(cloud.vertex.jobs[0]["name"])
        assert list(backend.logs(job, follow=True)) == [b"one\n"]


def test_people_are_told_where_to_look() -> None:
    handle = Handle("vertex", "p1/us-central1", "17")
    assert console_url(handle) == (
        "https://console.cloud.google.com/vertex-ai/locations/us-central1/training/17?project=p1"
    )
    assert log_command(handle) == (
        "gcloud ai custom-jobs stream-logs projects/p1/locations/us-central1/customJobs/17"
    )
