"""`caliban status`, `logs`, `stop`, `resubmit` of jobs on a Google Cloud without containers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caliban.history.store import HistoryStore
from caliban.model.experiment import Experiment
from caliban.model.job import JobRequest, Submission
from caliban.platform import cloud_logging
from tests.commands import vertex
from tests.commands.conftest import Start
from tests.commands.vertex import cloud as cloud
from tests.commands.vertex import image as image
from tests.commands.vertex import pushed as pushed
from tests.conftest import USER, Caliban, Inline
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault
from tests.google_cloud.vertex import Pace, failure

LIST = "customJobs.list"


Submit = Callable[..., list[str]]


@pytest.fixture
def submit(cloud: GoogleCloud, image: str, project: Path, inline: Inline) -> Submit:
    """Submits so many jobs to the group "night"; returns their names there, in their order."""

    def run(number: int, *more: str) -> list[str]:
        given = ("--nogpu", "--image_tag", image, "--xgroup", "night", *vertex.FAST, *more)
        sweep = ("--experiment_config", vertex.sweep(project, number))
        done = inline("cloud", *given, *sweep, "trainer.train")
        assert done.returncode == 0, done.stderr
        names = {job["name"].rpartition("/")[2]: job["name"] for job in cloud.vertex.jobs}
        return [names[row["name"]] for row in rows(inline)]

    return run


def rows(inline: Inline) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(inline("status", "--json").stdout)
    return found


def leave_unsent(number: int, image: str = "registry/train@sha256:12") -> None:
    """Records jobs as a caliban does that is killed before it sends them."""
    code = "from caliban import process; print(process.identity())"
    owner = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    from caliban.platform.vertex_job import Options, plan

    settings = Options("p1", "us-central1", "n1-standard-4", command=("x",)).to_json()
    requests = [
        JobRequest(f"{each:016x}", Experiment((), {"seed": each}), image, "night", each, settings)
        for each in range(number)
    ]
    with HistoryStore.open() as store:
        store.record(
            *(USER, "night", owner.stdout.strip(), {"mode": "cpu"}, requests),
            lambda _, request: (plan(request), None),
        )


class TestStatus:
    def test_shows_what_becomes_of_jobs(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline
    ) -> None:
        cloud.vertex.pace = Pace(waits=1e9)
        names = submit(3)
        assert inline("status").stdout.count(" SUBMITTED ") == 3
        cloud.vertex.set_state(names[0], "RUNNING")
        cloud.vertex.end(names[1], "FAILED", failure(3))
        cloud.logs.write(names[1], "ValueError: not so")
        shown = inline("status", "--xgroup", "night")
        assert shown.returncode == 0
        for number, (name, status) in enumerate(
            zip(names, ("RUNNING", "FAILED", "SUBMITTED"), strict=True), 1
        ):
            job = name.rpartition("/")[2]
            (line,) = (
                line for line in shown.stdout.splitlines() if line.startswith(f"    job {number} ")
            )
            assert f" {status} " in line
            assert "   VERTEX " in line
            assert f" name: {job}" in line
        assert "cause 1: ValueError: not so" in shown.stdout
        found = rows(inline)
        assert {row["target"] for row in found} == {"p1/us-central1"}
        assert [row["name"] for row in found] == [name.rpartition("/")[2] for name in names]

    def test_tells_which_jobs_could_not_be_asked_about(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline
    ) -> None:
        names = submit(2)
        cloud.vertex.end(names[0], "SUCCEEDED")
        cloud.faults.add(LIST, Fault(status=403, message="not for you"))
        shown = inline("status", "--xgroup", "night")
        assert shown.returncode == 1
        assert shown.stdout.count(" RUNNING ") == 2
        assert "not for you; 2 of the jobs are shown as last known" in shown.stderr
        cloud.faults.clear()
        shown = inline("status", "--xgroup", "night")
        assert shown.returncode == 0
        assert (shown.stdout.count(" RUNNING "), shown.stdout.count(" SUCCEEDED ")) == (1, 1)

    def test_says_how_to_go_on_with_what_was_not_sent(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        leave_unsent(2)
        shown = inline("status", "--xgroup", "night")
        assert shown.returncode == 0
        assert shown.stdout.count("(not sent: 'caliban cloud --resume night' goes on)") == 2
        last = shown.stdout.splitlines()[-1]
        assert last == "2 jobs not sent, as far as is known: 'caliban cloud --resume night' goes on"
        assert cloud.server.records == []
        # Nothing becomes of them by itself, so that nobody waits for it.
        assert inline("status", "--watch", "--xgroup", "night").returncode == 0

    def test_counts_what_was_not_sent_of_a_large_group(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        leave_unsent(60)
        shown = inline("status", "--xgroup", "night").stdout
        assert "60 experiments: 60 SUBMITTED" in shown
        assert "60 jobs not sent, as far as is known" in shown

    def test_watches_jobs_until_all_have_ended(
        self, cloud: GoogleCloud, submit: Submit, caliban: Caliban
    ) -> None:
        cloud.vertex.pace = Pace(waits=0, runs=3)
        submit(2)
        shown = caliban("status", "--watch", "--xgroup", "night")
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.splitlines()[-1].count("SUCCEEDED") == 1
        assert shown.stdout.count("SUCCEEDED") == 2


class TestLogs:
    def test_of_a_job_that_runs_are_read_where_it_is(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline, home: Path
    ) -> None:
        (name,) = submit(1)
        for number in range(5):
            cloud.logs.write(name, f"line {number}")
        shown = inline("logs", "1")
        assert shown.returncode == 0
        assert shown.stdout.splitlines() == [f"line {number}" for number in range(5)]
        assert inline("logs", "--tail", "2", "1").stdout == "line 3\nline 4\n"
        assert list(home.glob(".caliban/logs/*.gz")) == []

    def test_of_a_job_that_has_ended_are_fetched_once(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline
    ) -> None:
        (name,) = submit(1)
        cloud.logs.write(name, "all there is")
        cloud.vertex.end(name, "SUCCEEDED")
        assert inline("logs", "1").stdout == "all there is\n"
        before = len(cloud.server.records)
        assert inline("logs", "--tail", "1", "1").stdout == "all there is\n"
        assert len(cloud.server.records) == before

    def test_are_followed_until_the_jobs_have_ended(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cloud_logging, "_INTERVAL", 0.2)
        monkeypatch.setattr(cloud_logging, "PATIENCE", 0.5)
        first, second = submit(2)
        cloud.logs.write(first, "one")

        def go_on() -> None:
            cloud.logs.write(first, "two")
            cloud.logs.write(second, "other")
            cloud.vertex.end(first, "SUCCEEDED")
            cloud.vertex.end(second, "FAILED", failure(4))

        timer = threading.Timer(1.0, go_on)
        timer.start()
        shown = inline("logs", "--follow", "--xgroup", "night")
        timer.join()
        assert shown.returncode == 0, shown.stderr
        assert sorted(shown.stdout.splitlines()) == ["[1] one", "[1] two", "[2] other"]
        assert "job 1 SUCCEEDED" in shown.stderr
        assert "job 2 FAILED (exit code 4)" in shown.stderr
        assert rows(inline)[1]["cause"] == "other"

    def test_end_at_an_interruption(self, cloud: GoogleCloud, submit: Submit, start: Start) -> None:
        (name,) = submit(1)
        cloud.logs.write(name, "one")
        child = start("logs", "--follow", "1")
        assert child.stdout is not None
        assert child.stdout.readline() == "one\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130

    def test_that_cannot_be_read_are_told(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline
    ) -> None:
        (name,) = submit(1)
        cloud.faults.add("entries.list", Fault(status=403, message="not for you"))
        shown = inline("logs", "1")
        assert shown.returncode == 1
        assert "warning: job 1: " in shown.stderr
        assert "not for you" in shown.stderr
        assert inline("logs", "--follow", "1").returncode == 1
        cloud.vertex.end(name, "SUCCEEDED")
        shown = inline("logs", "1")
        assert shown.returncode == 1
        assert "the log of job 1 can't be fetched: " in shown.stderr

    def test_of_jobs_that_were_not_sent_are_not_waited_for(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        leave_unsent(1)
        for flags in ((), ("--follow",)):
            shown = inline("logs", *flags, "1")
            assert shown.stdout == ""
            assert "job 1: it has not been sent\n" in shown.stderr


class TestStop:
    def test_ends_jobs_where_they_are(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline
    ) -> None:
        submit(2)
        leave_unsent(1)
        told = inline("stop", "--yes", "--xgroup", "night")
        assert told.returncode == 0, told.stderr
        assert told.stdout.count(" - asked to stop\n") == 2
        assert told.stdout.count(" - stopped before it was sent\n") == 1
        last = told.stdout.splitlines()[-1]
        assert last == "requested job cancellation; all jobs have ended."
        assert {job["state"] for job in cloud.vertex.jobs} == {"JOB_STATE_CANCELLED"}
        assert {row["status"] for row in rows(inline)} == {"STOPPED"}

    def test_does_not_wait_for_ever(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (name,) = submit(1)
        cloud.vertex.set_state(name, "RUNNING")  # where it stays
        monkeypatch.setattr("caliban.commands.stop._PATIENCE", 1.0)
        told = inline("stop", "--yes", "1")
        assert told.returncode == 1
        assert told.stdout.splitlines()[-1].startswith("requested job cancellation, please be")
        assert len(cloud.server.calls("customJobs.cancel")) == 1
        cloud.vertex.end(name, "CANCELLED")
        assert rows(inline)[0]["status"] == "STOPPED"

    def test_tells_what_could_not_be_reached(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline
    ) -> None:
        submit(1)
        cloud.faults.add("customJobs.cancel", Fault(status=403, message="not for you"))
        told = inline("stop", "--yes", "1")
        assert told.returncode == 1
        assert " - could not be reached: " in told.stdout
        assert "not for you" in told.stdout


class TestResubmit:
    def test_sends_what_failed_to_where_it_ran(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline
    ) -> None:
        names = submit(3, "--region", "europe-west4", "--output", "gs://bucket/out")
        cloud.vertex.end(names[0], "FAILED", failure(3))
        cloud.vertex.end(names[1], "SUCCEEDED")
        listed = inline("resubmit", "--xgroup", "night", "--dry_run")
        assert listed.returncode == 0, listed.stderr
        assert "--seed 0" in listed.stdout and "--seed 1" not in listed.stdout
        assert "sent to: p1/europe-west4\n" in listed.stdout
        assert len(cloud.vertex.jobs) == 3
        done = inline("resubmit", "--xgroup", "night", "--yes")
        assert done.returncode == 0, done.stderr
        new = cloud.vertex.jobs[-1]
        old = next(job for job in cloud.vertex.jobs if job["name"] == names[0])
        assert new["name"].startswith("projects/p1/locations/europe-west4/")
        (pool,), (before,) = (job["jobSpec"]["workerPoolSpecs"] for job in (new, old))
        assert pool["machineSpec"] == before["machineSpec"]
        assert pool["containerSpec"]["imageUri"] == before["containerSpec"]["imageUri"]
        assert pool["containerSpec"]["args"] == ["--seed", "0"]
        outputs = {job["jobSpec"]["baseOutputDirectory"]["outputUriPrefix"] for job in (new, old)}
        assert len(outputs) == 2
        assert {each.rpartition("/")[0] for each in outputs} == {"gs://bucket/out/night"}
        assert len(cloud.vertex.jobs) == 4

    def test_refuses_a_job_of_another_project(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline
    ) -> None:
        (name,) = submit(1)
        cloud.vertex.end(name, "FAILED", failure(3))
        done = inline("resubmit", "--xgroup", "night", "--yes", "--project_id", "p2")
        assert done.returncode == 2
        assert "job 1 ran in the project p1, not in p2" in done.stderr

    def test_says_how_to_go_on_when_google_refuses(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline
    ) -> None:
        names = submit(2)
        for name in names:
            cloud.vertex.end(name, "FAILED", failure(3))
        cloud.faults.add("customJobs.create", Fault(status=403, message="not for you"))
        done = inline("resubmit", "--xgroup", "night", "--yes")
        assert done.returncode == 1
        assert "not for you" in done.stderr
        assert "'caliban cloud --resume night' goes on" in done.stderr
        assert len(cloud.vertex.jobs) == 2


class TestResume:
    def test_of_jobs_elsewhere_is_another_command(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline
    ) -> None:
        submit(1)
        done = inline("cloud", "--resume", "night")
        assert done.returncode == 0
        assert "Skipped: 1 experiment submitted before, and not ended yet" in done.stderr
        assert len(cloud.vertex.jobs) == 1

    def test_says_which_command_goes_on(
        self, cloud: GoogleCloud, submit: Submit, inline: Inline
    ) -> None:
        submit(1)
        done = inline("cluster", "job", "submit", "--resume", "night")
        assert done.returncode == 2
        assert "Go on with them by: caliban cloud --resume night" in done.stderr


def test_jobs_of_caliban_0_4_can_be_read_and_not_asked_about(
    cloud: GoogleCloud, inline: Inline
) -> None:
    request = JobRequest("1234", Experiment((), {}), "gcr.io/p/train:latest", "old", 0)
    with HistoryStore.open() as store:
        store.record(
            *(USER, "old", "", {"job_mode": "CPU"}, [request]),
            lambda *_: (Submission("caip", "", {"jobId": "caliban_1"}), None),
        )
    shown = inline("status", "--xgroup", "old")
    assert shown.returncode == 0
    assert " SUBMITTED     CAIP " in shown.stdout
    assert inline("logs", "1").stderr == "job 1: caliban 0.4 kept no log\n"
    told = inline("stop", "--yes", "1")
    assert told.returncode == 1
    assert "job 1 can't be stopped from here: it was submitted to CAIP" in told.stderr
    assert cloud.server.records == []
