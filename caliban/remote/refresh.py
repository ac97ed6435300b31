"""What has become of jobs elsewhere."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from caliban import terminal
from caliban.errors import CalibanError
from caliban.model.job import Handle, Job, Outcome, Status
from caliban.remote import output
from caliban.remote.backends import Backends, is_remote
from caliban.remote.parallel import for_each

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore

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
    found, problems = _ask(jobs, backends)
    outcomes: dict[str, Outcome] = {}
    for job in jobs:
        assert job.handle is not None
        outcome = found.get(job.handle)
        if outcome is None:
            # Nothing is missing where nobody could be asked.
            if job.handle.platform in problems:
                continue
            outcome = found[job.handle] = _missing(job, backends)
        if outcome.status is not Status.UNKNOWN and outcome != job.outcome:
            outcomes[job.uid] = outcome
    ended = [uid for uid, outcome in outcomes.items() if outcome.status.is_final]
    output.want(ended)
    store.settle(outcomes)
    nodes = {uid: outcome.node for uid, outcome in outcomes.items() if outcome.node}
    store.add_details("node", nodes)
    _fetch_logs(store, backends)
    return not _warn(jobs, found, problems)


def _ask(jobs: Sequence[Job], backends: Backends) -> tuple[dict[Handle, Outcome], dict[str, str]]:
    """What the platforms say, asked at the same time; and why some of them don't."""
    wanted: dict[str, list[Handle]] = {}
    for job in jobs:
        if job.handle:
            wanted.setdefault(job.handle.platform, []).append(job.handle)
    found: dict[str, Mapping[Handle, Outcome]] = {}
    problems: dict[str, str] = {}

    def ask(platform: str) -> None:
        try:
            found[platform] = backends.of(platform).status(wanted[platform])
        except CalibanError as error:
            problems[platform] = error.message

    for_each(list(wanted), ask, _PATIENCE)
    for platform in wanted:
        if platform not in found:
            problems.setdefault(platform, f"{platform} doesn't answer")
    answered = {platform: each for platform, each in found.items() if platform not in problems}
    return {handle: each for of in answered.values() for handle, each in of.items()}, problems


def _missing(job: Job, backends: Backends) -> Outcome:
    """The outcome of a job that its platform doesn't have any more."""
    backend = backends.of(job.submission.platform)
    try:
        if why := backend.misplaced(job.submission):
            return Outcome(Status.UNKNOWN, reason=why)
    except CalibanError as error:
        return Outcome(Status.UNKNOWN, reason=error.message)
    if job.stop_requested is not None:
        # When it was gone is not known, but it can't have been long ago.
        now = datetime.datetime.now(datetime.UTC)
        return Outcome(Status.STOPPED, None, "stopped", job.outcome.started, now)
    return Outcome(Status.STOPPED, reason=backend.GONE)


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
        text = f"{logs} could not be fetched: {why}" if why else f"{logs} will be fetched later"
        terminal.note(text, "dim")


def _warn(
    jobs: Sequence[Job], found: Mapping[Handle, Outcome], problems: Mapping[str, str]
) -> bool:
    """Says which jobs could not be asked about, and why; returns whether there are any."""
    whys: Counter[str] = Counter()
    for job in jobs:
        if job.handle is None:
            continue
        outcome = found.get(job.handle)
        if outcome is not None and outcome.status is Status.UNKNOWN:
            whys[outcome.reason] += 1
        elif outcome is None and job.handle.platform in problems:
            whys[problems[job.handle.platform]] += 1
    for why, number in whys.items():
        what = "1 of the jobs is" if number == 1 else f"{number} of the jobs are"
        terminal.warn(f"{why}; {what} shown as last known")
    return bool(whys)
