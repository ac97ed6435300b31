"""The packages that lie in the project itself and are installed from there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from caliban.docker.image.declared import backend, locks, pyproject, requirements
from caliban.docker.image.declared.locks import Managed
from caliban.docker.image.declared.pyproject import Pyproject


def packages(
    project: Path,
    toml: Pyproject,
    managed: Managed,
    named: Iterable[str],
    extras: Sequence[str],
    groups: Sequence[str],
) -> list[str]:
    """Finds the packages of a project that are installed from its own files.

    Those are the ones that its declarations name, the ones that these depend on in turn, and the
    project itself where its code or its commands are not there otherwise.

    Args:
      project: the directory of the project.
      toml: its pyproject.toml.
      managed: how its dependencies are managed.
      named: those that requirements files name.
      extras: the optional sets that are installed.
      groups: the dependency groups that are.

    Returns:
      Each as ImagePlan.packages has it, the project itself last.

    Raises:
      UsageError: one of them is missing, or can't be installed.
    """
    found: dict[str, str] = {}
    waiting = [*named, *locks.packages(project, managed.lock_file, extras, groups)]
    if managed in (Managed(pyproject.NAME), Managed()):
        waiting += _dependencies(project, ".", toml, extras, groups)
    while waiting:
        each = waiting.pop(0)
        where = requirements.directory(each)
        if where not in found:
            found[where] = each
            if where != "." and not managed.lock_file and (project / where).is_dir():
                inner = pyproject.read(project / where)
                waiting += _dependencies(project, where, inner, [], [])
    itself = found.pop(".", "-e ." if _is_installed(project, toml, managed) else "")
    return [*found.values(), *filter(None, [itself])]


def code(project: Path, package: str) -> list[str]:
    """The paths of the code of an editable package, which is not copied when it is installed."""
    where = requirements.directory(package)
    if not package.startswith("-e "):
        return []
    if where != ".":
        return [where]
    if backend.is_src_layout(project):
        return ["src"]
    return backend.packages(project)


def _is_installed(project: Path, toml: Pyproject, managed: Managed) -> bool:
    """Whether the project itself is installed though nothing names it."""
    if managed.project in ("setup.py", "setup.cfg"):
        return True
    needs_it = toml.has_entry_points or backend.is_src_layout(project)
    return managed.project == pyproject.NAME and toml.is_package and needs_it


def _dependencies(
    project: Path, root: str, toml: Pyproject, extras: Sequence[str], groups: Sequence[str]
) -> Iterator[str]:
    """The packages of the project that a pyproject.toml depends on by their paths."""
    required = set()
    for line in toml.lines(extras, groups):
        if found := requirements.package(line):
            yield _checked(project, root, found, toml)
        required.add(_normal(line))
    for name, path, is_editable in [*toml.sources(), *_members(toml)]:
        if _normal(name) in required:
            package = requirements.package(f"{'-e ' * is_editable}./{path}")
            yield _checked(project, root, package, toml)


def _checked(project: Path, root: str, package: str, toml: Pyproject) -> str:
    """A package of one that lies in the folder `root`, relative to the project."""
    where = requirements.directory(package)
    path = os.path.normpath(PurePosixPath(root, where))
    prefix = "-e " * package.startswith("-e ")
    rest = package.removeprefix("-e ").removeprefix("./").removeprefix(where)
    moved = f"{prefix}{path if path.startswith('..') or path == '.' else f'./{path}'}{rest}"
    requirements.check_package(project, moved, str(toml.path))
    return moved


def _members(toml: Pyproject) -> Iterator[tuple[str, str, bool]]:
    """The members of uv's workspace: name, path, and that they are editable."""
    for pattern in toml.members:
        for folder in sorted(toml.path.parent.glob(pattern)):
            name = pyproject.read(folder).project.get("name")
            if isinstance(name, str):
                yield name, folder.relative_to(toml.path.parent).as_posix(), True


def _normal(requirement: str) -> str:
    """The normalised name of the package that a requirement begins with."""
    from packaging.utils import canonicalize_name

    found = requirements.NAME.match(requirement)
    return canonicalize_name(found[0]) if found else ""
