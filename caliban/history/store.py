"""HistoryStore: what is recorded of every job, as the dataclasses of `caliban.model.job`."""

from __future__ import annotations

import datetime
import difflib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection, Select, func, select, update

from caliban.errors import UsageError
from caliban.history import rows, schema
from caliban.history.database import Database
from caliban.history.migrations import prepare
from caliban.model.job import Handle, Job, JobRequest, Outcome, Status, Submission

DEFAULT_URL = "sqlite:///~/.caliban/caliban.db"


@dataclass(frozen=True)
class Recorded:
    """A job that has just been written down.

    Attributes:
      id: its number.
      request: what is wanted.
      submission: what is to be sent.
      handle: how to find it; None if that is not known yet.
    """

    id: int
    request: JobRequest
    submission: Submission
    handle: Handle | None


class HistoryStore:
    """The history of all users of one database.

    Each method is one transaction, safe beside other threads and processes, and raises HistoryError
    when the database fails.
    """

    def __init__(self, database: Database) -> None:
        """Use `open`."""
        self._database = database

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

    def group(self, user: str, name: str | None, now: datetime.datetime) -> str:
        """Sees to it that a user has an experiment group.

        Args:
          user: whose group.
          name: of the group; None for a new one, named after the time.
          now: the time to name it after, in the zone that the name is to be in.

        Returns:
          The name of the group.
        """
        with self._database.writing() as connection:
            if name is not None:
                _add_group(connection, user, name, now)
                return name
            stem = f"{user}-xgroup-{now:%Y-%m-%d-%H-%M-%S}"
            more = (f"{stem}-{number}" for number in itertools.count(2))
            return next(
                free
                for free in itertools.chain([stem], more)
                if _add_group(connection, user, free, now)
            )

    def record(
        self,
        user: str,
        group: str,
        owner: str,
        container_spec: Mapping[str, Any],
        requests: Sequence[JobRequest],
        plan: Callable[[int, JobRequest], tuple[Submission, Handle | None]],
    ) -> list[Recorded]:
        """Writes down jobs as SUBMITTED, all or none of them.

        Args:
          user: who launches them.
          group: name of their experiment group, which is made if need be. An experiment that it
            has already, with the same container spec, gets another job.
          owner: see Job.
          container_spec: the image plan of all of them, as JSON.
          requests: what is wanted.
          plan: says, for a job's id and what is wanted, what is to be sent and how to find it, if
            that is known by now. It is called while others wait, and must be quick.

        Returns:
          The jobs, in the order of the requests.

        Raises:
          HistoryError: the database fails, or has a job with one of the uids.
        """
        if not requests:
            return []
        now = datetime.datetime.now(datetime.UTC)
        spec = rows.digest(user, container_spec)
        wanted = [
            rows.digest(user, group, spec, request.experiment.args, request.experiment.params)
            for request in requests
        ]
        with self._database.writing() as connection:
            _add_group(connection, user, group, now)
            # On a server the lock makes launches into one group take turns: they insert the same
            # rows, and in another order they would block one another for good.
            group_id = connection.execute(_find_group(user, group).with_for_update()).scalar_one()
            spec_id = rows.ensure(
                connection,
                schema.container_specs,
                {spec: {"user": user, "created": now, "spec": rows.to_json(container_spec)}},
            )[spec]
            experiment_ids = rows.ensure(
                connection,
                schema.experiments,
                {
                    digest: {
                        "created": now,
                        "group_id": group_id,
                        "container_spec_id": spec_id,
                        "args": rows.to_json(request.experiment.args),
                        "params": rows.to_json(request.experiment.params),
                    }
                    for digest, request in zip(wanted, requests, strict=True)
                },
            )
            connection.execute(
                schema.jobs.insert(),
                [
                    {
                        "uid": request.uid,
                        "user": user,
                        "owner": owner,
                        "created": now,
                        "experiment_id": experiment_ids[experiment],
                        "image": request.image,
                        "status": Status.SUBMITTED.value,
                        "reason": "",
                    }
                    for experiment, request in zip(wanted, requests, strict=True)
                ],
            )
            ids = rows.ids(connection, schema.jobs.c.uid, [each.uid for each in requests])
            recorded = [
                Recorded(ids[request.uid], request, *plan(ids[request.uid], request))
                for request in requests
            ]
            _add_job_specs(connection, recorded, [experiment_ids[each] for each in wanted], now)
            return recorded

    def settle(
        self, outcomes: Mapping[str, Outcome], handles: Mapping[str, Handle] | None = None
    ) -> None:
        """Writes down what has become of jobs.

        A final status in the history stays, and UNKNOWN never replaces what is known. Uids that
        the history does not have are passed over.

        Args:
          outcomes: what is known now, by uid.
          handles: how to find jobs that have been submitted since they were recorded, by uid.
        """
        # In the order of the uids, in which a server locks the rows: two processes that settle the
        # same jobs then never wait for each other in a circle.
        known = [
            {
                "of_uid": uid,
                "new_status": outcome.status.value,
                "new_exit_code": outcome.exit_code,
                "new_reason": outcome.reason,
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
        if known or found:
            with self._database.writing() as connection:
                for statement, values in ((rows.SET_HANDLE, found), (rows.SETTLE, known)):
                    if values:
                        connection.execute(statement, values)

    def add_detail(self, uid: str, key: str, value: Any) -> None:
        """Writes down one more thing about a job: a JSON value, found again in Job.details."""
        of_job = schema.jobs.c.uid == uid
        with self._database.writing() as connection:
            stored = connection.execute(select(schema.jobs.c.details).where(of_job)).scalar()
            details = rows.to_json({**rows.mapping(stored), key: value})
            connection.execute(update(schema.jobs).where(of_job).values(details=details))

    def job(self, user: str, number: int) -> Job:
        """A job of a user.

        Raises:
          UsageError: the user has no job of that number.
        """
        mine = (schema.jobs.c.user == user, schema.jobs.c.id == number)
        with self._database.reading() as connection:
            found = rows.read_jobs(connection, rows.JOBS.where(*mine))
        if not found:
            raise UsageError(
                f"{user} has no job {number}", "'caliban status' shows the numbers of the jobs."
            )
        return found[0]

    def open_jobs(self, user: str, group: str | None = None) -> list[Job]:
        """The jobs of a user, or of one group, that had not ended when they were last heard of.

        Raises:
          UsageError: the user has no such group.
        """
        with self._database.reading() as connection:
            is_open = schema.jobs.c.status.in_([Status.SUBMITTED.value, Status.RUNNING.value])
            query = rows.JOBS.where(schema.jobs.c.user == user, is_open)
            if group is not None:
                group_id = _existing_group(connection, user, group)
                query = query.where(schema.experiments.c.group_id == group_id)
            # Sorted here: asked to sort, SQLite goes through all jobs of the user in their order.
            return sorted(rows.read_jobs(connection, query), key=lambda job: job.id)

    def recent_jobs(self, user: str, limit: int) -> list[Job]:
        """The newest jobs of a user over all groups, the oldest first.

        Args:
          user: whose jobs.
          limit: how many at most; 0 for all.
        """
        query = rows.JOBS.where(schema.jobs.c.user == user).order_by(schema.jobs.c.id.desc())
        with self._database.reading() as connection:
            return rows.read_jobs(connection, query.limit(limit) if limit else query)[::-1]

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
            group_id = _existing_group(connection, user, group)
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


def _add_group(connection: Connection, user: str, name: str, now: datetime.datetime) -> bool:
    """Makes a group; returns False if the user has one of that name."""
    statement = rows.insert_new(connection, schema.experiment_groups)
    added = connection.execute(
        statement.values(user=user, name=name, created=now).execution_options(
            preserve_rowcount=True
        )
    )
    return added.rowcount == 1


def _add_job_specs(
    connection: Connection,
    jobs: Sequence[Recorded],
    experiment_ids: Sequence[int],
    now: datetime.datetime,
) -> None:
    """Writes down what will be sent for jobs, and how to find them."""
    payloads = [rows.to_json(job.submission.payload) for job in jobs]
    digests = [
        rows.digest(experiment, job.submission.platform, job.submission.target, payload)
        for experiment, payload, job in zip(experiment_ids, payloads, jobs, strict=True)
    ]
    ids = rows.ensure(
        connection,
        schema.job_specs,
        {
            digest: {
                "created": now,
                "experiment_id": experiment,
                "platform": job.submission.platform,
                "target": job.submission.target,
                "payload": payload,
            }
            for digest, experiment, payload, job in zip(
                digests, experiment_ids, payloads, jobs, strict=True
            )
        },
    )
    connection.execute(
        rows.SET_JOB_SPEC,
        [
            {
                "of_id": job.id,
                "new_job_spec": ids[digest],
                "new_target": job.handle and job.handle.target,
                "new_id": job.handle and job.handle.id,
            }
            for digest, job in zip(digests, jobs, strict=True)
        ],
    )


def _find_group(user: str, name: str) -> Select[Any]:
    groups = schema.experiment_groups.c
    return select(groups.id).where(groups.user == user, groups.name == name)


def _existing_group(connection: Connection, user: str, name: str) -> int:
    """The id of a group.

    Raises:
      UsageError: the user has none of that name; its hint has those that come near.
    """
    found = connection.execute(_find_group(user, name)).scalar()
    if found is not None:
        return int(found)
    groups = schema.experiment_groups.c
    newest = select(groups.name).where(groups.user == user).order_by(groups.id.desc()).limit(1000)
    names = [str(other) for other in connection.execute(newest).scalars()]
    if near := difflib.get_close_matches(name, names):
        hint = f"Did you mean {' or '.join(near)}?"
    elif names:
        hint = f"The newest are: {', '.join(names[:5])}."
    else:
        hint = f"No experiment group of {user} has been recorded yet."
    raise UsageError(f"no experiment group '{name}'", hint)
