"""Runs jobs that have been recorded, and says what became of them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from caliban import joblog, launch, terminal
from caliban.errors import INTERRUPTED
from caliban.model.experiment_text import quoted
from caliban.model.job import Status

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore
    from caliban.launch import Execution, Sweep
    from caliban.platform.local import LocalBackend
    from caliban.runner import Launched

# How many failed jobs a summary names, how many causes, and how many jobs of each.
_NAMED = 20
_CAUSES = 10
_EXAMPLES = 5


def see_through(
    backend: LocalBackend,
    store: HistoryStore,
    group: str,
    sweep: Sweep,
    how: Execution,
    again: str = "",
) -> int:
    """Runs the jobs of a group, sums up, and returns the exit code: 0 only if all succeeded.

    What another caliban runs has not succeeded yet.

    Args:
      backend: the local engine.
      store: the history.
      group: name of the experiment group.
      sweep: its jobs.
      how: how they are run.
      again: the command that goes on after an interruption; "" for `caliban run --resume`.
    """
    _announce(group, sweep)
    if how.tracking and sweep.jobs:
        terminal.note(f"Runs of MLflow go to {how.tracking}")
    code = 0
    if sweep.jobs:
        finished, interrupted = launch.run_here(backend, store, sweep.jobs, how)
        code = _sum_up(store, finished, interrupted, again)
    elsewhere = [job.uid for job in sweep.superfluous if not job.outcome.status.is_final]
    missing = [job for job in store.jobs(elsewhere) if job.outcome.status is not Status.SUCCEEDED]
    if missing and code != INTERRUPTED:
        terminal.warn(
            f"{_experiments(len(missing))} of another caliban's have not succeeded, or not yet: "
            f"'caliban status --watch --xgroup {shlex.quote(group)}' waits until they have ended"
        )
    return code or int(bool(missing))


def _announce(group: str, sweep: Sweep) -> None:
    """Says how many jobs there are, and which experiments need none."""
    counts = Counter(job.outcome.status for job in sweep.superfluous)
    done = counts.pop(Status.SUCCEEDED, 0)
    if done:
        terminal.note(f"Skipped: {_experiments(done)} succeeded before with this image (--rerun)")
    if elsewhere := counts.total():
        terminal.note(f"Skipped: {_experiments(elsewhere)} being run by another caliban")
    if left := sum(job.is_left for job in sweep.jobs):
        terminal.note(f"Taking over {launch.count_of_jobs(left)} whose caliban has died")
    text = f"Experiment group {group}: {launch.count_of_jobs(len(sweep.jobs))}"
    kept = (job.submission.output for job in sweep.jobs)
    outputs = {output.rpartition("/")[0] for output in kept if output}
    where = f"; files go to {', '.join(sorted(outputs))}" if outputs else ""
    terminal.note(f"{text}{where}" if sweep.jobs else f"Experiment group {group}: nothing to run")


def _experiments(number: int) -> str:
    return "1 experiment" if number == 1 else f"{number} experiments"


def _sum_up(store: HistoryStore, jobs: Sequence[Launched], interrupted: bool, again: str) -> int:
    """Says what became of the jobs, and which failed; returns the exit code."""
    counts = Counter(job.outcome.status for job in jobs)
    failed = [job for job in jobs if job.outcome.status is Status.FAILED]
    total = ", ".join(f"{number} {status.value}" for status, number in counts.items())
    terminal.note(f"{launch.count_of_jobs(len(jobs))}: {total}", "red" if failed else "bold")
    for job in failed[:_NAMED]:
        flags = quoted(job.request.experiment)
        what = f"  job {job.id} ({job.outcome.reason})"
        terminal.note(f"{what}: {flags}" if flags else what)
        if len(failed) == 1 and joblog.find(job.request.uid):
            terminal.note(f"    its output: caliban logs {job.id}")
        if job.submission.output:
            terminal.note(f"    its files: {job.submission.output}")
    if len(failed) > _NAMED:
        terminal.note(f"  ... and {len(failed) - _NAMED} more that failed")
    group = shlex.quote(jobs[0].request.group)
    if failed:
        for line in _causes(store, [job.request.uid for job in failed]):
            terminal.note(line)
        if len(failed) > 1 and any(joblog.find(job.request.uid) for job in failed):
            terminal.note(
                f"'caliban logs --xgroup {group} --failed' shows what those have printed."
            )
        terminal.note(f"'caliban status --xgroup {group}' shows all.")
        # One job is changed and run by its own command; what a replay has come to is compared.
        if len(jobs) > 1 and not interrupted and not again:
            terminal.note(f"'caliban resubmit --xgroup {group}' runs again what failed.")
    if interrupted:
        again = again or f"caliban run --resume {group}"
        terminal.note(f"'{again}' goes on with what has not succeeded.")
        return INTERRUPTED
    return 0 if counts.keys() <= {Status.SUCCEEDED} else 1


def _causes(store: HistoryStore, failed: Sequence[str]) -> Iterator[str]:
    """Why jobs failed, those together that failed for the same."""
    from caliban.model import selection
    from caliban.model.selection import Outline

    found = selection.causes(map(Outline.of, store.jobs(failed)))
    for cause in found[:_CAUSES]:
        some = ", ".join(map(str, cause.jobs[:_EXAMPLES]))
        some += ", ..." if len(cause.jobs) > _EXAMPLES else ""
        which = f"{launch.count_of_jobs(len(cause.jobs))} ({some})" if len(failed) > 1 else "cause"
        yield f"  {which}: {terminal.one_line(cause.example)}"
    if more := found[_CAUSES:]:
        yield f"  ... and {len(more)} more causes"
