"""Make a page of an experiment group that can be read, sent and kept without caliban.

It has the sweep's table, its metric against each parameter, the best runs, failures by cause,
durations, and what exactly ran. It is one HTML file that needs no network; with --md, Markdown for
a README or a pull request. Of each experiment, the newest job counts.

  caliban report tuning -o report.html
  caliban report tuning --sort -loss -o report.html
  caliban report tuning --md
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caliban import flag_types, flags, home, joblog, result_file, terminal
from caliban.errors import CalibanError, UsageError
from caliban.model.job import Job

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore
    from caliban.report.facts import Facts, Launch

# How many lines of a failed job's output are shown, and how long one may be.
_LINES = 15
_LONGEST = 500

# What moves a terminal's cursor, or colours what comes.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "group",
        type=flag_types.group_name,
        metavar="GROUP",
        help="Name of the experiment group.",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="File to write; what is there is replaced (default: standard output).",
    )
    parser.add_argument(
        "--md", action="store_true", help="Write Markdown, which has no charts, and not HTML."
    )
    parser.add_argument(
        "--sort",
        default="",
        metavar="METRIC",
        help="The metric that counts, the largest value being the best; with a '-' before the "
        "name, the smallest (default: the first one that the jobs reported).",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the report."""
    from caliban import launch
    from caliban.commands import jobs_now
    from caliban.report import facts, markdown, page

    if args.output is None and not args.md and sys.stdout.isatty():
        raise UsageError(
            "a page of HTML is nothing for a terminal",
            f"Name a file: caliban report {args.group} -o report.html",
        )
    user = flags.user_name()
    with launch.open_history() as store:
        jobs = jobs_now.of_group(store, user, args.group)
        launches = _launches(store, jobs)
    found = facts.find(args.group, jobs, args.sort, launches)
    text = markdown.render(found) if args.md else page.render(found, _excerpts(found))
    if args.output is None:
        terminal.result_bytes(text.encode())
        return 0
    path = home.expand(args.output)
    with result_file.writing(path) as stream:
        stream.write(text.encode())
    terminal.note(f"Written: {path}")
    return 0


def _launches(store: HistoryStore, jobs: Sequence[Job]) -> list[Launch]:
    """What the jobs are made of, that of the oldest one first."""
    from caliban.report.facts import Launch

    numbers = {job.uid: job.id for job in jobs}
    found = store.provenances.of_jobs(list(numbers))
    return [Launch(each, [numbers[uid] for uid in uids]) for each, uids in found.values()]


def _excerpts(facts: Facts) -> dict[int, str]:
    """The end of what the first job of each cause of failure has printed."""
    uids = {run.job.id: run.job.uid for run in facts.runs}
    found = {}
    for cause in facts.causes:
        try:
            printed = b"".join(joblog.read(uids[cause.jobs[0]], _LINES))
        except (CalibanError, OSError):
            continue
        text = _ESCAPE.sub("", printed.decode(errors="replace"))
        # A terminal ends lines with a carriage return as well, and bars begin anew after one.
        ends = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip().split("\n")]
        lines = [line[:_LONGEST] for line in ends]
        found[cause.number] = "\n".join(lines[-_LINES:])
    return found
