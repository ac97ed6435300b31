"""What a project declares about its environment: from its files to an ImagePlan."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from caliban.errors import UsageError
from caliban.model.image import ImagePlan, Mode
from caliban.model.module import Module

# A line of a requirements file that names another one, or a file of constraints.
_INCLUDE = re.compile(
    r"\s*(?:-[rc]\s*|--(?:requirement|constraint)(?:\s+|\s*=\s*))(\S.*?)\s*(?:\s#.*)?"
)


def plan(
    project: Path,
    mode: Mode,
    base_image: str,
    module: Module | None,
    extras: Sequence[str] = (),
    apt_packages: Sequence[str] = (),
    directories: Sequence[str] = (),
) -> tuple[ImagePlan, list[str]]:
    """Plans the image of a project from its requirements.txt, pyproject.toml or setup.py.

    Args:
      project: the directory of the project.
      mode: for CPU or GPU; also the name of the optional dependency set that is always asked for.
      base_image: the image to build on.
      module: the code to execute; None for an interactive image.
      extras: more optional dependency sets.
      apt_packages: packages of the distribution.
      directories: extra directories to copy.

    Returns:
      The plan, and warnings about what was declared but is not used.

    Raises:
      UsageError: an extra directory is missing or outside the project, or a file that declares
        dependencies cannot be read.
    """
    warnings: list[str] = []
    requirements = tuple(_requirements("requirements.txt", project))
    declared, known_extras = _declared(project)
    wanted = tuple(dict.fromkeys((mode.value, *extras)))
    if declared and known_extras is not None:
        for extra in wanted:
            if extra not in known_extras:
                warnings.append(
                    f"{declared} declares no extra '{extra}'; nothing more is installed"
                )
        wanted = tuple(extra for extra in wanted if extra in known_extras)
    elif not declared and extras:
        warnings.append(
            f"--extras {' '.join(extras)} has no effect: there is no setup.py or pyproject.toml"
        )
    if (project / "environment.yml").exists():
        warnings.append("environment.yml is not used: conda environments are not supported yet")
    packages = {*apt_packages}
    if any(b"git+" in (project / name).read_bytes() for name in (*requirements, declared) if name):
        packages.add("git")
    return (
        ImagePlan(
            mode=mode,
            base_image=base_image,
            directory=str(project),
            module=module,
            requirements=requirements,
            project=declared,
            extras=wanted if declared else (),
            apt_packages=tuple(sorted(packages)),
            directories=tuple(_directory(each, project) for each in directories),
        ),
        warnings,
    )


def _requirements(name: str, project: Path) -> list[str]:
    """A requirements file and those that it names, the first one first; [] if it is not there."""
    if not (project / name).is_file():
        return []
    found = [name]
    for each in found:
        for line in _text(project / each).splitlines():
            match = _INCLUDE.fullmatch(line)
            if match and "://" not in match[1]:
                included = os.path.normpath(PurePosixPath(each).parent / match[1])
                if _is_outside(included) or not (project / included).is_file():
                    raise UsageError(
                        f"{project / each}: '{match[1]}' is not a file inside the project",
                        "Files that requirements.txt names are copied into the image with it.",
                    )
                if included not in found:
                    found.append(included)
    return found


def _declared(project: Path) -> tuple[str, set[str] | None]:
    """The file that declares the project's dependencies, and its extras where they can be read."""
    path = project / "pyproject.toml"
    content = _pyproject(path)
    if "project" in content:
        extras = _table(path, _table(path, content, "project"), "optional-dependencies")
        return "pyproject.toml", set(extras)
    if (project / "setup.py").is_file():
        return "setup.py", None
    return "", None


def _pyproject(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def _table(path: Path, content: dict[str, Any], key: str) -> dict[str, Any]:
    """A table of a TOML file; empty if it is not there."""
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise UsageError(f"{path}: '{key}' must be a table, found {value!r}")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None


def _is_outside(path: str) -> bool:
    """Whether a normalised path leads out of the project that it is relative to."""
    return PurePosixPath(path).is_absolute() or PurePosixPath(path).parts[:1] == ("..",)


def _directory(name: str, project: Path) -> str:
    """An extra directory as a path relative to the project."""
    path = os.path.relpath(project / name, project)
    if _is_outside(path):
        raise UsageError(
            f"--dir {name} lies outside the project",
            f"Extra directories must live inside the current directory, {project}.",
        )
    if not (project / path).is_dir():
        raise UsageError(f"--dir {name}: there is no directory '{path}' in {project}")
    return path
