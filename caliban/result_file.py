"""The file that `-o FILE` names for a result: it is there as a whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from caliban.errors import UsageError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Opens what takes the place of a file at the end of the `with`, if nothing is raised in it.

    Where a link lies, it is its target that is replaced. What is no file, as a pipe or /dev/null,
    is written to.

    Args:
      path: of the file.

    Raises:
      UsageError: it cannot be written.
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
                yield stream
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
