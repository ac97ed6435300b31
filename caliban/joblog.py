"""What jobs have printed: a file for each, written as it comes, and compressed when it is whole."""

from __future__ import annotations

import codecs
import collections
import contextlib
import errno
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from caliban import home, terminal
from caliban.errors import CalibanError

FOLDER = "logs"

# How many of a job's last bytes are at hand when it has ended, to tell why it failed.
_TAIL = 1 << 13

_PIECE = 1 << 16

# What stands for a byte that is no UTF-8, see PEP 383.
_STRANGE = re.compile("[\udc80-\udcff]")

# How many bytes of a disk logs leave free, of a small disk an eighth: what becomes of the jobs has
# to be recorded yet.
_LEFT = 1 << 22


def path(uid: str) -> Path:
    """The file of a job, while it runs; afterwards it has a .gz behind it."""
    return home.path(FOLDER) / f"{uid}.log"


def compressed(uid: str) -> Path:
    """The file of a job that has ended."""
    return home.path(FOLDER) / f"{uid}.log.gz"


def _mark(uid: str) -> Path:
    """A file that is there if the log lacks something that the job has printed."""
    return home.path(FOLDER) / f"{uid}.log.cut"


def is_cut(uid: str) -> bool:
    """Whether the log of a job lacks something, because it could not be written."""
    return _mark(uid).exists()


def find(uid: str) -> Path | None:
    """The file that has a job's output now; None if there is none."""
    return next((each for each in (compressed(uid), path(uid)) if each.exists()), None)


class JobLog:
    """Keeps what a job prints. A full disk costs the rest of the log, and not the job.

    Attributes:
      tail: the last bytes that were written.
    """

    def __init__(self, uid: str) -> None:
        """Begins the log anew, if there is one."""
        self._uid = uid
        self._file: IO[bytes] | None = None
        self.tail = b""

    def __enter__(self) -> JobLog:
        self._attempt(self._open)
        return self

    def write(self, data: bytes) -> None:
        """Adds bytes, unless an earlier write has failed."""
        self.tail = (self.tail + data[-_TAIL:])[-_TAIL:]
        if self._file is not None:
            self._attempt(lambda: self._append(data))

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            if error is not None:
                return  # it isn't whole, and will be written anew
            # Where there is no room for both, the plain one stays.
            with contextlib.suppress(OSError):
                _compress(path(self._uid), compressed(self._uid))

    def _open(self) -> None:
        home.directory(FOLDER)
        compressed(self._uid).unlink(missing_ok=True)
        _mark(self._uid).unlink(missing_ok=True)
        plain = path(self._uid)
        plain.touch(mode=0o600)
        self._file = plain.open("wb", buffering=0)

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        _check_room(self._file, len(data))
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            # There was less room than it seemed: what becomes of the job needs some of it.
            self._file.truncate(max(self._file.tell() - _LEFT, 0))
            raise

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            name = path(self._uid)
            terminal.warn(f"the output is not kept any more in {name}: {error.strerror}")
            if self._file is not None:
                self._file.close()
                with contextlib.suppress(OSError):
                    _mark(self._uid).touch(mode=0o600)
            self._file = None


def _check_room(file: IO[bytes], size: int) -> None:
    """Raises an OSError if so many bytes on a file's disk would leave too little to others."""
    disk = os.fstatvfs(file.fileno())
    # Some file systems don't say how large they are.
    left = min(_LEFT, disk.f_blocks * disk.f_frsize // 8)
    if left and disk.f_bavail * disk.f_frsize - size < left:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _compress(plain: Path, target: Path) -> None:
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        partial.touch(mode=0o600)
        # The lowest level: logs are text, of which that leaves a tenth, several times as fast.
        with plain.open("rb") as source, gzip.open(partial, "wb", compresslevel=1) as packed:
            while piece := source.read(_PIECE):
                _check_room(source, len(piece))
                packed.write(piece)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    plain.unlink()


def read(uid: str, tail: int | None = None) -> Iterator[bytes]:
    """What a job has printed so far, in pieces; nothing if nothing was kept.

    Args:
      uid: of the job.
      tail: how many lines of its end; None for all.

    Raises:
      CalibanError: the log is damaged, or cannot be read.
    """
    with contextlib.closing(Reader(uid, tail)) as reader:
        yield from iter(reader.read, b"")


def length_as_text(uid: str, size: int) -> int:
    """How many bytes the first ones of a job's log take where what is no UTF-8 is replaced.

    An engine that keeps logs as JSON puts U+FFFD in the place of each, which takes three.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    strange = 0
    with contextlib.closing(Reader(uid)) as reader:
        left = size
        while left and (piece := reader.read()[:left]):
            left -= len(piece)
            strange += len(_STRANGE.findall(decoder.decode(piece)))
    return size + 2 * strange


class Reader:
    """Reads a job's log to its end, and what is added there later.

    Attributes:
      at: how many bytes of the log lie behind.
    """

    def __init__(self, uid: str, tail: int | None = None) -> None:
        """Reads nothing yet.

        Args:
          uid: of the job.
          tail: how many of the lines that there are at the first reading; None for all.
        """
        self._uid = uid
        self._tail = tail
        self._file: IO[bytes] | None = None
        self.at = 0

    def read(self) -> bytes:
        """The next piece; b"" if there is nothing more now, or nothing at all.

        Raises:
          CalibanError: the log is damaged, or cannot be read.
        """
        with self._damages():
            if self._file is None:
                self._file = _open(self._uid)
                if self._file is None:
                    return b""
                if self._tail is not None:
                    self.at = _start_of_lines(self._file, self._tail)
                    self._file.seek(self.at)
            piece = self._file.read(_PIECE)
        self.at += len(piece)
        return piece

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    @contextlib.contextmanager
    def _damages(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise CalibanError(f"the log {compressed(self._uid)} is damaged: {error}") from None
        except OSError as error:
            file = error.filename or find(self._uid)
            raise CalibanError(f"cannot read the log {file}: {error.strerror}") from None


def _start_of_lines(file: IO[bytes], number: int) -> int:
    """Where the last lines of a file begin.

    It takes no memory to speak of, however long the lines are; also not of a compressed file, which
    can't be read backwards.
    """
    # Where each piece begins that may have the end of the line before those, and how many it has.
    pieces: collections.deque[tuple[int, int]] = collections.deque()
    ends = at = 0
    last = b""
    for piece in iter(lambda: file.read(_PIECE), b""):
        pieces.append((at, piece.count(b"\n")))
        at, ends, last = at + len(piece), ends + pieces[-1][1], piece
        while ends - pieces[0][1] > number:
            ends -= pieces.popleft()[1]
    # The end of the last line is none that another one follows.
    wanted = number + last.endswith(b"\n")
    if not wanted:
        return at
    passed = ends - wanted
    for start, count in pieces:
        if 0 <= passed < count:
            file.seek(start)
            piece = file.read(_PIECE)
            end = -1
            for _ in range(passed + 1):
                end = piece.index(b"\n", end + 1)
            return start + end + 1
        passed -= count
    return 0


def _open(uid: str) -> IO[bytes] | None:
    """Opens a log in either form; it is read to its end also when it is compressed meanwhile."""
    for _ in range(2):  # it may pass from one form to the other between two looks
        for each, opened in ((path(uid), open), (compressed(uid), gzip.open)):
            with contextlib.suppress(FileNotFoundError):
                return cast("IO[bytes]", opened(each, "rb"))
    return None
