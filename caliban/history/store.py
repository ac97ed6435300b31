"""HistoryStore: what is recorded of every job, as the dataclasses of `caliban.model.job`."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection, bindparam, select, update

from caliban.history import rows, schema, uses
from caliban.history.database import Database
from caliban.history.leases import Leases
from caliban.history.locks import Locks
from caliban.history.migrations import prepare
from caliban.history.opening import DEFAULT_URL as DEFAULT_URL
from caliban.history.outlines import Outlines
from caliban.history.queries import find_group
from caliban.model.job import Handle, Job, JobRequest, Outcome, Status, Submission
from caliban.model.report import Report, fit


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


class HistoryStore(Outlines):
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
        suffices: Callable[[JobRequest, Job], bool] | None = None,
    ) -> tuple[list[Recorded], list[Job]]:
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
          suffices: whether a job that the experiment has in this group already makes the one that
            is wanted superfluous. Asked under a lock: of two launches at one moment that want the
            same, one sees the other's jobs.

        Returns:
          The jobs, in the order of the requests, without those that are superfluous; and the jobs
          that make those so.

        Raises:
          HistoryError: the database fails, or has a job with one of the uids.
        """
        if not requests:
            return [], []
        now = datetime.datetime.now(datetime.UTC)
        spec = rows.digest(user, container_spec)
        # The same experiments in newer versions of their packages are the same experiments.
        what = rows.digest(user, {k: v for k, v in container_spec.items() if k != "lock"})
        wanted = [
            rows.digest(user, group, what, request.experiment.args, request.experiment.params)
            for request in requests
        ]
        with self._database.writing() as connection:
            _add_group(connection, user, group, now)
            # On a server the lock makes launches into one group take turns: they insert the same
            # rows, and in another order they would block one another for good.
            group_id = connection.execute(find_group(user, group).with_for_update()).scalar_one()
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
            rows.relink(connection, list(experiment_ids.values()), spec_id)
            experiments_of = [experiment_ids[digest] for digest in wanted]
            enough = _sufficient(connection, experiments_of, requests, suffices) if suffices else {}
            missing = [
                (experiment, request)
                for experiment, request in zip(experiments_of, requests, strict=True)
                if request.uid not in enough
            ]
            if not missing:
                return [], list(enough.values())
            connection.execute(
                schema.jobs.insert(),
                [
                    {
                        "uid": request.uid,
                        "user": user,
                        "owner": owner,
                        "created": now,
                        "experiment_id": experiment,
                        "image": request.image,
                        "status": Status.SUBMITTED.value,
                        "reason": "",
                    }
                    for experiment, request in missing
                ],
            )
            ids = rows.ids(connection, schema.jobs.c.uid, [each.uid for _, each in missing])
            recorded = [
                Recorded(ids[request.uid], request, *plan(ids[request.uid], request))
                for _, request in missing
            ]
            _add_job_specs(connection, recorded, [experiment for experiment, _ in missing], now)
            return recorded, list(enough.values())

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

    def adopt(self, uid: str, old: str, new: str) -> bool:
        """Makes another process the owner of a running job; False if it has another one by now.

        Args:
          uid: of the job.
          old: its owner so far, see Job.
          new: its owner from now on.
        """
        mine = (schema.jobs.c.uid == uid, schema.jobs.c.owner == old)
        with self._database.writing() as connection:
            changed = connection.execute(update(schema.jobs).where(*mine).values(owner=new))
            return changed.rowcount == 1

    def request_stop(self, uids: Sequence[str], now: datetime.datetime) -> list[str]:
        """Writes down that running jobs are to end: those that end from now on have been stopped.

        Returns:
          The uids of those that had not ended by themselves.
        """
        return self._stop(uids, Status.RUNNING, {"stop_requested": now})

    def cancel(self, uids: Sequence[str], now: datetime.datetime) -> list[str]:
        """Ends jobs that wait for their start; returns the uids of those that did."""
        stopped = {"status": Status.STOPPED.value, "reason": "stopped before it started"}
        times = {"stop_requested": now, "finished": now}
        return self._stop(uids, Status.SUBMITTED, {**stopped, **times})

    def _stop(self, uids: Sequence[str], status: Status, values: Mapping[str, Any]) -> list[str]:
        """Changes those of the jobs that have a status, and returns their uids."""
        this = (schema.jobs.c.uid == bindparam("of_uid"), schema.jobs.c.status == status.value)
        change = update(schema.jobs).where(*this).values(values)
        with self._database.writing() as connection:
            changed = ((uid, connection.execute(change, {"of_uid": uid})) for uid in sorted(uids))
            return [uid for uid, result in changed if result.rowcount]

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
        changes = ((rows.SET_HANDLE, found), (rows.SET_REPORT, said), (rows.SETTLE, known))
        if known or found or said:
            with self._database.writing() as connection:
                for statement, values in changes:
                    if values:
                        connection.execute(statement, values)

    def add_detail(self, uid: str, key: str, value: Any) -> None:
        """Writes down one more thing about a job: a JSON value, found again in Job.details."""
        of_job = schema.jobs.c.uid == uid
        with self._database.writing() as connection:
            stored = connection.execute(select(schema.jobs.c.details).where(of_job)).scalar()
            details = rows.to_json({**rows.mapping(stored), key: value})
            connection.execute(update(schema.jobs).where(of_job).values(details=details))


def _add_group(connection: Connection, user: str, name: str, now: datetime.datetime) -> bool:
    """Makes a group; returns False if the user has one of that name."""
    statement = rows.insert_new(connection, schema.experiment_groups)
    added = connection.execute(
        statement.values(user=user, name=name, created=now).execution_options(
            preserve_rowcount=True
        )
    )
    return added.rowcount == 1


def _sufficient(
    connection: Connection,
    experiment_ids: Sequence[int],
    requests: Sequence[JobRequest],
    suffices: Callable[[JobRequest, Job], bool],
) -> dict[str, Job]:
    """By the uid of a request, the job that makes it superfluous, if there is one."""
    known: dict[int, list[Job]] = {}
    numbers = sorted(set(experiment_ids))
    for start in range(0, len(numbers), rows.MOST_PARAMETERS):
        some = numbers[start : start + rows.MOST_PARAMETERS]
        query = rows.JOBS.where(schema.jobs.c.experiment_id.in_(some))
        for job in rows.read_jobs(connection, query):
            known.setdefault(job.experiment_id, []).append(job)
    enough: dict[str, Job] = {}
    for experiment, request in zip(experiment_ids, requests, strict=True):
        # The newest counts, where several suffice: a server gives them in any order.
        for job in sorted(known.get(experiment, ()), key=lambda job: job.id):
            if suffices(request, job):
                enough[request.uid] = job
    return enough


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
