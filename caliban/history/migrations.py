"""Brings a database to today's schema, from nothing or from an older form.

Migration N makes form N out of form N-1. Form 1 is what caliban 0.4 wrote; it kept no number and is
known by its tables. A new database is made in today's form at once.

Before `schema` changes again, the tables of today are to be frozen in `forms` if a migration fills
them.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    MetaData,
    Row,
    Text,
    cast,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.schema import CreateColumn

from caliban import terminal
from caliban.errors import HistoryError
from caliban.history import schema
from caliban.history.database import BUSY_SECONDS, Database


def prepare(database: Database) -> None:
    """Makes the tables of a new database, or migrates those of an older one, in one transaction.

    A SQLite file is copied before it is migrated; see `_backup`. On a server the old tables stay,
    under the names jobs_0_4 and so on.

    Raises:
      HistoryError: a newer caliban wrote the database, something else wrote it, or it can't be
        migrated, in which case it is as it was.
    """
    with database.reading() as connection:
        version = _version(connection, database)
    database.make_private()
    if version < len(MIGRATIONS):
        with database.writing() as connection:
            _migrate(connection, database)
    # Not before: a database whose migration fails is not to be touched.
    database.use_write_ahead_log()
    database.keep_reserve()


def _migrate(connection: Connection, database: Database) -> None:
    if not database.path:
        # SQLite lets one writer in at a time. Elsewhere this lock does; the number is any constant.
        connection.execute(select(func.pg_advisory_xact_lock(int.from_bytes(b"caliban"))))
    version = _version(connection, database)  # another process may have been faster
    if version == len(MIGRATIONS):
        return
    if version == 0:
        schema.metadata.create_all(connection)
    else:
        # From form 2 on, a migration that fails is undone without a trace, and none loses anything.
        with _backup(database.path) if database.path and version == 1 else contextlib.nullcontext():
            for migration in MIGRATIONS[version:]:
                migration(connection)
    connection.execute(delete(schema.schema_version))
    connection.execute(insert(schema.schema_version).values(version=len(MIGRATIONS)))


def _version(connection: Connection, database: Database) -> int:
    """The form of the database: 0 when it has no table of ours, 1 for caliban 0.4's."""
    names = set(inspect(connection).get_table_names())
    if schema.schema_version.name in names:
        version = connection.execute(select(schema.schema_version.c.version)).scalar_one()
        if version > len(MIGRATIONS):
            raise HistoryError(
                f"a newer caliban wrote the history {database.name}: its form is {version}, "
                f"this caliban knows forms up to {len(MIGRATIONS)}",
                "Upgrade with: pip install --upgrade caliban",
            )
        return int(version)
    from caliban.history.forms import V1

    ours = names & set(V1.tables)
    if ours and ours != set(V1.tables):
        raise HistoryError(
            f"{database.name} is no history of caliban's: it has a table {min(ours)}, "
            f"but none named {min(set(V1.tables) - ours)}",
            "Nothing was changed. Name another database in CALIBAN_DB_URL.",
        )
    return 1 if ours else 0


