"""Stop jobs: those that wait are never started, those that run are asked to end.

Without JOB and --xgroup, all open jobs of yours, wherever they run. They are listed first, and
nothing happens before you have said yes. A job has 10 s to end in order, after SIGTERM; then it is
killed. Platforms elsewhere may take longer to end one than this command waits for it.

  caliban stop
  caliban stop 12 13
  caliban stop --xgroup tuning --yes
  caliban stop --give_up
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from caliban import flags, terminal
from caliban.errors import EngineError
from caliban.model.job import Job, Status
from caliban.remote import stopping
from caliban.remote.backends import is_remote
from caliban.remote.stopping import Stopped

if TYPE_CHECKING:
    from caliban.commands.job_choice import Places
    from caliban.history.store import HistoryStore
    from caliban.platform.local import LocalBackend

# How long a job is waited for: its engine kills it 10 s after it was asked, in seconds.
_PATIENCE = 13.0

# How often is looked whether a job has ended, in seconds.
_PAUSE = 0.2

# The same where a platform elsewhere is asked.
_PAUSE_THERE = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    flags.add_job_arguments(parser, "the open jobs")
    parser.add_argument("--dry_run", action="store_true", help="Only list what would be stopped.")
    parser.add_argument(
        "--give_up",
        action="store_true",
        help="Of jobs that can't be asked about any more, because their cluster is gone for one: "
        "record that it isn't known how they ended, so that they can be run again. Nothing is "
        "stopped.",
    )
    parser.add_argument("-y", "--yes", action="store_true", help="Don't ask.")


def run(args: argparse.Namespace) -> int:
    """Lists the jobs, asks, stops them; 0 only if none of them runs any more."""
    from caliban import launch
    from caliban.commands import job_choice

    job_choice.check(args)
    with launch.open_history() as store, job_choice.Places() as places:
        if args.give_up:
            return _give_up(args, store, places)
        jobs = _open_jobs(store, args, places)
        there = {job.uid: why for job in jobs if (why := _why_not(job, places))}
        here = [job for job in jobs if job.uid not in there]
        if not here and not args.jobs:
            terminal.note("no running jobs found")
        for line in _listed(here):
            terminal.result(line)
        for job in jobs:
            if job.uid in there:
                terminal.warn(f"job {job.id} can't be stopped from here: {there[job.uid]}")
        if here and args.dry_run:
            terminal.note("nothing was stopped")
        elif here:
            what = "this job" if len(here) == 1 else f"these {len(here)} jobs"
            hint = "Pass --yes to stop them without being asked; nothing was stopped."
            if not args.yes and not terminal.confirm(f"do you wish to stop {what}?", hint):
                terminal.note("nothing was stopped")
                return 0
            terminal.result("")
            if not _Stopping(store, places).run(here):
                return 1
    return 1 if there else 0


def _open_jobs(store: HistoryStore, args: argparse.Namespace, places: Places) -> list[Job]:
    """The open ones of the jobs that are meant, brought up to date."""
    from caliban import settle

    jobs = _meant(store, args)
    still_open = [job for job in jobs if not job.outcome.status.is_final]
    settle.refresh(store, still_open, places.connect, places.backends)
    return _open_ones(store.jobs([job.uid for job in jobs]), args)


def _meant(store: HistoryStore, args: argparse.Namespace) -> list[Job]:
    """The jobs that are named, or all open ones of a group, or of the user."""
    from caliban.commands import job_choice

    user = flags.user_name()
    if args.jobs:
        return job_choice.by_number(store, user, args.jobs)
    return store.open_jobs(user, args.xgroup)


def _open_ones(jobs: Sequence[Job], args: argparse.Namespace) -> list[Job]:
    """The open ones of jobs; says of others that are named how they have ended."""
    for job in jobs:
        if args.jobs and not _is_open(job):
            terminal.note(f"job {job.id} has ended: {job.outcome.describe()}")
    return [job for job in jobs if _is_open(job)]


def _is_open(job: Job) -> bool:
    return job.outcome.status in (Status.SUBMITTED, Status.RUNNING)


def _why_not(job: Job, places: Places) -> str:
    """Why an open job can't be stopped from here; "" if it can."""
    if is_remote(job):
        return ""
    if job.handle is None or job.handle.platform != "local":
        return f"it was submitted to {job.submission.platform.upper() or 'an unknown platform'}"
    # Whoever is to start it asks the history before.
    if job.outcome.status is Status.SUBMITTED or job.handle.target == places.connect().target:
        return ""
    machine, _, host = job.handle.target.partition(" ")
    if machine != places.connect().machine:
        return f"it runs on {machine}"
    return f"it runs in another engine of this machine (DOCKER_HOST={host})"


