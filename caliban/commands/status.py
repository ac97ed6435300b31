"""Show jobs and what became of them.

Without --xgroup, the newest jobs of all experiment groups; with it, the experiments of that group,
each with its newest jobs, and what made jobs fail. Of a group with more than 50 experiments, only
how many there are of each status. Jobs that are still open are asked about first.

  caliban status --xgroup my-sweep --failed
  caliban status --xgroup my-sweep --where learning_rate=0.01 --where cause=2
  caliban status --xgroup my-sweep --sort accuracy
  caliban status --watch
"""

from __future__ import annotations

import argparse
import datetime
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caliban import flag_types, flags, terminal
from caliban.errors import UsageError
from caliban.model import selection
from caliban.model.job import Status
from caliban.model.selection import Cause, Outline, Selection, Tally
from caliban.remote.backends import is_remote

if TYPE_CHECKING:
    from caliban.commands.job_choice import Places
    from caliban.history.store import HistoryStore
    from caliban.model.job import Job

_NEWEST = 8

# A group with more is summed up: nobody reads a longer list, and a terminal shows no more.
_MOST_EXPERIMENTS = 50

# How many of a group that is summed up are listed when they are sorted.
_BEST = 10

# How many jobs are read at a time.
_PIECE = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "--xgroup", type=flag_types.group_name, metavar="NAME", help="Experiment group to show."
    )
    parser.add_argument(
        "--max_jobs",
        type=flag_types.natural_number,
        metavar="N",
        help=f"How many jobs to show (default: {_NEWEST}) or, with --xgroup, how many for each "
        "experiment (default: 1). 0 shows all.",
    )
    parser.add_argument("--failed", action="store_true", help="Show the jobs that failed only.")
    flags.add_where_argument(parser, "Show")
    parser.add_argument(
        "--sort",
        metavar="METRIC",
        help="Sort by a metric that the jobs reported, or by a flag, the largest value first; with "
        "a '-' before the name, the smallest. Jobs without it come last.",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="Show it again every 2 s, or every 5 s with jobs elsewhere, until nothing is open; "
        "where stdout is no terminal, after each change.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON, for programs.")


@dataclass(frozen=True)
class View:
    """The jobs that are to be shown.

    Attributes:
      args: the command line.
      user: whose jobs.
      jobs: the chosen ones, in the order in which they are shown; where they are only counted,
        those of them that failed.
      tallies: how many were chosen.
      causes: why jobs of the group have failed.
      is_open: whether what becomes of some job is not known yet, but will be.
      is_complete: whether the open ones could all be asked about.
      unsent: jobs for elsewhere that are not known to have been sent, and that nobody here sends.
      is_elsewhere: whether platforms elsewhere were asked.
    """

    args: argparse.Namespace
    user: str
    jobs: Sequence[Outline]
    tallies: Sequence[Tally]
    causes: Sequence[Cause]
    is_open: bool
    is_complete: bool
    unsent: Sequence[Job]
    is_elsewhere: bool

    @property
    def total(self) -> int:
        """How many jobs were chosen."""
        return sum(each.number for each in self.tallies)

    @property
    def is_sum(self) -> bool:
        """Whether there are too many to be listed."""
        return _may_be_sum(self.args) and self.total > _MOST_EXPERIMENTS


def _may_be_sum(args: argparse.Namespace) -> bool:
    return args.xgroup is not None and args.max_jobs is None and not args.json


def _full(store: HistoryStore, uids: Sequence[str]) -> Iterator[Job]:
    """All that is known of jobs, a part of them in memory at a time."""
    for start in range(0, len(uids), _PIECE):
        some = uids[start : start + _PIECE]
        found = {job.uid: job for job in store.jobs(some)}
        yield from (found[uid] for uid in some if uid in found)  # not if removed meanwhile


def run(args: argparse.Namespace) -> int:
    """Brings the open jobs up to date and prints; 1 if some could not be asked about."""
    from caliban import launch
    from caliban.commands import job_choice, tracking_choice

    wanted = Selection.parse(args.where, args.failed)
    if wanted.names_causes and args.xgroup is None:
        raise UsageError(
            "--where cause=...: causes are numbered within a group", "Name one by --xgroup."
        )
    with launch.open_history() as store, job_choice.Places() as places:
        if args.watch:
            from caliban.commands import watch

            return watch.run(
                lambda: look(store, args, wanted, places),
                lambda view, now: lines(view, store, now),
                args.json,
            )
        view = look(store, args, wanted, places)
        for line in lines(view, store, datetime.datetime.now(datetime.UTC)):
            terminal.result(line)
        tracking_choice.send_waiting(store)
    for hint in _hints(view):
        terminal.note(hint)
    return 0 if view.is_complete else 1


