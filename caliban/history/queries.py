"""What is asked of the history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Select, and_, func, select

from caliban.errors import UsageError
from caliban.history import rows, schema
from caliban.history.database import Database
from caliban.history.provenances import Provenances
from caliban.model import suggestion
from caliban.model.job import Job, Outcome, Status


class Queries:
    """The reading half of HistoryStore. Each method is one transaction, which sees one state."""

    def __init__(self, database: Database) -> None:
        """Use HistoryStore.open."""
        self._database = database

    @property
    def provenances(self) -> Provenances:
        """What exactly jobs ran."""
        return Provenances(self._database)

    def job(self, user: str, number: int) -> Job:
        """A job of a user.

        Raises:
          UsageError: the user has no job of that number.
        """
        mine = (schema.jobs.c.user == user, schema.jobs.c.id == number)
        with self._database.reading() as connection:
            found = rows.read_jobs(connection, rows.JOBS.where(*mine))
            if not found:
                raise UsageError(f"{user} has no job {number}", _known_jobs(connection, user))
        return found[0]

    def jobs(self, uids: Sequence[str]) -> list[Job]:
        """The jobs of some uids, by age."""
        found: list[Job] = []
        with self._database.reading() as connection:
            for start in range(0, len(uids), rows.MOST_PARAMETERS):
                some = schema.jobs.c.uid.in_(uids[start : start + rows.MOST_PARAMETERS])
                found += rows.read_jobs(connection, rows.JOBS.where(some))
        return sorted(found, key=lambda job: job.id)

    def outcome(self, uid: str) -> Outcome:
        """What is known of a job that has been recorded."""
        with self._database.reading() as connection:
            (job,) = rows.read_jobs(connection, rows.JOBS.where(schema.jobs.c.uid == uid))
        return job.outcome

    def open_jobs(
        self, user: str, group: str | None = None, waits: Callable[[str], bool] | None = None
    ) -> list[Job]:
        """The jobs of a user, or of one group, that had not ended when they were last heard of.

        Args:
          user: whose jobs.
          group: of which group; None for all.
          waits: whether the process that launched jobs is about to start them, or to send them
            elsewhere; those that wait for such a one are left out.

        Raises:
          UsageError: the user has no such group.
        """
        jobs = schema.jobs.c
        with self._database.reading() as connection:
            is_open = jobs.status.in_([Status.SUBMITTED.value, Status.RUNNING.value])
            query = rows.JOBS.where(jobs.user == user, is_open)
            if group is not None:
                group_id = existing_group(connection, user, group)
                query = query.where(schema.experiments.c.group_id == group_id)
            if waits is not None:
                is_waiting = and_(jobs.user == user, jobs.status == Status.SUBMITTED.value)
                owners = connection.execute(select(jobs.owner).where(is_waiting).distinct())
                some = [owner for owner in owners.scalars() if waits(owner)][: rows.MOST_PARAMETERS]
                query = query.where(~and_(is_waiting, jobs.owner.in_(some)))
            # Sorted here: asked to sort, SQLite goes through all jobs of the user in their order.
            return sorted(rows.read_jobs(connection, query), key=lambda job: job.id)

    def group_jobs(self, user: str, group: str, per_experiment: int) -> list[Job]:
        """The newest jobs of each experiment of a group, by experiment and then by age.

        Args:
          user: whose group.
          group: its name.
          per_experiment: how many jobs of each experiment at most; 0 for all.

        Raises:
          UsageError: the user has no such group.
        """
        age = func.row_number().over(
            partition_by=schema.jobs.c.experiment_id, order_by=schema.jobs.c.id.desc()
        )
        with self._database.reading() as connection:
            group_id = existing_group(connection, user, group)
            by_age = (
                select(schema.jobs.c.id, age.label("age"))
                .join(schema.experiments)
                .where(schema.experiments.c.group_id == group_id)
                .subquery()
            )
            chosen = select(by_age.c.id)
            if per_experiment:
                chosen = chosen.where(by_age.c.age <= per_experiment)
            query = rows.JOBS.where(schema.jobs.c.id.in_(chosen))
            return rows.read_jobs(
                connection, query.order_by(schema.jobs.c.experiment_id, schema.jobs.c.id)
            )


def _known_jobs(connection: Connection, user: str) -> str:
    """A hint for a number that no job of a user has."""
    newest = select(func.max(schema.jobs.c.id)).where(schema.jobs.c.user == user)
    if (number := connection.execute(newest).scalar()) is None:
        return f"No job of {user} has been recorded yet."
    return f"The newest one is job {number}; 'caliban status' shows the numbers of the jobs."


def find_group(user: str, name: str) -> Select[Any]:
    """The query for the id of a group."""
    groups = schema.experiment_groups.c
    return select(groups.id).where(groups.user == user, groups.name == name)


def existing_group(connection: Connection, user: str, name: str) -> int:
    """The id of a group.

    Raises:
      UsageError: the user has none of that name; its hint has those that come near.
    """
    found = connection.execute(find_group(user, name)).scalar()
    if found is not None:
        return int(found)
    groups = schema.experiment_groups.c
    newest = select(groups.name).where(groups.user == user).order_by(groups.id.desc()).limit(1000)
    names = [str(other) for other in connection.execute(newest).scalars()]
    if names:
        hint = suggestion.question(name, names) or f"The newest are: {', '.join(names[:5])}."
    else:
        hint = f"No experiment group of {user} has been recorded yet."
    raise UsageError(f"no experiment group '{name}'", hint)