def _give_up(args: argparse.Namespace, store: HistoryStore, places: Places) -> int:
    """Ends jobs here that can't be asked about; 0 only if all that are named are like that."""
    from caliban.remote import giving_up

    jobs = _open_ones(_meant(store, args), args)
    there = [job for job in jobs if is_remote(job)]
    whys = giving_up.lost(store, places.backends(), there) if there else {}
    whys |= {job.uid: why for job in jobs if (why := _why_not(job, places))}
    lost = [job for job in jobs if job.uid in whys]
    refused = [job for job in jobs if args.jobs and job.uid not in whys]
    for job in refused:
        terminal.warn(f"job {job.id} can be asked about: 'caliban stop {job.id}' stops it")
    if not lost:
        terminal.note("no open job is out of reach: nothing to give up")
        return int(bool(refused))
    for line in _listed(lost, "given up"):
        terminal.result(line)
    for why, number in Counter(whys.values()).items():
        terminal.note(f"{'1 job' if number == 1 else f'{number} jobs'}: {why}")
    what = "this job" if len(lost) == 1 else f"these {len(lost)} jobs"
    question = f"It may still run. Do you wish to give up {what}?"
    hint = "Pass --yes to give them up without being asked; nothing was recorded."
    if args.dry_run or not (args.yes or terminal.confirm(question, hint)):
        terminal.note("nothing was given up")
        return 0
    giving_up.give_up(store, lost, whys)
    for job in store.jobs([job.uid for job in lost]):
        terminal.result(f"job {job.id} {job.outcome.describe()}")
    return int(bool(refused))


def _listed(jobs: Sequence[Job], what: str = "stopped") -> Iterator[str]:
    """The jobs below what they execute."""
    from caliban.commands import job_lines

    if jobs:
        yield f"the following jobs would be {what}:"
    in_order = sorted(jobs, key=lambda job: (job.experiment_id, job.id))
    for _, of_experiment in groupby(in_order, lambda job: job.experiment_id):
        repeats = list(of_experiment)
        yield job_lines.command(repeats[0])
        for job in repeats:
            yield terminal.folded(f"    {job_lines.line(job)}")
    if jobs:
        yield ""


