"""Run the jobs of an experiment group again that failed or were stopped.

Of each experiment, the newest job counts. The images are built anew from the code as it is now, and
what has changed since is told before you are asked. With --same_image, they run as they were.

  caliban resubmit --xgroup my-sweep
  caliban resubmit --xgroup my-sweep --where cause=2 --yes
  caliban resubmit --xgroup my-sweep --all_jobs --same_image
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import flag_types, flags, terminal
from caliban.commands.resending import has_given_image, has_manifest
from caliban.errors import INTERRUPTED, EngineError, UsageError
from caliban.model import module
from caliban.model.image import ImagePlan
from caliban.model.job import Job, Status
from caliban.model.selection import Selection, causes
from caliban.remote.backends import is_remote

if TYPE_CHECKING:
    from caliban.commands.job_choice import Places
    from caliban.commands.relaunch import Again
    from caliban.docker.engine import Engine
    from caliban.docker.image.provenance import Parts
    from caliban.history.store import HistoryStore
    from caliban.images import Images

# How many jobs are listed before the question.
_LISTED = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "--xgroup",
        type=flag_types.group_name,
        required=True,
        metavar="NAME",
        help="Experiment group whose jobs are run again.",
    )
    flags.add_where_argument(parser, "Run")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Only list the jobs and what has changed: nothing is built, run or recorded.",
    )
    parser.add_argument(
        "--all_jobs",
        action="store_true",
        help="Run all experiments again, and not only those that failed or were stopped.",
    )
    parser.add_argument("-y", "--yes", action="store_true", help="Don't ask.")
    parser.add_argument(
        "--same_image",
        action="store_true",
        help="Build nothing: each job runs in the very image that it had.",
    )
    parser.add_argument(
        "--cloud_key",
        metavar="FILE",
        help="Google Cloud service account key that the jobs get (default: the one that they had); "
        "for those elsewhere, as whom caliban sends them.",
    )
    parser.add_argument(
        "--project_id",
        metavar="PROJECT",
        help="Google Cloud project of the jobs that ran there: they are sent to the one where they "
        "ran, and a job of another project is an error.",
    )
    flags.add_secret_arguments(parser)
    flags.add_execution_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Asks, builds, runs; 0 only if everything that was asked for succeeded."""
    from caliban import launch
    from caliban.commands import job_choice, launch_record, relaunch, resending
    from caliban.docker.engine import Engine

    wanted = Selection.parse(args.where)
    with launch.open_history() as store, job_choice.Places(args.cloud_key) as places:
        chosen = _choose(args, store, wanted, places)
        jobs = _repeatable(chosen, args.project_id)
        if not jobs:
            which = "no job is like that" if args.where else "no job has failed or been stopped"
            terminal.note(f"Experiment group {args.xgroup}: nothing to resubmit: {which}.")
            return 0
        engine = Engine()
        again = relaunch.Again(args.cloud_key, args.secret, args.allow_key)
        plans = _plans(jobs, args.same_image)
        _announce(jobs, args.dry_run)
        for line in _comparisons(engine, jobs, plans, again, args.same_image):
            (terminal.result if args.dry_run else terminal.note)(line)
        if args.dry_run:
            terminal.note(f"{launch.count_of_jobs(len(jobs))}; nothing was built, run or recorded.")
            return 0
        what = "this job" if len(jobs) == 1 else f"these {len(jobs)} jobs"
        question = f"\ndo you wish to resubmit {what}?"
        hint = "--yes resubmits them without a question; --dry_run only lists them."
        if not args.yes and not terminal.confirm(question, hint):
            return 0
        code = 0
        if there := [job for job in jobs if is_remote(job)]:
            images = {} if args.same_image else _images(engine, store, there, plans, again)
            projects = [plans[number].directory for number in images]
            with launch_record.begin(args, add_arguments, engine, projects) as record:
                backends = places.backends()
                code = resending.resubmit(store, backends, there, plans, images, record)
        here = [job for job in jobs if not is_remote(job)]
        if here and code != INTERRUPTED:
            code = _run_here(args, store, engine, here, plans, again) or code
        return code or int(len(jobs) < len(chosen))


