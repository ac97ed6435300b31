"""The file that holds experiments: a tar in which each byte is decided by its manifest.

The first member, `digest`, has the SHA-256 of the second one, `manifest.json`, and that names the
others, in their order, with size and SHA-256. All that a tar has besides (names of owners, times,
padding) is fixed. So the same content is the same bytes, and whoever reads it checks every byte,
with no more in memory than the manifest. No name in it becomes a path on the reader's machine.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from caliban import result_file
from caliban.bundle.spool import Content
from caliban.errors import UsageError

FORMAT = "caliban-experiments"
VERSION = 1

DIGEST, MANIFEST = "digest", "manifest.json"

# A manifest is read into memory; one of 10,000 jobs has 10 MB. How much of that its values take
# depends on how many there are: at most one for each of these characters, and one more.
_LARGEST_MANIFEST = 1 << 25
_MOST_VALUES = 1 << 21
_BETWEEN = (b",", b":", b"[", b"{")

# What no name, argument or text of a program can hold, as JSON writes it.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

_DIGEST_SIZE = len("sha256:") + 64 + 1

_BLOCK = tarfile.BLOCKSIZE
_PIECE = 1 << 20
_END = b"\0" * (2 * _BLOCK)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:[./][A-Za-z0-9][A-Za-z0-9_-]*){0,8}")
_LONGEST_NAME = 99
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST_PART = 1 << 50


@dataclass(frozen=True)
class Part:
    """A member of the file that the manifest names.

    Attributes:
      name: made of ASCII letters, digits, "_", "-", "." and "/".
      size: in bytes.
      sha256: of its content.
      at: where its content begins in the file.
    """

    name: str
    size: int
    sha256: str
    at: int


def write(path: Path, manifest: Mapping[str, Any], parts: Mapping[str, bytes | Content]) -> str:
    """Writes a file, in the place of what is there.

    Args:
      path: of the file.
      manifest: what it says, without the parts.
      parts: the content of each, by name.

    Returns:
      The digest of the manifest, which stands for all that is in the file: "sha256:...".

    Raises:
      UsageError: it cannot be written, or there is too much to say for one file.
      CalibanError: the disk is full.
    """
    with result_file.writing(path) as stream:
        listed = [_entry(name, parts[name]) for name in sorted(parts)]
        whole = {"format": FORMAT, "version": VERSION, **manifest, "parts": listed}
        text = f"{json.dumps(whole, indent=1, sort_keys=True)}\n".encode()
        if len(text) > _LARGEST_MANIFEST or _values(text) > _MOST_VALUES:
            raise UsageError(f"cannot write {path}: the group has too many jobs for one file")
        digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
        _put(stream, DIGEST, f"{digest}\n".encode())
        _put(stream, MANIFEST, text)
        for each in listed:
            _put(stream, each["name"], parts[each["name"]])
        stream.write(_END)
    return digest


def _entry(name: str, content: bytes | Content) -> dict[str, Any]:
    assert _is_name(name), name
    if isinstance(content, bytes):
        size, sha256 = len(content), hashlib.sha256(content).hexdigest()
    else:
        size, sha256 = content.size, content.sha256
    return {"name": name, "size": size, "sha256": sha256}


def _values(text: bytes) -> int:
    """At least as many as the values that a text of JSON has, but for one."""
    return sum(map(text.count, _BETWEEN))


def _put(stream: IO[bytes], name: str, content: bytes | Content) -> None:
    size = len(content) if isinstance(content, bytes) else content.size
    stream.write(_header(name, size))
    stream.writelines([content] if isinstance(content, bytes) else content.pieces())
    stream.write(_padding(size))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return b"\0" * (-size % _BLOCK)


def _is_name(name: object) -> bool:
    return (
        isinstance(name, str) and len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None
    )


class Archive:
    """A file that is read. What comes of it has been checked.

    Attributes:
      path: of the file.
      digest: of the manifest.
      manifest: what it says.
      parts: by name.
    """

    def __init__(self, path: Path) -> None:
        """Opens a file and checks its manifest; the parts are checked as they are read.

        Raises:
          UsageError: it is no such file, is damaged, or has been altered.
        """
        self.path = path
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise self.refused("it is not a file")
            self._stream = path.open("rb")
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        try:
            self._open()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def _open(self) -> None:
        told = self._member(DIGEST, _DIGEST_SIZE)
        text = self._member(MANIFEST, _LARGEST_MANIFEST)
        self.digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
        if told != f"{self.digest}\n".encode():
            raise self.refused(
                f"its part '{MANIFEST}' is not what its part '{DIGEST}' says, so that one of them "
                "was damaged or altered"
            )
        if _values(text) > _MOST_VALUES or (b"u0000" in text and _NUL.search(text)):
            raise self.refused(f"{MANIFEST} holds what no such file does")
        try:
            manifest = json.loads(text)
        except (ValueError, RecursionError):
            raise self.refused(f"{MANIFEST} is no JSON") from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise self.refused(f"{MANIFEST} does not say that it is {FORMAT}")
        if manifest.get("version") != VERSION:
            raise UsageError(
                f"{self.path} has version {manifest.get('version')!a:.20} of its format; this "
                f"caliban reads version {VERSION}",
                "Upgrade with: pip install --upgrade caliban",
            )
        self.manifest = manifest
        self.parts = {part.name: part for part in self._listed(manifest.get("parts"))}

    def _listed(self, listed: object) -> Iterator[Part]:
        at = self._stream.tell()
        last = ""
        for each in listed if isinstance(listed, list) else [listed]:
            entry = each if isinstance(each, dict) else {}
            name, size, sha256 = (entry.get(key) for key in ("name", "size", "sha256"))
            is_size = type(size) is int and 0 <= size < _LARGEST_PART
            is_digest = isinstance(sha256, str) and _SHA256.fullmatch(sha256)
            if not (isinstance(name, str) and _is_name(name) and is_size and is_digest):
                raise self.refused(f"{MANIFEST} has a part without a proper name, size or sha256")
            if name <= last or name in (DIGEST, MANIFEST):
                raise self.refused(f"{MANIFEST} does not have its parts in order, each once")
            assert isinstance(size, int) and isinstance(sha256, str)
            yield Part(name, size, sha256, at + _BLOCK)
            last, at = name, at + _BLOCK + size + len(_padding(size))
        length = self.path.stat().st_size
        if length != at + len(_END):
            which = "too short" if length < at + len(_END) else "too long"
            raise self.refused(f"it is {which} for the parts that {MANIFEST} names")

    def _member(self, name: str, longest: int) -> bytes:
        """The content of one of the first two members."""
        header = self._stream.read(_BLOCK)
        try:
            size = tarfile.TarInfo.frombuf(header, "ascii", "replace").size
        except tarfile.TarError:
            size = -1
        if not 0 <= size <= longest or header != _header(name, size):
            raise self.refused(
                f"it is none that 'caliban export' wrote, or its part '{name}' was damaged or "
                "altered"
            )
        content = self._stream.read(size)
        if len(content) < size or self._stream.read(-size % _BLOCK) != _padding(size):
            raise self._altered(name)
        return content

    def read(self, name: str, longest: int) -> bytes:
        """The content of a part that is not longer than this.

        Raises:
          UsageError: there is no such part, it is longer, or it has been altered.
        """
        part = self._part(name)
        if part.size > longest:
            raise self.refused(f"its part '{name}' has {part.size} bytes")
        return b"".join(self.pieces(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        """The content of a part, in pieces; that it is as the manifest says is known at the end.

        Raises:
          UsageError: there is no such part, or it has been altered.
        """
        part = self._part(name)
        self._stream.seek(part.at - _BLOCK)
        if self._stream.read(_BLOCK) != _header(name, part.size):
            raise self._altered(name)
        digest = hashlib.sha256()
        left = part.size
        while left:
            piece = self._stream.read(min(left, _PIECE))
            if not piece:
                raise self._altered(name)
            left -= len(piece)
            digest.update(piece)
            if not left and digest.hexdigest() != part.sha256:
                raise self._altered(name)
            yield piece
            self._stream.seek(part.at + part.size - left)
        if not part.size and digest.hexdigest() != part.sha256:
            raise self._altered(name)
        padding = _padding(part.size)
        if self._stream.read(len(padding)) != padding:
            raise self._altered(name)

    def check(self, tick: Callable[[], None] = lambda: None) -> None:
        """Checks every byte.

        Args:
          tick: is called with each piece.

        Raises:
          UsageError: one is not as it was written; the message names the part.
        """
        for name in self.parts:
            for _ in self.pieces(name):
                tick()
        self._stream.seek(-len(_END), 2)
        if self._stream.read() != _END:
            raise self._altered("the end")

    def _part(self, name: str) -> Part:
        if name not in self.parts:
            raise self.refused(f"it has no part '{name}'")
        return self.parts[name]

    def refused(self, why: str) -> UsageError:
        """The error that says why the file is not used."""
        return UsageError(f"{self.path} cannot be used: {why}", "Get the file anew.")

    def _altered(self, name: str) -> UsageError:
        return UsageError(
            f"{self.path} cannot be used: its part '{name}' is not as it was written, so that it "
            "was damaged or altered",
            "Get the file anew.",
        )
