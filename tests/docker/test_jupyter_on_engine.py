"""Jupyter in images: beside the project's packages, and never in their place."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from caliban import launch
from caliban.config import Config
from caliban.docker import jupyter
from caliban.docker.engine import Engine
from caliban.docker.image import project
from caliban.images import Images
from caliban.model.image import ImagePlan, Mode
from tests.browser import Browser
from tests.docker.conftest import Others, inside, inspect, listing, write
from tests.workshop import Workshop, docker

pytestmark = pytest.mark.takes(25)

UID = 12345

CELL = """\
import getpass, six
with open("results/written.txt", "w") as file:
    file.write(six.__version__)
print(getpass.getuser(), six.__version__)
"""


def plan_of(folder: Path) -> ImagePlan:
    base = Config().base_image(Mode.CPU, os.environ)
    found, said = project.plan(folder, Mode.CPU, base, None)
    assert said.warnings == []
    return found


def test_what_somebody_does_in_jupyterlab_is_theirs(
    workshop: Workshop, others: Others, browser: Browser, public: Path
) -> None:
    home, folder = public / "home", public / "project"
    write(folder, {"requirements.txt": "six==1.16.0\n", "results/keep": ""})
    home.mkdir()
    for path in (home, folder, *folder.rglob("*")):
        os.chown(path, UID, UID)
    for path in (home, folder):
        path.chmod(0o700)
    options = others.options(UID)
    options["env"] |= {"HOME": str(home), "USER": "somebody", "LOGNAME": "somebody"}
    child = subprocess.Popen(
        [others.python, "-m", "caliban", "notebook", "--nogpu", "--lab"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    with child:
        assert child.stdout is not None and child.stderr is not None
        url = child.stdout.readline().strip()
        try:
            assert "/lab?token=" in url, child.stderr.read()
            assert browser.run_cell(url, CELL) == "somebody 1.16.0\n"
        finally:
            child.terminate()
            child.communicate(timeout=30)
    assert (folder / "results/written.txt").read_text() == "1.16.0"
    assert "six.__version__" in (folder / "Untitled.ipynb").read_text()
    assert (home / ".ipython").is_dir()
    owners = {(each.st_uid, each.st_gid) for each in map(Path.lstat, public.rglob("*"))}
    assert owners == {(UID, UID)}
    assert workshop.containers("--all", "--filter", "name=caliban-notebook-") == []


def test_the_projects_own_packages_are_the_same_with_and_without_jupyter(
    workshop: Workshop, engine: Engine, folder: Path
) -> None:
    write(folder, {"requirements.txt": "six==1.16.0\n"})
    images = Images(engine, launch.open_history)
    _, without = images.ensure(plan_of(folder).interactive())
    requirement = jupyter.requirement(False, None)
    _, image = images.ensure(plan_of(folder).interactive(jupyter=requirement))
    layers = inspect(without)["RootFS"]["Layers"]
    assert inspect(image)["RootFS"]["Layers"][: len(layers) - 1] == layers[:-1]
    fields = "%p %y %m %s %l"
    where = "/opt/venv /opt/dependencies /usr/lib/python3 /usr/local/lib /home/caliban /tmp /root"
    assert listing(image, where, fields) == listing(without, where, fields)
    # What the kernel brings along can't be seen by what it starts.
    assert "No module" in inside(image, "python -c 'import traitlets' 2>&1 || true")
    assert inside(image, "cat /opt/jupyter/notes.txt; ls /opt/uv") == ""
    assert inside(image, "ls /opt/jupyter/packages | grep -i -E '^(jupyterlab|jinja2)'|| :") == ""


def test_a_pin_that_jupyter_cannot_live_with_is_kept_and_told_of(
    workshop: Workshop, engine: Engine, folder: Path
) -> None:
    write(folder, {"requirements.txt": "prompt_toolkit==1.0.15\n"})
    # It can't be imported by every Python, but it can be found.
    cell = "import importlib.metadata as m, sys; print(m.version('prompt_toolkit'), sys.executable)"
    notebook = {
        "cells": [
            {"cell_type": "code", "id": "a", "source": cell, "metadata": {}, "outputs": []}
            | {"execution_count": None}
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "x"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    write(folder, {"a.ipynb": json.dumps(notebook)})
    requirement = jupyter.requirement(False, None)
    plan = plan_of(folder).interactive(jupyter=requirement)
    _, image = Images(engine, launch.open_history).ensure(plan)
    notes = inside(image, "cat /opt/jupyter/notes.txt").splitlines()
    assert len(notes) == 1
    assert "clashes with the project's prompt-toolkit 1.0.15, which is kept: ipython" in notes[0]
    environment = [f"--env={name}={value}" for name, value in jupyter.ENVIRONMENT.items()]
    program = "/opt/jupyter/venv/bin/jupyter-nbconvert"
    done = docker(
        *("run", "--rm", "--mount", f"type=bind,source={folder},target=/usr/app", *environment),
        *(image, program, "--to", "html", "--execute", "--stdout", "a.ipynb"),
    )
    assert "1.0.15 /opt/venv/bin/python" in done