def _run_here(
    args: argparse.Namespace,
    store: HistoryStore,
    engine: Engine,
    jobs: Sequence[Job],
    plans: dict[int, ImagePlan],
    again: Again,
) -> int:
    """Runs jobs on this machine again; returns the exit code."""
    from caliban import launch
    from caliban.commands import (
        execution_choice,
        launch_record,
        relaunch,
        summary,
        tracking_choice,
    )
    from caliban.docker.containers import Containers
    from caliban.platform.local import LocalBackend

    engine.check_program()
    kept = [job for job in jobs if args.same_image or has_given_image(job)]
    hint = "Without --same_image, it is built anew." if args.same_image else ""
    relaunch.check_images(engine, kept, hint)
    jobs = again.jobs(jobs)
    backend = LocalBackend(Containers(engine), engine.host)
    how = execution_choice.choose(args, store, backend, relaunch.options(jobs))
    how = replace(how, tracking=tracking_choice.of_jobs(jobs))
    as_they_were = {job.id for job in kept if not job.container_spec.get("live")}
    new = [job for job in jobs if job.id not in as_they_were]
    projects = [job.container_spec["directory"] for job in new]
    has_gpus = bool(relaunch.options(jobs).gpus)
    with launch_record.begin(args, add_arguments, engine, projects, has_gpus) as record:
        if not args.same_image:
            jobs = _rebuilt(_images(engine, store, jobs, plans, again), jobs, plans)
        sweep = launch.again(backend, store, jobs, again.digest)
        fresh = [job.image for job in jobs if job.id not in as_they_were]
        record.keep(store, launch_record.made(sweep.jobs, launch_record.plans(jobs), fresh))
        return summary.see_through(backend, store, args.xgroup, sweep, how)


def _choose(
    args: argparse.Namespace, store: HistoryStore, wanted: Selection, places: Places
) -> list[Job]:
    """The newest job of each experiment that is to run again."""
    from caliban import launch, settle

    user = flags.user_name()
    unsettled = settle.unsettled(store, user, args.xgroup)
    settle.refresh(store, unsettled, places.connect, places.backends)
    newest = store.outlines(user, args.xgroup, 1)
    wanted.check(newest)
    chosen = wanted.choose(newest, causes(newest))
    if args.all_jobs:
        if open_ones := [job for job in chosen if not job.status.is_final]:
            terminal.note(f"Left alone: {launch.count_of_jobs(len(open_ones))} not ended yet")
        chosen = [job for job in chosen if job.status.is_final]
    else:
        chosen = [job for job in chosen if job.status in (Status.FAILED, Status.STOPPED)]
    of_uid = {job.uid: job for job in store.jobs([job.uid for job in chosen])}
    return [of_uid[job.uid] for job in chosen if job.uid in of_uid]


def _repeatable(jobs: Sequence[Job], project: str | None) -> list[Job]:
    """The jobs that can be run again from here; the others are named.

    Raises:
      UsageError: none can.
    """
    from caliban import launch

    possible: list[Job] = []
    errors: list[UsageError] = []
    for job in jobs:
        try:
            launch.check_again(job, job.submission.platform if is_remote(job) else "local")
            _check_project(job, project)
            possible.append(job)
        except UsageError as error:
            errors.append(error)
    if errors and not possible:
        raise errors[0]
    for each in errors:
        terminal.warn(each.message)
    return possible


def _check_project(job: Job, project: str | None) -> None:
    """Sees to it that a job belongs to the project that the user names, if it has one.

    Raises:
      UsageError: it belongs to another one.
    """
    target = job.submission.target.removeprefix("gke:")
    has_one = job.submission.platform == "vertex" or target != job.submission.target
    if project and has_one and target.partition("/")[0] != project:
        raise UsageError(
            f"job {job.id} ran in the project {target.partition('/')[0]}, not in {project}",
            "In another project, an experiment is started anew: 'caliban cloud', for one.",
        )


def _plans(jobs: Sequence[Job], same_image: bool) -> dict[int, ImagePlan]:
    """The image plans of jobs, by number.

    Raises:
      UsageError: files that one needs are gone.
    """
    from caliban.commands import relaunch

    plans = {}
    for job in jobs:
        if job.container_spec_id in plans or has_manifest(job):
            continue
        plan = plans[job.container_spec_id] = ImagePlan.from_json(job.container_spec)
        is_built = not same_image and not has_given_image(job)
        if not is_built and not plan.live:
            continue
        hint = "" if plan.live else "--same_image runs the image that it had, as it was."
        relaunch.check_is_project(job, plan, hint)
        if missing := _missing(plan, is_built):
            raise UsageError(f"{missing}, which job {job.id} needs, is gone", hint)
        try:
            if plan.module:
                module.find(plan.module.name, Path(plan.directory))
        except UsageError as error:
            raise UsageError(f"job {job.id}: {error.message}", hint) from None
    return plans


def _missing(plan: ImagePlan, is_built: bool) -> Path | None:
    """The project, or a file or directory of it that was there when the plan was made."""
    names = ["", *([plan.module.copied] if plan.module else []), *plan.directories]
    if is_built:
        names += [*plan.requirements, *([plan.project] if plan.project else [])]
        names += [plan.dockerfile.path] if plan.dockerfile else []
    return next((path for name in names if not (path := Path(plan.directory, name)).exists()), None)


def _announce(jobs: Sequence[Job], is_dry: bool) -> None:
    """Lists the jobs: for --dry_run, all of them are the result."""
    from caliban.commands import job_lines

    say, stream = (terminal.result, sys.stdout) if is_dry else (terminal.note, sys.stderr)
    say("the following jobs would be resubmitted:")
    for job in jobs if is_dry else jobs[:_LISTED]:
        say(job_lines.command(job))
        say(terminal.folded(f"  {job_lines.line(job)}", stream))
        if is_remote(job):
            say(f"  sent to: {job.submission.target}")
    if len(jobs) > _LISTED and not is_dry:
        say(f"... and {len(jobs) - _LISTED} more: --dry_run lists them all")


