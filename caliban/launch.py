"""The use cases: launch jobs and see them through; bring the history up to date."""

from __future__ import annotations

import contextlib
import datetime
import os
import shlex
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from caliban import home, process, terminal
from caliban.errors import CalibanError, EngineError
from caliban.interrupt import Interruption
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, Job, JobRequest, Outcome, Status, Submission
from caliban.platform import outputs
from caliban.platform.local import LocalBackend

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore


@dataclass(frozen=True)
class Launched:
    """A job that was launched.

    Attributes:
      id: its number in the history.
      request: what was wanted.
      submission: what was sent.
      handle: how to find it.
      log: the file that keeps its output.
      outcome: what became of it.
    """

    id: int
    request: JobRequest
    submission: Submission
    handle: Handle
    log: Path
    outcome: Outcome = field(default=Outcome(Status.SUBMITTED))


def open_history() -> HistoryStore:
    """Opens the history that $CALIBAN_DB_URL names, or the user's own.

    Raises:
      HistoryError: it cannot be opened.
    """
    from caliban.history.store import DEFAULT_URL, HistoryStore

    return HistoryStore.open(os.environ.get("CALIBAN_DB_URL") or DEFAULT_URL)


def requests(experiments: Iterable[Experiment], image: str, group: str) -> Iterator[JobRequest]:
    """One request a job, each with a uid of its own."""
    for index, experiment in enumerate(experiments):
        yield JobRequest(uuid.uuid4().hex[:16], experiment, image, group, index)


@dataclass(frozen=True)
class Launch:
    """Jobs that are to run.

    Attributes:
      user: who launches them.
      group: name of the experiment group; None for a new one.
      container_spec: what the image was planned to hold.
      image: id of the image.
      experiments: one for each job.
      output: directory in which each job gets one of its own to write to; None for no such thing.
      code: names the code as it is now, for jobs whose code is not in the image; None if it is.
    """

    user: str
    group: str | None
    container_spec: Mapping[str, Any]
    image: str
    experiments: Iterable[Experiment]
    output: Path | None = None
    code: Callable[[], str] | None = None


def run_here(
    backend: LocalBackend, store: HistoryStore, wanted: Launch
) -> tuple[list[Launched], bool]:
    """Runs jobs on this machine one after another, and records each outcome as it happens.

    Every job is in the history before the first one starts. A failing job does not stop the
    others. ^C, SIGTERM and SIGHUP stop the running container, and the jobs after it are not
    started; a second ^C kills it.

    Args:
      backend: the local engine.
      store: the history.
      wanted: the jobs.

    Returns:
      The jobs with their outcomes, and whether they were interrupted.

    Raises:
      HistoryError: an outcome could not be recorded.
      OSError: the jobs' output could not be written, so that the jobs were stopped.
      EngineError: the engine does not answer any more.
    """
    group = store.group(wanted.user, wanted.group, _now())
    kept = outputs.GroupOutputs.find(wanted.output, group) if wanted.output else None

    def plan(number: int, request: JobRequest) -> tuple[Submission, Handle]:
        if kept:
            request = replace(request, output=str(kept.of_job(number, request.uid)))
        submission = backend.plan(request)
        return submission, backend.handle(submission)

    recorded = store.record(
        wanted.user,
        group,
        process.identity(),
        wanted.container_spec,
        list(requests(wanted.experiments, wanted.image, group)),
        plan,
    )
    where = f"; files go to {kept.directory}" if kept else ""
    terminal.note(f"Experiment group {group}: {count_of_jobs(len(recorded))}{where}")
    jobs = [
        Launched(job.id, job.request, job.submission, job.handle, log_path(job.request.uid))
        for job in recorded
        if job.handle
    ]
    with contextlib.closing(terminal.Output(len(jobs))) as output, Interruption() as interruption:
        run = _LocalRun(backend, store, output, interruption, len(jobs), wanted.code)
        ended = [run.job(job) for job in jobs]
    unstarted = {job.request.uid: job.outcome for job in ended if job.outcome is _NOT_STARTED}
    store.settle(unstarted)
    if output.lost is not None and not interruption.count:
        raise output.lost
    return ended, bool(interruption.count)


_NOT_STARTED = Outcome(Status.STOPPED, reason="not started")


