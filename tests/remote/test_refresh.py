"""What has become of jobs elsewhere, and their logs: asked for sparingly, never made up."""

from __future__ import annotations

import copy
import datetime
import gzip
import os
import threading
import time as real
from collections.abc import Callable
from pathlib import Path

import pytest

from caliban import joblog
from caliban.errors import CalibanError
from caliban.history.store import HistoryStore
from caliban.model.job import Job, Outcome, Status
from caliban.platform.vertex import VertexBackend
from caliban.remote import output, refresh
from caliban.remote.backends import Backends
from tests.google_cloud import faults
from tests.google_cloud.client import FakeTime
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault
from tests.google_cloud.vertex import failure
from tests.remote.conftest import jobs_of, record, send, wanted

LIST, ENTRIES = "customJobs.list", "entries.list"

Submit = Callable[..., list[Job]]


@pytest.fixture
def submit(backends: Backends, store: HistoryStore) -> Submit:
    """Sends so many jobs; returns all that there are."""

    def run(number: int, group: str = "night", region: str = "us-central1") -> list[Job]:
        send(backends, store, record(backends, store, wanted(number, group, region)))
        return jobs_of(store)

    return run


def end(cloud: GoogleCloud, job: Job, state: str = "SUCCEEDED", message: str = "") -> None:
    assert job.handle is not None
    cloud.vertex.end(name_of(job), state, message)


def name_of(job: Job) -> str:
    assert job.handle is not None
    project, region = job.handle.target.split("/")
    return f"projects/{project}/locations/{region}/customJobs/{job.handle.id}"


def open_ones(store: HistoryStore) -> list[Job]:
    return [job for job in jobs_of(store) if not job.outcome.status.is_final]


def kept(job: Job) -> bytes:
    return b"".join(joblog.read(job.uid))


def test_what_has_become_of_jobs_is_recorded_with_their_logs(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore, submit: Submit
) -> None:
    good, bad, long = submit(3)
    cloud.logs.write(name_of(good), 'caliban: {"accuracy": 0.97}')
    cloud.logs.write(name_of(bad), "Traceback (most recent call last):", "ERROR")
    cloud.logs.write(name_of(bad), "ValueError: no such thing", "ERROR")
    cloud.logs.write(name_of(long), "still at it")
    end(cloud, good)
    end(cloud, bad, "FAILED", failure(3))
    assert refresh.refresh(store, open_ones(store), backends)
    good, bad, long = jobs_of(store)
    assert (good.outcome.status, good.report.metrics) == (Status.SUCCEEDED, {"accuracy": 0.97})
    assert (bad.outcome.status, bad.outcome.exit_code) == (Status.FAILED, 3)
    assert bad.report.cause == "ValueError: no such thing"
    assert long.outcome.status is Status.RUNNING
    assert kept(good) == b'caliban: {"accuracy": 0.97}\n'
    assert kept(bad).splitlines()[-1] == b"ValueError: no such thing"
    assert joblog.find(long.uid) is None
    # Nothing is asked of what has ended any more.
    before = len(cloud.server.records)
    assert refresh.refresh(store, open_ones(store), backends)
    assert [each.method for each in cloud.server.records[before:]] == [LIST]


