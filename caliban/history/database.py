"""The connection to a history: its URL, its file, its transactions, its errors."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from caliban import home
from caliban.errors import HistoryError
from caliban.history import reserve

# How long a writer waits for its turn. A transaction takes milliseconds, so that only a machine in
# trouble, or very many writers, come near it.
BUSY_SECONDS = 60

_CONNECT_SECONDS = 10  # for a server; without a limit, an unreachable one takes minutes

_EXAMPLES = (
    "CALIBAN_DB_URL is like sqlite:///~/.caliban/caliban.db, or postgresql://user@host/database."
)

_ELSEWHERE = "Look at its permissions, or keep the history elsewhere with CALIBAN_DB_URL."

_FULL = (
    "Free some space on its disk: the logs of jobs that have ended, {logs}/*.gz, can be deleted. "
    "What was committed before is safe."
)

# What to do about an error, by words of SQLite, PostgreSQL or the system; the first that fit.
_HINTS = {
    "not a database": "Nothing was changed. Move that file away, or set CALIBAN_DB_URL.",
    "malformed": "The file is damaged; nothing was changed. Move it aside, and -wal and -shm with "
    "it: a backup can take its place, or what `sqlite3 DAMAGED .recover | sqlite3 NEW` saves, or "
    "nothing, for a new history.",
    "is full": _FULL,
    "no space": _FULL,
    "disk i/o": f"See whether its disk is full or failing. {_FULL}",
    "is locked": f"Something else has kept it locked for {BUSY_SECONDS} seconds.",
    "unable to open": _ELSEWHERE,
    "readonly": _ELSEWHERE,
    "permi": _ELSEWHERE,  # "permission denied", "not permitted"
    "directory": _ELSEWHERE,
    "file exists": _ELSEWHERE,
    "connection": "See that the server runs and that CALIBAN_DB_URL is right.",
}


class Database:
    """One database, SQLite or PostgreSQL.

    Every error of the database inside `reading` or `writing` becomes a HistoryError.

    Attributes:
      name: what to call it in messages; it never holds a password.
      path: its file; None on a server.
      engine: SQLAlchemy's. It has one connection, for which the threads of a process queue.
    """

    def __init__(self, url: str) -> None:
        """Makes SQLite's file, empty, if there is none; connects to nothing yet.

        Args:
          url: in SQLAlchemy's form; a leading ~ in the path of a SQLite file is expanded.

        Raises:
          HistoryError: the URL is wrong, its driver is missing, or the file cannot be made.
        """
        self._url = _parse(url)
        self.path: Path | None = None
        self.name = self._url.set(query={}).render_as_string(hide_password=True)
        options: dict[str, Any] = {}
        if self._url.get_backend_name() == "sqlite":
            self.name = self._url.database or ""
            with self._errors():
                self.path = _private_file(self.name)
            self.name = str(self.path)
            self._url = self._url.set(database=self.name)
            options["timeout"] = BUSY_SECONDS
        elif self._url.get_driver_name().startswith("psycopg"):
            options["connect_timeout"] = _CONNECT_SECONDS
        try:
            self.engine = create_engine(
                self._url,
                connect_args=options,
                hide_parameters=True,  # in the file of a traceback: they may be private
                pool_size=1,
                max_overflow=0,
                pool_timeout=2 * BUSY_SECONDS,
                # A sweep may last for days; its connection to a server does not always.
                pool_pre_ping=self.path is None,
            )
        except ImportError:
            raise HistoryError(
                f"the driver for {self.name} is not installed: {self._url.get_driver_name()}",
                f"Install it with: {_installer()} 'psycopg[binary]'",
            ) from None
        except SQLAlchemyError as error:
            raise self._explain(error) from None
        self._for_reading: Engine = self.engine
        if self.path:
            event.listen(self.engine, "connect", _set_up)
            event.listen(self.engine, "begin", _begin)
        else:
            # By itself a server shows each statement what has been committed by then.
            self._for_reading = self.engine.execution_options(isolation_level="REPEATABLE READ")

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database throughout."""
        self._make_room()
        with self._errors(), self._for_reading.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is committed at the end, or undone on an error."""
        self._make_room()
        engine = self.engine.execution_options(caliban_writes=True)
        with self._errors(), engine.begin() as connection:
            yield connection

    def _make_room(self) -> None:
        """Sees to it that SQLite has room for a transaction on a disk that is full, if it can."""
        if self.path:
            reserve.give_up(self.path)

    def keep_reserve(self) -> None:
        """Keeps some room on SQLite's disk, see `reserve`; on a server that is not our affair."""
        if self.path:
            reserve.keep(self.path)

    def make_private(self) -> None:
        """Takes the right to read SQLite's files from all but their owner; 0.4 did not."""
        for suffix in ("", "-wal", "-shm", "-journal", "-reserve") if self.path else ():
            file = Path(f"{self.path}{suffix}")
            # It may be gone in the meantime, or be another user's, who decides about it.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                if file.stat().st_mode & 0o077:
                    file.chmod(0o600)

    def use_write_ahead_log(self) -> None:
        """Lets SQLite's readers and its writer work at the same time.

        The mode is a property of the file. On a file system that can't do it the old one stays,
        in which they wait for one another.
        """
        if not self.path:
            return
        deadline = time.monotonic() + BUSY_SECONDS
        with self._errors(), contextlib.closing(self.engine.raw_connection()) as connection:
            while True:
                try:
                    connection.cursor().execute("PRAGMA journal_mode = WAL")
                    return
                except sqlite3.OperationalError as error:
                    # SQLite itself does not wait for the lock that this needs.
                    if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
                time.sleep(0.01)

    def close(self) -> None:
        """Closes the connection."""
        self.engine.dispose()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """The one place where the errors of a database become ours."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError, UnicodeEncodeError) as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> HistoryError:
        what = " ".join(str(getattr(error, "orig", None) or error).split())
        if isinstance(error, OSError) and error.strerror:
            what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        if self._url.password:
            what = what.replace(str(self._url.password), "***")
        hint = next((hint for words, hint in _HINTS.items() if words in what.lower()), "")
        hint = hint.replace("{logs}", str(home.path("logs")))
        return HistoryError(f"the history {self.name}: {what}", hint)


def _installer() -> str:
    """What adds a package to the environment that caliban runs in."""
    is_of_pipx = Path(sys.prefix, "pipx_metadata.json").exists()
    return "pipx inject caliban" if is_of_pipx else "pip install"


def _parse(url: str) -> URL:
    """Reads a URL, and chooses the drivers that caliban installs."""
    shown = re.sub(r"//.*@", "//***@", url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise HistoryError(f"'{shown}' is not the URL of a database", _EXAMPLES) from None
    if parsed.drivername in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "postgresql":
        return parsed
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise HistoryError(f"caliban keeps no history in {parsed.drivername}: '{shown}'", _EXAMPLES)
    if parsed.database in (None, "", ":memory:"):
        raise HistoryError(f"'{shown}' names no file", _EXAMPLES)
    if parsed.query:
        raise HistoryError(f"'{shown}' has options, which SQLite's URL can't have here", _EXAMPLES)
    return parsed


def _private_file(name: str) -> Path:
    """The path of the file, which is made if need be, readable by its owner alone from the start.

    SQLite gives the files that it puts beside it the same mode.
    """
    try:
        path = Path(name).expanduser().absolute()
    except RuntimeError:
        raise HistoryError(f"'{name}' names a home directory that does not exist") from None
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A file that exists is not opened here: to close it would end the locks that SQLite holds on
    # it in this process (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    with contextlib.suppress(FileExistsError):
        path.touch(mode=0o600, exist_ok=False)
    return path


def _set_up(connection: sqlite3.Connection, _record: object) -> None:
    """What SQLite has to be told on each connection."""
    connection.isolation_level = None  # `_begin` begins transactions, the driver does not
    connection.execute("PRAGMA foreign_keys = ON")
    # An outcome that was committed survives a power cut; fullfsync is what that takes on macOS.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")


def _begin(connection: Connection) -> None:
    # A writer takes the lock first and waits for it: a reader that became a writer would not wait
    # but fail when another had written since (https://www.sqlite.org/lang_transaction.html).
    writes = connection.get_execution_options().get("caliban_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
