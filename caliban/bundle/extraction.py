"""The code in a file of experiments, put into a directory: in there, and nowhere else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from caliban import result_file
from caliban.bundle import recorded
from caliban.bundle.archive import Archive
from caliban.bundle.code import Candidate, Kind, leads_out
from caliban.bundle.recorded import CodeFile, shown
from caliban.config import FILE_NAME
from caliban.errors import UsageError

# How many files and folders there may be, and how deep. A link's target is a path.
_MOST = 200_000
_DEEPEST = 64
_LONGEST_NAME = 255
_LONGEST_TARGET = 4096

# How many times the size of its parts the code may have: the same file may be in several places.
_MOST_TIMES = 4
_ALWAYS = 1 << 26

# git runs programs that its settings name, and caliban's own name passwords that it lends.
_NEVER = frozenset({".git", FILE_NAME})


def extract(archive: Archive, files: Sequence[CodeFile], directory: Path) -> None:
    """Writes the files of a launch into a new directory.

    All names are checked first. Files are only made, never opened, and links come last, so that
    nothing is written through one, whatever a file system takes for the same name.

    Args:
      archive: the file.
      files: those of one of its launches.
      directory: where they go; it is made.

    Raises:
      UsageError: one would not be in there, or the file is damaged.
      CalibanError: the disk is full.
    """
    folders = _check_names(archive, files)
    _check_sizes(archive, files)
    links = _links(archive, files)
    try:
        directory.mkdir(parents=True)
        for folder in folders:
            (directory / folder).mkdir()
        for file in files:
            if file.kind in (Kind.FILE, Kind.PROGRAM):
                _write(archive, file, directory / file.path)
        for name, target in links.items():
            (directory / name).symlink_to(target)
    except OSError as error:
        name = shown(str(error.filename or directory))
        raise result_file.failure(name, error) from None


def files(path: Path) -> Iterator[Candidate]:
    """The code of all launches of a file; nothing if it is no file of experiments any more.

    Args:
      path: of the file.
    """
    with contextlib.suppress(UsageError), Archive(path) as archive:
        for launch in recorded.read(archive).launches:
            for each in launch.code:
                yield Candidate(
                    each.path, each.kind, archive.pieces(each.part) if each.part else ()
                )


def _check_names(archive: Archive, files: Sequence[CodeFile]) -> list[str]:
    """Sees to it that each name is one of a file below; returns the folders, the outer ones first.

    Raises:
      UsageError: one is not, or two files cannot be there at the same time.
    """
    if len(files) > _MOST:
        raise archive.refused(f"its code has {len(files)} files")
    folders: dict[str, None] = {}
    names: set[str] = set()
    for file in files:
        parts = file.path.split("/")
        if not _is_inside(parts):
            raise archive.refused(f"its code has a file that cannot be: {shown(file.path)}")
        if file.path in names:
            raise archive.refused(f"its code has a file twice: {shown(file.path)}")
        inner = len(parts) if file.kind is Kind.FOLDER else len(parts) - 1
        for depth in range(1, inner + 1):
            folders.setdefault("/".join(parts[:depth]))
        if file.kind is not Kind.FOLDER:
            names.add(file.path)
        if len(folders) > _MOST:
            raise archive.refused(f"its code has more than {_MOST} folders")
    if both := names & folders.keys():
        raise archive.refused(f"its code has a file and a folder of one name: {shown(min(both))}")
    return list(folders)


def _is_inside(parts: Sequence[str]) -> bool:
    return len(parts) <= _DEEPEST and all(
        part not in ("", ".", "..")
        and part.casefold() not in _NEVER
        and "\0" not in part
        and len(os.fsencode(part)) <= _LONGEST_NAME
        for part in parts
    )


def _check_sizes(archive: Archive, files: Sequence[CodeFile]) -> None:
    sizes = {file.part: archive.parts[file.part].size for file in files if file.part}
    total = sum(sizes[file.part] for file in files if file.part)
    if total > _MOST_TIMES * sum(sizes.values()) + _ALWAYS:
        raise archive.refused(f"its code has {total} bytes, most of them again and again")


def _links(archive: Archive, files: Sequence[CodeFile]) -> dict[str, str]:
    """Where each link leads.

    Raises:
      UsageError: one leads out, or anywhere else than links do.
    """
    links: dict[str, str] = {}
    for file in files:
        if file.kind is Kind.LINK:
            content = archive.read(file.part, _LONGEST_TARGET)
            if not content or b"\0" in content:
                raise archive.refused(f"its code has a link to nothing: {shown(file.path)}")
            links[file.path] = os.fsdecode(content)
    for name in links:
        if leads_out(links, name):
            raise archive.refused(f"its code has a link that leads out: {shown(name)}")
    return links


def _write(archive: Archive, file: CodeFile, path: Path) -> None:
    mode = 0o755 if file.kind is Kind.PROGRAM else 0o644
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(os.open(path, flags, mode), "wb") as stream:
        for piece in archive.pieces(file.part):
            stream.write(piece)
