"""An image is built when something in it changes, and then only from there on."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Caliban
from tests.docker.conftest import Build, write
from tests.docker.wire import Wire
from tests.workshop import Workshop, docker


@pytest.fixture
def script(workshop: Workshop, folder: Path) -> str:
    """A project of the test's own, whose image is quick to build: it needs no Python."""
    write(folder, {"code/run.sh": f"# {folder}\n", "code/data": "1\n", "code/more": "1\n"})
    return "code/run.sh"


def test_an_unchanged_project_is_not_built_again(
    script: str, caliban: Caliban, wire: Wire, folder: Path
) -> None:
    first = caliban("build", "--nogpu", script)
    assert len(wire.builds) == 1
    os.utime(folder / "code/data", (1, 1))
    write(folder, {"code/__pycache__/x.pyc": "", "elsewhere": ""})
    second = caliban("build", "--nogpu", script)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert second.stderr == ""
    assert len(wire.builds) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "code/data").write_text("2\n"),
        lambda folder: (folder / "code/data").chmod(0o755),
        lambda folder: (folder / "code/data").rename(folder / "code/numbers"),
        lambda folder: (folder / ".dockerignore").write_text("code/more"),
    ],
    ids=["content", "mode", "name", "ignored"],
)
def test_a_change_makes_another_image(
    script: str, build: Build, folder: Path, change: Callable[[Path], object]
) -> None:
    first = build(script)
    change(folder)
    assert build(script) != first


def test_going_back_finds_the_first_image_again(script: str, build: Build, folder: Path) -> None:
    first = build(script)
    write(folder, {"code/data": "2\n"})
    build(script)
    write(folder, {"code/data": "1\n"})
    assert build(script) == first


def test_another_base_image_of_the_same_name_makes_another_image(
    script: str, build: Build, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = workshop.base("moving")
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", base)
    first = build(script)
    docker("tag", workshop.base("moved", "RUN touch /moved\n"), base)
    assert build(script) != first


def test_no_cache_builds_every_step_anew(
    script: str,
    build: Build,
    caliban: Caliban,
    wire: Wire,
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a base image of its own: the legacy builder goes on from the newest layers that it finds.
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", workshop.base("uncached", "RUN touch /uncached\n"))
    first = build(script)
    again = caliban("build", "--nogpu", "--no_cache", script)
    assert again.stdout.strip() not in ("", first)
    assert len(wire.builds) == 2
    assert "nocache=1" in wire.builds[-1]


def test_an_edit_does_not_install_the_dependencies_again(
    caliban: Caliban, workshop: Workshop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a base image of its own: otherwise another project's build may have installed them.
    base = workshop.base("edited", f"RUN touch /{workshop.id}\n")
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", base)
    write(folder, {"job.py": "print(1)\n", "requirements.txt": "six\n"})
    first = caliban("build", "--nogpu", "job.py", timeout=300)
    write(folder, {"job.py": "print(2)\n"})
    second = caliban("build", "--nogpu", "job.py")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert second.stdout != first.stdout
    assert re.search(r"Installed \d+ package", first.stderr)
    assert not re.search(r"Installed \d+ package", second.stderr)


def test_what_two_launches_need_at_once_is_built_once(
    script: str, caliban: Caliban, wire: Wire
) -> None:
    ids: list[str] = []

    def launch() -> None:
        ids.append(caliban("build", "--nogpu", script).stdout)

    threads = [threading.Thread(target=launch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 1
    assert ids[0].startswith("sha256:")
    assert len(wire.builds) == 1
