"""The files that jobs ran, as they were: from the project, where unchanged, or from the image."""

from __future__ import annotations

import contextlib
import enum
import itertools
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from caliban.bundle.spool import Content, Spool
from caliban.docker.engine import Engine
from caliban.errors import EngineError, UsageError
from caliban.model.image import WORKING_DIRECTORY

# What begins the record of a link, and what is that of a folder.
_LINK, _FOLDER = "link ", "folder"

_PIECE = 1 << 20

# How many links a path may lead through; systems follow no more.
_MOST_LINKS = 40


class Kind(enum.Enum):
    """What a file of a project is."""

    FILE = "file"
    PROGRAM = "program"
    LINK = "link"
    FOLDER = "folder"


@dataclass(frozen=True)
class SourceFile:
    """A file, a link, or a folder that has nothing in it.

    Attributes:
      path: in the project.
      kind: what it is.
      content: what it holds; of a link, where it leads; nothing of a folder.
    """

    path: str
    kind: Kind
    content: Content


@dataclass(frozen=True)
class Candidate:
    """A file that may be one of those that are looked for, see SourceFile.

    Attributes:
      path: in the project.
      kind: what it is.
      pieces: what it holds; it is read once, or not at all.
    """

    path: str
    kind: Kind
    pieces: Iterable[bytes] = ()


def recorded(kind: Kind, digest: str) -> str:
    """What stands for a file.

    Args:
      kind: of the file.
      digest: of its content, as hexadecimal digits of the SHA-256.
    """
    if kind is Kind.FOLDER:
        return _FOLDER
    mode = 0o777 if kind is Kind.PROGRAM else 0o666
    return f"{_LINK}{digest}" if kind is Kind.LINK else f"{mode:o} {digest}"


def leads_out(links: Mapping[str, str], name: str) -> bool:
    """Whether a link leads out of the project, by itself or through others, or in a circle.

    Args:
      links: where each link of the project leads, by its path.
      name: of one of them.
    """
    place: list[str] = []
    rest = list(reversed(name.split("/")))
    left = _MOST_LINKS
    while rest:
        part = rest.pop()
        if part == "..":
            if not place:
                return True
            place.pop()
        elif part not in ("", "."):
            place.append(part)
            if (target := links.get("/".join(place))) is not None:
                if target.startswith("/") or not left:
                    return True
                left -= 1
                place.pop()
                rest += reversed(target.split("/"))
    return False


def find(
    files: Mapping[str, str],
    project: Path,
    image: str,
    engine: Engine,
    spool: Spool,
    others: Iterable[Candidate] = (),
) -> list[SourceFile]:
    """The files of a record, each as it was.

    Args:
      files: what stands for each, by its path; see model.provenance.Source.
      project: the directory that they were in.
      image: that has a copy of them, perhaps.
      engine: that has the image, perhaps.
      spool: that gets what they hold.
      others: files from elsewhere, of which some may be as they were.

    Raises:
      UsageError: some are nowhere any more as they were; the message names them.
      CalibanError: the disk is full.
    """
    found: dict[str, SourceFile] = {}
    for each in itertools.chain(_of_project(project, files), others):
        with contextlib.suppress(OSError, UsageError):  # it can't be read, or is damaged
            _keep(each, files, found, spool)
    if found.keys() < files.keys():
        with _reading(image):
            for each in _of_image(engine, image):
                _keep(each, files, found, spool)
    # What has to be there and is not read is sent to the builder empty.
    for name in files.keys() - found.keys():
        _keep(Candidate(name, Kind.FILE), files, found, spool)
    if missing := sorted(files.keys() - found.keys()):
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UsageError(
            f"the code that ran is not there any more: {some}",
            f"It has changed in {project}, and the image {image} is not in the engine or has no "
            "copy of it. Check out what was committed and apply the diff (caliban show --diff).",
        )
    return [found[name] for name in sorted(found)]


def _keep(
    candidate: Candidate, files: Mapping[str, str], found: dict[str, SourceFile], spool: Spool
) -> None:
    """Adds a file to those that were found, if it is the one that is looked for."""
    path, kind = candidate.path, candidate.kind
    if path not in files or path in found:
        return

    def is_the_same(digest: str) -> bool:
        # A record has the beginning, see docker.image.inputs.
        return recorded(kind, digest).startswith(files[path])

    if content := spool.keep(candidate.pieces, is_the_same):
        found[path] = SourceFile(path, kind, content)


def _of_project(project: Path, files: Mapping[str, str]) -> Iterator[Candidate]:
    for name, recorded in files.items():
        path = project / name
        with contextlib.suppress(OSError):
            # What declares something may have been read through a link.
            info = path.lstat() if recorded.startswith(_LINK) else path.stat()
            if stat.S_ISLNK(info.st_mode):
                yield Candidate(name, Kind.LINK, (os.fsencode(path.readlink()),))
            elif stat.S_ISDIR(info.st_mode):
                yield Candidate(name, Kind.FOLDER)
            elif stat.S_ISREG(info.st_mode):
                with path.open("rb") as stream:
                    yield Candidate(name, _kind(info.st_mode), _pieces(stream))


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(_PIECE):
        yield piece


def _kind(mode: int) -> Kind:
    return Kind.PROGRAM if mode & stat.S_IXUSR else Kind.FILE


def _of_image(engine: Engine, image: str) -> Iterator[Candidate]:
    """What an image has in its working directory; nothing if there is no such image."""
    if not image or engine.image_id(image) is None:
        return
    client = engine.client
    container = client.create_container(image, command=["true"])["Id"]
    try:
        pieces, _ = client.get_archive(container, f"{WORKING_DIRECTORY}/.")
        with tarfile.open(fileobj=_Readable(pieces), mode="r|") as opened:  # type: ignore[call-overload]
            for member in opened:
                name = str(PurePosixPath(member.name))
                if member.issym():
                    target = member.linkname.encode(errors="surrogateescape")
                    yield Candidate(name, Kind.LINK, (target,))
                elif member.isdir():
                    yield Candidate(name, Kind.FOLDER)
                elif member.isreg():
                    stream = opened.extractfile(member)
                    assert stream is not None
                    yield Candidate(name, _kind(member.mode), _pieces(stream))
    finally:
        client.remove_container(container, force=True)


@contextlib.contextmanager
def _reading(image: str) -> Iterator[None]:
    from docker.errors import DockerException

    try:
        yield
    except (DockerException, OSError, tarfile.TarError) as error:  # of requests are OSErrors
        raise EngineError(f"the code in the image {image} cannot be read: {error}") from None


class _Readable:
    """What comes in pieces, as something to read from; each time a piece, whatever is asked for."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)

    def read(self, _: int) -> bytes:
        return next(self._pieces, b"")
