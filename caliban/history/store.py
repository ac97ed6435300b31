"""HistoryStore: what is recorded of every job, as the dataclasses of `caliban.model.job`."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Self

from sqlalchemy import ColumnElement, Update, bindparam, select, update

from caliban.history import rows, schema, uses
from caliban.history.database import Database
from caliban.history.leases import Leases
from caliban.history.locks import Locks
from caliban.history.migrations import prepare
from caliban.history.opening import DEFAULT_URL as DEFAULT_URL
from caliban.history.recording import Recording
from caliban.model.job import Handle, Outcome, Status
from caliban.model.report import Report, fit


class HistoryStore(Recording):
    """The history of all users of one database.

    Each method is one transaction, safe beside other threads and processes, and raises HistoryError
    when the database fails.
    """

    @classmethod
    def open(cls, url: str = DEFAULT_URL) -> Self:
        """Opens a history; makes it, or migrates one of an older caliban, where needed.

        Args:
          url: an SQLAlchemy URL of SQLite, with ~ for the home directory, or of PostgreSQL.

        Raises:
          HistoryError: the URL is wrong, or there is no history behind it and none can be made.
        """
        database = Database(url)
        try:
            prepare(database)
        except BaseException:
            database.close()
            raise
        return cls(database)

    def close(self) -> None:
        """Closes the connection to the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def claim(self, uid: str, owner: str, now: datetime.datetime) -> bool:
        """Writes down that a job runs from now on, unless it is not waiting any more.

        One that the process has adopted while it ran does so as well.

        Args:
          uid: of the job.
          owner: the process that runs it, see Job.
          now: when it starts.

        Returns:
          Whether the job may be started; False if somebody has stopped or started it.
        """
        is_mine = (schema.jobs.c.status == Status.RUNNING.value) & (schema.jobs.c.owner == owner)
        waits = (
            schema.jobs.c.uid == uid,
            (schema.jobs.c.status == Status.SUBMITTED.value) | is_mine,
        )
        running = {"status": Status.RUNNING.value, "started": now, "owner": owner}
        with self._database.writing() as connection:
            return (
                connection.execute(update(schema.jobs).where(*waits).values(running)).rowcount == 1
            )

    def adopt(self, owners: Mapping[str, str], new: str) -> set[str]:
        """Makes another process the owner of jobs; of those that have another one by now, it isn't.

        Args:
          owners: the owner of each so far, see Job, by uid.
          new: the one from now on.

        Returns:
          The uids of those that it owns now.
        """
        this = (schema.jobs.c.uid == bindparam("of_uid"), schema.jobs.c.owner == bindparam("old"))
        change = update(schema.jobs).where(*this).values(owner=new)
        return {*self._change(change, [{"of_uid": uid, "old": old} for uid, old in owners.items()])}

    def request_stop(
        self, uids: Sequence[str], now: datetime.datetime, waiting: bool = False
    ) -> list[str]:
        """Writes down that running jobs are to end: those that end from now on have been stopped.

        Args:
          uids: of the jobs.
          now: the time.
          waiting: whether that goes also for jobs that wait for their start, elsewhere.

        Returns:
          The uids of those that had not ended by themselves.
        """
        which = [Status.RUNNING.value, *([Status.SUBMITTED.value] if waiting else [])]
        return self._stop(uids, schema.jobs.c.status.in_(which), {"stop_requested": now})

    def withdraw_stop(self, uids: Sequence[str], asked: datetime.datetime) -> None:
        """Takes it back that jobs are to end, which they don't know: those that have not ended.

        Args:
          uids: of the jobs.
          asked: what `request_stop` was told as the time; somebody else's later wish stays.
        """
        jobs = schema.jobs.c
        is_open = jobs.status.in_([each.value for each in Status if not each.is_final])
        self._stop(uids, is_open & (jobs.stop_requested == asked), {"stop_requested": None})

    def cancel(self, uids: Sequence[str], now: datetime.datetime) -> list[str]:
        """Ends jobs that wait for their start; returns the uids of those that did."""
        waits = schema.jobs.c.status == Status.SUBMITTED.value
        return self._stop(uids, waits, _cancelled("stopped before it started", now))

    def cancel_unsent(self, uids: Sequence[str], now: datetime.datetime) -> list[str]:
        """Ends jobs that have not been sent anywhere; returns the uids of those that did.

        Whoever is about to send one looks first, see `ended`, and once more when it has.
        """
        waits = schema.jobs.c.status == Status.SUBMITTED.value
        unsent = waits & schema.jobs.c.handle_id.is_(None)
        return self._stop(uids, unsent, _cancelled("stopped before it was sent", now))

    def ended(self, uids: Sequence[str]) -> set[str]:
        """Which jobs have ended, or been ended."""
        jobs = schema.jobs.c
        is_final = jobs.status.in_([each.value for each in Status if each.is_final])
        found: set[str] = set()
        with self._database.reading() as connection:
            for start in range(0, len(uids), rows.MOST_PARAMETERS):
                some = jobs.uid.in_(uids[start : start + rows.MOST_PARAMETERS])
                found.update(connection.execute(select(jobs.uid).where(some, is_final)).scalars())
        return found

    def _stop(
        self, uids: Sequence[str], which: ColumnElement[bool], values: Mapping[str, Any]
    ) -> list[str]:
        """Changes those of the jobs that are so, and returns their uids."""
        this = (schema.jobs.c.uid == bindparam("of_uid"), which)
        change = update(schema.jobs).where(*this).values(values)
        return self._change(change, [{"of_uid": uid} for uid in uids])

    def _change(self, change: Update, which: Sequence[Mapping[str, Any]]) -> list[str]:
        """Carries out a change for each job, and returns the uids of those that it was one for."""
        # In the order of the uids, see `settle`.
        ordered = sorted(which, key=lambda each: str(each["of_uid"]))
        with self._database.writing() as connection:
            changed = ((each, connection.execute(change, each)) for each in ordered)
            return [each["of_uid"] for each, result in changed if result.rowcount]

    def leases(self, host: str) -> Leases:
        """The leases of the devices of a machine."""
        return Leases(self._database, host)

    @property
    def locks(self) -> Locks:
        """The versions that declared dependencies have been resolved to."""
        return Locks(self._database)

    def image_uses(self) -> list[uses.Use]:
        """Which groups use which images."""
        return uses.find(self._database)

    def settle(
        self,
        outcomes: Mapping[str, Outcome],
        handles: Mapping[str, Handle] | None = None,
        reports: Mapping[str, Report] | None = None,
    ) -> None:
        """Writes down what has become of jobs.

        A final status in the history stays, and UNKNOWN never replaces what is known. Uids that
        the history does not have are passed over.

        Args:
          outcomes: what is known now, by uid.
          handles: how to find jobs that have been submitted since they were recorded, by uid.
          reports: what jobs have said of themselves, by uid.
        """
        # In the order of the uids, in which a server locks the rows: two processes that settle the
        # same jobs then never wait for each other in a circle.
        known = [
            {
                "of_uid": uid,
                "new_status": outcome.status.value,
                "new_exit_code": outcome.exit_code,
                "new_reason": fit(outcome.reason),
                "new_started": outcome.started,
                "new_finished": outcome.finished,
            }
            for uid, outcome in sorted(outcomes.items())
            if outcome.status is not Status.UNKNOWN
        ]
        found = [
            {"of_uid": uid, "new_target": handle.target, "new_id": handle.id}
            for uid, handle in sorted((handles or {}).items())
        ]
        said = [
            {"of_uid": uid, "new_metrics": rows.to_json(each.metrics), "new_cause": fit(each.cause)}
            for uid, each in sorted((reports or {}).items())
        ]
        changes = [
            (statement, values)
            for statement, values in (
                (rows.SET_HANDLE, found),
                (rows.SET_REPORT, said),
                (rows.SETTLE, known),
            )
            if values
        ]
        if not changes:
            return
        uids = {str(each["of_uid"]) for _, values in changes for each in values}
        with self._database.writing() as connection:
            if len(changes) > 1 and len(uids) > 1:
                rows.lock(connection, sorted(uids))
            for statement, values in changes:
                connection.execute(statement, values)

    def add_detail(self, uid: str, key: str, value: Any) -> None:
        """Writes down one more thing about a job: a JSON value, found again in Job.details."""
        self.add_details(key, {uid: value})

    def add_details(self, key: str, values: Mapping[str, Any]) -> None:
        """The same for several jobs: the value of each, by uid."""
        if not values:
            return
        with self._database.writing() as connection:
            for uid, value in sorted(values.items()):
                of_job = schema.jobs.c.uid == uid
                query = select(schema.jobs.c.details).where(of_job).with_for_update()
                stored = connection.execute(query).scalar()
                details = rows.to_json({**rows.mapping(stored), key: value})
                connection.execute(update(schema.jobs).where(of_job).values(details=details))


def _cancelled(reason: str, now: datetime.datetime) -> dict[str, Any]:
    """What is written of a job that is ended before it has begun."""
    stopped = {"status": Status.STOPPED.value, "reason": reason}
    return {**stopped, "stop_requested": now, "finished": now}
