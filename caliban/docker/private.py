"""What no container may see of this machine: caliban's records, and credentials."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from caliban import home
from caliban.docker import identity

# Folders of a home directory in which programs keep what opens other doors.
_FOLDERS = (".aws", ".azure", ".config/gcloud", ".docker", ".gnupg", ".kube", ".ssh")


def enclosing(path: Path, environment: Mapping[str, str]) -> Path | None:
    """The private folder that a path is, or lies in, by whatever links; None if there is none.

    Args:
      path: it need not exist.
      environment: variables; they may say where programs keep their credentials.
    """
    real = _real(path)
    return next((each for each in _folders(environment) if real.is_relative_to(each)), None)


def inside(project: Path, secrets: Iterable[Path], environment: Mapping[str, str]) -> list[Path]:
    """Finds what is private in a project.

    Links that lead out of the project are passed over: in a container they lead nowhere.

    Args:
      project: the directory.
      secrets: files that are private, wherever they lie.
      environment: see `enclosing`.

    Returns:
      The files and folders that exist, sorted, without links in their paths; none is in another.
    """
    top = _real(project)
    files = [_real(each) for each in secrets]
    found: list[Path] = []
    for path in sorted({*files, *_folders(environment), *_other_names(files, top)}):
        is_covered = any(path.is_relative_to(each) for each in found)
        if top in path.parents and not is_covered and _info(path):
            found.append(path)
    return found


def _folders(environment: Mapping[str, str]) -> list[Path]:
    named = [Path.home() / name for name in _FOLDERS]
    named += [home.path(), identity.gcloud_folder(environment)]
    if docker := environment.get("DOCKER_CONFIG"):
        named.append(Path(docker))
    return [_real(each) for each in named]


def _other_names(files: Iterable[Path], top: Path) -> list[Path]:
    """The hard links, below a folder, to those files that have any."""
    known = [info for each in files if (info := _info(each))]
    wanted = {
        (info.st_dev, info.st_ino)
        for info in known
        if info.st_nlink > 1 and stat.S_ISREG(info.st_mode)
    }
    if not wanted:
        return []
    every = (Path(place, name) for place, _, names in os.walk(top) for name in names)
    return [
        each for each in every if (info := _info(each)) and (info.st_dev, info.st_ino) in wanted
    ]


def _info(path: Path) -> os.stat_result | None:
    """What is at a path; None if that is nothing, or a link."""
    try:
        info = path.lstat()
    except OSError:
        return None
    return None if stat.S_ISLNK(info.st_mode) else info


def _real(path: Path) -> Path:
    # Not Path.resolve, which raises for links that go round in circles.
    return Path(os.path.realpath(path))
