"""`caliban replay --on`: on a real cluster, and in a cloud that runs the jobs' images."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caliban.docker.engine import Engine
from tests.bundle import forgery
from tests.commands import vertex
from tests.commands.conftest import Start, wait_for
from tests.commands.kubernetes import Namespace
from tests.commands.replays import EXPERIMENTS, Elsewhere, image_of, replayed, results
from tests.conftest import Caliban, Inline
from tests.docker_registry import DockerRegistry
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.containers import Containers
from tests.google_cloud.vertex import ENDED
from tests.workshop import docker

# A little CPU for each job: those without any get next to nothing of a busy machine.
CLUSTER = "cluster --nogpu --min_cpu 100"


def listed(caliban: Caliban, group: str) -> list[dict[str, Any]]:
    shown = caliban("status", "--xgroup", group, "--json", "--max_jobs", "0")
    assert shown.returncode == 0, shown.stderr
    found: list[dict[str, Any]] = json.loads(shown.stdout)
    return found


def test_experiments_of_this_machine_come_to_the_same_on_a_cluster_and_are_exported_from_there(
    caliban: Caliban, tried: Path, elsewhere: Elsewhere, own_namespace: Namespace
) -> None:
    elsewhere()
    shutil.copy(tried, "tried.tar")
    found = replayed(caliban, "tried.tar", "--xgroup", "there", "--on", CLUSTER)
    assert results(found) == ["same"] * 3
    now = [each["replayed"] for each in found["experiments"]]
    assert [each["platform"] for each in now] == ["kubernetes"] * 3
    assert now[0]["metrics"] == {"loss": 0.5, "good": True}
    assert [each["exit_code"] for each in now] == [0, 0, 3]
    shown = listed(caliban, "there")
    assert [list(each["params"]) for each in shown] == [list(each) for each in EXPERIMENTS]
    assert {tuple(each["args"]) for each in shown} == {("--say", "first")}
    sent = own_namespace.jobs()
    assert len(sent) == 3
    container = sent[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["imagePullPolicy"] == "Never"

    # Once more, it is only compared; by --on, what has not succeeded is sent again.
    again = replayed(caliban, "tried.tar", "--xgroup", "there", "--only", "2-3")
    assert results(again) == ["same"] * 2
    assert [each["replayed"]["job"] for each in again["experiments"]] == [2, 3]
    assert len(own_namespace.jobs()) == 3
    again = replayed(caliban, "tried.tar", "--xgroup", "there", "--on", CLUSTER)
    assert [each["replayed"]["job"] for each in again["experiments"]] == [1, 2, 4]

    done = caliban("export", "there", "-o", "there.tar")
    assert done.returncode == 0, done.stderr
    found = replayed(caliban, "there.tar", "--xgroup", "home")
    assert results(found) == ["same"] * 3
    assert found["image_differences"] == []
    assert {each["recorded"]["platform"] for each in found["experiments"]} == {"kubernetes"}
    assert {each["replayed"]["platform"] for each in found["experiments"]} == {"local"}


def test_an_interrupt_leaves_the_jobs_and_says_how_to_compare_them(
    caliban: Caliban,
    start: Start,
    tried: Path,
    elsewhere: Elsewhere,
    own_namespace: Namespace,
) -> None:
    elsewhere()
    shutil.copy(tried, "tried.tar")
    flags = ("--only", "1-2", "--xgroup", "there")
    child = start("replay", "tried.tar", *flags, "--on", CLUSTER)
    assert child.stderr is not None
    said = ""
    while "2 jobs: 2 submitted" not in said:
        line = child.stderr.readline()
        assert line, said
        said += line
    child.send_signal(signal.SIGINT)
    _, rest = child.communicate(timeout=30)
    assert child.returncode == 130, rest
    again = f"caliban replay {' '.join(flags)} tried.tar"
    assert f"'{again}' goes on." in rest
    own_namespace.wait(2)
    found = replayed(caliban, *flags, "tried.tar")
    assert results(found) == ["same"] * 2
    assert len(own_namespace.jobs()) == 2


@pytest.fixture
def nameless(whole: Path, engine: Engine) -> Iterator[str]:
    """The image of a file that has it; the engine has it as well, without a name of caliban's."""
    image = image_of(whole)
    name = engine.image_name(image)
    docker("tag", image, "kept:1")
    docker("rmi", name)
    yield image
    docker("tag", image, name)  # for other tests
    docker("rmi", "kept:1", f"caliban:replay-{image[7:23]}", check=False)


@pytest.fixture
def cloud(
    whole: Path, home: Path, docker_registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GoogleCloud]:
    """A cloud that runs the containers of its jobs, from the images of the registry."""
    with vertex.started(home, monkeypatch) as found:
        found.vertex.run = Containers(home)
        yield found
        wait_for(lambda: all(job["state"] in ENDED for job in found.vertex.jobs), 60)


def test_an_image_from_the_file_runs_in_the_cloud(
    caliban: Caliban,
    whole: Path,
    nameless: str,
    cloud: GoogleCloud,
    elsewhere: Elsewhere,
    docker_registry: DockerRegistry,
) -> None:
    elsewhere()
    registry = f"{docker_registry.host}/team"
    on = f"cloud --nogpu --image_registry {registry} --per_minute 6000"
    found = replayed(caliban, str(whole), "--xgroup", "there", "--on", on, timeout=300)
    assert results(found) == ["same"] * 3
    assert {each["replayed"]["platform"] for each in found["experiments"]} == {"vertex"}
    assert f"replay-{nameless[7:23]}" in docker_registry.tags("team/caliban")
    (used,) = {
        job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["imageUri"]
        for job in cloud.vertex.jobs
    }
    assert used.startswith(f"{registry}/caliban@sha256:")
    shown = json.loads(caliban("show", "1", "--json").stdout)
    assert shown["provenance"]["image"]["id"] == nameless
    assert shown["provenance"]["source"]["files"]

    done = caliban("export", "there", "-o", "there.tar")
    assert done.returncode == 0, done.stderr
    assert image_of(Path("there.tar")) == nameless


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--on", "moon"), "--on moon: expected cloud or cluster"),
        (("--on", "cloud 'x"), "No closing quotation"),
        (("--on", "cloud --regin x"), "--on: unrecognized arguments: --regin"),
        (("--on", "cloud --region ''"), "--on: argument --region: expected a value"),
        (("--on", "cloud trainer.train"), "--on takes no module"),
        (("--on", "cluster --xgroup x --extras y"), "--on takes no --extras --xgroup"),
        (("--on", "cloud", "--nogpu", "--jobs", "2"), "--nogpu --jobs and --on don't go together"),
    ],
)
def test_what_cannot_be_meant_by_on_is_told_before_anything_is_done(
    flags: tuple[str, ...], message: str, tmp_path: Path, inline: Inline
) -> None:
    forgery.write(tmp_path / "tries.tar")
    done = inline("replay", str(tmp_path / "tries.tar"), *flags)
    assert done.returncode == 2
    assert message in done.stderr
