"""Run the experiments of a file again that `caliban export` has written, and compare.

Every byte of the file is checked first. The image is loaded, if the file has it, or built from what
was recorded: the code, the lock, the Dockerfile. The same experiments run in a new group, and a
table says of each whether it came to the same. Nothing of the file is executed outside of
containers, and those get none of your credentials.

  caliban replay tuning.tar
  caliban replay tuning.tar --only 1-3 --tolerance 0.01
  caliban replay tuning.tar --on 'cloud --region europe-west4'
  caliban replay tuning.tar --on 'cluster --context minikube'
  caliban replay tuning.tar --extract tuning
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from caliban import flag_types, flags, home, steps, terminal
from caliban.errors import UsageError

if TYPE_CHECKING:
    from caliban.bundle.recorded import Recorded, RecordedJob
    from caliban.commands.replay_platform import Platform

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
        "--on",
        metavar="PLATFORM",
        help="Where the jobs run, with flags of the command that sends them there, in one string "
        "that is split as a shell splits it: 'cloud --region europe-west4', for Vertex AI, or "
        "'cluster --context minikube', for Kubernetes (default: on this machine).",
    )
    parser.add_argument(
        "--xgroup",
        type=flag_types.group_name,
        metavar="NAME",
        help="Experiment group that the jobs belong to (default: a new one). In one that is there, "
        "only what has not succeeded with the same image is run; all of it is compared. Jobs of "
        "it that were sent elsewhere are waited for; --on sends others.",
    )
    parser.add_argument(
        "--rerun",
        action="store_true",
        help="Run also the experiments that have succeeded in --xgroup with this very image.",
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

    _check_together(args)
    tolerance = Tolerance.parse(args.tolerance)
    platform = None
    if args.on is not None:
        from caliban.commands.replay_platform import Platform

        platform = Platform.parse(args)
    with Archive(home.expand(args.file)) as archive:
        with steps.patience(f"Check {archive.path.name}") as tick:
            archive.check(tick)
        found = recorded.read(archive)
        terminal.note(f"All parts are as they were written: {archive.digest}")
        if args.extract:
            from caliban.commands import replay_extract

            return replay_extract.extract(archive, found, home.expand(args.extract))
        jobs = _choose(args, found)
        if args.on is None and args.xgroup and not args.dry_run and _is_elsewhere(args.xgroup):
            from caliban.commands import replay_waiting

            if args.rerun:
                raise UsageError(
                    f"--rerun: jobs of {args.xgroup} were sent elsewhere; only --on sends others"
                )
            return replay_waiting.compare(args, archive, jobs, tolerance)
        if args.dry_run:
            return _list(found, jobs)
        _check_wanted(args, platform, found, jobs)
        if platform is None:
            from caliban.commands import replay_here

            return replay_here.run(args, archive, found, jobs, tolerance)
        from caliban.commands import replay_elsewhere

        return replay_elsewhere.run(args, platform, archive, found, jobs, tolerance)


def _check_together(args: argparse.Namespace) -> None:
    """Sees to it that no flag is passed over because of another one.

    Raises:
      UsageError: one would be.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    usual = vars(parser.parse_args(["--", args.file])) | {"extract": args.extract}
    others = [f"--{name}" for name, value in usual.items() if getattr(args, name) != value]
    if args.extract and others:
        raise UsageError(
            f"--extract and {' '.join(others)} don't go together: nothing is run, and the code is "
            "written with all experiments"
        )
    if args.dry_run and args.json:
        raise UsageError("--dry_run and --json don't go together: nothing is compared")


def again(args: argparse.Namespace, group: str, is_sent: bool = False) -> str:
    """The command that goes on with a replay.

    Args:
      args: the command line of it.
      group: that its jobs belong to.
      is_sent: whether all jobs were sent elsewhere, and are to be compared only.
    """
    from caliban.commands import launch_record
    from caliban.model.provenance import Provenance

    given = {**launch_record.given(args, add_arguments), "xgroup": group}
    given.pop("rerun", None)  # what has succeeded meanwhile isn't run once more
    if is_sent:
        given.pop("on", None)
    return shlex.join(Provenance("", args.command, given).command_line())


def _is_elsewhere(group: str) -> bool:
    """Whether a group is there, and jobs of it were sent elsewhere."""
    from caliban import launch
    from caliban.remote.backends import is_remote

    with launch.open_history() as store, contextlib.suppress(UsageError):
        return any(is_remote(job) for job in store.group_jobs(flags.user_name(), group, 1))
    return False


def _choose(args: argparse.Namespace, found: Recorded) -> list[RecordedJob]:
    """The experiments that are to run.

    Raises:
      UsageError: there are none, or not those that are named.
    """
    from caliban.model.selection import Outline, Selection, causes

    numbers = list(_ranges(args.only))
    if beyond := next((each for each in numbers if each[-1] > len(found.jobs)), None):
        number = len(found.jobs)
        many = "1 experiment" if number == 1 else f"{number} experiments"
        raise UsageError(f"--only {beyond[-1]}: the file has {many}")
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
        image = launch.image
        how = "loaded from the file" if image.id in found.images else "built, unless it is here"
        terminal.note(f"The image {image.name or image.id} would be {how}.")
    terminal.note(f"{count_of_jobs(len(jobs))}; nothing was built, run or recorded.")
    return 0


def _check_wanted(
    args: argparse.Namespace,
    platform: Platform | None,
    found: Recorded,
    jobs: Sequence[RecordedJob],
) -> None:
    """Says what the jobs had that they don't get by themselves here.

    Raises:
      UsageError: without it, they would only fail.
    """
    launches = [found.launches[number] for number in dict.fromkeys(job.launch for job in jobs)]
    output = platform.args.output if platform else args.output
    if not output and any(each.keeps_files for each in launches):
        way = f"in --on: --output {platform.outputs}" if platform else "--output DIR"
        raise UsageError("the jobs wrote files that were kept", f"Name a place for them: {way}")
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
        way = "--service_account in --on" if platform else "--cloud_key"
        terminal.warn(f"the jobs had Google Cloud credentials; {way} gives them some")
