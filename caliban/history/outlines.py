"""Jobs in outline, for groups with more of them than anybody reads one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Select, func, select

from caliban.history import rows, schema
from caliban.history.queries import Queries, existing_group
from caliban.model.job import Status

if TYPE_CHECKING:
    from caliban.model.selection import Outline, Tally

_OUTLINES = (
    select(
        *schema.jobs.c["id", "uid", "experiment_id", "status", "reason", "metrics", "cause"],
        *schema.experiments.c["args", "params", "container_spec_id"],
    )
    .select_from(schema.jobs)
    .outerjoin(schema.experiments, schema.experiments.c.id == schema.jobs.c.experiment_id)
)


class Outlines(Queries):
    """What is asked of the history to choose among jobs."""

    def tallies(self, user: str, group: str) -> list[Tally]:
        """Counts the newest jobs of a group's experiments, each one's, without reading them.

        Raises:
          UsageError: the user has no such group.
        """
        from caliban.model.selection import Tally

        jobs, experiments = schema.jobs.c, schema.experiments.c
        kind = (experiments.container_spec_id, jobs.status)
        with self._database.reading() as connection:
            query = (
                select(*kind, func.count(), func.max(jobs.uid))
                .join_from(schema.jobs, schema.experiments)
                .where(experiments.group_id == existing_group(connection, user, group))
                .where(_newer_ones() < 1)
                .group_by(*kind)
                .order_by(experiments.container_spec_id)
            )
            return [
                Tally(spec or 0, rows.status(status), number, uid)
                for spec, status, number, uid in connection.execute(query)
            ]

    def outlines(
        self, user: str, group: str, per_experiment: int, status: Status | None = None
    ) -> list[Outline]:
        """The newest jobs of each experiment of a group, by experiment and then by age.

        Args:
          user: whose group.
          group: its name.
          per_experiment: how many jobs of each experiment at most; 0 for all.
          status: of those that are wanted; None for all.

        Raises:
          UsageError: the user has no such group.
        """
        jobs, experiments = schema.jobs.c, schema.experiments.c
        with self._database.reading() as connection:
            of_group = experiments.group_id == existing_group(connection, user, group)
            query = _OUTLINES.where(of_group).order_by(jobs.experiment_id, jobs.id)
            if per_experiment:
                query = query.where(_newer_ones() < per_experiment)
            if status:
                query = query.where(jobs.status == status.value)
            return _read(connection, query)

    def recent_outlines(self, user: str, limit: int, before: int | None = None) -> list[Outline]:
        """The newest jobs of a user over all groups, the newest first.

        Args:
          user: whose jobs.
          limit: how many at most.
          before: number of a job; only older ones are wanted.
        """
        jobs = schema.jobs.c
        query = _OUTLINES.where(jobs.user == user).order_by(jobs.id.desc()).limit(limit)
        with self._database.reading() as connection:
            return _read(connection, query if before is None else query.where(jobs.id < before))


def _newer_ones() -> ColumnElement[int]:
    """How many newer jobs the experiment of a job has, which an index tells."""
    # Of a list of the newest of each experiment, SQLite would go through the whole for each job.
    other = schema.jobs.alias()
    is_newer = (other.c.experiment_id == schema.jobs.c.experiment_id, other.c.id > schema.jobs.c.id)
    return select(func.count()).select_from(other).where(*is_newer).scalar_subquery()


def _read(connection: Connection, query: Select[Any]) -> list[Outline]:
    from caliban.model.selection import Outline

    return [
        Outline(
            row.id,
            row.uid,
            row.experiment_id or 0,
            row.container_spec_id or 0,
            rows.experiment(row.args, row.params),
            rows.status(row.status),
            row.reason,
            rows.mapping(row.metrics),
            row.cause or "",
        )
        for row in connection.execute(query)
    ]
