"""The experiments of a file on a platform elsewhere, and what has come of those sent there."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import config, dispatch, flags, launch
from caliban.commands import (
    image_publication,
    launch_record,
    replay,
    replay_jobs,
    replay_table,
    replay_waiting,
    sending,
    tracking_choice,
)
from caliban.commands.experiment_choice import Experiments, Work
from caliban.dispatch import Pending
from caliban.docker.engine import Engine
from caliban.errors import INTERRUPTED
from caliban.model.experiment import Experiment
from caliban.model.job import Job, JobRequest

if TYPE_CHECKING:
    from caliban.bundle.archive import Archive
    from caliban.bundle.recorded import Recorded, RecordedJob, RecordedLaunch
    from caliban.commands.image_publication import JobImage
    from caliban.commands.replay_images import Prepared, Workshop
    from caliban.commands.replay_platform import Platform
    from caliban.history.store import HistoryStore
    from caliban.model.image import ImagePlan
    from caliban.model.reproduction import Tolerance
    from caliban.platform.base import RemoteBackend
    from caliban.provenance.gathering import Gathering
    from caliban.remote.backends import Backends
    from caliban.remote.submit import Unsent


@dataclass(frozen=True)
class _Listed(Experiments):
    """Experiments that are known already.

    Attributes:
      experiments: those.
    """

    experiments: tuple[Experiment, ...] = ()

    def __iter__(self) -> Iterator[Experiment]:
        return iter(self.experiments)

    @property
    def count(self) -> int:
        return len(self.experiments)


@dataclass
class _Images:
    """How the image of a launch comes to be, see image_publication.Images.

    Attributes:
      workshop: where it is made.
      launch: that it is of.
      prepared: what has been made; None before that.
    """

    workshop: Workshop
    launch: RecordedLaunch
    prepared: Prepared | None = None

    @property
    def engine(self) -> Engine:
        return self.workshop.engine

    def ensure(self, plan: ImagePlan) -> tuple[ImagePlan, str]:
        self.prepared = self.workshop.prepare(self.launch, plan)
        image = self.prepared.image
        if self.engine.image_name(image) == image:
            # It needs a name on its way: one that is made of what it holds takes nobody's place.
            name = image.removeprefix("sha256:")[:16]
            with self.engine.errors(f"naming the image {image}"):
                self.engine.client.tag(image, image_publication.NAME, f"replay-{name}")
        return self.prepared.plan, image


@dataclass(frozen=True)
class _Ready:
    """Jobs of a launch whose image is where they find it.

    Attributes:
      image: that.
      prepared: the same as it is here.
      requests: makes the jobs of a group.
      output: folder below which each has one of its own; "" for none.
    """

    image: JobImage
    prepared: Prepared
    requests: Callable[[str], Iterator[JobRequest]]
    output: str


def run(
    args: argparse.Namespace,
    platform: Platform,
    archive: Archive,
    found: Recorded,
    jobs: Sequence[RecordedJob],
    tolerance: Tolerance,
) -> int:
    """Makes the images, sends the jobs, waits for them and compares; returns the exit code.

    Args:
      args: the command line.
      platform: what it says of where they are sent.
      archive: the file.
      found: what it says.
      jobs: those that are to run.
      tolerance: how far metrics may be apart.
    """
    from caliban.commands import replay_images

    project, engine, user = config.project(), Engine(), flags.user_name()
    settings = config.load(project)
    tracking = tracking_choice.choose(settings, project)
    record = launch_record.begin(args, replay.add_arguments, engine, [])
    with (
        tempfile.TemporaryDirectory(prefix="caliban-") as folder,
        launch.open_history() as store,
        platform.backends(settings) as backends,
    ):
        top = Path(folder).resolve()
        workshop = replay_images.Workshop(archive, dict(found.images), engine, store, args)
        # What no job may know, and no image show.
        own = replace(settings, mlflow=None)
        wanted = {}
        for number, mine in _of_launches(jobs).items():
            plan = workshop.plan(found.launches[number], top / str(number))
            work = _work(platform, replace(plan, live=False), mine, own)
            wanted[number] = _prepared(platform, work, backends)
        ready = {
            number: make(_Images(workshop, found.launches[number]))
            for number, make in wanted.items()
        }
        with record:
            group = launch.new_group(store, user, args.xgroup)
            if args.xgroup:
                sending.bring_up_to_date(store, backends, user, group)
            backend = backends.of(platform.name)
            is_new = args.rerun or not args.xgroup
            jobs_of = replay_jobs.Wanted(archive.path.resolve(), group, None, is_new)
            pending, uids = _record(backend, store, record, jobs_of, jobs, ready)
            tracking_choice.expect(store, [job.uid for job in pending.jobs], tracking)
            has_ended = _see_through(store, backends, platform, group, pending, [*uids.values()])
        tracking_choice.send_waiting(store)
        ran = {job.uid: job for job in store.jobs([*uids.values()])}
    rows = [replay_table.Row(job, ran.get(uids[job.number]), tolerance) for job in jobs]
    differences = [line for each in ready.values() for line in each.prepared.differences]
    return replay_waiting.tell(args, archive, group, rows, differences, not has_ended)


def _of_launches(jobs: Sequence[RecordedJob]) -> dict[int, list[RecordedJob]]:
    found: dict[int, list[RecordedJob]] = {}
    for number, mine in replay_jobs.by_launch(jobs):
        found.setdefault(number, []).extend(mine)
    return found


def _work(
    platform: Platform,
    plan: ImagePlan,
    jobs: Sequence[RecordedJob],
    settings: config.Config,
) -> Work:
    """What the jobs of a launch do."""
    from caliban.commands.image_choice import ImageChoice
    from caliban.docker.identity import Credentials

    mode = platform.mode(plan.mode)
    image = ImageChoice(settings, mode, plan, Credentials())
    return Work(image, _Listed((), {}, tuple(job.experiment for job in jobs)))


def _prepared(platform: Platform, work: Work, backends: Backends) -> Callable[[_Images], _Ready]:
    """Sees to it that jobs can be sent, before their image is made.

    Returns:
      What brings that image to where they find it.

    Raises:
      UsageError: something about them is wrong.
      CalibanError: the platform can't be reached, or refuses such jobs.
    """
    of = _for_cloud if platform.command == "cloud" else _for_cluster
    return of(platform, work, backends)


def _for_cloud(platform: Platform, work: Work, backends: Backends) -> Callable[[_Images], _Ready]:
    from caliban.commands import cloud_wishes

    wishes = cloud_wishes.understand(platform.args, work)
    wishes.announce()
    backends.of(platform.name)

    def make(images: _Images) -> _Ready:
        plan = wishes.choice.plan
        image = image_publication.provide(wishes.publication, images, plan, backends.session)
        return _ready(image, images, wishes.requests, wishes.output)

    return make


def _for_cluster(platform: Platform, work: Work, backends: Backends) -> Callable[[_Images], _Ready]:
    from caliban.commands import job_labels
    from caliban.commands.cluster import job_wishes
    from caliban.commands.cluster.job_submission import JobSubmission

    wishes = job_wishes.understand(platform.args, work).located()
    job_labels.tell(wishes.label_notes())
    submission = JobSubmission(wishes, backends)
    options = submission.options()
    submission.check(options)

    def make(images: _Images) -> _Ready:
        requests = functools.partial(wishes.requests, options)
        return _ready(submission.image(images), images, requests, wishes.output)

    return make


def _ready(
    image: JobImage,
    images: _Images,
    requests: Callable[[JobImage, str], Iterator[JobRequest]],
    output: str,
) -> _Ready:
    prepared = images.prepared
    assert prepared is not None
    # Only an image that was built for its module starts that by itself.
    image = replace(image, is_given=bool(images.launch.flags.get("image_id")))
    return _Ready(image, prepared, functools.partial(requests, image), output)


def _record(
    backend: RemoteBackend,
    store: HistoryStore,
    record: Gathering,
    wanted: replay_jobs.Wanted,
    jobs: Sequence[RecordedJob],
    ready: Mapping[int, _Ready],
) -> tuple[Pending, dict[int, str]]:
    """Writes down jobs for recorded experiments.

    Returns:
      The jobs, and for each number of an experiment the uid of its job.
    """
    unsent: list[Unsent] = []
    superfluous: list[Job] = []
    uids: dict[int, str] = {}
    for number, mine in _of_launches(jobs).items():
        each = ready[number]
        spec = each.prepared.container_spec(wanted.file)
        requests = list(each.requests(wanted.group))
        pending = dispatch.record(
            backend,
            store,
            launch.Launch(
                user=flags.user_name(),
                group=wanted.group,
                container_spec=spec,
                requests=requests,
                output_url=each.output,
                rerun=wanted.rerun,
            ),
        )
        plans, earlier = {each.image.reference: spec}, each.prepared.earlier
        launch_record.keep_elsewhere(
            record, store, backend, pending.jobs, plans, [each.image], earlier
        )
        unsent += pending.jobs
        superfluous += pending.superfluous
        there = [(job.uid, job.experiment) for job in pending.superfluous]
        there += [(job.uid, job.experiment) for job in pending.jobs]
        uids |= replay_jobs.numbered(mine, requests, there)
    return Pending(unsent, superfluous), uids


def _see_through(
    store: HistoryStore,
    backends: Backends,
    platform: Platform,
    group: str,
    pending: Pending,
    uids: Sequence[str],
) -> bool:
    """Sends jobs, and waits until they and others have ended; False if the user doesn't want to."""
    try:
        # What is accepted is no result of this command, whose results may be for programs.
        with contextlib.redirect_stdout(sys.stderr):
            code = sending.see_off(store, backends, platform.name, group, pending)
        return code != INTERRUPTED and replay_waiting.wait(
            store, backends, flags.user_name(), group, uids
        )
    except KeyboardInterrupt:
        return False
