"""The user's own folder of caliban, ~/.caliban, which nobody else can read."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from caliban.errors import CalibanError


def path(*names: str) -> Path:
    """A path inside ~/.caliban, whether it exists or not.

    Raises:
      CalibanError: nobody knows where the home directory is.
    """
    try:
        return Path("~/.caliban").expanduser().joinpath(*names)
    except RuntimeError:
        raise CalibanError(
            "your home directory is unknown: HOME is not set, and your account has no entry",
            "Set HOME.",
        ) from None


def expand(name: str) -> Path:
    """A path with a leading "~" replaced; one of an unknown user is left as it is."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 - pathlib raises for an unknown user


def history_mark() -> str:
    """Stands for this machine's ~/.caliban and the history in use, where others can read it."""
    import hashlib
    import re

    url = re.sub(r"//.*@", "//", os.environ.get("CALIBAN_DB_URL", ""))  # without a password
    parts = (os.uname().nodename, str(path()), url)
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def directory(*names: str) -> Path:
    """A folder inside ~/.caliban, made if it is not there.

    Raises:
      CalibanError: it cannot be made.
    """
    folder = path(*names)
    try:
        for each in (*reversed(folder.parents), folder):
            if not each.exists():
                each.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise CalibanError(
            f"cannot make the folder {folder}: {error.strerror}",
            "caliban keeps its records there. Make your home directory writable, or set HOME.",
        ) from None
    return folder


def write_private(file: Path, content: str | bytes) -> None:
    """Replaces a file's content at once; from its first byte on only the user can read it.

    Raises:
      CalibanError: it cannot be written.
    """
    # A name of its own: other threads and processes may be writing the same file.
    partial = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        partial.touch(mode=0o600)
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise CalibanError(f"cannot write {file}: {error.strerror}") from None
