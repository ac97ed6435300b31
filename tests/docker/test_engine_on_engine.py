"""What is asked of an engine, and what an unchanged project does without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from caliban.docker.containers import Containers
from caliban.docker.engine import Engine
from tests.commands.conftest import wait_for
from tests.conftest import Caliban
from tests.docker.conftest import write
from tests.workshop import Workshop, docker


def test_an_image_is_the_same_with_and_without_the_docker_package(
    engine: Engine, workshop: Workshop
) -> None:
    base = workshop.base("plain")
    found = engine.image(base)
    assert found is not None
    assert found == engine.client.inspect_image(base)  # type: ignore[no-untyped-call]
    assert engine.image_id(base) == docker("inspect", "--format", "{{.Id}}", base).strip()
    assert engine.image(found["Id"]) == found
    assert engine.image("nobody/has-it:1") is None
    assert engine.image("What is this?") is None


def test_containers_are_found_by_a_label(engine: Engine, workshop: Workshop) -> None:
    label = f"caliban.test.of={os.getpid()}"
    made = docker("create", "--label", label, workshop.base("plain"), "true").strip()
    try:
        assert [each["Id"] for each in engine.containers(label)] == [made]
    finally:
        docker("rm", made)
    assert engine.containers(label) == []


def test_a_container_is_the_same_with_and_without_the_docker_package(
    engine: Engine, workshop: Workshop
) -> None:
    made = docker("create", workshop.base("plain"), "true").strip()
    try:
        assert engine.container(made) == engine.client.inspect_container(made)
    finally:
        engine.remove_container(made)
    assert engine.container(made) is None
    engine.remove_container(made)  # which has gone


def test_a_container_that_runs_is_removed_with_its_own_volumes(
    engine: Engine, workshop: Workshop
) -> None:
    made = docker(
        "run", "--detach", "--volume", "/kept", workshop.base("plain"), "sleep", "60"
    ).strip()
    found = engine.container(made)
    assert found is not None
    volume = found["Mounts"][0]["Name"]
    assert volume in docker("volume", "ls", "--quiet").split()
    engine.remove_container(made)
    assert engine.container(made) is None
    assert volume not in docker("volume", "ls", "--quiet").split()


def test_several_may_remove_one_container_at_once(engine: Engine, workshop: Workshop) -> None:
    made = docker("run", "--detach", workshop.base("plain"), "sleep", "60").strip()
    with ThreadPoolExecutor() as pool:
        list(pool.map(Containers(engine).remove, [made] * 8))
    wait_for(lambda: docker("ps", "--all", "--quiet", "--filter", f"id={made}") == "")


def test_an_engine_elsewhere_is_asked_by_the_docker_package(
    engine: Engine, workshop: Workshop
) -> None:
    elsewhere = Engine()
    elsewhere.host = "tcp://nobody:2375"
    elsewhere.__dict__["client"] = engine.client
    base = workshop.base("plain")
    assert elsewhere.image(base) == engine.image(base)
    assert elsewhere.image("nobody/has-it:1") is None
    made = docker("create", base, "true").strip()
    assert elsewhere.container(made) == engine.container(made)
    elsewhere.remove_container(made)
    assert elsewhere.container(made) is None
    elsewhere.remove_container(made)


def test_a_job_of_an_unchanged_project_needs_no_docker_package(
    workshop: Workshop, folder: Path, caliban: Caliban, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, {"go.sh": "echo done\n"})
    assert caliban("build", "--nogpu", "go.sh").returncode == 0
    order = folder.parent / "order"
    script = f"#!/bin/sh\necho \"docker $1\" >> '{order}'\nexec '{shutil.which('docker')}' \"$@\"\n"
    write(folder.parent, {"bin/docker": script})
    (folder.parent / "bin/docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder.parent / 'bin'}:{os.environ['PATH']}")
    with order.open("ab") as stderr:
        command = [sys.executable, "-X", "importtime", "-m", "caliban", "run", "--nogpu", "go.sh"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, check=False)
    assert (done.returncode, done.stdout) == (0, b"done\n"), order.read_text()
    lines = [line.rpartition("|")[2].strip() for line in order.read_text().splitlines()]
    assert "sqlalchemy" in lines
    assert [line for line in lines if line.split(".")[0] in ("docker", "requests")] == []
    # And no other program was called than the one that runs the job.
    assert [line for line in lines if line.startswith("docker ") and line != "docker run"] == []


def test_an_edit_is_built_without_what_only_other_projects_need(
    workshop: Workshop, folder: Path, caliban: Caliban
) -> None:
    write(folder, {"go.sh": "echo done\n"})
    assert caliban("build", "--nogpu", "go.sh").returncode == 0
    write(folder, {"go.sh": f"echo {folder}\n"})
    command = [sys.executable, "-X", "importtime", "-m", "caliban", "build", "--nogpu", "go.sh"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Store the image" in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in lines}
    assert "caliban" in imported
    assert imported & {"configparser", "docker", "packaging", "sqlalchemy", "tomllib"} == set()
