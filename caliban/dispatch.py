"""The use cases of jobs elsewhere: write down those that are missing, so that they can be sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from caliban import launch, process
from caliban.launch import Launch
from caliban.model.job import Job, JobRequest, Status, Submission
from caliban.platform import outputs
from caliban.platform.base import RemoteBackend
from caliban.remote.submit import Unsent

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore


@dataclass(frozen=True)
class Pending:
    """Jobs that have been written down and are to be sent, and those that need not be.

    Attributes:
      jobs: with the ones that another caliban has not sent, or died before it had recorded that.
      superfluous: jobs that have succeeded, or that are there already, or are being sent.
    """

    jobs: Sequence[Unsent]
    superfluous: Sequence[Job]


def record(backend: RemoteBackend, store: HistoryStore, wanted: Launch) -> Pending:
    """Writes jobs down, all or none of them, before the first one is sent.

    An experiment that has a job with the same image in the group that has succeeded, or has not
    ended, gets no other one, unless `wanted.rerun`. A job that waits to be sent by a caliban that
    has died is taken over.

    Args:
      backend: of the platform that they are sent to.
      store: the history.
      wanted: the jobs.

    Raises:
      HistoryError: they could not be recorded.
    """
    alike = {id(request.settings): request for request in wanted.requests}
    for target in {backend.plan(request).target for request in alike.values()}:
        backend.locate(target)

    def plan(number: int, request: JobRequest) -> tuple[Submission, None]:
        if wanted.output_url:
            url, group = wanted.output_url, wanted.group
            request = replace(request, output=outputs.address(url, group, number, request.uid))
        return backend.plan(request), None

    def suffices(request: JobRequest, job: Job) -> bool:
        is_newer = job.id > wanted.repeats.get(request.uid, 0)
        is_good = job.outcome.status not in (Status.FAILED, Status.STOPPED)
        is_lost = job.submission.platform == "local" and launch.is_left(job)
        return is_newer and is_good and not is_lost and job.image == request.image

    recorded, enough = store.record(
        wanted.user,
        wanted.group,
        process.identity(),
        wanted.container_spec,
        wanted.requests,
        plan,
        None if wanted.rerun else suffices,
    )
    jobs = [
        Unsent(job.id, job.request.uid, job.request.group, job.request.experiment, job.submission)
        for job in recorded
    ]
    platforms = {backend.plan(request).platform for request in wanted.requests[:1]}
    unsent, superfluous = take_over(store, enough, platforms)
    return Pending([*unsent, *jobs], superfluous)


def take_over(
    store: HistoryStore, jobs: Iterable[Job], platforms: Iterable[str]
) -> tuple[list[Unsent], list[Job]]:
    """Takes over jobs that wait to be sent by a caliban that has died; returns them, and the rest.

    Args:
      store: the history.
      jobs: of which some may be like that.
      platforms: that those are to be sent to.
    """

    def is_unsent(job: Job) -> bool:
        is_there = job.submission.platform in platforms
        return is_there and job.handle is None and launch.is_left(job)

    mine, others = launch.adopt(store, jobs, is_unsent)
    return [Unsent.left(job) for job in mine], others


def again(backend: RemoteBackend, store: HistoryStore, jobs: Sequence[Job]) -> Pending:
    """Writes down another job for the experiment of each of these, with its image and settings.

    Args:
      backend: of the platform that they were sent to, and are sent to again.
      store: the history.
      jobs: of one user, group and platform. Of those that have not ended, the ones that wait to be
        sent by a caliban that has died are taken over; the others stay alone.

    Raises:
      UsageError: a job cannot be sent again, see launch.check_again.
    """
    for job in jobs:
        launch.check_again(job, job.submission.platform)
    still_open = [job for job in jobs if not job.outcome.status.is_final]
    platforms = {job.submission.platform for job in still_open}
    unsent, superfluous = take_over(store, still_open, platforms)
    by_spec: dict[tuple[int, str], list[Job]] = {}
    for job in jobs:
        if job.outcome.status.is_final:
            url = outputs.folder_of(job.submission.output)
            by_spec.setdefault((job.container_spec_id, url), []).append(job)
    for (_, url), of_spec in by_spec.items():
        found = record(backend, store, launch.repetition(of_spec, output_url=url))
        unsent += found.jobs
        superfluous += found.superfluous
    return Pending(unsent, superfluous)