def _comparisons(
    engine: Engine,
    jobs: Sequence[Job],
    plans: dict[int, ImagePlan],
    again: Again,
    same_image: bool,
) -> Iterator[str]:
    """Says what has changed since the jobs were run, for each image that they had."""
    from caliban.commands import job_lines

    if same_image and not any(plan.live for plan in plans.values()):
        yield "\nthey run in the images that they had: what has changed since makes no difference."
        return
    yield "\nwhat has changed since:"
    now: dict[int, Parts | str] = {}
    groups: dict[tuple[int, str, str], list[Job]] = {}
    for job in jobs:
        code = str(job.details.get("code", ""))
        groups.setdefault((job.container_spec_id, job.image, code), []).append(job)
    for (spec, image, code), of_image in groups.items():
        try:
            if has_given_image(of_image[0]):
                flag = "--image_tag" if is_remote(of_image[0]) else "--image_id"
                how = "in its manifest" if has_manifest(of_image[0]) else f"by {flag}"
                shown = job_lines.short_image(image)
                found = f"nothing, because the image {shown} was named {how}"
            else:
                plan = plans[spec]
                if spec not in now:
                    now[spec] = _parts_now(engine, plan, again)
                found = _changes(engine, plan, image, code, now[spec], again)
        except EngineError as error:
            found = f"can't be told: {error.message}"
        which = ", ".join(str(job.id) for job in of_image[:5])
        which = f"job {which}" if len(of_image) == 1 else f"jobs {which}"
        yield f"  {which}{', ...' if len(of_image) > 5 else ''}: {found}"


def _parts_now(engine: Engine, plan: ImagePlan, again: Again) -> Parts | str:
    """What an image would be made of now, or why that can't be told."""
    from caliban.docker.image import context, own_dockerfile, provenance

    plan = own_dockerfile.current(plan, again.secrets(plan))
    base_id = engine.image_id(plan.base_image)
    files = context.files(plan, again.secrets(plan))
    if base_id is None:
        made = "built" if plan.dockerfile else "pulled"
        return f"can't be told: the base image {plan.base_image} has to be {made} first"
    return provenance.of_files(plan, base_id, files)


def _changes(
    engine: Engine, plan: ImagePlan, image: str, code: str, now: Parts | str, again: Again
) -> str:
    """What has changed since an image was built, in a line."""
    from caliban.docker.image import context, project, provenance

    if isinstance(now, str):
        return now
    labels = engine.labels(image)
    if labels is None:
        return "can't be told, because their image is not in the engine any more"
    before = provenance.of_labels(labels)
    if before is None:
        return "can't be told, because their image doesn't say what it was made of"
    parts = provenance.changes(before, now)
    if plan.live:
        is_other = context.code_digest(plan, again.secrets(plan)) != code
        parts = [("live code", is_other), *(part for part in parts if part[0] != "code")]
    changed = [terminal.paint(name, "yellow") for name, is_other in parts if is_other]
    same = [name for name, is_other in parts if not is_other]
    text = ", ".join(changed) + (f" (the same: {', '.join(same)})" if same else "")
    text = text if changed else f"nothing (the same: {', '.join(same)})"
    if not project.is_declared_as(plan):
        text += (
            "; dependencies are declared in other files now, which needs a new image plan: "
            "'caliban run' makes one"
        )
    return text


def _images(
    engine: Engine,
    store: HistoryStore,
    jobs: Sequence[Job],
    plans: Mapping[int, ImagePlan],
    again: Again,
) -> dict[int, Images]:
    """How the images that jobs need are built, by the number of their plan."""
    from caliban.images import Images

    def history() -> AbstractContextManager[HistoryStore]:
        return contextlib.nullcontext(store)

    needed = {job.container_spec_id for job in jobs if not has_given_image(job)}
    return {
        number: Images(
            engine,
            history,
            again.secrets(plan),
            again.build_secrets(plan),
            again.allowed_keys(plan),
        )
        for number, plan in plans.items()
        if number in needed
    }


def _rebuilt(
    images: Mapping[int, Images], jobs: Sequence[Job], plans: Mapping[int, ImagePlan]
) -> list[Job]:
    """Builds what the jobs need, and returns them with their new images and plans."""
    terminal.note("rebuilding containers...")
    built = {number: each.ensure(plans[number]) for number, each in images.items()}
    rebuilt = []
    for job in jobs:
        if job.container_spec_id in built and not has_given_image(job):
            plan, image = built[job.container_spec_id]
            job = replace(job, image=image, container_spec=plan.to_json())
        rebuilt.append(job)
    return rebuilt