def test_a_second_job_of_one_that_arrived_late_is_ended_and_told_once(
    cloud: GoogleCloud,
    backends: Backends,
    store: HistoryStore,
    submit: Submit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, other = submit(2)
    # A request that had seemed lost, after which another one was sent.
    late = cloud.vertex.add("projects/p1/locations/us-central1", first.submission.payload["body"])
    assert refresh.refresh(store, open_ones(store), backends)
    states = {job["name"]: job["state"] for job in cloud.vertex.jobs}
    assert states == {
        name_of(first): "JOB_STATE_RUNNING",
        name_of(other): "JOB_STATE_RUNNING",
        late["name"]: "JOB_STATE_CANCELLED",
    }
    assert [job.handle for job in jobs_of(store)] == [first.handle, other.handle]
    number = late["name"].rpartition("/")[2]
    assert f"job {first.id} was there a second time, as {number}" in capsys.readouterr().err
    assert refresh.refresh(store, open_ones(store), backends)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change", ["later", "displayName", "jobSpec"])
def test_a_copy_that_somebody_made_of_a_job_is_left_alone(
    cloud: GoogleCloud,
    backends: Backends,
    store: HistoryStore,
    submit: Submit,
    time: FakeTime,
    change: str,
) -> None:
    (job,) = submit(1)
    body = copy.deepcopy(job.submission.payload["body"])
    if change == "later":
        time.sleep(3600)
    elif change == "displayName":
        body["displayName"] += "-copy"
    else:
        body["jobSpec"]["workerPoolSpecs"][0]["machineSpec"]["machineType"] = "n1-standard-8"
    cloud.vertex.add("projects/p1/locations/us-central1", body)
    assert refresh.refresh(store, open_ones(store), backends)
    assert {each["state"] for each in cloud.vertex.jobs} == {"JOB_STATE_RUNNING"}


def test_a_second_job_of_one_that_cannot_be_ended_is_told(
    cloud: GoogleCloud,
    backends: Backends,
    store: HistoryStore,
    submit: Submit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (first,) = submit(1)
    cloud.vertex.add("projects/p1/locations/us-central1", first.submission.payload["body"])
    cloud.faults.add("customJobs.cancel", Fault(status=403, message="not for you"))
    assert refresh.refresh(store, open_ones(store), backends)
    said = capsys.readouterr().err
    assert f"job {first.id} was there a second time, as " in said
    assert "not for you" in said


def test_hundreds_of_jobs_cost_a_list_a_region(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore, submit: Submit
) -> None:
    submit(30)
    submit(30, "day", "europe-west4")
    before = len(cloud.server.records)
    assert refresh.refresh(store, open_ones(store), backends)
    assert len(cloud.server.records) - before == 2


def test_a_region_out_of_reach_is_told_and_nothing_of_it_overwritten(
    cloud: GoogleCloud,
    backends: Backends,
    store: HistoryStore,
    submit: Submit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = submit(2)
    there = submit(3, "day", "europe-west4")[2:]
    refresh.refresh(store, open_ones(store), backends)
    known = [job.outcome for job in jobs_of(store) if job.group == "day"]
    assert {outcome.status for outcome in known} == {Status.RUNNING}
    for job in here + there:
        end(cloud, job)
    cloud.faults.add(LIST, Fault(status=403, message="not for you"), region="europe-west4")
    assert not refresh.refresh(store, open_ones(store), backends)
    assert [job.outcome for job in jobs_of(store) if job.group == "day"] == known
    assert {job.outcome.status for job in jobs_of(store) if job.group == "night"} == {
        Status.SUCCEEDED
    }
    said = capsys.readouterr().err
    assert said.count("not for you") == 1
    assert "; 3 of the jobs are shown as last known\n" in said
    # What to do about it, once for the place and not for each job.
    assert said.count("roles/aiplatform.user") == 1
    assert said.count("'caliban stop --give_up' gives them up") == 1


def test_a_platform_that_cannot_be_opened_is_told(
    store: HistoryStore, submit: Submit, capsys: pytest.CaptureFixture[str]
) -> None:
    class Closed(Backends):
        def of(self, platform: str) -> VertexBackend:
            raise CalibanError("no credentials for Google Cloud were found", "Log in.")

    submit(2)
    assert not refresh.refresh(store, open_ones(store), Closed({}))
    assert {job.outcome.status for job in jobs_of(store)} == {Status.SUBMITTED}
    assert capsys.readouterr().err == (
        "warning: no credentials for Google Cloud were found; "
        "2 of the jobs are shown as last known\n"
        "Log in.\n"
        "Should they never be reached again, 'caliban stop --give_up' gives them up.\n"
    )


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_job_that_is_gone_was_deleted_or_stopped(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore, submit: Submit, is_asked: bool
) -> None:
    gone, there = submit(2)
    if is_asked:
        store.request_stop([gone.uid], datetime.datetime.now(datetime.UTC), waiting=True)
    cloud.logs.write(name_of(gone), "what it said")
    cloud.vertex.forget(name_of(gone))
    assert refresh.refresh(store, open_ones(store), backends)
    gone, there = jobs_of(store)
    reason = "stopped" if is_asked else "its custom job was deleted"
    assert (gone.outcome.status, gone.outcome.reason) == (Status.STOPPED, reason)
    # Nobody knows when somebody else deleted it.
    assert (gone.outcome.finished is not None) == is_asked
    assert kept(gone) == b"what it said\n"
    assert there.outcome.status is Status.RUNNING


class TestLogs:
    def test_that_come_late_are_fetched_once_more(
        self,
        cloud: GoogleCloud,
        backends: Backends,
        store: HistoryStore,
        submit: Submit,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(VertexBackend, "LATE", 2.0)
        (job,) = submit(1)
        cloud.logs.write(name_of(job), "in time")
        end(cloud, job)
        assert refresh.refresh(store, open_ones(store), backends)
        assert kept(job) == b"in time\n"
        assert output.wanted() == [job.uid]
        cloud.logs.write(name_of(job), 'caliban: {"accuracy": 0.5}')
        requests = len(cloud.server.records)
        assert refresh.refresh(store, [], backends)
        assert len(cloud.server.records) == requests  # it is not asked for again and again
        real.sleep(2.0)
        assert refresh.refresh(store, [], backends)
        assert kept(job) == b'in time\ncaliban: {"accuracy": 0.5}\n'
        assert jobs_of(store)[0].report.metrics == {"accuracy": 0.5}
        assert output.wanted() == []

    def test_that_there_was_no_time_for_are_fetched_later(
        self,
        cloud: GoogleCloud,
        backends: Backends,
        store: HistoryStore,
        submit: Submit,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        jobs = submit(4)
        for job in jobs:
            cloud.logs.write(name_of(job), f"I am {job.id}")
            end(cloud, job)
        cloud.faults.add(ENTRIES, faults.slow(6))
        monkeypatch.setattr(refresh, "_LOGS", 0.3)
        began = real.monotonic()
        assert refresh.refresh(store, open_ones(store), backends)
        assert real.monotonic() - began < 5
        assert {job.outcome.status for job in jobs_of(store)} == {Status.SUCCEEDED}
        assert not any(output.is_kept(job) for job in jobs)
        said = capsys.readouterr().err
        assert "the logs of 4 jobs will be fetched later; 'caliban logs 1' waits for" in said
        monkeypatch.setattr(refresh, "_LOGS", 10.0)
        cloud.faults.clear()
        assert refresh.refresh(store, [], backends)
        assert [kept(job) for job in jobs] == [f"I am {job.id}\n".encode() for job in jobs]
        assert output.wanted() == []

    def test_that_cannot_be_read_now_are_told_and_fetched_later(
        self,
        cloud: GoogleCloud,
        backends: Backends,
        store: HistoryStore,
        submit: Submit,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (job,) = submit(1)
        cloud.logs.write(name_of(job), "some words")
        end(cloud, job)
        cloud.faults.add(ENTRIES, Fault(status=403, message="not for you"))
        # What has become of the job is known all the same.
        assert refresh.refresh(store, open_ones(store), backends)
        assert "the log of 1 job could not be fetched" in capsys.readouterr().err
        assert output.wanted() == [job.uid]
        cloud.faults.clear()
        refresh.refresh(store, [], backends)
        assert kept(job) == b"some words\n"

    def test_that_are_gone_for_good_are_not_asked_for_again(
        self, cloud: GoogleCloud, backends: Backends, store: HistoryStore, submit: Submit
    ) -> None:
        (job,) = submit(1)
        end(cloud, job, "FAILED", failure(9))
        cloud.faults.add(ENTRIES, Fault(status=404))
        refresh.refresh(store, open_ones(store), backends)
        assert output.wanted() == []
        assert jobs_of(store)[0].report.cause == "exit code 9"

    def test_of_which_a_part_is_here_are_fetched_again_as_a_whole(
        self, cloud: GoogleCloud, backends: Backends, store: HistoryStore, submit: Submit
    ) -> None:
        (job,) = submit(1)
        for number in range(3):
            cloud.logs.write(name_of(job), f"line {number}")
        end(cloud, job)
        # As if caliban had been killed in the middle.
        output.want([job.uid])
        with joblog.JobLog(job.uid) as log:
            log.write(b"line 0\nli")
        assert not output.is_kept(job)
        refresh.refresh(store, open_ones(store), backends)
        assert kept(job) == b"line 0\nline 1\nline 2\n"
        assert output.is_kept(job)

    def test_of_long_ago_are_given_up(
        self, backends: Backends, store: HistoryStore, submit: Submit, home: Path
    ) -> None:
        (job,) = submit(1)
        output.want([job.uid])
        (mark,) = (home / ".caliban" / "logs" / "wanted").iterdir()
        os.utime(mark, (0, 0))
        assert output.wanted() == []
        assert not mark.exists()

    def test_are_fetched_by_one_of_two_at_a_time(
        self, cloud: GoogleCloud, backends: Backends, store: HistoryStore, submit: Submit
    ) -> None:
        (job,) = submit(1)
        cloud.logs.write(name_of(job), "once")
        end(cloud, job)
        cloud.faults.add(ENTRIES, faults.slow(0.3))
        store.settle({job.uid: Outcome(Status.SUCCEEDED, 0)})
        (job,) = jobs_of(store)
        threads = [
            threading.Thread(target=output.fetch, args=(store, backends, job)) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(cloud.server.calls(ENTRIES)) == 1
        assert kept(job) == b"once\n"
        assert gzip.decompress(joblog.compressed(job.uid).read_bytes()) == b"once\n"
