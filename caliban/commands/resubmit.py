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
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import flags, terminal
from caliban.errors import EngineError, UsageError
from caliban.model import module
from caliban.model.image import ImagePlan
from caliban.model.job import Job, Status
from caliban.model.selection import Selection, causes

if TYPE_CHECKING:
    from caliban.commands.relaunch import Again
    from caliban.docker.engine import Engine
    from caliban.docker.image.provenance import Parts
    from caliban.history.store import HistoryStore

# How many jobs are listed before the question.
_LISTED = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "--xgroup",
        type=flags.existing_group,
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
        help="Google Cloud service account key that the jobs get (default: the one that they had).",
    )
    parser.add_argument(
        "--project_id",
        metavar="ID",
        help="Google Cloud project, for jobs that ran there; those of this machine need none.",
    )
    flags.add_secret_arguments(parser)
    flags.add_execution_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Asks, builds, runs; 0 only if everything that was asked for succeeded."""
    from caliban import launch
    from caliban.commands import execution_choice, launch_record, relaunch, summary
    from caliban.docker.containers import Containers
    from caliban.docker.engine import Engine
    from caliban.platform.local import LocalBackend

    wanted = Selection.parse(args.where)
    with launch.open_history() as store:
        chosen = _choose(args, store, wanted)
        jobs = _repeatable(chosen)
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
        question = f"\ndo you wish to resubmit these {len(jobs)} jobs?"
        hint = "--yes resubmits them without a question; --dry_run only lists them."
        if not args.yes and not terminal.confirm(question, hint):
            return 0
        engine.check_program()
        kept = [job for job in jobs if args.same_image or _has_given_image(job)]
        hint = "Without --same_image, it is built anew." if args.same_image else ""
        relaunch.check_images(engine, kept, hint)
        jobs = again.jobs(jobs)
        backend = LocalBackend(Containers(engine), engine.host)
        how = execution_choice.choose(args, store, backend, relaunch.options(jobs))
        as_they_were = {job.id for job in kept if not job.container_spec.get("live")}
        new = [job for job in jobs if job.id not in as_they_were]
        projects = [job.container_spec["directory"] for job in new]
        has_gpus = bool(relaunch.options(jobs).gpus)
        with launch_record.begin(args, add_arguments, engine, projects, has_gpus) as record:
            if not args.same_image:
                jobs = _rebuilt(engine, store, jobs, plans, again)
            sweep = launch.again(backend, store, jobs, again.digest)
            fresh = [job.image for job in jobs if job.id not in as_they_were]
            record.keep(store, launch_record.made(sweep.jobs, launch_record.plans(jobs), fresh))
            code = summary.see_through(backend, store, args.xgroup, sweep, how)
        return code or int(len(jobs) < len(chosen))


def _choose(args: argparse.Namespace, store: HistoryStore, wanted: Selection) -> list[Job]:
    """The newest job of each experiment that is to run again."""
    from caliban import launch, settle
    from caliban.commands import job_choice

    user = flags.user_name()
    settle.refresh(store, settle.unsettled(store, user, args.xgroup), job_choice.connect)
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


def _repeatable(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that can be run again from here; the others are named.

    Raises:
      UsageError: none can.
    """
    from caliban import launch

    possible: list[Job] = []
    errors: list[UsageError] = []
    for job in jobs:
        try:
            launch.check_again(job)
            possible.append(job)
        except UsageError as error:
            errors.append(error)
    if errors and not possible:
        raise errors[0]
    for each in errors:
        terminal.warn(each.message)
    return possible


def _plans(jobs: Sequence[Job], same_image: bool) -> dict[int, ImagePlan]:
    """The image plans of jobs, by number.

    Raises:
      UsageError: files that one needs are gone.
    """
    plans = {}
    for job in jobs:
        if job.container_spec_id in plans:
            continue
        plan = plans[job.container_spec_id] = ImagePlan.from_json(job.container_spec)
        is_built = not same_image and not _has_given_image(job)
        if not is_built and not plan.live:
            continue
        hint = "" if plan.live else "--same_image runs the image that it had, as it was."
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


def _has_given_image(job: Job) -> bool:
    """Whether the job's image was named by --image_id: only then is it told what to execute."""
    settings = job.submission.payload["settings"]
    return bool(settings.get("command")) and not job.container_spec.get("live")


def _announce(jobs: Sequence[Job], is_dry: bool) -> None:
    """Lists the jobs: for --dry_run, all of them are the result."""
    from caliban.commands import job_lines

    say = terminal.result if is_dry else terminal.note
    say("the following jobs would be resubmitted:")
    for job in jobs if is_dry else jobs[:_LISTED]:
        say(job_lines.command(job))
        say(f"  {job_lines.line(job)}")
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
        plan = plans[spec]
        try:
            if _has_given_image(of_image[0]):
                found = f"nothing, because the image {image[:19]} was named by --image_id"
            else:
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


def _rebuilt(
    engine: Engine,
    store: HistoryStore,
    jobs: Sequence[Job],
    plans: dict[int, ImagePlan],
    again: Again,
) -> list[Job]:
    """Builds what the jobs need, and returns them with their new images and plans."""
    from caliban.images import Images

    terminal.note("rebuilding containers...")
    needed = {job.container_spec_id for job in jobs if not _has_given_image(job)}

    def history() -> AbstractContextManager[HistoryStore]:
        return contextlib.nullcontext(store)

    built = {
        number: Images(
            engine,
            history,
            again.secrets(plan),
            again.build_secrets(plan),
            again.allowed_keys(plan),
        ).ensure(plan)
        for number, plan in plans.items()
        if number in needed
    }
    rebuilt = []
    for job in jobs:
        if not _has_given_image(job):
            plan, image = built[job.container_spec_id]
            job = replace(job, image=image, container_spec=plan.to_json())
        rebuilt.append(job)
    return rebuilt
