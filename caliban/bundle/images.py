"""The images in a file of experiments, given to an engine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from caliban.bundle.archive import Archive
from caliban.docker.engine import Engine

# What is read into memory of a member: what names the others, and the image's own record.
_LONGEST = 1 << 23

# Images are not compressed more than this; what is, fills disks.
_MOST_TIMES = 50
_ALWAYS = 1 << 26

_PIECE = 1 << 20
_KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE)
_INDEX, _OLD_INDEX, _OCI = "manifest.json", "repositories", "index.json"


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
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, RecursionError):
        raise archive.refused(f"its part '{part}' is no image") from None
    with engine.errors(f"loading the image {image}"):
        client: Any = engine.client
        for _ in client.load_image(archive.pieces(part), quiet=True):
            pass
    if engine.image_id(image) is None:
        raise archive.refused(f"its part '{part}' is not the image that the jobs ran, {image}")


def _check(archive: Archive, part: str, image: str) -> None:
    """Sees to it that an image is the recorded one, and has no name, which might be another's."""
    digests: set[str] = set()
    texts: dict[str, bytes] = {}
    limit = _MOST_TIMES * archive.parts[part].size + _ALWAYS
    with gzip.GzipFile(fileobj=io.BufferedReader(_Pieces(archive.pieces(part)))) as stream:
        while any(header := stream.read(tarfile.BLOCKSIZE)):
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            if info.type not in _KINDS or not 0 <= info.size <= limit - stream.tell():
                raise ValueError(info.name)
            content = _content(stream, info.size)
            if content is not None:
                digests.add(hashlib.sha256(content).hexdigest())
                if info.name in (_INDEX, _OLD_INDEX, _OCI):
                    texts[info.name] = content
        while rest := stream.read(_PIECE):
            if any(rest) or stream.tell() > limit:
                raise ValueError("more behind the end")
    if _is_named(texts):
        raise archive.refused(f"its part '{part}' would be given a name that others may have")
    if image.removeprefix("sha256:") not in digests:
        raise archive.refused(f"its part '{part}' is not the image that the jobs ran, {image}")


def _is_named(texts: Mapping[str, bytes]) -> bool:
    """Whether what says how images are called says anything but that there is one, without."""
    listed = json.loads(texts.get(_INDEX, b""))
    is_one = isinstance(listed, list) and len(listed) == 1 and isinstance(listed[0], dict)
    is_nameless = is_one and not listed[0].get("RepoTags") and b".name" not in texts.get(_OCI, b"")
    return not is_nameless or bool(json.loads(texts.get(_OLD_INDEX, b"{}")))


def _content(stream: gzip.GzipFile, size: int) -> bytes | None:
    """Reads a member; returns what it holds if that is short."""
    kept = stream.read(size) if size <= _LONGEST else None
    left = 0 if kept is not None else size
    while left:
        piece = stream.read(min(left, _PIECE))
        if not piece:
            raise EOFError
        left -= len(piece)
    stream.read(-size % tarfile.BLOCKSIZE)
    return kept


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
