"""`caliban cloud` with a Google Cloud that runs no containers: submitted once, whatever happens."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import vertex
from tests.commands.conftest import Start, wait_for
from tests.commands.vertex import cloud as cloud
from tests.commands.vertex import image as image
from tests.commands.vertex import pushed as pushed
from tests.conftest import Caliban, Inline
from tests.google_cloud import client, faults
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault, Quota
from tests.google_cloud.vertex import failure

CREATE, LIST = "customJobs.create", "customJobs.list"


Words = Callable[..., tuple[str, ...]]


@pytest.fixture
def words(cloud: GoogleCloud, image: str, project: Path) -> Words:
    """The command line that submits so many jobs."""

    def line(number: int, *more: str) -> tuple[str, ...]:
        given = ("--nogpu", "--image_tag", image, "--xgroup", "night", *vertex.FAST)
        sweep = ("--experiment_config", vertex.sweep(project, number))
        return ("cloud", *given, *sweep, *more, "trainer.train")

    return line


def uids(cloud: GoogleCloud) -> Counter[str]:
    return Counter(job["labels"]["caliban_uid"] for job in cloud.vertex.jobs)


def recorded(home: Path) -> dict[str, str]:
    """What the history has: uid and id on Vertex AI of each job."""
    with sqlite3.connect(home / ".caliban" / "caliban.db") as connection:
        return dict(connection.execute("select uid, handle_id from jobs"))


class TestASweep:
    def test_is_submitted_and_shown(self, cloud: GoogleCloud, words: Words, inline: Inline) -> None:
        ended = inline(*words(3, "--region", "europe-west4"))
        assert ended.returncode == 0, ended.stderr
        for job in cloud.vertex.jobs:
            number = job["name"].rpartition("/")[2]
            seed = job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["args"][1]
            assert f"{number} --seed {seed}\n" in ended.stdout
            assert (
                f"https://console.cloud.google.com/vertex-ai/locations/europe-west4/training/{number}"
                "?project=p1" in ended.stdout
            )
            name = f"projects/p1/locations/europe-west4/customJobs/{number}"
            assert f"gcloud ai custom-jobs stream-logs {name}\n" in ended.stdout
        assert len(cloud.vertex.jobs) == 3
        assert "3 jobs: 3 submitted" in ended.stderr
        page = "https://console.cloud.google.com/vertex-ai/training/custom-jobs?project=p1"
        assert f"All jobs: {page}\n" in ended.stderr
        status = json.loads(inline("status", "--json", "--xgroup", "night").stdout)
        assert "RUNNING" in json.dumps(status)

    def test_is_in_colour_where_that_is_wanted(
        self, words: Words, inline: Inline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        ended = inline(*words(1))
        assert "\033[36m4000000000000000001\033[0m" in ended.stdout
        assert "\033[1m--seed 0\033[0m" in ended.stdout

    def test_submits_only_what_is_missing(
        self, cloud: GoogleCloud, words: Words, inline: Inline
    ) -> None:
        assert inline(*words(2)).returncode == 0
        cloud.vertex.end(cloud.vertex.jobs[0]["name"], "SUCCEEDED")
        ended = inline(*words(3))
        assert "Skipped: 1 experiment succeeded before with this image (--rerun)" in ended.stderr
        assert "Skipped: 1 experiment submitted before, and not ended yet" in ended.stderr
        assert len(cloud.vertex.jobs) == 3
        assert inline(*words(3, "--rerun")).returncode == 0
        assert len(cloud.vertex.jobs) == 6

    def test_writes_to_folders_of_cloud_storage(
        self, cloud: GoogleCloud, words: Words, inline: Inline
    ) -> None:
        assert inline(*words(2, "--output", "gs://bucket/sweeps/")).returncode == 0
        found = set()
        for job in cloud.vertex.jobs:
            url = job["jobSpec"]["baseOutputDirectory"]["outputUriPrefix"]
            (variable,) = job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["env"]
            assert url.startswith("gs://bucket/sweeps/night/")
            assert variable == {
                "name": "CALIBAN_OUTPUT",
                "value": url.replace("gs://", "/gcs/"),
            }
            assert url in inline("status", "--xgroup", "night").stdout
            found.add(url)
        assert len(found) == 2

    def test_says_if_not_every_line_could_be_shown(self, cloud: GoogleCloud, words: Words) -> None:
        command = [sys.executable, "-m", "caliban", *words(3)]
        with Path("/dev/full").open("w") as full:
            ended = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert ended.returncode == 0, ended.stderr
        assert "not every line could be written to stdout: No space left" in ended.stderr
        assert "3 jobs: 3 submitted" in ended.stderr

    def test_without_an_experiment_has_nothing_to_submit(
        self, cloud: GoogleCloud, words: Words, inline: Inline
    ) -> None:
        ended = inline(*words(0))
        assert ended.returncode == 2
        assert cloud.server.records == []


class TestCredentials:
    def test_that_google_refuses_are_told_before_anything_else(
        self, cloud: GoogleCloud, inline: Inline, home: Path
    ) -> None:
        cloud.tokens.revoked.add(vertex.ROBOT)
        # It would have to be built, and there is no engine.
        ended = inline("cloud", "--nogpu", "trainer.train")
        assert ended.returncode == 1
        assert f"Google doesn't accept {home}/key.json" in ended.stderr
        assert "gcloud iam service-accounts keys create" in ended.stderr
        assert cloud.server.records == []

    def test_are_in_no_log_record_or_request(
        self, cloud: GoogleCloud, words: Words, caliban: Caliban, home: Path
    ) -> None:
        ended = caliban(words(2)[0], "--verbosity=3", *words(2)[1:])
        assert ended.returncode == 0, ended.stderr
        caliban("status", "--verbosity=3", "--xgroup", "night")
        kept = b"".join(file.read_bytes() for file in home.rglob(".caliban/**/*") if file.is_file())
        shown = ended.stdout + ended.stderr + kept.decode(errors="replace")
        sent = json.dumps([each.body for each in cloud.server.records])
        assert cloud.tokens.issued
        for secret in (*cloud.tokens.issued, client.private_key().splitlines()[1]):
            assert secret not in shown
            assert secret not in sent


class TestWhatGoesWrong:
    def test_with_one_job_leaves_the_others_alone(
        self, cloud: GoogleCloud, words: Words, inline: Inline
    ) -> None:
        cloud.faults.add(CREATE, faults.first(1, Fault(status=400, message="no such thing")))
        ended = inline(*words(3))
        assert ended.returncode == 1
        assert "3 jobs: 2 submitted, 1 refused" in ended.stderr
        assert "answers 400: no such thing" in ended.stderr
        assert len(cloud.vertex.jobs) == 2
        shown = inline("status", "--xgroup", "night").stdout
        assert shown.count("RUNNING") == 2
        assert "FAILED" in shown
        assert "no such thing" in shown

    def test_with_rights_ends_it_and_says_which_are_missing(
        self, cloud: GoogleCloud, words: Words, caliban: Caliban
    ) -> None:
        cloud.faults.add(CREATE, Fault(status=403))
        ended = caliban(*words(30))
        assert ended.returncode == 1
        assert "roles/aiplatform.user" in ended.stderr
        assert len(cloud.server.calls(CREATE)) < 30
        cloud.faults.clear()
        ended = caliban("cloud", "--resume", "night", *vertex.FAST)
        assert ended.returncode == 0, ended.stderr
        assert len(uids(cloud)) == len(cloud.vertex.jobs) == 30

    def test_with_failed_jobs_is_mended_by_resume(
        self, cloud: GoogleCloud, words: Words, inline: Inline
    ) -> None:
        assert inline(*words(3)).returncode == 0
        first, second, _ = cloud.vertex.jobs
        cloud.vertex.end(first["name"], "FAILED", failure(3))
        cloud.vertex.end(second["name"], "SUCCEEDED")
        assert inline("cloud", "--resume", "night").returncode == 0
        seeds = [
            job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["args"]
            for job in cloud.vertex.jobs
        ]
        assert len(seeds) == 4
        assert seeds[3] == seeds[0]


def trouble(count: int) -> Fault | None:
    """Every tenth answer is lost, every tenth is a 503, and there are bursts of 429."""
    if 40 <= count % 100 < 45:
        return faults.TOO_MANY
    return {3: faults.ANSWER_LOST, 7: faults.UNAVAILABLE}.get(count % 10)


class TestInterruptions:
    NUMBER = 100

    def test_by_kill_leave_each_job_there_once(
        self, cloud: GoogleCloud, words: Words, start: Start, caliban: Caliban, home: Path
    ) -> None:
        cloud.faults.add(CREATE, trouble)
        child = start(*words(self.NUMBER))
        wait_for(lambda: len(cloud.vertex.jobs) >= self.NUMBER * 0.4, 60)
        child.send_signal(signal.SIGKILL)
        child.wait()
        time.sleep(0.2)  # what was under way arrives
        assert len(cloud.vertex.jobs) < self.NUMBER
        shown = caliban("status", "--xgroup", "night").stdout
        assert "not sent" in shown
        ended = caliban("cloud", "--resume", "night", *vertex.FAST, timeout=120)
        assert ended.returncode == 0, ended.stderr
        assert len(cloud.vertex.jobs) == self.NUMBER
        assert uids(cloud).most_common(1)[0][1] == 1
        ids = {
            job["labels"]["caliban_uid"]: job["name"].rpartition("/")[2]
            for job in cloud.vertex.jobs
        }
        assert recorded(home) == ids
        assert caliban("cloud", "--resume", "night").returncode == 0
        assert len(cloud.vertex.jobs) == self.NUMBER

    def test_by_the_user_end_cleanly_and_can_be_mended(
        self, cloud: GoogleCloud, words: Words, start: Start, caliban: Caliban
    ) -> None:
        cloud.vertex.quota = Quota(6000, time.time)
        child = start(*words(60, "--per_minute", "600"))
        wait_for(lambda: len(cloud.vertex.jobs) >= 10, 30)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
        assert child.returncode == 130, err
        assert "'caliban cloud --resume night' goes on with what was not submitted." in err
        there = len(cloud.vertex.jobs)
        assert 10 <= there < 60
        # Of so many, each has one line.
        assert len(re.findall(r"(?m)^job \d+ \d{19} --seed \d+$", out)) == there
        assert "stream-logs" not in out
        assert caliban("cloud", "--resume", "night", *vertex.FAST).returncode == 0
        assert len(uids(cloud)) == len(cloud.vertex.jobs) == 60


class TestTheRate:
    def test_is_said_before_and_kept(
        self, cloud: GoogleCloud, words: Words, inline: Inline, project: Path
    ) -> None:
        (project / ".calibanconfig.json").write_text('{"gcloud": {"per_minute": 300}}')
        line = [word for word in words(30) if word not in vertex.FAST]
        before = time.monotonic()
        ended = inline(*line)
        assert ended.returncode == 0, ended.stderr
        assert 5.5 < time.monotonic() - before < 11
        assert re.search(
            r"30 jobs for p1/us-central1, at 3\d\d a minute: (5\.9|6\.0) s", ended.stderr
        )

    def test_waits_as_google_asks_and_says_so(
        self, cloud: GoogleCloud, words: Words, inline: Inline
    ) -> None:
        cloud.faults.add(CREATE, faults.first(1, Fault(status=429, retry_after=6)))
        ended = inline(*words(1))
        assert ended.returncode == 0, ended.stderr
        assert len(re.findall(r"(?m)^Google asks to wait until \d\d:\d\d:\d\d$", ended.stderr)) == 1


class TestStatus:
    def test_of_many_open_jobs_takes_few_requests(
        self, cloud: GoogleCloud, words: Words, inline: Inline
    ) -> None:
        assert inline(*words(250)).returncode == 0
        cloud.server.records.clear()
        assert inline("status", "--xgroup", "night").returncode == 0
        assert len(cloud.server.records) <= 4

    def test_of_a_region_out_of_reach_is_not_mistaken_for_that_of_others(
        self, cloud: GoogleCloud, words: Words, inline: Inline
    ) -> None:
        assert inline(*words(1)).returncode == 0
        assert inline(*words(1, "--region", "us-east1", "--rerun")).returncode == 0
        here, there = cloud.vertex.jobs
        cloud.vertex.end(here["name"], "SUCCEEDED")
        cloud.vertex.end(there["name"], "SUCCEEDED")
        cloud.faults.add(LIST, Fault(status=403), "us-east1")
        ended = inline("status", "--max_jobs", "0")
        assert (ended.stdout.count("SUCCEEDED"), ended.stdout.count("SUBMITTED")) == (1, 1)
        assert "1 of the jobs is shown as last known" in ended.stderr
