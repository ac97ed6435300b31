"""How jobs become rows, and rows jobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Row,
    Select,
    String,
    Table,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    update,
)

from caliban.history import schema
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, Job, Outcome, Status, Submission
from caliban.model.report import Report

# A row of this has all that a Job has. The joins are outer ones because rows of caliban 0.4 may
# lack what they refer to.
JOBS = (
    select(
        *schema.jobs.c,
        *schema.job_specs.c["platform", "target", "payload"],
        *schema.experiments.c["args", "params", "container_spec_id"],
        schema.container_specs.c.spec,
        schema.experiment_groups.c.name.label("group_name"),
    )
    .select_from(schema.jobs)
    .outerjoin(schema.job_specs, schema.job_specs.c.id == schema.jobs.c.job_spec_id)
    .outerjoin(schema.experiments, schema.experiments.c.id == schema.jobs.c.experiment_id)
    .outerjoin(schema.container_specs)
    .outerjoin(schema.experiment_groups)
)

_NEW_STATUS: Any = bindparam("new_status", type_=String)
_NEW_FINISHED: Any = bindparam("new_finished", type_=schema.jobs.c.finished.type)

# What fails after it was asked to stop has stopped; and so has what takes leave in order, with 0.
_STOPS = and_(
    schema.jobs.c.stop_requested.is_not(None),
    or_(
        Status.FAILED.value == _NEW_STATUS,
        and_(Status.SUCCEEDED.value == _NEW_STATUS, schema.jobs.c.stop_requested <= _NEW_FINISHED),
    ),
)

# The statements that change jobs. A status that is final stays.
SETTLE = (
    update(schema.jobs)
    .where(
        schema.jobs.c.uid == bindparam("of_uid"),
        *(schema.jobs.c.status.is_distinct_from(each.value) for each in Status if each.is_final),
    )
    .values(
        status=case((_STOPS, Status.STOPPED.value), else_=_NEW_STATUS),
        reason=case((_STOPS, "stopped"), else_=bindparam("new_reason", type_=String)),
        exit_code=bindparam("new_exit_code"),
        # A platform may no longer say when a job started once it has ended.
        started=func.coalesce(
            bindparam("new_started", type_=schema.jobs.c.started.type), schema.jobs.c.started
        ),
        finished=_NEW_FINISHED,
    )
)

SET_REPORT = (
    update(schema.jobs)
    .where(schema.jobs.c.uid == bindparam("of_uid"))
    .values(metrics=bindparam("new_metrics"), cause=bindparam("new_cause"))
)

SET_JOB_SPEC = (
    update(schema.jobs)
    .where(schema.jobs.c.id == bindparam("of_id"))
    .values(
        job_spec_id=bindparam("new_job_spec"),
        handle_target=bindparam("new_target"),
        handle_id=bindparam("new_id"),
    )
)

# What has been sent elsewhere needs nobody here any more who sees to it.
SET_HANDLE = (
    update(schema.jobs)
    .where(schema.jobs.c.uid == bindparam("of_uid"))
    .values(handle_target=bindparam("new_target"), handle_id=bindparam("new_id"), owner="")
)

# Of a statement; 999 is what SQLite before 3.32 takes.
MOST_PARAMETERS = 900

_JSON = json.JSONEncoder(default=dict)  # dict: for mappings of other types
_CANONICAL_JSON = json.JSONEncoder(default=dict, sort_keys=True)


def to_json(value: Any) -> str:
    """A value as the text that is stored, its keys in their order."""
    return _JSON.encode(value)


def digest(*parts: Any) -> str:
    """Stands for JSON values: two are equal if and only if the values are; keys have no order."""
    return hashlib.blake2b(_CANONICAL_JSON.encode(parts).encode(), digest_size=16).hexdigest()


def insert_new(connection: Connection, table: Table) -> Any:
    """An INSERT that passes over rows that are there already."""
    # SQLAlchemy has loaded the dialect in use; the other one would cost every command 50 ms.
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing()
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table).on_conflict_do_nothing()


def ensure(
    connection: Connection, table: Table, rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, int]:
    """Adds those rows, given by digest, that the table has not; returns the ids of all."""
    new = [{"digest": key, **row} for key, row in rows.items()]
    connection.execute(insert_new(connection, table), new)
    return ids(connection, table.c.digest, list(rows))


def relink(connection: Connection, experiments: Sequence[int], container_spec: int) -> None:
    """Makes experiments those of this container spec, where they had another lock before."""
    table = schema.experiments
    for start in range(0, len(experiments), MOST_PARAMETERS):
        some = experiments[start : start + MOST_PARAMETERS]
        old = (table.c.id.in_(some), table.c.container_spec_id != container_spec)
        connection.execute(update(table).where(*old).values(container_spec_id=container_spec))


def ids(connection: Connection, column: Column[str], keys: Sequence[str]) -> dict[str, int]:
    """The ids of the rows that have these values in a unique column."""
    found: dict[str, int] = {}
    for start in range(0, len(keys), MOST_PARAMETERS):
        some = keys[start : start + MOST_PARAMETERS]
        query = select(column, column.table.c.id).where(column.in_(some))
        found.update((key, number) for key, number in connection.execute(query))
    return found


def lock(connection: Connection, uids: Sequence[str]) -> None:
    """Lets nobody else change these jobs before the end of the transaction.

    Args:
      connection: in a transaction that writes. SQLite lets one in at a time, and has no such locks.
      uids: of the jobs, in order.
    """
    for start in range(0, len(uids), MOST_PARAMETERS):
        uid = schema.jobs.c.uid
        some = uid.in_(uids[start : start + MOST_PARAMETERS])
        connection.execute(select(uid).where(some).order_by(uid).with_for_update())


def read_jobs(connection: Connection, query: Select[Any]) -> list[Job]:
    """The jobs of a query of JOBS."""
    plans: dict[int, Mapping[str, Any]] = {}
    jobs = []
    for row in connection.execute(query):
        if row.container_spec_id not in plans:
            plans[row.container_spec_id] = mapping(row.spec)
        jobs.append(_job(row, plans[row.container_spec_id]))
    return jobs


def _job(row: Row[Any], container_spec: Mapping[str, Any]) -> Job:
    details = mapping(row.details)
    exit_code = row.exit_code
    if exit_code is None and isinstance(details.get("ret_code"), int):
        exit_code = details["ret_code"]  # where caliban 0.4 wrote that of a local job
    platform = row.platform or ""
    handle = None
    if row.handle_id is not None:
        handle = Handle(platform, row.handle_target, row.handle_id, row.uid)
    return Job(
        id=row.id,
        uid=row.uid,
        user=row.user or "",
        group=row.group_name or "",
        experiment_id=row.experiment_id or 0,
        experiment=experiment(row.args, row.params),
        container_spec_id=row.container_spec_id or 0,
        container_spec=container_spec,
        submission=Submission(platform, row.target or "", mapping(row.payload)),
        handle=handle,
        image=row.image,
        outcome=Outcome(status(row.status), exit_code, row.reason, row.started, row.finished),
        owner=row.owner,
        created=row.created,
        details=details,
        report=Report(mapping(row.metrics), row.cause or ""),
        stop_requested=row.stop_requested,
    )


def status(stored: str | None) -> Status:
    """A status; UNKNOWN for one that no caliban has written, which must not hide other jobs."""
    return Status(stored) if stored in Status.__members__ else Status.UNKNOWN


def experiment(args: str | None, params: str | None) -> Experiment:
    """An experiment from its two columns."""
    words = _parsed(args)
    return Experiment(tuple(map(str, words)) if isinstance(words, list) else (), mapping(params))


def _parsed(stored: str | None) -> Any:
    """A JSON value; None for one that can't be read, which must not hide the rest of its job."""
    if stored is None:
        return None
    try:
        return json.loads(stored)
    except (ValueError, RecursionError):
        return None


def mapping(stored: str | None) -> Mapping[str, Any]:
    """A stored JSON object; empty if there is none that can be read."""
    value = _parsed(stored)
    return value if isinstance(value, dict) else {}
