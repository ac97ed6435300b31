"""A build that goes wrong says why in one line, and leaves nothing running."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import wait_for
from tests.conftest import Caliban
from tests.docker.conftest import EVERYTHING, Built, write
from tests.workshop import Workshop


def errors(stderr: str) -> list[str]:
    """The lines in which caliban itself tells of a failure: what happened, and a hint."""
    lines = stderr.splitlines()
    [start] = [at for at, line in enumerate(lines) if line.startswith("caliban: error: ")]
    return lines[start:]


def test_a_step_that_fails_shows_its_output_and_one_line_that_says_why(
    caliban: Caliban, folder: Path, workshop: Workshop
) -> None:
    config = '{"apt_packages": ["no-such-package-of-caliban"]}'
    write(folder, {"run.sh": "echo\n", ".calibanconfig.json": config})
    built = caliban("build", "--nogpu", "run.sh", timeout=120)
    assert (built.returncode, built.stdout) == (1, "")
    message, hint = errors(built.stderr)
    assert message.startswith("caliban: error: the image could not be built: ")
    assert message.endswith("Unable to locate package no-such-package-of-caliban"), built.stderr
    assert "Reading package lists" in built.stderr
    assert "stands above" in hint
    assert workshop.containers("--all") == []


def test_dependencies_that_do_not_exist_are_named(
    everything: Built, caliban: Caliban, folder: Path, workshop: Workshop
) -> None:
    shutil.copytree(everything.project, folder, dirs_exist_ok=True)
    write(folder, {"parts/base requirements.txt": "no-such-package-of-caliban==1\n"})
    built = caliban(*EVERYTHING, cwd=folder, timeout=120)
    assert (built.returncode, built.stdout) == (1, "")
    message, hint = errors(built.stderr)
    assert message.startswith("caliban: error: the dependencies could not be resolved: ")
    assert "no-such-package-of-caliban" in message
    assert "stands above" in hint
    assert workshop.containers("--all") == []


@pytest.mark.parametrize(
    ("environment", "said", "advice"),
    [
        (
            {"DOCKER_HOST": "unix:///no/such/socket"},
            "no Docker engine answers at unix:///no/such/socket",
            "Start Docker",
        ),
        (
            {"PATH": "/no/such/folder"},
            "the program 'docker' is not installed, or not on PATH",
            "Install Docker",
        ),
    ],
    ids=["engine", "program"],
)
def test_without_docker_it_says_so(
    workshop: Workshop,
    caliban: Caliban,
    folder: Path,
    environment: dict[str, str],
    said: str,
    advice: str,
) -> None:
    write(folder, {"run.sh": "echo\n"})
    ran = caliban("run", "--nogpu", "run.sh", env=environment)
    assert (ran.returncode, ran.stdout) == (1, "")
    message, hint = errors(ran.stderr)
    assert message == f"caliban: error: {said}"
    assert advice in hint


def test_a_build_needs_the_engine_alone(workshop: Workshop, caliban: Caliban, folder: Path) -> None:
    write(folder, {"run.sh": "echo\n"})
    built = caliban("build", "--nogpu", "run.sh", env={"PATH": "/no/such/folder"})
    assert built.returncode == 0, built.stderr
    assert built.stdout.startswith("sha256:")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pyproject.toml", "[project\n"),
        (".calibanconfig.json", "{"),
        ("requirements.txt", "-r missing.txt\n"),
    ],
)
def test_a_mistake_in_the_project_is_told_before_docker_is_called(
    caliban: Caliban, folder: Path, tmp_path: Path, name: str, content: str
) -> None:
    write(folder, {"train.py": "", name: content})
    nowhere = {"DOCKER_HOST": "unix:///no/such/socket", "PATH": "/no/such/folder"}
    built = caliban("build", "--nogpu", "train.py", env=nowhere)
    assert built.returncode == 2
    assert name in errors(built.stderr)[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_build_and_what_it_runs(
    workshop: Workshop,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("the processes of the engine cannot be seen here")
    seconds = str(1000 + int(workshop.id, 16) % 9000)  # nobody else's step sleeps that long
    python = f"printf '#!/bin/sh\\nexec sleep {seconds}\\n' > /bin/python3 && chmod +x /bin/python3"
    slow = workshop.base("slow", f"RUN rm -f $(command -v python3); {python}\n")
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", slow)
    write(folder, {"train.py": f"# {number}\n"})
    command = [sys.executable, "-m", "caliban", "build", "--nogpu", "train.py"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: bool(sleeping(seconds)))
        building = children(child.pid)
        child.send_signal(number)
        _, stderr = child.communicate(timeout=10)
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == 130
    assert errors(stderr) == ["caliban: error: interrupted"]
    assert not [pid for pid in building if Path(f"/proc/{pid}").exists()]
    wait_for(lambda: not sleeping(seconds))


def children(pid: int) -> list[str]:
    """The processes that a process has started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def sleeping(seconds: str) -> list[str]:
    """The processes that sleep so long."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == f"sleep\0{seconds}\0".encode():
                found.append(path.parent.name)
        except OSError:
            continue  # it has just ended
    return found
