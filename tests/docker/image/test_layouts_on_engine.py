"""Projects as people have them are built and run, each of them with either builder.

Every directory of tests/layouts is one, see the README.md there. They are seen to side by side, and
each test waits for the outcome of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from caliban.docker.engine import Engine
from caliban.docker.image import uv
from caliban.docker.image.builder import Builder
from tests.docker.conftest import Others, variables_for
from tests.workshop import Workshop

LAYOUTS = Path(__file__).parents[2] / "layouts"
NAMES = sorted(path.parent.name for path in LAYOUTS.glob("*/verify"))

# The legacy builder can't keep uv from one build to the next: it gets it anew for each step that
# needs it, which takes longer than all else. The layouts with a base of their own show that; for
# the others it is there.
UV = f"""\
RUN python3 -m venv /srv/pip \\
 && /srv/pip/bin/python -m pip install --quiet --no-compile --target /srv/uv uv=={uv.VERSION} \\
 && rm -r /srv/pip
ENV PATH="$PATH:/srv/uv/bin"
"""

# What a layout has besides the files of its project.
TOOLS = ("verify", "prepare", "base", "uid")


@dataclass(frozen=True)
class Verification:
    """A layout, and all that it takes to see to it in a thread of its own.

    Attributes:
      name: the layout's.
      folder: an empty one, for a copy of the project.
      python: the interpreter that runs caliban.
      options: those of subprocess.run: who runs caliban, and in which environment.
    """

    name: str
    folder: Path
    python: str
    options: Mapping[str, Any]

    def run(self) -> str:
        """Makes the project and verifies it; returns what was said if that failed, else ""."""
        layout, project = LAYOUTS / self.name, self.folder / "project"
        shutil.copytree(layout, project, symlinks=True, ignore=_is_tool)
        if (layout / "prepare").exists():
            environment = self.options["env"]
            subprocess.run([layout / "prepare"], cwd=project, env=environment, check=True)
        done = subprocess.run(
            # -P: modules of the project may be named as those of Python's library are.
            [self.python, "-P", layout / "verify"],
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
            **self.options,
        )
        return done.stdout.decode(errors="replace") if done.returncode else ""


def _is_tool(folder: str, names: list[str]) -> set[str]:
    """What is not copied of a layout's own folder, in the form that shutil.copytree asks for."""
    return {*TOOLS} if Path(folder).parent == LAYOUTS else set()


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    """As many as there are cores: a layout keeps one busy, with caliban, a builder, a container."""
    pool = ThreadPoolExecutor(os.cpu_count())
    yield pool
    pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """An empty folder that other users can reach, too."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


Outcomes = dict[tuple[str, Builder], Future[str]]


@pytest.fixture(scope="module")
def _outcomes() -> Outcomes:
    return {}


@pytest.fixture
def outcomes(
    _outcomes: Outcomes,
    engine: Engine,
    workshop: Workshop,
    threads: ThreadPoolExecutor,
    place: Path,
    request: pytest.FixtureRequest,
) -> Outcomes:
    """What comes of every layout that this session's tests are about: all are begun at once."""
    if _outcomes:
        return _outcomes
    variables: dict[Builder, Mapping[str, str]] = {}
    for item in request.session.items:
        if not isinstance(item, pytest.Function) or item.originalname != request.function.__name__:
            continue
        parameters: dict[str, Any] = {**item.callspec.params}
        name, builder = parameters["name"], parameters["builder"]
        _outcomes[name, builder] = Future()
        try:
            if builder not in variables:
                (place / builder.name).mkdir()
                variables[builder] = variables_for(builder, engine, place / builder.name)
            verification = _prepared(name, builder, variables[builder], workshop, place, request)
        except pytest.skip.Exception as reason:
            _outcomes[name, builder].set_exception(reason)
        else:
            _outcomes[name, builder] = threads.submit(verification.run)
    return _outcomes


def _prepared(
    name: str,
    builder: Builder,
    variables: Mapping[str, str],
    workshop: Workshop,
    place: Path,
    request: pytest.FixtureRequest,
) -> Verification:
    """Sees to the user and the base image that a layout asks for."""
    base, uid = LAYOUTS / name / "base", LAYOUTS / name / "uid"
    # One for each builder: an image has the name of its base in its own.
    if base.exists():
        image = workshop.base(f"{name}-{builder.name.lower()}", base.read_text())
    else:
        steps = UV if builder is Builder.LEGACY else ""
        image = workshop.base(f"layouts-{builder.name.lower()}", steps)
    folder = place / builder.name / name
    (folder / "home").mkdir(parents=True)
    python = sys.executable
    options: dict[str, Any] = {"env": dict(os.environ)}
    if uid.exists() and int(uid.read_text()) != os.getuid():
        others: Others = request.getfixturevalue("others")
        number = int(uid.read_text())
        python, options = others.python, others.options(number)
        options["env"] |= {"USER": f"user{number}", "LOGNAME": f"user{number}"}
        os.chown(folder / "home", number, number)
    # An empty word in it would stand for the project, whose modules may be named as the library's.
    search = filter(None, [options["env"].get("PYTHONPATH")])
    options["env"] |= {
        **variables,
        "CALIBAN_BASE_IMAGE": image,
        "HOME": str(folder / "home"),
        "PYTHONPATH": ":".join([str(LAYOUTS), *search]),
    }
    return Verification(name, folder, python, options)


@pytest.mark.parametrize("builder", Builder, ids=lambda builder: builder.name.lower())
@pytest.mark.parametrize("name", NAMES)
def test_a_project_is_built_and_runs(outcomes: Outcomes, name: str, builder: Builder) -> None:
    if said := outcomes[name, builder].result():
        pytest.fail(said, pytrace=False)
