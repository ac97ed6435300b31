"""What has become of jobs elsewhere."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from caliban import terminal
from caliban.errors import CalibanError
from caliban.model.job import Handle, Job, Outcome, Status
from caliban.remote import output
from caliban.remote.backends import Backends, is_remote
from caliban.remote.parallel import for_each

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore

# The command for jobs that can never be asked about again.
GIVE_UP = "caliban stop --give_up"

# Seconds after which a platform that doesn't answer is left out. Backends give up places sooner.
_PATIENCE = 45.0

# For how many seconds logs are fetched of jobs that have ended; those left have their turn later.
_LOGS = 10.0


def refresh(store: HistoryStore, jobs: Sequence[Job], backends: Backends) -> bool:
    """Asks the platforms what has become of jobs, and records it.

    The logs of those that have ended are fetched, and those that were left the last time.

    Args:
      store: the history.
      jobs: open ones that have been sent.
      backends: of the platforms.

    Returns:
      Whether every one could be asked about.
    """
    found = ask(jobs, backends)
    outcomes = {
        job.uid: found[job.uid]
        for job in jobs
        if found[job.uid].status is not Status.UNKNOWN and found[job.uid] != job.outcome
    }
    ended = [uid for uid, outcome in outcomes.items() if outcome.status.is_final]
    output.want(ended)
    store.settle(outcomes)
    nodes = {uid: outcome.node for uid, outcome in outcomes.items() if outcome.node}
    store.add_details("node", nodes)
    _end_doubles(jobs, backends)
    _fetch_logs(store, backends)
    return not _warn(found.values())


def ask(jobs: Iterable[Job], backends: Backends) -> dict[str, Outcome]:
    """What the platforms say of jobs, all asked at the same time.

    Args:
      jobs: ones that have been sent.
      backends: of the platforms.

    Returns:
      The outcomes, by uid: UNKNOWN where nobody could be asked; the reason says why.
    """
    wanted: dict[str, dict[Handle, Job]] = {}
    for job in jobs:
        assert job.handle is not None
        wanted.setdefault(job.handle.platform, {})[job.handle] = job
    answers: dict[str, Mapping[Handle, Outcome]] = {}
    problems: dict[str, Outcome] = {}

    def work(platform: str) -> None:
        try:
            answers[platform] = backends.of(platform).status(list(wanted[platform]))
        except CalibanError as error:
            problems[platform] = _unknown(error)

    for_each(list(wanted), work, _PATIENCE)
    found: dict[str, Outcome] = {}
    for platform, of_platform in wanted.items():
        silent = Outcome(Status.UNKNOWN, reason=f"{platform} doesn't answer")
        for handle, job in of_platform.items():
            if platform not in answers:
                found[job.uid] = problems.get(platform, silent)
            else:
                found[job.uid] = answers[platform].get(handle) or _missing(job, backends)
    return found


def _unknown(error: CalibanError) -> Outcome:
    return Outcome(Status.UNKNOWN, reason=error.message, hint=error.hint)


def _missing(job: Job, backends: Backends) -> Outcome:
    """The outcome of a job that its platform doesn't have any more."""
    backend = backends.of(job.submission.platform)
    try:
        if why := backend.misplaced(job.submission):
            return Outcome(Status.UNKNOWN, reason=why)
    except CalibanError as error:
        return _unknown(error)
    if job.stop_requested is not None:
        # When it was gone is not known, but it can't have been long ago.
        now = datetime.datetime.now(datetime.UTC)
        return Outcome(Status.STOPPED, None, "stopped", job.outcome.started, now)
    return Outcome(Status.STOPPED, reason=backend.GONE)


def _end_doubles(jobs: Iterable[Job], backends: Backends) -> None:
    """Ends what is there a second time: its request came when it was not waited for any more."""
    numbers = {job.uid: job.id for job in jobs}
    for backend in backends.opened():
        for double in backend.doubles():
            if double.uid not in numbers:
                continue  # who asked about its job was somebody else
            what = f"job {numbers[double.uid]} was there a second time, as {double.id}"
            try:
                backend.stop(double)
            except CalibanError as error:
                terminal.warn(f"{what}, and can't be cancelled: {error.message}")
            else:
                terminal.note(f"{what}, by a request that came late; that one has been cancelled")


def _fetch_logs(store: HistoryStore, backends: Backends) -> None:
    """Fetches what there is time for of the logs that are not here yet."""
    if not (uids := output.wanted()):
        return
    jobs = [
        job
        for job in store.jobs(uids)
        if job.handle and is_remote(job) and job.outcome.status.is_final
    ]
    left = output.fetch_all(store, backends, jobs, _LOGS)
    for why, number in Counter(left.values()).items():
        logs = "the log of 1 job" if number == 1 else f"the logs of {number} jobs"
        text = f"{logs} could not be fetched: {why}"
        if not why:
            # A very long one is never done in so short a time.
            first = next(job.id for job in jobs if left.get(job.uid) == "")
            text = (
                f"{logs} will be fetched later; 'caliban logs {first}' waits for the whole of one"
            )
        terminal.note(text, "dim")


def _warn(outcomes: Iterable[Outcome]) -> bool:
    """Says which jobs could not be asked about, and why; returns whether there are any."""
    unknown = [each for each in outcomes if each.status is Status.UNKNOWN]
    for (why, hint), number in Counter((each.reason, each.hint) for each in unknown).items():
        what = "1 of the jobs is" if number == 1 else f"{number} of the jobs are"
        terminal.warn(f"{why}; {what} shown as last known")
        if hint:
            terminal.note(hint)
    if unknown:
        terminal.note(f"Should they never be reached again, '{GIVE_UP}' gives them up.")
    return bool(unknown)