@contextlib.contextmanager
def _backup(path: Path) -> Iterator[None]:
    """Copies the file of caliban 0.4 to one beside it, which goes again if the migration fails."""
    name = f"{path.name}.caliban-0.4-backup"
    for number in itertools.count(2):
        copy = path.with_name(name)
        try:
            copy.touch(mode=0o600, exist_ok=False)
            break
        except FileExistsError:
            name = f"{path.name}.caliban-0.4-backup-{number}"
    try:
        with (
            contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            target.execute("PRAGMA journal_mode = MEMORY")  # no file beside it if this fails
            source.backup(target)
        terminal.note(f"Bringing the history of caliban 0.4 up to date; a copy of it is {copy}")
        yield
    except BaseException:
        copy.unlink()
        raise


def m001(connection: Connection) -> None:
    """The tables of caliban 0.4."""
    from caliban.history.forms import V1

    V1.create_all(connection)


def m002(connection: Connection) -> None:
    """Uids, outcomes, handles and digests; no two groups of a user with one name.

    Every row keeps its id, and JSON its text. A reference to a row that does not exist, which
    SQLite let 0.4 write, becomes NULL. The rows are copied in Python, as SQL that reads their times
    on SQLite and on PostgreSQL has no common form.
    """
    from caliban.history.forms import V1, V2

    for name in V1.tables:
        connection.execute(text(f"ALTER TABLE {name} RENAME TO {name}_0_4"))
    V2.create_all(connection)

    groups = _merged_groups(connection)
    _fill(
        connection,
        "experiment_groups",
        (
            {"id": row.id, "user": row.user, "name": row.name, "created": _moment(row.created)}
            for row in _rows(connection, "experiment_groups")
            if groups[row.id] == row.id
        ),
    )
    container_specs = _fill(
        connection,
        "container_specs",
        (
            {"id": row.id, "user": row.user, "created": _moment(row.created), "spec": row.spec}
            for row in _rows(connection, "container_specs")
        ),
    )
    experiments = _fill(
        connection,
        "experiments",
        (
            {
                "id": row.id,
                "created": _moment(row.created),
                "group_id": groups.get(row.xgroup_id),
                "container_spec_id": _existing(row.container_spec_id, container_specs),
                "args": row.args,
                "params": row.kwargs,
            }
            for row in _rows(connection, "experiments")
        ),
    )
    job_specs = _fill(
        connection,
        "job_specs",
        (
            {
                "id": row.id,
                "created": _moment(row.created),
                "experiment_id": _existing(row.experiment_id, experiments),
                "platform": row.platform.lower(),
                "target": "",
                "payload": row.spec,
            }
            for row in _rows(connection, "job_specs")
        ),
    )
    _fill(
        connection,
        "jobs",
        (
            {
                "id": row.id,
                "uid": f"legacy-{row.id}",
                "user": row.user,
                "owner": "",
                "created": _moment(row.created),
                "experiment_id": _existing(row.experiment_id, experiments),
                "job_spec_id": _existing(row.job_spec_id, job_specs),
                "image": row.container,
                "status": row.status,
                "reason": "",
                "details": row.details,
            }
            for row in _rows(connection, "jobs")
        ),
    )

    for table in reversed(V1.sorted_tables):
        if connection.dialect.name == "sqlite":
            connection.execute(text(f"DROP TABLE {table.name}_0_4"))
        else:
            connection.execute(
                text(
                    f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), max(id))"
                    f" FROM {table.name} HAVING max(id) IS NOT NULL"
                )
            )


def m003(connection: Connection) -> None:
    """What jobs reported, why they failed, who wants them stopped, which devices they hold."""
    for name in ("stop_requested", "metrics", "cause"):
        column = CreateColumn(schema.jobs.c[name]).compile(connection)
        connection.execute(text(f"ALTER TABLE jobs ADD COLUMN {column}"))
    schema.leases.create(connection)


def m004(connection: Connection) -> None:
    """The versions that declared dependencies have been resolved to."""
    schema.locks.create(connection)


def m005(connection: Connection) -> None:
    """What exactly jobs ran."""
    column = CreateColumn(schema.jobs.c.provenance).compile(connection)
    connection.execute(text(f"ALTER TABLE jobs ADD COLUMN {column}"))
    schema.provenances.create(connection)
    schema.texts.create(connection)


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (m001, m002, m003, m004, m005)


def _rows(connection: Connection, name: str) -> Iterator[Row[Any]]:
    """The rows of a renamed table of 0.4 by id, with all but numbers as the text that is stored."""
    from caliban.history.forms import V1

    table = V1.tables[name].to_metadata(MetaData(), name=f"{name}_0_4")
    columns = (
        column if isinstance(column.type, Integer) else cast(column, Text).label(column.name)
        for column in table.c
    )
    # In batches, since an open query would keep SQLite from undoing a migration that fails.
    statement = select(*columns).order_by(table.c.id).limit(5000)
    batch = connection.execute(statement).all()
    while batch:
        yield from batch
        batch = connection.execute(statement.where(table.c.id > batch[-1].id)).all()


def _fill(connection: Connection, name: str, rows: Iterator[dict[str, Any]]) -> set[int]:
    """Writes rows into a table of form 2; returns their ids."""
    from caliban.history.forms import V2

    ids: set[int] = set()
    while batch := list(itertools.islice(rows, 5000)):
        connection.execute(insert(V2.tables[name]), batch)
        ids.update(row["id"] for row in batch)
    return ids


def _merged_groups(connection: Connection) -> dict[int, int]:
    """The group that each group of 0.4 becomes: the first of its user with its name."""
    groups: dict[int, int] = {}
    first: dict[tuple[str, str], int] = {}
    for row in _rows(connection, "experiment_groups"):
        if row.user is None or row.name is None:
            groups[row.id] = row.id
        else:
            groups[row.id] = first.setdefault((row.user, row.name), row.id)
    return groups


def _existing(reference: int | None, ids: set[int]) -> int | None:
    return reference if reference in ids else None


def _moment(stored: str) -> datetime.datetime:
    """A time that 0.4 wrote.

    It took the local time with its zone, of which PostgreSQL kept the zone and SQLite only the
    local time, that of the machine where the file most likely still is.
    """
    try:
        return datetime.datetime.fromisoformat(stored).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        # Not 0.4's doing; rather an evidently wrong time than a history that can't be opened.
        return datetime.datetime.fromtimestamp(0, datetime.UTC)
