"""What is to become a file of experiments, on disk until that is written: it may be large."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Self

from caliban.errors import CalibanError

_PIECE = 1 << 20


@dataclass(frozen=True)
class Content:
    """Some bytes in a spool.

    Attributes:
      at: where they begin there.
      size: how many they are.
      sha256: of them, as hexadecimal digits.
    """

    spool: Spool = field(repr=False)
    at: int
    size: int
    sha256: str

    def pieces(self) -> Iterator[bytes]:
        """All of them, a piece at a time."""
        for start in range(0, self.size, _PIECE):
            yield self.spool.read(self.at + start, min(_PIECE, self.size - start))

    def whole(self) -> bytes:
        """All of them, of which there should be few."""
        return b"".join(self.pieces())


class Spool:
    """A file without a name, of which nothing is left however this process ends."""

    def __init__(self, tick: Callable[[], None] = lambda: None) -> None:
        """Makes it in the directory for such files, which TMPDIR names.

        Args:
          tick: is called with each piece that is kept or read.
        """
        self._tick = tick
        self._known: dict[str, Content] = {}
        with _full():
            self._file: IO[bytes] = tempfile.TemporaryFile(prefix="caliban-")  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def keep(
        self, pieces: Iterable[bytes], is_wanted: Callable[[str], bool] = lambda _: True
    ) -> Content | None:
        """Keeps some bytes, once however often they come.

        Args:
          pieces: of them.
          is_wanted: whether they are to be kept, by their SHA-256.

        Returns:
          What stands for them; None if they are not wanted.

        Raises:
          CalibanError: the disk is full.
        """
        digest = hashlib.sha256()
        size = 0
        with _full():
            at = self._file.seek(0, os.SEEK_END)
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            self._tick()
            with _full():
                self._file.write(piece)
        sha256 = digest.hexdigest()
        found, wanted = self._known.get(sha256), is_wanted(sha256)
        if wanted and found is None:
            found = self._known[sha256] = Content(self, at, size, sha256)
        else:
            with _full():
                self._file.truncate(at)
        return found if wanted else None

    def read(self, at: int, size: int) -> bytes:
        """So many bytes from there."""
        self._tick()
        with _full():
            self._file.flush()
            return os.pread(self._file.fileno(), size, at)


@contextlib.contextmanager
def _full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CalibanError(
            f"cannot write to {tempfile.gettempdir()}: {error.strerror}",
            "TMPDIR names another directory for temporary files.",
        ) from None
