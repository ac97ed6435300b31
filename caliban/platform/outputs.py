"""Where the files of jobs go: DIR/GROUP/JOB, to each job a directory of its own."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from caliban.errors import CalibanError
from caliban.model.image import OUTPUTS_MARK

_MARK = """\
Jobs have written what is in this directory, see `caliban run --output`. As long as this file is
here, no image gets a copy of it, unless --dir names it.
"""

# How many bytes of a group's name are used; file systems take 255.
_LONGEST = 200


def group_directory(directory: Path, group: str) -> Path:
    """Where the directories of a group's jobs are.

    Two groups may share it: it is by their numbers that jobs are told apart.

    Args:
      directory: what --output names.
      group: name of the experiment group, which need not be fit for a path.
    """
    return directory / _folder(group)


def _folder(group: str) -> str:
    name = os.fsencode(group.replace("/", "_"))[:_LONGEST].decode(errors="ignore")
    return f"_{name}" if name in (".", "..") else name


def address(url: str, group: str, number: int, uid: str) -> str:
    """Where a job elsewhere writes its files: an address that no other job has.

    Whose jobs are there already, perhaps of another history, can't be told from here.

    Args:
      url: of the folder that --output names: "gs://bucket/sweep".
      group: name of the experiment group.
      number: of the job.
      uid: see JobRequest.
    """
    return f"{group_address(url, group)}/{number}-{uid[:6]}"


def group_address(url: str, group: str) -> str:
    """Where the folders of a group's jobs elsewhere are."""
    return f"{url.rstrip('/')}/{_folder(group)}"


def folder_of(address: str) -> str:
    """The address of the folder that --output named for a job; "" for one without."""
    return address.rsplit("/", 2)[0] if address else ""


@dataclass(frozen=True)
class GroupOutputs:
    """The outputs of a group's jobs.

    Attributes:
      directory: see group_directory.
      taken: the names of what is in it already.
    """

    directory: Path
    taken: Collection[str] = ()

    @classmethod
    def find(cls, directory: Path, group: str) -> Self:
        """Looks up those of a group below the directory that --output names."""
        path = group_directory(directory, group)
        try:
            return cls(path, frozenset(each.name for each in path.iterdir()))
        except OSError:
            return cls(path)  # not there; if it is something else, `make` tells

    def of_job(self, number: int, uid: str) -> Path:
        """The directory of a job, which does not exist yet."""
        name = str(number)
        # Only another history can have had a job of this number in this group.
        return self.directory / (f"{name}-{uid[:6]}" if name in self.taken else name)


def make(path: Path) -> None:
    """Makes the directory of a job, and marks what has been made as outputs.

    Raises:
      CalibanError: it cannot be made, or is there already.
    """
    try:
        new = path
        while not new.parent.exists():
            new = new.parent
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
        # A directory that was there before may hold anything, so that none such is marked.
        if not any((each / OUTPUTS_MARK).exists() for each in new.parents):
            (new / OUTPUTS_MARK).write_text(_MARK)
    except OSError as error:
        raise CalibanError(f"cannot make the output directory {path}: {error.strerror}") from None


def has_files(path: Path) -> bool:
    """Whether a job has written something into its directory."""
    return any(each.name != OUTPUTS_MARK for each in path.iterdir())