@dataclass(frozen=True)
class _LocalRun:
    """Runs the jobs of one launch one after another."""

    backend: LocalBackend
    store: HistoryStore
    output: terminal.Output
    interruption: Interruption
    total: int
    code: Callable[[], str] | None

    def job(self, job: Launched) -> Launched:
        """Sees a job through, from its start to the removal of its container."""
        if self.interruption.count or self.output.lost:
            return replace(job, outcome=_NOT_STARTED)
        uid, index = job.request.uid, job.request.index
        heading = f"[{index + 1}/{self.total}] job {job.id} {quoted(job.request.experiment)}"
        self.output.note(heading.rstrip(), "bold")
        # Written down first: a job that is still SUBMITTED when caliban dies was never started.
        self.store.settle({uid: Outcome(Status.RUNNING, started=_now())})
        try:
            if job.submission.output:
                outputs.make(Path(job.submission.output))
            if self.code:
                self.store.add_detail(uid, "code", self.code())
            self.backend.submit(job.submission)
        except CalibanError as error:
            outcome = Outcome(Status.FAILED, reason=error.message)
        else:
            outcome = self._follow(job)
        self.store.settle({uid: outcome})
        with contextlib.suppress(EngineError):  # the record is safe: `status` can do without it
            self.backend.release(job.handle)
        self.output.note(f"job {job.id} {outcome.describe()}", _COLOUR[outcome.status])
        self.output.advance()
        return replace(job, outcome=outcome)

    def _follow(self, job: Launched) -> Outcome:
        """Passes a job's output on and into its log; stops the job when the user asks for it."""
        asked = 0
        asked_at = _now()

        def tick() -> None:
            nonlocal asked, asked_at
            self.output.idle()
            wishes = self.interruption.count or int(self.output.lost is not None)
            if wishes > asked:
                asked_at = asked_at if asked else _now()
                asked = wishes
                what = "Stopping the job; ^C again kills it." if asked == 1 else "Killing the job."
                self.output.note(what, "yellow")
                self.backend.stop(job.handle, kill=asked > 1)

        with _Log(job.log) as log:

            def write(stream: int, data: bytes) -> None:
                log.write(data)
                self.output.write(sys.stdout if stream == 1 else sys.stderr, data)

            outcome = self.backend.follow(job.handle, write, tick)
        by_itself = outcome.finished is not None and outcome.finished < asked_at
        if not asked or by_itself:
            return outcome
        reason = "interrupted" if self.interruption.count else "its output could not be written"
        return replace(outcome, status=Status.STOPPED, reason=reason)


_COLOUR = {Status.SUCCEEDED: "green", Status.FAILED: "red", Status.STOPPED: "yellow"}


def quoted(experiment: Experiment) -> str:
    """The arguments of an experiment, as they would be typed into a shell."""
    return " ".join(map(_quote, experiment.flags()))


def _quote(word: str) -> str:
    """A word as a shell takes it, on one line and without what would steer a terminal."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = word.encode("unicode_escape").decode().replace("'", "\\'")
    return f"$'{escaped}'"


def count_of_jobs(number: int) -> str:
    """A number of jobs in words."""
    return "1 job" if number == 1 else f"{number} jobs"


_LOGS = "logs"


def log_path(uid: str) -> Path:
    """The file that keeps what a job has printed."""
    return home.path(_LOGS) / f"{uid}.log"


class _Log:
    """Keeps what a job prints. A full disk costs the rest of the log, and not the job."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _Log:
        self._attempt(self._open)
        return self

    def write(self, data: bytes) -> None:
        """Adds bytes, unless an earlier write has failed."""
        if self._file is not None:
            self._attempt(lambda: self._append(data))

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        home.directory(_LOGS)
        self._path.touch(mode=0o600)
        self._file = self._path.open("ab", buffering=0)

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        while data:
            data = data[self._file.write(data) :]

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            terminal.warn(f"the output is not kept any more in {self._path}: {error.strerror}")
            if self._file is not None:
                self._file.close()
            self._file = None


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def refresh(store: HistoryStore, jobs: Sequence[Job], connect: Callable[[], LocalBackend]) -> bool:
    """Finds out what became of jobs that the history has as open, and records it.

    Args:
      store: the history.
      jobs: open ones; those of other machines are left alone.
      connect: makes the local backend, when it is needed.

    Returns:
      Whether every one could be asked about.
    """
    local = [job for job in jobs if job.handle and job.handle.platform == "local"]
    if not local:
        return True
    backend = connect()
    here = [job for job in local if job.handle and job.handle.target == backend.target]
    complete = len(here) == len(local)
    try:
        found = backend.status([job.handle for job in here if job.handle])
    except EngineError as error:
        terminal.warn(f"{error.message}; {count_of_jobs(len(local))} shown as last known")
        return False
    outcomes: dict[str, Outcome] = {}
    ended: list[Job] = []
    for job in here:
        assert job.handle is not None
        outcome = found.get(job.handle)
        if outcome is None or outcome.status is Status.SUBMITTED:
            if process.is_alive(job.owner) is not False or _is_starting(job):
                continue  # it is queued, or its launcher is about to record its outcome
            outcome = _lost(job)
        outcomes[job.uid] = outcome
        if outcome.status.is_final and job.handle in found:
            ended.append(job)
    for job in ended:
        if process.is_alive(job.owner) is False:
            _keep_output(backend, job)
    store.settle(outcomes)
    for job in ended:
        if job.handle and process.is_alive(job.owner) is False:
            backend.release(job.handle)
    return complete


def _is_starting(job: Job) -> bool:
    """Whether the `docker run` of a launcher that died may still be about to make a container."""
    started = job.outcome.started
    return started is not None and _now() - started < _STARTING


_STARTING = datetime.timedelta(seconds=30)


def _lost(job: Job) -> Outcome:
    """The outcome of a job whose launcher has died and that has no container."""
    if job.outcome.status is Status.SUBMITTED:
        return Outcome(Status.STOPPED, reason="never started: caliban ended before it")
    return Outcome(Status.STOPPED, reason="its container was removed")


def _keep_output(backend: LocalBackend, job: Job) -> None:
    """Writes the whole output of a container that nobody followed to its end into its log."""
    assert job.handle is not None
    path = log_path(job.uid)
    with contextlib.suppress(EngineError):
        path.unlink(missing_ok=True)
        with _Log(path) as log:
            for piece in backend.logs(job.handle):
                log.write(piece)
