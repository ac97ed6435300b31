"""`caliban cloud` to the end: built here, pushed to a registry, run from there, looked after."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import vertex
from tests.commands.conftest import kept_output, wait_for
from tests.conftest import Caliban
from tests.docker_registry import DockerRegistry
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.containers import Containers
from tests.google_cloud.vertex import ENDED
from tests.workshop import Workshop

pytestmark = pytest.mark.takes(20)

TUTORIAL = Path(__file__).parents[2] / "tutorials" / "basic"


@pytest.fixture
def cloud(
    home: Path, docker_registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[GoogleCloud]:
    """A cloud that runs the containers of its jobs, from the images of the registry."""
    with vertex.started(home, monkeypatch) as found:
        buckets = tmp_path / "buckets"
        (buckets / "my-bucket").mkdir(parents=True)
        buckets.joinpath("my-bucket").chmod(0o777)
        found.vertex.run = Containers(buckets)
        yield found
        for job in found.vertex.jobs:
            if job["state"] not in ENDED:
                found.vertex._jobs[job["name"]].cancelled.set()
        wait_for(lambda: all(job["state"] in ENDED for job in found.vertex.jobs), 60)


def ended(cloud: GoogleCloud) -> bool:
    return all(job["state"] in ENDED for job in cloud.vertex.jobs)


def jobs(caliban: Caliban, group: str) -> list[dict[str, Any]]:
    """The newest job of each experiment of a group."""
    shown = caliban("status", "--json", "--xgroup", group)
    assert shown.returncode == 0, shown.stderr
    found: list[dict[str, Any]] = json.loads(shown.stdout)
    return found


def test_the_sweep_of_the_tutorial_runs_in_the_cloud(
    cloud: GoogleCloud,
    docker_registry: DockerRegistry,
    workshop: Workshop,
    caliban: Caliban,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = tmp_path / "basic"
    shutil.copytree(TUTORIAL, project)
    monkeypatch.chdir(project)
    sent = caliban(
        *("cloud", "--nogpu", "--xgroup", "tuning", "--experiment_config", "experiment.json"),
        *("--image_registry", f"{docker_registry.host}/team", *vertex.FAST),
        *("trainer.train", "--", "--epochs", "20"),
        timeout=400,
    )
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.count("stream-logs") == 3
    (image,) = {
        job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["imageUri"]
        for job in cloud.vertex.jobs
    }
    assert image.startswith(f"{docker_registry.host}/team/caliban@sha256:")
    wait_for(lambda: ended(cloud), 120)
    found = jobs(caliban, "tuning")
    assert [job["status"] for job in found] == ["SUCCEEDED"] * 3
    assert "accuracy=0.9" in caliban("status", "--xgroup", "tuning").stdout
    for job in found:
        assert "Test accuracy: 0.9" in caliban("logs", str(job["job"])).stdout


@pytest.fixture
def submit(
    cloud: GoogleCloud, sweep: Path, docker_registry: DockerRegistry, caliban: Caliban
) -> Callable[..., list[dict[str, Any]]]:
    """Submits a job that does what its arguments say, and waits until it has ended."""

    def run(*arguments: str, flags: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        registry = ("--image_registry", f"{docker_registry.host}/team")
        given = ("cloud", "--nogpu", "--xgroup", "night", *vertex.FAST, *registry, *flags)
        done = caliban(*given, "trainer.job", "--", *arguments, timeout=300)
        assert done.returncode == 0, done.stderr
        wait_for(lambda: ended(cloud), 60)
        return jobs(caliban, "night")

    return run


class TestAJob:
    def test_that_fails_is_resubmitted_with_the_code_of_now(
        self,
        cloud: GoogleCloud,
        submit: Callable[..., list[dict[str, Any]]],
        sweep: Path,
        caliban: Caliban,
    ) -> None:
        (job,) = submit("--say", "something went wrong", "--exit", "3")
        assert job["status"] == "FAILED"
        shown = caliban("status", "--xgroup", "night").stdout
        assert "exit code 3" in shown
        assert "something went wrong" in caliban("logs", str(job["job"])).stdout
        file = sweep / "trainer" / "job.py"
        file.write_text(
            file.read_text().replace("sys.exit(int(next(arguments)))", "next(arguments)")
        )
        again = caliban("resubmit", "--xgroup", "night", "--yes", timeout=300)
        assert again.returncode == 0, again.stderr
        assert len(cloud.vertex.jobs) == 2
        first, second = (
            each["jobSpec"]["workerPoolSpecs"][0]["containerSpec"] for each in cloud.vertex.jobs
        )
        assert first["args"] == second["args"]
        assert first["imageUri"] != second["imageUri"]
        wait_for(lambda: ended(cloud), 60)
        assert [each["status"] for each in jobs(caliban, "night")] == ["SUCCEEDED"]

    def test_keeps_its_files_in_cloud_storage(
        self, submit: Callable[..., list[dict[str, Any]]], tmp_path: Path, sweep: Path
    ) -> None:
        file = sweep / "trainer" / "job.py"
        make = 'os.makedirs(os.environ["CALIBAN_OUTPUT"], exist_ok=True)\n'
        file.write_text(file.read_text().replace("arguments = iter", f"{make}arguments = iter"))
        output = ("--output", "gs://my-bucket/kept")
        (job,) = submit("--keep", "this", "--env", "CALIBAN_OUTPUT", flags=output)
        assert job["status"] == "SUCCEEDED"
        (kept,) = (tmp_path / "buckets" / "my-bucket" / "kept" / "night").glob("*/kept")
        assert kept.read_text() == "this\n"

    def test_is_stopped_from_here(
        self,
        cloud: GoogleCloud,
        sweep: Path,
        docker_registry: DockerRegistry,
        caliban: Caliban,
    ) -> None:
        registry = ("--image_registry", f"{docker_registry.host}/team")
        words = ("--nogpu", "--xgroup", "night", *vertex.FAST, *registry, "trainer.job", "--")
        assert caliban("cloud", *words, "--sleep", "100", timeout=300).returncode == 0
        wait_for(lambda: cloud.vertex.jobs[0]["state"] == "JOB_STATE_RUNNING")
        done = caliban("stop", "--xgroup", "night", "--yes")
        assert done.returncode == 0, done.stderr
        wait_for(lambda: ended(cloud), 60)
        assert [each["status"] for each in jobs(caliban, "night")] == ["STOPPED"]


def test_an_image_goes_to_artifact_registry_whose_repository_is_made_on_first_use(
    cloud: GoogleCloud, sweep: Path, caliban: Caliban
) -> None:
    done = caliban("cloud", "--nogpu", "--region", "europe-west4", "trainer.job", timeout=300)
    # The repository is there; the registry itself cannot be had on this machine.
    assert done.returncode == 1
    made = cloud.artifacts.repositories
    assert list(made) == ["projects/p1/locations/europe-west4/repositories/caliban"]
    assert "europe-west4-docker.pkg.dev" in done.stderr
    assert cloud.vertex.jobs == []
    assert kept_output(Path.home()) == {}
