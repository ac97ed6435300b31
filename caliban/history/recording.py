"""New jobs in the history: written down before anything is started or sent."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from caliban.history import rows, schema
from caliban.history.outlines import Outlines
from caliban.history.queries import find_group
from caliban.model.job import Handle, Job, JobRequest, Status, Submission


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


class Recording(Outlines):
    """The part of HistoryStore that adds groups and jobs."""

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
        # The same experiments in newer versions of their packages are the same experiments.
        what = rows.digest(user, {k: v for k, v in container_spec.items() if k != "lock"})
        digests = [
            rows.digest(user, group, what, request.experiment.args, request.experiment.params)
            for request in requests
        ]
        with self._database.writing() as connection:
            _add_group(connection, user, group, now)
            # On a server the lock makes launches into one group take turns: they insert the same
            # rows, and in another order they would block one another for good.
            group_id = connection.execute(find_group(user, group).with_for_update()).scalar_one()
            spec_id = _container_spec(connection, user, container_spec, now)
            experiments = _experiments(connection, group_id, spec_id, digests, requests, now)
            enough = _sufficient(connection, experiments, requests, suffices) if suffices else {}
            missing = [
                (experiment, request)
                for experiment, request in zip(experiments, requests, strict=True)
                if request.uid not in enough
            ]
            if not missing:
                return [], list(enough.values())
            ids = _add_jobs(connection, user, owner, missing, now)
            recorded = [
                Recorded(ids[request.uid], request, *plan(ids[request.uid], request))
                for _, request in missing
            ]
            _add_job_specs(connection, recorded, [experiment for experiment, _ in missing], now)
            return recorded, list(enough.values())


def _add_group(connection: Connection, user: str, name: str, now: datetime.datetime) -> bool:
    """Makes a group; returns False if the user has one of that name."""
    statement = rows.insert_new(connection, schema.experiment_groups)
    added = connection.execute(
        statement.values(user=user, name=name, created=now).execution_options(
            preserve_rowcount=True
        )
    )
    return added.rowcount == 1


def _container_spec(
    connection: Connection, user: str, container_spec: Mapping[str, Any], now: datetime.datetime
) -> int:
    """The id of a container spec, which is added if it is new."""
    digest = rows.digest(user, container_spec)
    new = {"user": user, "created": now, "spec": rows.to_json(container_spec)}
    return rows.ensure(connection, schema.container_specs, {digest: new})[digest]


def _experiments(
    connection: Connection,
    group_id: int,
    container_spec_id: int,
    digests: Sequence[str],
    requests: Sequence[JobRequest],
    now: datetime.datetime,
) -> list[int]:
    """The id of each request's experiment, which is added to the group if that has no such one."""
    ids = rows.ensure(
        connection,
        schema.experiments,
        {
            digest: {
                "created": now,
                "group_id": group_id,
                "container_spec_id": container_spec_id,
                "args": rows.to_json(request.experiment.args),
                "params": rows.to_json(request.experiment.params),
            }
            for digest, request in zip(digests, requests, strict=True)
        },
    )
    rows.relink(connection, list(ids.values()), container_spec_id)
    return [ids[digest] for digest in digests]


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


def _add_jobs(
    connection: Connection,
    user: str,
    owner: str,
    wanted: Sequence[tuple[int, JobRequest]],
    now: datetime.datetime,
) -> dict[str, int]:
    """Adds jobs, each with the id of its experiment; returns their numbers, by uid."""
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
            for experiment, request in wanted
        ],
    )
    return rows.ids(connection, schema.jobs.c.uid, [request.uid for _, request in wanted])


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