class _Stopping:
    """Stops jobs, and says what became of each."""

    def __init__(self, store: HistoryStore, places: Places) -> None:
        self._store = store
        self._places = places

    def _connect(self) -> LocalBackend:
        return self._places.connect()

    def run(self, jobs: Sequence[Job]) -> bool:
        """Returns whether none of the jobs runs any more."""
        stopped = self._stop_here([job for job in jobs if not is_remote(job)])
        if there := [job for job in jobs if is_remote(job)]:
            stopped |= stopping.stop(self._store, self._places.backends(), there)
        known = {job.uid: job for job in self._store.jobs([job.uid for job in jobs])}
        for job in jobs:
            if job.uid in stopped.cancelled:
                said = known[job.uid].outcome.reason
            elif job.uid in stopped.lost:
                said = f"could not be reached: {stopped.lost[job.uid]}"
            elif job.uid in stopped.asked:
                said = "asked to stop"
            else:
                said = f"had ended by itself: {known[job.uid].outcome.describe()}"
            _say(job, said)
        for hint in sorted(filter(None, stopped.hints)):
            terminal.note(hint)
        left = self._see_end([known[job.uid] for job in jobs if job.uid in stopped.asked])
        if len(stopped.lost) < len(jobs):
            terminal.result("")
            terminal.result(_remark(len(jobs), len(left), len(stopped.lost)))
        return not left and not stopped.lost

    def _stop_here(self, jobs: Sequence[Job]) -> Stopped:
        """Ends the jobs of this machine that wait, and takes note that the others are to end."""
        now = datetime.datetime.now(datetime.UTC)
        # Those that wait come first: otherwise the end of one would be the start of the next.
        cancelled = self._store.cancel([job.uid for job in jobs], now)
        rest = [job for job in jobs if job.uid not in cancelled]
        lost = self._out_of_reach(rest)
        # Before they are asked, or else they would be recorded as failed.
        asked = self._store.request_stop([job.uid for job in rest if job.uid not in lost], now)
        return Stopped(set(cancelled), set(asked), lost)

    def _out_of_reach(self, jobs: Iterable[Job]) -> dict[str, str]:
        """Why jobs can't be asked to end; those that can be are missing."""
        found = {}
        for job in jobs:
            assert job.handle is not None
            try:
                # Another machine may have started it by now.
                if why := _why_not(job, self._places):
                    found[job.uid] = why
                else:
                    self._connect().status([job.handle])
            except EngineError as error:
                found[job.uid] = error.message
        return found

    def _see_end(self, jobs: Sequence[Job]) -> list[Job]:
        """Stops running jobs and waits for them; returns those that still run."""
        from caliban import launch

        waiting = {job.uid: job for job in jobs}
        sent = {job.uid for job in jobs if is_remote(job)}
        pause = _PAUSE_THERE if sent else _PAUSE
        deadline = time.monotonic() + _PATIENCE
        while waiting and time.monotonic() < deadline:
            try:
                sent |= self._send([job for uid, job in waiting.items() if uid not in sent])
            except EngineError as error:
                terminal.warn(error.message)
                break
            # Of the others, whoever has started them takes care.
            self._settle([job for job in waiting.values() if is_remote(job) or launch.is_left(job)])
            waiting = self._still_open(waiting)
            if waiting:
                time.sleep(pause)
        return [job for job in waiting.values() if not self._has_ended(job)]

    def _has_ended(self, job: Job) -> bool:
        """Whether a job has no container that runs, although its launcher has not recorded it."""
        if is_remote(job):
            return False
        assert job.handle is not None
        try:
            outcome = self._connect().status([job.handle]).get(job.handle)
        except EngineError:
            return False
        if outcome is None or not outcome.status.is_final:
            return False
        terminal.result(f"job {job.id} has ended; its caliban is halted, and has not recorded it")
        return True

    def _send(self, jobs: Sequence[Job]) -> set[str]:
        """Asks those jobs to end that have a container to be asked by now."""
        if not jobs:
            return set()
        backend = self._connect()
        handles = {job.handle: job.uid for job in jobs if job.handle}
        found = backend.status(list(handles))
        running = [handle for handle, each in found.items() if each.status is Status.RUNNING]
        for handle in running:
            backend.stop(handle)
        return {handles[handle] for handle in running}

    def _settle(self, jobs: Sequence[Job]) -> None:
        from caliban import settle

        if jobs:
            settle.refresh(self._store, jobs, self._connect, self._places.backends)

    def _still_open(self, waiting: dict[str, Job]) -> dict[str, Job]:
        """Says how jobs have ended, and returns the others."""
        now = self._store.jobs(list(waiting))
        for job in now:
            if not _is_open(job):
                terminal.result(f"job {job.id} {job.outcome.describe()}")
        return {job.uid: job for job in now if _is_open(job)}


def _say(job: Job, said: str) -> None:
    from caliban.commands import job_lines

    text = f"stopping job: {job_lines.line(job).removeprefix('job ')} - {said}"
    terminal.result(terminal.folded(text))


def _remark(total: int, left: int, lost: int) -> str:
    if left:
        return (
            "requested job cancellation, please be patient as it may take a short while for this "
            "status change to be reflected from the `caliban status` command."
        )
    if lost:
        what = "1 job" if lost == 1 else f"{lost} jobs"
        return f"requested job cancellation; {what} of {total} could not be reached."
    return f"requested job cancellation; {'the job has' if total == 1 else 'all jobs have'} ended."
