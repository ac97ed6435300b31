"""Which history is used; and the one question to it that needs no more than Python has."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from caliban import home

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore

DEFAULT_URL = "sqlite:///~/.caliban/caliban.db"

_SQLITE = "sqlite:///"


def open_history() -> HistoryStore:
    """Opens the history that $CALIBAN_DB_URL names, or the user's own.

    Raises:
      HistoryError: it cannot be opened.
    """
    from caliban.history.store import HistoryStore

    return HistoryStore.open(_url())


def known_lock(declaration: str) -> str | None:
    """The lock of a declaration, if that can be found out at once.

    SQLAlchemy, which takes longer to import than an edit takes to build, is not needed to look into
    a file of SQLite.

    Args:
      declaration: digest of all that decides what is resolved, see history.locks.

    Returns:
      The lock; None if the history has none, or has to be opened to see.
    """
    if not _url().startswith(_SQLITE):
        return None
    import sqlite3

    file = home.expand(_url().removeprefix(_SQLITE)).absolute()
    with contextlib.suppress(sqlite3.Error):  # whoever opens it next says what is wrong
        connection = sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)
        with contextlib.closing(connection):
            query = "SELECT lock FROM locks WHERE declaration = ?"
            found = connection.execute(query, (declaration,)).fetchone()
            return str(found[0]) if found else None
    return None


def _url() -> str:
    return os.environ.get("CALIBAN_DB_URL") or DEFAULT_URL
