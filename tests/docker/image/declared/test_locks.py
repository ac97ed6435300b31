"""The project's own packages, as its locks and its pyproject.toml name them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from caliban import images
from caliban.docker.image import project
from caliban.docker.image.declared import files
from caliban.errors import UsageError
from caliban.model.image import ImagePlan, Mode
from caliban.model.lock import Lock
from tests.docker.image.test_project import write

PYPROJECT = "[project]\nname = 'x'\n[project.optional-dependencies]\na = []\n"

UV = """\
version = 1
[[package]]
name = "x"
source = { virtual = "." }
dependencies = [{ name = "near" }, { name = "six" }]
[package.optional-dependencies]
a = [{ name = "optional" }]
[package.dev-dependencies]
dev = [{ name = "tool" }]
[[package]]
name = "near"
source = { editable = "libs/near" }
dependencies = [{ name = "far", extra = ["b"] }]
[[package]]
name = "far"
source = { directory = "libs/far" }
[package.optional-dependencies]
b = [{ name = "near" }, { name = "wheel" }]
[[package]]
name = "wheel"
source = { path = "wheels/w-1.whl" }
[[package]]
name = "optional"
source = { editable = "libs/optional" }
[[package]]
name = "tool"
source = { editable = "libs/tool" }
[[package]]
name = "unused"
source = { editable = "libs/unused" }
[[package]]
name = "six"
source = { registry = "https://index.example/simple" }
"""

POETRY = """\
[[package]]
name = "near"
groups = ["main"]
develop = true
[package.source]
type = "directory"
url = "libs/near"
[[package]]
name = "optional"
optional = true
groups = ["main"]
[package.source]
type = "directory"
url = "libs/optional"
[[package]]
name = "tool"
groups = ["dev"]
[package.source]
type = "directory"
url = "libs/tool"
[[package]]
name = "six"
groups = ["main"]
[extras]
a = ["optional"]
"""

LIBRARIES = {
    f"libs/{name}/pyproject.toml": f"[project]\nname = '{name}'\n"
    for name in ("far", "near", "optional", "tool", "unused")
}


def plan(folder: Path, written: Mapping[str, str], extras: tuple[str, ...] = ()) -> ImagePlan:
    write(folder, {"wheels/w-1.whl": "", **LIBRARIES, **written})
    return project.plan(folder, Mode.CPU, "base", None, extras)[0]


@pytest.mark.parametrize(
    ("extras", "more"),
    [
        ((), ()),
        (("a",), ("-e ./libs/optional",)),
        (("dev",), ("-e ./libs/tool",)),
    ],
)
def test_those_that_a_uv_lock_comes_to_are_installed(
    tmp_path: Path, extras: tuple[str, ...], more: tuple[str, ...]
) -> None:
    groups = "[dependency-groups]\ndev = []\n"
    planned = plan(tmp_path, {"pyproject.toml": PYPROJECT + groups, "uv.lock": UV}, extras)
    assert {*planned.packages} == {
        *("-e ./libs/near", "./libs/far", "./wheels/w-1.whl", *more),
    }
    # uv looks at all of them to see whether the lock is up to date.
    assert {"uv.lock", "libs/unused/pyproject.toml"} <= {*files.names(planned)}


def test_those_of_a_poetry_lock_are_installed(tmp_path: Path) -> None:
    written = {"pyproject.toml": f"{PYPROJECT}[tool.poetry.group.dev]\n", "poetry.lock": POETRY}
    assert plan(tmp_path, written).packages == ("-e ./libs/near",)
    assert {*plan(tmp_path, written, ("a", "dev")).packages} == {
        *("-e ./libs/near", "./libs/optional", "./libs/tool"),
    }


def test_those_of_a_pipfile_lock_are_installed(tmp_path: Path) -> None:
    lock: dict[str, Any] = {
        "_meta": {"hash": {"sha256": "0"}},
        "default": {
            "near": {"editable": True, "path": "./libs/near", "extras": ["b"]},
            "six": {"version": "==1.17.0"},
            "x": {"editable": True, "path": "."},
        },
        "develop": {"w": {"file": "wheels/w-1.whl"}},
    }
    written = {"Pipfile": "[dev-packages]\n", "Pipfile.lock": json.dumps(lock), "setup.py": ""}
    assert plan(tmp_path, written).packages == ("-e ./libs/near[b]", "-e .")
    assert "./wheels/w-1.whl" in plan(tmp_path, written, ("dev",)).packages


@pytest.mark.parametrize(
    ("lock", "content"),
    [
        ("uv.lock", "package = 3"),
        ("uv.lock", "[[package]]\nsource = {}\n"),
        ("uv.lock", "[[package]"),
        ("uv.lock", ""),
        ("poetry.lock", "package = [3]"),
        ("Pipfile.lock", "{"),
        ("Pipfile.lock", "[]"),
        ("Pipfile.lock", "{}"),
        ("Pipfile.lock", '{"_meta": {"hash": {}}, "default": {}}'),
    ],
)
def test_a_damaged_lock_is_told(tmp_path: Path, lock: str, content: str) -> None:
    declaring = {"Pipfile": ""} if lock == "Pipfile.lock" else {"pyproject.toml": PYPROJECT}
    with pytest.raises(UsageError) as error:
        plan(tmp_path, {**declaring, lock: content})
    assert str(tmp_path / lock) in error.value.message
    assert "Error" not in error.value.message, "it is no word of Python's"


def test_a_version_of_a_pipfile_that_is_none_is_told(tmp_path: Path) -> None:
    for category in ("packages", "dev-packages", "docs"):
        with pytest.raises(UsageError, match=rf"'six' in \[{category}\] .*, or a table; found 3"):
            plan(tmp_path, {"Pipfile": f"[{category}]\nattrs = {{}}\nsix = 3\n"})


@pytest.mark.parametrize(
    ("lock", "content", "told"),
    [
        ("uv.lock", UV, "uv.lock says which versions are installed; renew it: uv lock --upgrade"),
        ("poetry.lock", POETRY, "renew it: poetry update --lock"),
        ("", "", "All dependencies are at the newest versions that are allowed."),
    ],
)
def test_of_a_lock_that_the_project_brings_it_is_not_said_that_it_is_the_newest(
    tmp_path: Path, lock: str, content: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan(tmp_path, {"pyproject.toml": PYPROJECT, **({lock: content} if lock else {})})
    same = Lock("3.12", "0123", "six==1.15.0\n")
    images._tell(planned, same, same)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "packages"),
    [
        ("dependencies = ['near @ file:libs/near']\n", ("./libs/near",)),
        (
            "dependencies = ['Near[b]>=1', 'six']\n"
            "[tool.uv.sources]\nnear = {path = 'libs/near', editable = true}\n"
            "unused = {path = 'libs/unused'}\n",
            ("-e ./libs/near",),
        ),
        (
            "dependencies = ['near']\n"
            "[tool.uv.sources]\nnear = {workspace = true}\n"
            "[tool.uv.workspace]\nmembers = ['libs/*']\n",
            ("-e ./libs/near",),
        ),
    ],
)
def test_without_a_lock_pyproject_names_them(
    tmp_path: Path, content: str, packages: tuple[str, ...]
) -> None:
    assert (
        plan(tmp_path, {"pyproject.toml": f"[project]\nname = 'x'\n{content}"}).packages == packages
    )


def test_what_they_depend_on_in_turn_comes_with_them(tmp_path: Path) -> None:
    near = (
        "[project]\nname = 'near'\ndependencies = ['far']\n[tool.uv.sources.far]\npath = '../far'\n"
    )
    write(tmp_path, LIBRARIES)
    (tmp_path / "libs/near/pyproject.toml").write_text(near)
    write(tmp_path, {"requirements.txt": "-e libs/near\n"})
    planned, _ = project.plan(tmp_path, Mode.CPU, "base", None)
    assert planned.packages == ("-e ./libs/near", "./libs/far")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[project]\ndependencies = 'six'\n", "'project.dependencies' must be a list of strings"),
        ("[project]\ndependencies = [3]\n", "'project.dependencies' must be a list of strings"),
        ("[project.optional-dependencies]\na = 'x'\n", "'project.optional-dependencies.a' must be"),
        ("[project]\nrequires-python = 3\n", "'project.requires-python' must be a string, found 3"),
        ("[dependency-groups]\ncpu = 'x'\n", "'dependency-groups.cpu' must be a list, found 'x'"),
        (
            "[dependency-groups]\ncpu = [{include-group = 'no'}]\n",
            "'dependency-groups.cpu' holds {'include-group': 'no'}, expected a requirement",
        ),
        ("dependency-groups = []\n", "'dependency-groups' must be a table"),
        ("tool = 3\n", "'tool' must be a table, found 3"),
        ("[project]\ndependencies = ['a @ file:../a']\n", "'../a' is not in the project"),
    ],
)
def test_what_is_wrong_with_a_pyproject_is_told(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(UsageError) as error:
        plan(tmp_path, {"pyproject.toml": content})
    assert f"{tmp_path}/pyproject.toml: {problem}" in error.value.message
