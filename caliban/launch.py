"""The use cases: launch jobs and see them through; go on with those that were left."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caliban import process
from caliban.board import Board, Live
from caliban.errors import UsageError
from caliban.gpu_pool import Devices, NoDevices
from caliban.history.opening import open_history as open_history
from caliban.interrupt import Interruption
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, Job, JobRequest, Status, Submission
from caliban.platform import outputs
from caliban.platform.local import LocalBackend
from caliban.runner import Launched, Runner
from caliban.tracking.tracker import NoTracker, Tracker

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore
    from caliban.tracking.place import Place


def requests(
    experiments: Iterable[Experiment], image: str, group: str, settings: Mapping[str, Any]
) -> Iterator[JobRequest]:
    """One request a job, each with a uid of its own.

    Args:
      experiments: one for each job.
      image: id of the image.
      group: name of the experiment group.
      settings: how the jobs are run, see JobRequest.
    """
    for index, experiment in enumerate(experiments):
        yield JobRequest(new_uid(), experiment, image, group, index, settings)


@dataclass(frozen=True)
class Launch:
    """Jobs of one image that are to run.

    Attributes:
      user: who launches them.
      group: name of the experiment group.
      container_spec: what the image was planned to hold.
      requests: the jobs.
      output: directory in which each job gets one of its own to write to; None for no such thing.
      code: names the code as it is now, for jobs whose code is not in the image; None if it is.
      output_url: the same for jobs elsewhere: an address, of Cloud Storage for one; "" for none.
      rerun: whether experiments run that have succeeded in this group with this image, or still do.
      repeats: by the uid of a request, the number of the job that it repeats. What that one and
        older ones have come to makes no difference.
    """

    user: str
    group: str
    container_spec: Mapping[str, Any]
    requests: Sequence[JobRequest]
    output: Path | None = None
    code: Callable[[], str] | None = None
    output_url: str = ""
    rerun: bool = False
    repeats: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """Jobs that have been written down and are to be seen through, and those that need not be.

    Attributes:
      jobs: with the ones that another caliban has left behind.
      superfluous: jobs that have succeeded, or that another caliban sees through.
    """

    jobs: Sequence[Launched]
    superfluous: Sequence[Job]


def record(backend: LocalBackend, store: HistoryStore, wanted: Launch) -> Sweep:
    """Writes jobs down, all or none of them, before the first one starts.

    An experiment that has a job with the same image in the group that has succeeded, or that
    another caliban runs, gets no other one, unless `wanted.rerun`. A job whose caliban has died is
    taken over, be its container there or not.

    Raises:
      HistoryError: they could not be recorded.
    """
    kept = outputs.GroupOutputs.find(wanted.output, wanted.group) if wanted.output else None

    code = wanted.code() if wanted.code and not wanted.rerun else None

    def plan(number: int, request: JobRequest) -> tuple[Submission, Handle]:
        if kept:
            request = replace(request, output=str(kept.of_job(number, request.uid)))
        submission = backend.plan(request)
        return submission, backend.handle(submission)

    def suffices(request: JobRequest, job: Job) -> bool:
        is_open = job.outcome.status in (Status.SUBMITTED, Status.RUNNING)
        is_good = job.outcome.status is Status.SUCCEEDED or (is_open and _can_be_seen(backend, job))
        is_newer = job.id > wanted.repeats.get(request.uid, 0)
        is_same = job.image == request.image and _has_code(job, code)
        return is_good and is_newer and is_same

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
        Launched(job.id, job.request, job.submission, job.handle, wanted.code)
        for job in recorded
        if job.handle
    ]
    left, superfluous = _take_over(backend, store, enough)
    return Sweep([*(replace(each, code=wanted.code) for each in left), *jobs], superfluous)


def _has_code(job: Job, code: str | None) -> bool:
    """Whether a job has run, or will run, this code, which is not in its image; None if it is."""
    if code is None or job.outcome.status is Status.SUBMITTED:
        return True
    return job.details.get("code") == code


def _can_be_seen(backend: LocalBackend, job: Job) -> bool:
    """Whether a job is under way elsewhere, or was left behind here, where it can be taken over."""
    is_here = job.handle is not None and job.handle.target == backend.target
    return is_here or process.is_alive(job.owner) is not False


def _take_over(
    backend: LocalBackend, store: HistoryStore, jobs: Iterable[Job]
) -> tuple[list[Launched], list[Job]]:
    """Takes over open jobs of this engine whose launcher has died; returns them, and the others."""

    def is_ours(job: Job) -> bool:
        is_here = job.handle is not None and job.handle.target == backend.target
        return is_here and is_left(job)

    mine, others = adopt(store, jobs, is_ours)
    return [_launched(job, job.handle) for job in mine if job.handle], others


def is_left(job: Job) -> bool:
    """Whether a job is open, and the caliban that launched it has died on this machine."""
    return not job.outcome.status.is_final and process.is_alive(job.owner) is False


def adopt(
    store: HistoryStore, jobs: Iterable[Job], is_ours: Callable[[Job], bool]
) -> tuple[list[Job], list[Job]]:
    """Makes jobs this process's own, unless they have got another owner; returns them and the rest.

    Args:
      store: the history.
      jobs: of which each counts once.
      is_ours: which of them are wanted.
    """
    once = {job.uid: job for job in jobs}
    owners = {uid: job.owner for uid, job in once.items() if is_ours(job)}
    adopted = store.adopt(owners, process.identity()) if owners else set()
    mine = [job for uid, job in once.items() if uid in adopted]
    return mine, [job for uid, job in once.items() if uid not in adopted]


def _launched(job: Job, handle: Handle) -> Launched:
    output = job.submission.output
    request = JobRequest(job.uid, job.experiment, job.image, job.group, 0, {}, output)
    return Launched(job.id, request, job.submission, handle, is_left=True)


@dataclass(frozen=True)
class Execution:
    """How jobs are seen through.

    Attributes:
      workers: how many run at a time.
      verbose: whether the output of several at a time is shown.
      devices: which GPUs each gets.
      tracking: where their runs of MLflow are kept; None for nowhere.
      is_quiet: whether the output of one at a time isn't shown either, unless `verbose`.
    """

    workers: int = 1
    verbose: bool = False
    devices: Devices = field(default_factory=NoDevices)
    tracking: Place | None = None
    is_quiet: bool = False


def run_here(
    backend: LocalBackend, store: HistoryStore, jobs: Sequence[Launched], how: Execution
) -> tuple[list[Launched], bool]:
    """Runs recorded jobs on this machine, and records each outcome as it happens.

    A failing job does not stop the others. ^C, SIGTERM and SIGHUP stop the running containers, and
    the jobs after them are not started; a second ^C kills them.

    Args:
      backend: the local engine.
      store: the history.
      jobs: see `record`.
      how: how they are run.

    Returns:
      The jobs with their outcomes, and whether they were interrupted.

    Raises:
      HistoryError: an outcome could not be recorded.
      OSError: the jobs' output could not be written, so that the jobs were stopped.
      EngineError: the engine does not answer any more.
    """
    is_live = how.workers == 1 and not how.is_quiet
    screen: Board | Live = Live(len(jobs)) if is_live else Board(len(jobs), how.verbose)
    with contextlib.ExitStack() as stack:
        tracker: Tracker = NoTracker()
        if how.tracking and jobs:
            from caliban.tracking.sender import Sender

            uids = [job.request.uid for job in jobs]
            group = jobs[0].request.group
            near = [job.request.uid for job in jobs if backend.is_near(job.submission)]
            tracker = stack.enter_context(Sender(store, how.tracking, group, uids, near))
        stack.enter_context(contextlib.closing(screen))
        interruption = stack.enter_context(Interruption())
        runner = Runner(backend, store, screen, interruption, how.devices, tracker)
        ended = runner.run(jobs, how.workers)
    if screen.lost is not None and not interruption.count:
        raise screen.lost
    return ended, bool(interruption.count)


def left(store: HistoryStore, user: str, group: str) -> list[Job]:
    """The newest job of each experiment of a group that has not succeeded.

    Raises:
      UsageError: the user has no such group, or nothing has been written down in it.
    """
    jobs: dict[int, list[Job]] = {}
    for job in store.group_jobs(user, group, 0):
        jobs.setdefault(job.experiment_id, []).append(job)
    if not jobs:
        raise UsageError(
            f"experiment group '{group}' has no jobs: caliban ended before it had recorded any",
            "Run what was run with --xgroup once more.",
        )
    return [
        each[-1]
        for each in jobs.values()
        if all(job.outcome.status is not Status.SUCCEEDED for job in each)
    ]


def again(
    backend: LocalBackend,
    store: HistoryStore,
    jobs: Sequence[Job],
    digest: Callable[[Mapping[str, Any]], str],
) -> Sweep:
    """Writes down another job for the experiment of each of these, with its image and settings.

    Args:
      backend: the local engine.
      store: the history.
      jobs: of one user and group; those that are under way elsewhere stay alone, and those whose
        caliban has died are taken over.
      digest: names the code of a container spec as it is now, for jobs whose code is live.

    Raises:
      UsageError: a job cannot be run again, see `check_again`.
    """
    for job in jobs:
        check_again(job)
    still_open = [job for job in jobs if not job.outcome.status.is_final]
    mine, superfluous = _take_over(backend, store, still_open)
    swept = list(mine)
    by_spec: dict[tuple[int, str], list[Job]] = {}
    for job in jobs:
        if job.outcome.status.is_final:
            path = job.submission.output
            directory = str(Path(path).parents[1]) if path else ""
            by_spec.setdefault((job.container_spec_id, directory), []).append(job)
    for (_, directory), of_spec in by_spec.items():
        spec = of_spec[0].container_spec
        found = record(
            backend,
            store,
            repetition(
                of_spec,
                output=Path(directory) if directory else None,
                code=functools.partial(digest, spec) if spec.get("live") else None,
            ),
        )
        swept += found.jobs
        superfluous += found.superfluous
    return Sweep(swept, superfluous)


def repetition(
    jobs: Sequence[Job],
    output: Path | None = None,
    code: Callable[[], str] | None = None,
    output_url: str = "",
) -> Launch:
    """Another job for the experiment of each of these, with its image and settings.

    Args:
      jobs: of one user, group and container spec.
      output: see Launch.
      code: see Launch.
      output_url: see Launch.
    """
    wanted = [
        JobRequest(
            new_uid(),
            job.experiment,
            job.image,
            job.group,
            index,
            job.submission.payload["settings"],
        )
        for index, job in enumerate(jobs)
    ]
    return Launch(
        jobs[0].user,
        jobs[0].group,
        jobs[0].container_spec,
        wanted,
        output,
        code,
        output_url,
        repeats={each.uid: job.id for each, job in zip(wanted, jobs, strict=True)},
    )


def check_again(job: Job, platform: str = "local") -> None:
    """Sees to it that a job can be run again on a platform.

    Raises:
      UsageError: it ran elsewhere, what it was told is not recorded, or it lacks a secret.
    """
    settings = job.submission.payload.get("settings")
    ran_on = job.submission.platform
    if ran_on != platform:
        where = f"it ran on {ran_on.upper()}" if ran_on else "where it ran is not recorded"
        raise UsageError(f"job {job.id} cannot be run again from here: {where}")
    if settings is None:
        raise UsageError(
            f"job {job.id} cannot be run again from here: it is not recorded how it was run",
            "Jobs of caliban 0.4 are like that: 'caliban run' starts their experiments anew.",
        )
    for name in settings.get("secrets", ()):
        if name not in os.environ:
            raise UsageError(
                f"job {job.id} was given {name}, which is not recorded because it may be a secret",
                f"Set it in the environment: export {name}=...",
            )


def count_of_jobs(number: int) -> str:
    """A number of jobs in words."""
    return "1 job" if number == 1 else f"{number} jobs"


def new_group(store: HistoryStore, user: str, group: str | None) -> str:
    """The name of a group that is there now; a new one, named after the time, for None."""
    return store.group(user, group, datetime.datetime.now(datetime.UTC))


def new_uid() -> str:
    """The uid of a new job, see JobRequest."""
    return uuid.uuid4().hex[:16]
