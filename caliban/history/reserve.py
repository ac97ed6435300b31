"""Some room on the disk of a history, kept for the day when the disk is full.

A full disk is when people want to stop jobs and to remove logs, and SQLite needs room for either.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# What opening a history and some transactions take, and more, in bytes.
_SIZE = 1 << 20

# With less room than this, the reserve is given up; with more than that, it is made anew.
_LITTLE = 1 << 18
_PLENTY = 16 * _SIZE


def keep(database: Path) -> None:
    """Makes the reserve of a SQLite file, if there is none and plenty of room."""
    with contextlib.suppress(OSError):
        if not _file(database).exists() and _room(database) > _PLENTY:
            file = os.open(_file(database), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with open(file, "wb") as reserve:
                reserve.write(bytes(_SIZE))


def give_up(database: Path) -> None:
    """Gives the reserve up, if there is hardly any room left."""
    with contextlib.suppress(OSError):
        if _room(database) < _LITTLE:
            _file(database).unlink(missing_ok=True)


def _file(database: Path) -> Path:
    return database.with_name(f"{database.name}-reserve")


def _room(database: Path) -> int:
    disk = os.statvfs(database.parent)
    return disk.f_bavail * disk.f_frsize
