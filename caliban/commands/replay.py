"""Run the experiments of a file again that `caliban export` has written, and compare.

Every byte of the file is checked first. The image is loaded, if the file has it, or built from what
was recorded: the code, the lock, the Dockerfile. The same experiments run in a new group, and a
table says of each whether it came to the same. Nothing of the file is executed outside of
containers, and those get none of your credentials.

  caliban replay tuning.tar
  caliban replay tuning.tar --only 1-3 --tolerance 0.01
  caliban replay tuning.tar --extract tuning
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import flag_types, flags, home, terminal
from caliban.errors import INTERRUPTED, UsageError

if TYPE_CHECKING:
    from caliban.bundle.archive import Archive
    from caliban.bundle.recorded import Recorded, RecordedJob, RecordedLaunch
    from caliban.commands.container_choice import ContainerChoice
    from caliban.commands.replay_images import Prepared
    from caliban.docker.engine import Engine
    from caliban.model.reproduction import Tolerance
    from caliban.platform.local import Options

_RANGE = re.compile(r"([1-9]\d{0,8})(?:-([1-9]\d{0,8}))?", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument("file", metavar="FILE", help="File that 'caliban export' has written.")
    parser.add_argument(
        "--only",
        type=_numbers,
        action="append",
        default=[],
        metavar="N",
        help="Run only this experiment, or these: 3, 2-5 or 1,4,7-9, in the order of the file. May "
        "be given several times.",
    )
    flags.add_where_argument(parser, "Run")
    parser.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="[METRIC=]NUMBER",
        help="How far a metric may be from what was recorded, as a part of it: 0.01 for 1 %%, "
        "loss=0.1 for one metric, seconds=inf for any value (default: 0). May be given several "
        "times.",
    )
    parser.add_argument("--json", action="store_true", help="Print the comparison as JSON.")
    parser.add_argument(
        "--xgroup",
        type=flag_types.group_name,
        metavar="NAME",
        help="Experiment group that the jobs belong to (default: a new one). In one that is there, "
        "only what has not succeeded with the same image is run; all of it is compared.",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Only check the file and list what would be run: nothing is built, run or recorded.",
    )
    parser.add_argument(
        "--extract",
        metavar="DIR",
        help="Run nothing: put code, experiment file and settings of each launch into a new "
        "directory, where every command works with them.",
    )
    parser.add_argument(
        "--nogpu", action="store_true", help="Give the jobs no GPUs, although they had some."
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="Keep what each job writes into the directory that $CALIBAN_OUTPUT names inside the "
        "container, as DIR/GROUP/JOB.",
    )
    parser.add_argument(
        "--cloud_key",
        metavar="FILE",
        help="Google Cloud service account key that the jobs get; without it, they get no "
        "credentials at all.",
    )
    flags.add_docker_run_args(parser)
    flags.add_secret_arguments(parser)
    flags.add_execution_arguments(parser, is_recorded=True)


def _numbers(text: str) -> str:
    """An argparse type: "1,4,7-9"."""
    for each in text.split(","):
        match = _RANGE.fullmatch(each)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise argparse.ArgumentTypeError(f"expected numbers like 1,4,7-9, found '{text}'")
    return text


def _ranges(texts: Sequence[str]) -> Iterator[range]:
    for each in ",".join(texts).split(",") if texts else ():
        first, _, last = each.partition("-")
        yield range(int(first), int(last or first) + 1)


def run(args: argparse.Namespace) -> int:
    """Checks, builds, runs and compares; 0 only if everything came to the same."""
    from caliban.bundle import recorded
    from caliban.bundle.archive import Archive
    from caliban.model.reproduction import Tolerance

    tolerance = Tolerance.parse(args.tolerance)
    with Archive(home.expand(args.file)) as archive:
        archive.check()
        found = recorded.read(archive)
        terminal.note(f"All parts are as they were written: {archive.digest}")
        if args.extract:
            from caliban.commands import replay_extract

            return replay_extract.extract(archive, found, home.expand(args.extract))
        jobs = _choose(args, found)
        if args.dry_run:
            return _list(found, jobs)
        _check_wanted(args, found, jobs)
        return _replay(args, archive, found, jobs, tolerance)


def _choose(args: argparse.Namespace, found: Recorded) -> list[RecordedJob]:
    """The experiments that are to run.

    Raises:
      UsageError: there are none, or not those that are named.
    """
    from caliban.model.selection import Outline, Selection, causes

    numbers = list(_ranges(args.only))
    if beyond := next((each for each in numbers if each[-1] > len(found.jobs)), None):
        raise UsageError(f"--only {beyond[-1]}: the file has {len(found.jobs)} experiments")
    outlines = [
        Outline(
            *(job.number, str(job.number), job.number, job.launch, job.experiment),
            *(job.status, job.reason, job.metrics, job.cause),
        )
        for job in found.jobs
    ]
    wanted = Selection.parse(args.where)
    wanted.check(outlines)
    chosen = {each.id for each in wanted.choose(outlines, causes(outlines))}
    jobs = [
        job
        for job in found.jobs
        if job.number in chosen and (not numbers or any(job.number in each for each in numbers))
    ]
    if not jobs:
        raise UsageError("no experiment of the file is like that")
    return jobs


def _list(found: Recorded, jobs: Sequence[RecordedJob]) -> int:
    """Lists what would be run, for --dry_run."""
    from caliban.launch import count_of_jobs
    from caliban.model import experiment_text

    for job in jobs:
        launch = found.launches[job.launch]
        module = launch.plan.module.name if launch.plan.module else ""
        terminal.result(f"{job.number}: {module} {experiment_text.quoted(job.experiment)}".rstrip())
    for number in dict.fromkeys(job.launch for job in jobs):
        launch = found.launches[number]
        how = "loaded from the file" if launch.image in found.images else "built, unless it is here"
        terminal.note(f"The image {launch.name or launch.image} would be {how}.")
    terminal.note(f"{count_of_jobs(len(jobs))}; nothing was built, run or recorded.")
    return 0


def _check_wanted(args: argparse.Namespace, found: Recorded, jobs: Sequence[RecordedJob]) -> None:
    """Says what the jobs had that they don't get by themselves here.

    Raises:
      UsageError: without it, they would only fail.
    """
    launches = [found.launches[number] for number in dict.fromkeys(job.launch for job in jobs)]
    if not args.output and any(each.keeps_files for each in launches):
        raise UsageError(
            "the jobs wrote files that were kept", "Name a directory for them: --output DIR"
        )
    if without := [each.plan for each in launches if each.plan.module is None]:
        raise UsageError(f"nothing is recorded of {len(without)} launches that could be run")
    run_args = dict.fromkeys(each.run_args for each in launches if each.run_args)
    if run_args and not args.docker_run_args:
        terminal.warn(
            "the jobs were run with arguments for docker that a file cannot ask for: "
            f"--docker_run_args {', '.join(map(ascii, run_args))}"
        )
    key = "GOOGLE_APPLICATION_CREDENTIALS"
    if not args.cloud_key and any(key in each.variables for each in launches):
        terminal.warn("the jobs had Google Cloud credentials; --cloud_key gives them some")


def _replay(
    args: argparse.Namespace,
    archive: Archive,
    found: Recorded,
    jobs: Sequence[RecordedJob],
    tolerance: Tolerance,
) -> int:
    """Makes the images, runs the jobs and compares; returns the exit code."""
    from caliban import launch
    from caliban.commands import (
        container_choice,
        execution_choice,
        launch_record,
        replay_images,
        replay_jobs,
        replay_table,
        summary,
    )
    from caliban.docker.containers import Containers
    from caliban.docker.engine import Engine
    from caliban.model.image import Mode
    from caliban.model.reproduction import Verdict
    from caliban.platform.local import LocalBackend

    output = container_choice.output_directory(args.output, args.xgroup)
    engine = Engine()
    engine.check_program()
    used = dict.fromkeys(job.launch for job in jobs)
    has_gpus = not args.nogpu and any(found.launches[each].plan.mode is Mode.GPU for each in used)
    with tempfile.TemporaryDirectory(prefix="caliban-") as folder, launch.open_history() as store:
        top = Path(folder).resolve()
        workshop = replay_images.Workshop(archive, dict(found.images), engine, store, args)
        prepared: dict[int, Prepared] = {}
        for number in used:
            prepared[number] = workshop.prepare(found.launches[number], top / str(number))
            _tell(found.launches[number], prepared[number])
        containers = {
            number: _container(args, found.launches[number], each, engine, output)
            for number, each in prepared.items()
        }
        settings = [each.options for each in containers.values()]
        options = next((each for each in settings if not each.gpus), settings[0])
        secrets = dict(options.secrets)
        backend = LocalBackend(Containers(engine), engine.host, secrets)
        how = execution_choice.choose(
            _as_recorded(args, found.launches[jobs[0].launch], options), store, backend, options
        )
        for container in containers.values():
            container.prepare()
        projects = [each.plan.directory for each in prepared.values()]
        record = launch_record.begin(args, add_arguments, engine, projects, has_gpus)
        with record:
            group = launch.new_group(store, flags.user_name(), args.xgroup)
            options_of = {number: each.options for number, each in containers.items()}
            wanted = replay_jobs.Wanted(archive.path.resolve(), group, output, not args.xgroup)
            swept, uids = replay_jobs.record(backend, store, wanted, jobs, prepared, options_of)
            fresh = [each.image for each in prepared.values() if each.is_built]
            plans = {each.image: each.plan.to_json() for each in prepared.values()}
            record.keep(store, launch_record.made(swept.jobs, plans, fresh))
            code = summary.see_through(backend, store, group, swept, replace(how, is_quiet=True))
        ran = {job.uid: job for job in store.jobs(list(uids.values()))}
    rows = [replay_table.Row(job, ran.get(uids.get(job.number, "")), tolerance) for job in jobs]
    if args.json:
        differences = [line for each in prepared.values() for line in each.differences]
        terminal.result_json(replay_table.as_json(archive, group, rows, differences))
    else:
        for line in replay_table.lines(rows):
            terminal.result(line)
    terminal.note(f"Experiment group {group}: {replay_table.summary(rows)}")
    if code == INTERRUPTED:
        return code
    return int(any(row.verdict is not Verdict.SAME for row in rows))


def _tell(recorded: RecordedLaunch, prepared: Prepared) -> None:
    """Says how an image compares with the one that was recorded."""
    name = recorded.name or recorded.image
    if prepared.differences:
        terminal.warn("\n  ".join([f"the image is not as {name} was:", *prepared.differences]))
    elif prepared.is_built:
        terminal.note(f"The image is made of the same as {name} was.")
    else:
        terminal.note(f"The image is the very one that was recorded: {recorded.image}")


def _container(
    args: argparse.Namespace,
    recorded: RecordedLaunch,
    prepared: Prepared,
    engine: Engine,
    output: Path | None,
) -> ContainerChoice:
    """How the containers of a launch are run."""
    from caliban.commands import container_choice
    from caliban.docker import identity
    from caliban.model.image import WORKING_DIRECTORY, Mode

    plan = prepared.plan
    # Who wrote the file decides what runs: it gets nothing of the user's but what is given to it.
    credentials = identity.Credentials()
    if args.cloud_key:
        credentials = replace(identity.credentials(args.cloud_key, {}), adc=None)
    mounts = container_choice.live(plan, []) if plan.live else []
    run_args = container_choice.split(args.docker_run_args)
    container = container_choice.choose(credentials, engine, run_args, mounts, output)
    mode = Mode.CPU if args.nogpu else plan.mode
    options = replace(
        container.options,
        gpus=container_choice.gpus(engine, mode, "replay"),
        gpus_per_job=args.gpus_per_job or recorded.number("gpus_per_job") or 0,
    )
    if args.nogpu:
        options = replace(options, gpus_per_job=0)
    if plan.module and (plan.live or recorded.flags.get("image_id")):
        options = replace(options, command=plan.module.command)
    if plan.live:
        options = replace(options, directory=WORKING_DIRECTORY)
    options = container_choice.with_home(options, engine, prepared.image)
    return replace(container, options=options)


def _as_recorded(
    args: argparse.Namespace, recorded: RecordedLaunch, options: Options
) -> argparse.Namespace:
    """The command line, with what was recorded of how many jobs run at a time."""
    if args.jobs is not None:
        return args
    from caliban.commands import execution_choice

    number = recorded.number("jobs")
    if number is None or number > execution_choice.cores():
        number = 1 if number is None else execution_choice.cores()
    return argparse.Namespace(**{**vars(args), "jobs": number})
