"""The images in a file of experiments, given to an engine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from caliban.bundle.archive import Archive
from caliban.docker.engine import Engine

# What is read into memory of a member: what names the others, and the image's own record.
_LONGEST = 1 << 23

# Images are not compressed more than this; what is, fills disks. Nor do they have more members.
_MOST_TIMES = 50
_ALWAYS = 1 << 26
_MOST_MEMBERS = 10_000

_PIECE = 1 << 20
_INDEX, _OLD_INDEX, _OCI = "manifest.json", "repositories", "index.json"

# What `docker save` calls its members and, from one to another, its links.
_NAME = re.compile(r"(?!\.)[\w.-]+(?:/(?!\.)[\w.-]+)*", re.ASCII)
_TARGET = re.compile(r"(?:\.\./)*(?!\.)[\w.-]+(?:/(?!\.)[\w.-]+)*", re.ASCII)
_LONGEST_NAME = 99

# All that an extended header of such a member says: its own length, and a size.
_SIZE = re.compile(rb"(\d{1,2}) size=(\d{1,15})\n")


def load(archive: Archive, part: str, image: str, engine: Engine) -> None:
    """Has an engine load an image, unless it has it; its id stands for all that it holds.

    Args:
      archive: the file.
      part: with the image.
      image: its id, as it was recorded.
      engine: that gets it.

    Raises:
      UsageError: it is another image, would get a name here, or is far larger than the part.
      EngineError: the engine does not take it.
    """
    if engine.image_id(image) is not None:
        return
    try:
        _check(archive, part, image)
        with engine.errors(f"loading the image {image}"):
            client: Any = engine.client
            for _ in client.load_image(_written(archive, part), quiet=True):
                pass
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, RecursionError):
        raise archive.refused(f"its part '{part}' is no image") from None
    if engine.image_id(image) is None:
        raise archive.refused(f"its part '{part}' is not the image that the jobs ran, {image}")


def _check(archive: Archive, part: str, image: str) -> None:
    """Sees to it that an image is the recorded one, and has no name, which might be another's."""
    digests: set[str] = set()
    texts: dict[str, bytes] = {}
    for info, content in _members(archive, part):
        if info.isreg() and info.size <= _LONGEST:
            text = b"".join(content)
            digests.add(hashlib.sha256(text).hexdigest())
            if info.name in (_INDEX, _OLD_INDEX, _OCI):
                texts[info.name] = text
    if _is_named(texts):
        raise archive.refused(f"its part '{part}' would be given a name that others may have")
    if image.removeprefix("sha256:") not in digests:
        raise archive.refused(f"its part '{part}' is not the image that the jobs ran, {image}")


def _is_named(texts: Mapping[str, bytes]) -> bool:
    """Whether what says how images are called says anything but that there is one, without."""
    index, old, oci = (
        json.loads(texts.get(name, absent), object_pairs_hook=_fields)
        for name, absent in ((_INDEX, b""), (_OLD_INDEX, b"{}"), (_OCI, b"{}"))
    )
    is_one = isinstance(index, list) and len(index) == 1 and isinstance(index[0], dict)
    return not is_one or bool(index[0].get("repotags")) or bool(old) or ".name" in json.dumps(oci)


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON as the engine reads it: to that, upper and lower case are the same."""
    fields = {name.casefold(): value for name, value in pairs}
    if len(fields) < len(pairs):
        raise ValueError(pairs)
    return fields


def _written(archive: Archive, part: str) -> Iterator[bytes]:
    """An image as a tar in which nothing is left to read in one way or the other."""
    for info, content in _members(archive, part):
        yield info.tobuf(tarfile.GNU_FORMAT)
        yield from content
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _members(archive: Archive, part: str) -> Iterator[tuple[tarfile.TarInfo, Iterator[bytes]]]:
    """The members of an image, each with its content in pieces.

    No two of them come to the same place, whoever unpacks them: names are plain, none leads through
    a link, and only files have content.

    Raises:
      ValueError: it has others.
    """
    limit = _MOST_TIMES * archive.parts[part].size + _ALWAYS
    places: set[str] = set()
    links: set[str] = set()
    with gzip.GzipFile(fileobj=io.BufferedReader(_Pieces(archive.pieces(part)))) as stream:
        while any(header := stream.read(tarfile.BLOCKSIZE)):
            found = tarfile.TarInfo.frombuf(header, "ascii", "replace")
            if found.type == tarfile.XHDTYPE:
                size = _long_size(stream, found.size)
                found = tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "ascii", "replace")
                found.size = size
            info = _plain(found)
            place = info.name.casefold()
            above = {str(each) for each in PurePosixPath(place).parents}
            if place in places or len(places) == _MOST_MEMBERS or above & links:
                raise ValueError(info.name)
            if info.size > limit - stream.tell():
                raise ValueError(info.name)
            places.add(place)
            if info.issym():
                links.add(place)
            content = _content(stream, info.size)
            yield info, content
            for _ in content:
                pass
            stream.read(-info.size % tarfile.BLOCKSIZE)
        while rest := stream.read(_PIECE):
            if any(rest) or stream.tell() > limit:
                raise ValueError("more behind the end")


def _long_size(stream: gzip.GzipFile, length: int) -> int:
    """The size of the next member, which is too large for its own header: of 8 GiB and more.

    Args:
      stream: behind the header of what says so, POSIX's extended header.
      length: of that, in bytes.

    Raises:
      ValueError: it says something else, or more.
    """
    text = stream.read(-(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE if length < 64 else 0)
    match = _SIZE.fullmatch(text[:length])
    if not match or int(match[1]) != length or any(text[length:]):
        raise ValueError("an extended header")
    return int(match[2])


def _plain(found: tarfile.TarInfo) -> tarfile.TarInfo:
    """What matters of a member.

    Raises:
      ValueError: it is none that an image has.
    """
    info = tarfile.TarInfo(found.name)
    info.size, info.linkname = found.size, found.linkname
    info.mode = 0o755 if found.isdir() else 0o644
    info.type = tarfile.REGTYPE if found.type == tarfile.AREGTYPE else found.type
    is_kind = info.type in (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE)
    if not is_kind or info.size < 0 or (info.size and not info.isreg()):
        raise ValueError(info.name)
    if not _NAME.fullmatch(info.name) or len(info.name) > _LONGEST_NAME:
        raise ValueError(info.name)
    if info.issym():
        # Links are between layers, in folders; what the engine reads by name is a file.
        if "/" not in info.name or not _TARGET.fullmatch(info.linkname):
            raise ValueError(info.linkname)
    elif info.linkname:
        raise ValueError(info.linkname)
    return info


def _content(stream: gzip.GzipFile, size: int) -> Iterator[bytes]:
    """What a member holds, in pieces."""
    while size:
        piece = stream.read(min(size, _PIECE))
        if not piece:
            raise EOFError
        size -= len(piece)
        yield piece


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
