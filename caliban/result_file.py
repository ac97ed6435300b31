"""The file that `-o FILE` names for a result: it is there as a whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from caliban.errors import CalibanError, UsageError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Opens what takes the place of a file at the end of the `with`, if nothing is raised in it.

    Where a link lies, it is its target that is replaced. Who may read what is replaced may read
    the new one, and nobody else. What is no file, as a pipe or /dev/null, is written to.

    Args:
      path: of the file.

    Raises:
      UsageError: it cannot be written.
      CalibanError: the disk is full.
    """
    if path == Path():
        raise UsageError("the file to write has no name", "Name it: -o FILE")
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as stream:
                yield stream
            return
        target = Path(os.path.realpath(path))
        # A name of its own, for another caliban may be writing the same file.
        partial = target.with_name(f".caliban-{secrets.token_hex(8)}")
        try:
            with partial.open("xb") as stream:
                with contextlib.suppress(OSError):  # none is there, or its disk knows no modes
                    os.fchmod(stream.fileno(), stat.S_IMODE(target.stat().st_mode))
                yield stream
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise failure(str(path), error) from None


def failure(name: str, error: OSError) -> CalibanError:
    """The error about a file that can't be written: wrong usage, unless a disk or a pipe is it.

    Args:
      name: of the file, for the message.
      error: what the system says.
    """
    is_theirs = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE)
    kind = CalibanError if is_theirs else UsageError
    return kind(f"cannot write {name}: {error.strerror}")
