"""Show what jobs have printed, stdout and stderr together, byte for byte.

With --follow, also what they print until they end. The headings of several jobs, and notes on jobs
that have nothing to show, go to stderr.

  caliban logs 12
  caliban logs --follow 12
  caliban logs --xgroup tuning --failed --tail 20
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from caliban import flag_types, flags, joblog, terminal
from caliban.errors import CalibanError, UsageError
from caliban.model.experiment_text import quoted
from caliban.model.job import Job, Status

if TYPE_CHECKING:
    from caliban.commands.job_choice import Places
    from caliban.commands.log_follower import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    flags.add_job_arguments(parser, "the newest job of each experiment")
    parser.add_argument(
        "--failed", action="store_true", help="Only those of the jobs that have failed."
    )
    parser.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="Go on with what the jobs print until they end. With several, each line comes after "
        "the number of its job.",
    )
    parser.add_argument(
        "--tail",
        type=flag_types.natural_number,
        metavar="N",
        help="Begin with the last N lines of each job (default: with all of them).",
    )


def run(args: argparse.Namespace) -> int:
    """Shows the logs; 0 also where there is none."""
    from caliban import launch, settle
    from caliban.commands import job_choice, log_follower, log_source
    from caliban.commands.log_source import is_there

    job_choice.check(args)
    if not args.jobs and not args.xgroup:
        raise UsageError(
            "no job is named", "caliban logs 12, or caliban logs --xgroup GROUP, for example."
        )
    user = flags.user_name()
    with launch.open_history() as store, job_choice.Places() as places:
        if args.xgroup:
            jobs = store.group_jobs(user, args.xgroup, 1)
        else:
            jobs = job_choice.by_number(store, user, args.jobs)
        # What a dead caliban has left behind may have ended, and what it printed not be kept yet.
        unsettled = [job for job in jobs if log_source.is_left(job) or is_there(job)]
        settle.refresh(store, unsettled, places.connect, places.backends)
        now = {job.uid: job for job in store.jobs([job.uid for job in jobs])}
        jobs = [now[job.uid] for job in jobs]
        if args.failed:
            jobs = [job for job in jobs if job.outcome.status is Status.FAILED]
            if not jobs:
                terminal.note("None of these jobs has failed.")
        output = log_follower.Output(several=len(jobs) > 1)
        ended = [job for job in jobs if job.outcome.status.is_final]
        is_whole = log_source.fetch(store, places, ended)
        if args.follow:
            code = log_follower.follow(store, places, jobs, args.tail, output)
        else:
            code = _show(places, jobs, args.tail, output)
    return max(code, int(not is_whole))


def _show(places: Places, jobs: Sequence[Job], tail: int | None, output: Output) -> int:
    """Shows what there is by now, one job after another; 1 if some of it can't be had."""
    from caliban.commands.log_source import CUT, why_nothing

    code = 0
    for job in jobs:
        if len(jobs) > 1:
            output.note(f"job {job.id} {quoted(job.experiment)}".rstrip(), "bold")
        is_empty = True
        try:
            for piece in _pieces(places, job, tail):
                is_empty = False
                output.write(piece)
        except CalibanError as error:  # it is about this job alone
            terminal.warn(f"job {job.id}: {error.message}")
            code = 1
            continue
        if is_empty and tail != 0:
            output.note(f"job {job.id}: {why_nothing(job)}")
        elif joblog.is_cut(job.uid):
            output.note(f"job {job.id}: {CUT}")
    return code


def _pieces(places: Places, job: Job, tail: int | None) -> Iterator[bytes]:
    """What a job has printed by now: from its file, or from where it is if nobody writes that."""
    from caliban.commands.log_source import is_there, left_container

    if job.handle and is_there(job):
        yield from places.backends().of(job.handle.platform).logs(job.handle, False, tail)
    elif handle := left_container(places.connect, job):
        yield from places.connect().logs(handle, follow=False, tail=tail)
    else:
        yield from joblog.read(job.uid, tail)
