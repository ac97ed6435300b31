"""How a project's dependencies are managed, and what its lock says of the project's own files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caliban.docker.image.declared import pyproject, requirements, setup_cfg
from caliban.docker.image.declared.pyproject import Pyproject
from caliban.errors import UsageError

UV, POETRY, PIPENV = "uv.lock", "poetry.lock", "Pipfile.lock"

# Tables of a Pipfile that are no categories of packages.
_SETTINGS = ("source", "requires", "scripts", "pipenv", "packages", "dev-packages")


@dataclass(frozen=True)
class Managed:
    """How a project's dependencies are managed.

    Attributes:
      project: the file that declares them, see ImagePlan.project.
      lock_file: the lock, see ImagePlan.lock_file.
    """

    project: str = ""
    lock_file: str = ""


def detect(project: Path, toml: Pyproject) -> Managed:
    """Finds the file that declares a project, and the lock that goes with it.

    The first one counts of: pyproject.toml with a lock of uv or poetry, a Pipfile with its lock,
    pyproject.toml, Pipfile, setup.py, setup.cfg.

    Args:
      project: the directory of the project.
      toml: its pyproject.toml.

    Raises:
      UsageError: the setup.cfg can't be read.
    """
    has_pipfile = (project / "Pipfile").is_file()
    if toml.declares:
        if not toml.is_poetry_only and (project / UV).is_file():
            return Managed(pyproject.NAME, UV)
        if toml.is_poetry_only or (project / POETRY).is_file():
            return Managed(pyproject.NAME, POETRY)
        if not has_pipfile or not (project / PIPENV).is_file():
            return Managed(pyproject.NAME)
    if has_pipfile:
        return Managed("Pipfile", PIPENV)
    if (project / "setup.py").is_file():
        return Managed("setup.py")
    if setup_cfg.declares(project):
        return Managed(setup_cfg.NAME)
    return Managed()


def pipfile(project: Path) -> tuple[set[str], str]:
    """The categories of packages of a Pipfile besides its default one, and its version of Python.

    Raises:
      UsageError: it is no TOML, or not a Pipfile.
    """
    path = project / "Pipfile"
    content = pyproject.toml(path)
    requires = pyproject.table(path, content, "requires")
    for category in content.keys() - {"source", "requires", "scripts", "pipenv"}:
        for name, wanted in pyproject.table(path, content, category).items():
            if not isinstance(wanted, str | dict):
                raise UsageError(
                    f"{path}: '{name}' in [{category}] must be a version in quotes, or a table; "
                    f"found {wanted!r}"
                )
    groups = {name for name in content if name not in _SETTINGS}
    if "dev-packages" in content:
        groups.add("dev")
    version = str(requires.get("python_version") or requires.get("python_full_version") or "")
    return groups, ".".join(version.split(".")[:2])


def packages(
    project: Path, lock_file: str, extras: Sequence[str], groups: Sequence[str]
) -> list[str]:
    """The packages of the project that a lock names, but for the project itself, unless it does so.

    Args:
      project: the directory of the project.
      lock_file: the name of the lock; one that is not there names none.
      extras: the optional sets that are installed.
      groups: the dependency groups that are.

    Returns:
      Each as ImagePlan.packages has it.

    Raises:
      UsageError: the lock can't be read, or a package is missing.
    """
    path = project / lock_file
    if not lock_file or not path.is_file():
        return []
    hint = f"Make it anew: {refresh(lock_file)}"
    try:
        if lock_file == PIPENV:
            found = list(_of_pipenv(json.loads(requirements.text(path)), groups))
        elif lock_file == UV:
            found = list(_of_uv(pyproject.toml(path), extras, groups))
        else:
            found = list(_of_poetry(pyproject.toml(path), extras, groups))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}", hint) from None
    except (AttributeError, KeyError, TypeError):
        tool = refresh(lock_file).partition(" ")[0]
        raise UsageError(f"{path} does not hold what {tool} writes there", hint) from None
    for each in found:
        requirements.check_package(project, each, str(path))
    return found


def members(project: Path) -> list[str]:
    """The directories of the packages that a uv.lock was made from, relative to the project."""
    path = project / UV
    found = pyproject.toml(path).get("package", []) if path.is_file() else []
    kinds = ("editable", "virtual", "directory")
    paths = [each.get("source", {}).get(kind) for each in found for kind in kinds]
    return [os.path.normpath(each) for each in paths if isinstance(each, str)]


def refresh(lock_file: str) -> str:
    """The command that makes a lock anew."""
    return {UV: "uv lock", POETRY: "poetry lock", PIPENV: "pipenv lock"}[lock_file]


def upgrade(lock_file: str) -> str:
    """The command that brings all packages of a lock to the newest versions."""
    return {UV: "uv lock --upgrade", POETRY: "poetry update --lock", PIPENV: refresh(PIPENV)}[
        lock_file
    ]


def _of_uv(lock: Mapping[str, Any], extras: Sequence[str], groups: Sequence[str]) -> Iterator[str]:
    by_name = {each["name"]: each for each in lock["package"]}
    roots = [each for each in lock["package"] if "." in each.get("source", {}).values()]
    waiting = [(each["name"], tuple(extras)) for each in roots]
    for root in roots:
        for group in groups:
            waiting += _edges(root.get("dev-dependencies", {}).get(group, ()))
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        name, wanted = waiting.pop(0)
        if (name, wanted) in seen:
            continue
        is_new = all(known != name for known, _ in seen)
        seen.add((name, wanted))
        entry = by_name[name]
        waiting += _edges(entry.get("dependencies", ()))
        for extra in wanted:
            waiting += _edges(entry.get("optional-dependencies", {}).get(extra, ()))
        source = entry["source"]
        if is_new and entry not in roots:
            if "editable" in source:
                yield f"-e ./{os.path.normpath(source['editable'])}"
            elif local := source.get("directory") or source.get("path"):
                yield f"./{os.path.normpath(local)}"


def _edges(dependencies: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    return [(each["name"], tuple(each.get("extra", ()))) for each in dependencies]


def _of_poetry(
    lock: Mapping[str, Any], extras: Sequence[str], groups: Sequence[str]
) -> Iterator[str]:
    chosen = {name for extra in extras for name in lock.get("extras", {}).get(extra, ())}
    wanted = {"main", *groups}
    for each in lock.get("package", []):
        source = each.get("source", {})
        if source.get("type") not in ("directory", "file"):
            continue
        if wanted.isdisjoint(each.get("groups", ["main"])):
            continue
        if each.get("optional") and each["name"] not in chosen:
            continue
        yield f"{'-e ' * bool(each.get('develop'))}./{os.path.normpath(source['url'])}"


def _of_pipenv(lock: Mapping[str, Any], groups: Sequence[str]) -> Iterator[str]:
    lock["_meta"]["hash"]["sha256"]  # of the Pipfile; pipenv verifies none if there is none
    for category in ("default", *("develop" if each == "dev" else each for each in groups)):
        for entry in lock.get(category, {}).values():
            local = entry.get("path") or entry.get("file", "")
            extras = f"[{','.join(entry['extras'])}]" if entry.get("extras") else ""
            prefix = "-e " * bool(entry.get("editable"))
            if name := local and requirements.package(f"{prefix}{local}{extras}"):
                yield name
