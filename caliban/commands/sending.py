"""Sends jobs to a platform elsewhere, and says what became of that."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from caliban import flags, launch, terminal
from caliban.errors import INTERRUPTED, CalibanError
from caliban.model.experiment_text import quoted
from caliban.model.job import Handle, Job, Status, Submission, duration
from caliban.platform.base import RemoteBackend
from caliban.remote.backends import Backends, is_remote, resume_command

if TYPE_CHECKING:
    from caliban.commands.image_publication import JobImage
    from caliban.dispatch import Pending
    from caliban.history.store import HistoryStore
    from caliban.launch import Launch
    from caliban.provenance.gathering import Gathering
    from caliban.remote.submit import Sent, Unsent

# How many refused jobs a summary names.
_NAMED = 20

# From how many seconds on it is said how long sending takes, or how long it is held up.
_LONG = 5.0

# Of more jobs than these, each has one line: the pages and logs of hundreds are read by nobody.
_DETAILED = 20


def send(
    store: HistoryStore,
    backends: Backends,
    platform: str,
    wanted: Launch,
    record: Gathering,
    image: JobImage,
) -> int:
    """Records and sends the jobs of a launch, but for those that their group has already.

    Args:
      store: the history.
      backends: of all platforms.
      platform: where the jobs are sent.
      wanted: the jobs.
      record: what is found out of the launch, whose `with` has begun.
      image: of the jobs.

    Returns:
      The exit code: 0 if all that were to be sent have been accepted.
    """
    from caliban import dispatch
    from caliban.commands import launch_record

    bring_up_to_date(store, backends, wanted.user, wanted.group)
    backend = backends.of(platform)
    pending = dispatch.record(backend, store, wanted)
    plans = {image.reference: wanted.container_spec}
    launch_record.keep_elsewhere(record, store, backend, pending.jobs, plans, [image])
    return see_off(store, backends, platform, wanted.group, pending)


def resume(
    platform: str, group: str, backends: Backends, record: Gathering, is_dry: bool = False
) -> int:
    """Goes on with a group: sends what was not sent, and what has not succeeded once more.

    Args:
      platform: where the jobs are sent.
      group: name of the experiment group.
      backends: of all platforms.
      record: what is found out of the launch, whose `with` has not begun.
      is_dry: whether the jobs are only listed.

    Returns:
      The exit code, see `send`.
    """
    from caliban import dispatch
    from caliban.commands import launch_record, relaunch

    user = flags.user_name()
    with launch.open_history() as store, record:
        bring_up_to_date(store, backends, user, group)
        jobs = launch.left(store, user, group)
        if not jobs:
            terminal.note(f"Experiment group {group}: every experiment has succeeded.")
            return 0
        jobs = relaunch.of_platform(jobs, platform)
        if is_dry:
            return _list(platform, jobs)
        backend = backends.of(platform)
        check_needs(backends, [job for job in jobs if _is_wanted(job)])
        pending = dispatch.again(backend, store, jobs)
        plans = launch_record.plans(jobs)
        launch_record.keep_elsewhere(record, store, backend, pending.jobs, plans)
        return see_off(store, backends, platform, group, pending)


def _list(platform: str, jobs: Sequence[Job]) -> int:
    """Lists the jobs that would be sent, for --dry_run."""
    from caliban.commands import relaunch

    for job in jobs:
        launch.check_again(job, platform)
    _tell_skipped([job for job in jobs if not _is_wanted(job)])
    return relaunch.list_jobs([job for job in jobs if _is_wanted(job)], "sent")


def _is_wanted(job: Job) -> bool:
    """Whether a job of a group that is gone on with is sent, or sent again."""
    return job.outcome.status.is_final or (job.handle is None and launch.is_left(job))


def check_needs(backends: Backends, jobs: Sequence[Job]) -> None:
    """Sees to it that what recorded jobs name is there yet, before they are sent again.

    Args:
      backends: of all platforms.
      jobs: those.

    Raises:
      UsageError: something isn't there.
      CalibanError: a platform can't be asked.
    """
    from caliban.platform import outputs

    # Jobs of one launch differ in their arguments only.
    alike: dict[tuple[str, str, str], list[Submission]] = {}
    for job in jobs:
        each = job.submission
        settings = json.dumps(each.payload.get("settings"), sort_keys=True)
        key = (each.target, settings, outputs.folder_of(each.output))
        alike.setdefault(key, []).append(each)
    notes = [
        backends.of(first.platform).check_needs(first, 1 + len(others))
        for first, *others in alike.values()
    ]
    for note in dict.fromkeys(itertools.chain.from_iterable(notes)):
        terminal.note(note)


def bring_up_to_date(store: HistoryStore, backends: Backends, user: str, group: str) -> None:
    """Finds out what has become of the jobs of a group that were sent elsewhere.

    Args:
      store: the history.
      backends: of all platforms.
      user: whose group.
      group: its name.
    """
    from caliban import settle
    from caliban.commands import job_choice

    jobs = [job for job in settle.unsettled(store, user, group) if is_remote(job)]
    settle.refresh(store, jobs, job_choice.connect, lambda: backends)


def see_off(
    store: HistoryStore, backends: Backends, platform: str, group: str, pending: Pending
) -> int:
    """Sends recorded jobs, sums up, and returns the exit code, see `send`.

    ^C ends it after what is being sent; a second one doesn't wait for that.

    Args:
      store: the history.
      backends: of all platforms.
      platform: where the jobs are sent.
      group: name of the experiment group.
      pending: its jobs.
    """
    from caliban.commands import tracking_choice
    from caliban.interrupt import Interruption
    from caliban.remote.submit import Submitter

    backend = backends.of(platform)
    _announce(backend, group, pending)
    if not pending.jobs:
        return 0
    tracking_choice.expect(store, [job.uid for job in pending.jobs])
    jobs = tracking_choice.with_runs(backend, pending.jobs)
    with (
        contextlib.closing(_Display(backend, len(jobs))) as display,
        Interruption() as interruption,
    ):
        sent = Submitter(backend, store, display, interruption, backends.waits).run(jobs)
    if display.lost:
        terminal.give_up_stdout()
        if not isinstance(display.lost, BrokenPipeError):
            terminal.warn(f"not every line could be written to stdout: {display.lost.strerror}")
    return _sum_up(platform, group, jobs, sent)


def _announce(backend: RemoteBackend, group: str, pending: Pending) -> None:
    """Says how many jobs there are, how long it takes, and which experiments need none."""
    _tell_skipped(pending.superfluous)
    if left := sum(not job.is_new for job in pending.jobs):
        terminal.note(f"Going on with {launch.count_of_jobs(left)} not known to have been sent")
    if not pending.jobs:
        terminal.note(f"Experiment group {group}: nothing to submit")
        return
    counts = Counter(job.submission.target for job in pending.jobs)
    for target, number in counts.items():
        text = f"Experiment group {group}: {launch.count_of_jobs(number)} for {target}"
        seconds = backend.seconds(target, number)
        if seconds > _LONG:
            each = (backend.seconds(target, 2 * number) - seconds) / number
            span = datetime.timedelta(seconds=seconds)
            text += f", at {60 / each:.0f} a minute: {duration(span)}"
        terminal.note(text)


def _tell_skipped(jobs: Sequence[Job]) -> None:
    """Says how many experiments need no job, because they have these."""
    for why, number in Counter(map(_why_superfluous, jobs)).items():
        what = "1 experiment" if number == 1 else f"{number} experiments"
        terminal.note(f"Skipped: {what} {why}")


def _why_superfluous(job: Job) -> str:
    if job.outcome.status is Status.SUCCEEDED:
        return "succeeded before with this image (--rerun)"
    if is_remote(job) and job.handle is None:
        return "being submitted by another caliban"
    return "submitted before, and not ended yet"


class _Display:
    """Shows jobs as they are accepted: each on stdout, and on a terminal a bar below them."""

    def __init__(self, backend: RemoteBackend, total: int) -> None:
        self._backend = backend
        self._shown = None if total <= _DETAILED else 1
        self._output = terminal.Output(total)
        self._wait = ""

    def accepted(self, job: Unsent, handle: Handle) -> None:
        lines = itertools.islice(_lines(job, handle, self._backend), self._shown)
        text = "".join(f"{line}\n" for line in lines)
        self._output.write(sys.stdout, text.encode(errors="replace"))
        self._output.advance()

    def refused(self, job: Unsent, error: CalibanError) -> None:
        self._output.note(f"job {job.id} refused: {error.message}", "red")
        self._output.advance()

    def stopped(self, job: Unsent) -> None:
        self._output.note(f"job {job.id} stopped meanwhile", "yellow")
        self._output.advance()

    def note(self, text: str, colour: str = "") -> None:
        self._output.note(text, colour)

    def idle(self) -> None:
        from caliban.platform.answers import wish

        until = self._backend.held_up()
        if until is None:
            self._wait = ""
        elif (until - datetime.datetime.now(datetime.UTC)).total_seconds() > _LONG:
            self._wait = wish(until)
        self._output.held_up(self._wait)
        self._output.idle()

    @property
    def lost(self) -> OSError | None:
        """Why not every line could be written; None if every one was."""
        return self._output.lost

    def close(self) -> None:
        self._output.close()


def _lines(job: Unsent, handle: Handle, backend: RemoteBackend) -> Iterator[str]:
    """What is printed of a job that the platform has accepted."""
    links = backend.links(handle)
    arguments = terminal.paint(quoted(job.experiment), "bold")
    yield f"job {job.id} {terminal.paint(handle.id, 'cyan')} {arguments}".rstrip()
    if links.console:
        yield f"    page: {terminal.link(links.console)}"
    yield f"    log: {terminal.paint(links.logs, 'dim')}"


def _sum_up(platform: str, group: str, jobs: Sequence[Unsent], sent: Sent) -> int:
    """Says what became of the jobs, and how to go on; returns the exit code."""
    unsent = [job for job in jobs if not sent.has(job)]
    accepted = len([uid for uid in sent.handles if uid not in sent.stopped])
    text = f"{launch.count_of_jobs(len(jobs))}: {accepted} submitted"
    for number, what in (
        (len(sent.refused), "refused"),
        (len(sent.stopped), "stopped meanwhile"),
        (len(unsent), "not submitted"),
    ):
        text += f", {number} {what}" if number else ""
    terminal.note(text, "bold" if accepted == len(jobs) else "red")
    for message, number in Counter(error.message for error in sent.refused.values()).items():
        terminal.note(f"  {launch.count_of_jobs(number)}: {message}")
    for hint in {error.hint: None for error in sent.refused.values() if error.hint}:
        terminal.note(f"  {hint}")
    if sent.problem is not None:
        terminal.note(f"{terminal.paint('error:', 'red', sys.stderr)} {sent.problem.message}")
        if sent.problem.hint:
            terminal.note(sent.problem.hint)
    if unsent:
        terminal.note(f"'{resume_command(platform, group)}' goes on with what was not submitted.")
    if accepted:
        terminal.note(f"'caliban status --xgroup {shlex.quote(group)}' shows what becomes of them.")
    if sent.is_interrupted:
        return INTERRUPTED
    return int(accepted < len(jobs))