def look(store: HistoryStore, args: argparse.Namespace, wanted: Selection, places: Places) -> View:
    """Brings the open jobs up to date, and chooses those to show.

    Raises:
      UsageError: there is no such group, flag, metric or cause.
    """
    from caliban import launch, settle
    from caliban.commands import job_lines

    user = flags.user_name()
    unsettled = settle.unsettled(store, user, args.xgroup)
    complete = settle.refresh(store, unsettled, places.connect, places.backends)
    unsent = [job for job in unsettled if job_lines.is_unsent(job) and launch.is_left(job)]
    lost = {job.uid for job in unsent}
    is_elsewhere = any(job.handle and is_remote(job) for job in unsettled)
    found: list[Cause] = []
    if _may_be_sum(args) and not wanted and not args.sort:
        tallies = store.tallies(user, args.xgroup)
        if sum(each.number for each in tallies) > _MOST_EXPERIMENTS:
            jobs = store.outlines(user, args.xgroup, 1, Status.FAILED)
            causes = selection.causes(jobs)
            is_open = sum(each.number for each in tallies if not each.status.is_final) > len(lost)
            return View(args, user, jobs, tallies, causes, is_open, complete, unsent, is_elsewhere)
    if args.xgroup is not None:
        jobs = store.outlines(user, args.xgroup, 1 if args.max_jobs is None else args.max_jobs)
        wanted.check(jobs)
        # Of the newest of each experiment only: what was run again is settled.
        newest = {job.experiment_id: job for job in jobs}
        found = selection.causes(newest.values())
        chosen = wanted.choose(jobs, found)
    else:
        limit = _NEWEST if args.max_jobs is None else args.max_jobs
        chosen = _recent(store, user, limit, wanted)
        jobs = _recent(store, user, limit, Selection({})) if wanted else chosen
    if args.sort:
        chosen = selection.ordered(chosen, args.sort)
    is_open = any(not job.status.is_final and job.uid not in lost for job in jobs)
    tallies = selection.tallies(chosen)
    return View(args, user, chosen, tallies, found, is_open, complete, unsent, is_elsewhere)


def _recent(store: HistoryStore, user: str, limit: int, wanted: Selection) -> list[Outline]:
    """The newest jobs over all groups that are wanted, the oldest first; limit 0 is all."""

    def pages() -> Iterator[list[Outline]]:
        before = None
        size = limit if limit and not wanted else _PIECE
        while page := store.recent_outlines(user, size, before):
            yield page
            before = page[-1].id

    matching = itertools.chain.from_iterable(wanted.choose(page) for page in pages())
    return list(itertools.islice(matching, limit or None))[::-1]


def lines(view: View, store: HistoryStore, now: datetime.datetime | None) -> Iterable[str]:
    """What is printed; see job_lines.render for `now`."""
    from caliban.commands import job_lines

    if view.args.json:
        numbers = _cause_numbers(view)
        found = _full(store, [job.uid for job in view.jobs])
        yield from _json(job_lines.as_json(job, numbers.get(job.id)) for job in found)
    elif view.total:
        yield from map(terminal.folded, _page(view, store, now))
        # Commands stay in one piece, to be copied.
        if told := list(job_lines.ways_on(view.unsent)):
            yield ""
            yield from told


def _page(view: View, store: HistoryStore, now: datetime.datetime | None) -> Iterator[str]:
    """The jobs, and what made some fail, for people."""
    from caliban.commands import job_lines

    args = view.args
    metric = (args.sort or "").removeprefix("-")
    if view.is_sum:
        examples = {each.container_spec_id: each.uid for each in view.tallies}
        yield f"xgroup {terminal.paint(args.xgroup, 'bold')}:"
        yield from job_lines.counts(view.tallies, _full(store, [*examples.values()]))
        if args.sort:
            yield f"\nthe first {_BEST} by {args.sort}:"
            best = _full(store, [job.uid for job in view.jobs[:_BEST]])
            yield from job_lines.render(best, "", _cause_numbers(view), metric, now)
    else:
        heading = ""
        if args.xgroup is None:
            limit = _NEWEST if args.max_jobs is None else args.max_jobs
            title = f"most recent {job_lines.numbered(limit, 'job')}" if limit else "all jobs"
            heading = f"{title} for user {view.user}:"
        jobs = _full(store, [job.uid for job in view.jobs])
        yield from job_lines.render(jobs, heading, _cause_numbers(view), metric, now)
    if told := list(job_lines.failures(view.causes, view.jobs)):
        yield ""
        yield from told


def _cause_numbers(view: View) -> dict[int, int]:
    return {job: cause.number for cause in view.causes for job in cause.jobs}


def _json(values: Iterable[Any]) -> Iterator[str]:
    """A list as indented JSON, one of its values in memory at a time."""
    ahead = ""
    yield "["
    for value in values:
        if ahead:
            yield f"{ahead},"
        ahead = "  " + terminal.json_text(value).replace("\n", "\n  ")
    if ahead:
        yield ahead
    yield "]"


def _hints(view: View) -> Iterator[str]:
    """What else could be asked, for stderr."""
    import shlex

    args = view.args
    if args.json:
        return
    if not view.total:
        where = f"in experiment group {args.xgroup}" if args.xgroup else f"for user {view.user}"
        which = "jobs like that" if args.where or args.failed else "recent jobs"
        yield f"No {which} found {where}."
    if view.is_sum:
        yield (
            f"{view.total} experiments are summed up: --max_jobs 1 lists them, --failed and "
            "--where choose among them."
        )
    numbers = _cause_numbers(view)
    if shown := [numbers[job.id] for job in view.jobs if job.id in numbers]:
        again = f"caliban resubmit --xgroup {shlex.quote(args.xgroup)} --where cause={min(shown)}"
        yield f"'{again}' runs those of one cause again."
