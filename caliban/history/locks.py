"""The versions that declared dependencies have been resolved to, for all users of a history."""

from __future__ import annotations

import datetime

from sqlalchemy import delete, select

from caliban.history import rows, schema
from caliban.history.database import Database


class Locks:
    """The current lock of each declaration of dependencies, in the history."""

    def __init__(self, database: Database) -> None:
        """The locks of a database."""
        self._database = database

    def find(self, declaration: str) -> str | None:
        """The lock of a declaration; None if it has not been resolved yet.

        Args:
          declaration: digest of all that decides what is resolved.
        """
        table = schema.locks
        query = select(table.c.lock).where(table.c.declaration == declaration)
        with self._database.reading() as connection:
            return connection.execute(query).scalar()

    def newest(self, project: str) -> str | None:
        """The lock that was made last for a project, whatever it declared; None for none.

        Args:
          project: see `keep`.
        """
        table = schema.locks
        query = select(table.c.lock).where(table.c.project == project)
        with self._database.reading() as connection:
            return connection.execute(query.order_by(table.c.created.desc()).limit(1)).scalar()

    def keep(self, project: str, declaration: str, lock: str, replaces: str | None = None) -> str:
        """Keeps the lock of a declaration.

        Args:
          project: digest of what tells the project from others, whatever it declares.
          declaration: see `find`.
          lock: its text.
          replaces: the lock whose place it takes; None where there was none.

        Returns:
          The lock that counts: another one, if somebody else's was faster.
        """
        table = schema.locks
        now = datetime.datetime.now(datetime.UTC)
        with self._database.writing() as connection:
            if replaces is not None:
                old = (table.c.declaration == declaration, table.c.lock == replaces)
                connection.execute(delete(table).where(*old))
            values = {"declaration": declaration, "project": project, "lock": lock, "created": now}
            connection.execute(rows.insert_new(connection, table).values(**values))
            query = select(table.c.lock).where(table.c.declaration == declaration)
            return str(connection.execute(query).scalar_one())
