"""Sees jobs of this machine through, one after another or side by side."""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from caliban import process, settle
from caliban.board import Screen
from caliban.ending import Ending
from caliban.errors import CalibanError, EngineAwayError, EngineError, HistoryError
from caliban.gpu_pool import Devices, NoDevices
from caliban.interrupt import Interruption
from caliban.joblog import JobLog
from caliban.model import report
from caliban.model.experiment_text import quoted
from caliban.model.job import Handle, JobRequest, Outcome, Status, Submission, concluded
from caliban.model.report import Report
from caliban.platform import outputs
from caliban.platform.local import LocalBackend
from caliban.tracking.tracker import NoTracker, Tracker

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore

# How often something that waits looks up, in seconds.
_TICK = 0.1

# How often a job that waits for GPUs looks whether it is wanted any more, in seconds.
_GLANCE = 1.0

# How long an engine may be away before jobs are given up, in seconds. One that is restarted gives
# each container 10 s to end.
_PATIENCE = 90.0

# The same when the user wants the jobs to end.
_LITTLE_PATIENCE = 10.0

# How often a job is tried to start while the engine comes and goes, after pauses that double.
_ATTEMPTS = 7

# How long to wait until something that the engine did not do is asked of it again, in seconds.
_AGAIN = 0.5

T = TypeVar("T")

_NOT_STARTED = Outcome(Status.STOPPED, reason="not started")

_GONE = Outcome(Status.STOPPED, reason="its container was removed")

# An engine that is killed can forget a container that it had just started. It is a new job that
# begins again then, with a directory of its own.
_LOST = Outcome(Status.FAILED, reason="it has run, but the engine knows nothing of it any more")

_COLOUR = {Status.SUCCEEDED: "green", Status.FAILED: "red", Status.STOPPED: "yellow"}


@dataclass(frozen=True)
class Launched:
    """A job that was launched.

    Attributes:
      id: its number in the history.
      request: what was wanted.
      submission: what was sent.
      handle: how to find it.
      code: names the code as it is now, where it is not in the image; None where it is.
      is_left: whether another caliban has launched it, and died.
      outcome: what became of it.
    """

    id: int
    request: JobRequest
    submission: Submission
    handle: Handle
    code: Callable[[], str] | None = None
    is_left: bool = False
    outcome: Outcome = field(default=Outcome(Status.SUBMITTED))


@dataclass
class Runner:
    """Runs jobs that have been recorded, and records what becomes of them as it happens.

    Attributes:
      backend: the local engine.
      store: the history.
      screen: where the jobs are shown.
      interruption: the user's wish that they end: once in order, twice at once.
      devices: which GPUs each of them gets.
      tracker: keeps runs of them elsewhere.
    """

    backend: LocalBackend
    store: HistoryStore
    screen: Screen
    interruption: Interruption
    devices: Devices = field(default_factory=NoDevices)
    tracker: Tracker = field(default_factory=NoTracker)
    _failure: BaseException | None = None
    _is_away: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, jobs: Sequence[Launched], workers: int) -> list[Launched]:
        """Sees jobs through; a failing one does not stop the others.

        Args:
          jobs: in the order in which they are started.
          workers: how many run at a time.

        Returns:
          The jobs with their outcomes, in the same order.

        Raises:
          HistoryError: an outcome could not be recorded. Jobs that were running have ended.
          EngineError: the engine does not answer any more. Jobs that were running are still open.
        """
        ended = list(jobs)
        unclear: set[int] = set()
        waiting = iter(range(len(ended)))

        def work() -> None:
            while (index := self._next(ended, waiting)) is not None:
                ahead = ended[index : index + workers + 1]
                self.tracker.prepare([job.request.uid for job in ahead])
                try:
                    ended[index] = self._job(ended[index])
                except BaseException as error:  # noqa: BLE001 - it is raised where the thread was started
                    unclear.add(index)
                    self._failure = self._failure or error

        threads = [threading.Thread(target=work) for _ in range(min(workers, len(ended)))]
        for thread in threads:
            thread.start()
        asked = 0
        for thread in threads:
            # In short waits, between which signals are noticed.
            while thread.is_alive():
                thread.join(_TICK)
                if self._wishes() > asked:
                    asked = self._wishes()
                    self.screen.note(*_ASKED[min(asked, 2)])
                self.screen.idle()
        self._end_unstarted(ended, unclear)
        if self._failure is not None:
            raise self._failure
        return ended

    def _end_unstarted(self, jobs: list[Launched], unclear: Container[int]) -> None:
        """Writes down which jobs were not started, but for those that may run all the same."""
        unstarted = [
            index
            for index, job in enumerate(jobs)
            if job.outcome.status is Status.SUBMITTED
            and index not in unclear
            and not (job.is_left and self._failure)  # nobody has looked for its container
        ]
        try:
            self.store.settle({jobs[index].request.uid: _NOT_STARTED for index in unstarted})
        except HistoryError as error:
            self._failure = self._failure or error
        for index in unstarted:
            jobs[index] = replace(jobs[index], outcome=_NOT_STARTED)

    def _next(self, jobs: Sequence[Launched], waiting: Iterator[int]) -> int | None:
        """The job to go on with; after a wish that they end, only one that may run already."""
        with self._lock:
            if self._failure is not None:
                return None
            may_run = (index for index in waiting if jobs[index].is_left)
            return next(may_run if self._wishes() else waiting, None)

    def _wishes(self) -> int:
        """How often somebody wanted the jobs to end; nobody can see them where the screen is."""
        return self.interruption.count or int(self.screen.lost is not None)

    def _job(self, job: Launched) -> Launched:
        """Sees one job through, from its start to the removal of its container."""
        uid = job.request.uid
        is_there = job.is_left and self._is_there(job)
        if is_there:
            self.devices.keep(uid)
        gpus = () if is_there else self._take_devices(job)
        if gpus is None:
            return job
        may_run = False
        try:
            # Written down first: a job that is still SUBMITTED when caliban dies was never started.
            if not self.store.claim(uid, process.identity(), _now()):
                outcome = self.store.outcome(uid)
                self.screen.end(job.id, outcome.describe(), "yellow", succeeded=False)
                return replace(job, outcome=outcome)
            self.screen.begin(job.id, quoted(job.request.experiment))
            outcome = self._outcome(job, gpus, is_there)
            with contextlib.suppress(EngineError):  # the record is safe, and the next `run` tidies
                self.backend.release(job.handle)
        except EngineError:
            may_run = True
            raise
        finally:
            if not may_run:  # of one that may, the lease is taken back when it has ended
                self.devices.give_back(uid)
        succeeded = outcome.status is Status.SUCCEEDED
        self.screen.end(job.id, outcome.describe(), _COLOUR[outcome.status], succeeded)
        return replace(job, outcome=outcome)

    def _take_devices(self, job: Launched) -> tuple[str, ...] | None:
        uid = job.request.uid
        looked_at = time.monotonic()
        has_waited = False
        while not self._wishes() and self._failure is None:
            if (gpus := self.devices.take(uid)) is not None:
                return gpus
            if not has_waited:
                has_waited = True
                self.screen.wait(job.id, self.devices.wait(uid))
            if time.monotonic() - looked_at > _GLANCE:
                looked_at = time.monotonic()
                if self.store.outcome(uid).status.is_final:
                    return ()  # somebody has stopped it, from elsewhere, and nobody will start it
            time.sleep(_TICK)
        return None

    def _outcome(self, job: Launched, gpus: tuple[str, ...], is_there: bool) -> Outcome:
        """Sees to it that a job runs, and once, and writes down what has become of it."""
        uid = job.request.uid
        try:
            outcome, said = self._waited(job) if is_there else self._started(job, gpus)
        except (EngineError, HistoryError):
            raise
        except CalibanError as error:
            outcome, said = Outcome(Status.FAILED, reason=error.message), Report({}, error.message)
        self.store.settle({uid: outcome}, reports={uid: said})
        self.tracker.ended(uid)
        return self.store.outcome(uid)  # somebody may have stopped it, from elsewhere

    def _started(self, job: Launched, gpus: tuple[str, ...]) -> tuple[Outcome, Report]:
        """Starts a job, again if the engine went away before it had, and sees it through."""
        uid = job.request.uid
        output = Path(job.submission.output) if job.submission.output else None
        if output and not (job.is_left and output.is_dir()):
            outputs.make(output)
        if job.code:
            self.store.add_detail(uid, "code", job.code())
        for attempt in range(_ATTEMPTS):
            if output and outputs.has_files(output):
                return _LOST, Report({}, _LOST.reason)
            if (found := self._followed(job, gpus)) is not None:
                return found
            if self._is_there(job):
                return self._waited(job)
            # An engine that stops still answers those whom it knows.
            again_at = time.monotonic() + _AGAIN * 2**attempt
            while time.monotonic() < again_at:
                if self._wishes():
                    return Outcome(Status.STOPPED, reason="interrupted"), Report({})
                time.sleep(_TICK)
        reason = f"docker run failed: the engine did not start it in {_ATTEMPTS} attempts"
        return Outcome(Status.FAILED, 125, reason), Report({}, reason)

    def _is_there(self, job: Launched) -> bool:
        """Whether a job's container runs, or has ended; if not, nobody else will start it."""
        is_safe = False
        for _ in range(_ATTEMPTS):
            outcome = self._ask(lambda: self.backend.status([job.handle])).get(job.handle)
            if outcome is not None and outcome.status is not Status.SUBMITTED:
                return True
            if outcome is None and is_safe:
                break
            # A `docker run` outlives its caliban: it may be about to start what it has made.
            self._ask(lambda: self.backend.discard(job.handle))
            is_safe = True
        return False

    def _followed(self, job: Launched, gpus: tuple[str, ...]) -> tuple[Outcome, Report] | None:
        """Starts a job and passes its output on and into its log; None if it was not started."""
        uid = job.request.uid
        metrics = report.Metrics()
        ending = Ending(self.backend, job.handle, self._wishes)

        def write(stream: int, data: bytes) -> None:
            log.write(data)
            if stream == 1:
                metrics.feed(data)
            self.screen.write(job.id, stream, data)

        self.backend.submit(job.submission, gpus, self.tracker.variables(uid))
        with JobLog(uid) as log:
            code, printed = self.backend.follow(job.handle, write, ending.tick)
            outcome = self._ask(lambda: self.backend.status([job.handle])).get(job.handle)
        if outcome is None or outcome.status is Status.SUBMITTED:
            # Somebody has removed the container, or it was never started, or never made: whatever
            # `docker run` says, the job has not succeeded.
            ended = self.backend.unstarted(code, printed)
            if ended is None:
                return None
            return self._judged(ending, ended), concluded(ended, metrics, log.tail)
        if outcome.exit_code != code:
            # `docker run` has gone before the container: something killed it, or the engine did
            # not answer for a while. What it has not passed on is with the engine.
            return self._waited(job, ending)
        return self._judged(ending, outcome), concluded(outcome, metrics, log.tail)

    def _waited(self, job: Launched, ending: Ending | None = None) -> tuple[Outcome, Report]:
        """Waits for a container whose output nobody passes on; it goes into the log at the end."""
        ending = ending or Ending(self.backend, job.handle, self._wishes)

        def look() -> Outcome:
            return self.backend.status([job.handle]).get(job.handle, _GONE)

        while not (outcome := self._ask(look)).status.is_final:
            ending.tick()
            time.sleep(_TICK)
        said = self._ask(
            lambda: settle.keep_output(self.backend, job.handle, job.request.uid, outcome)
        )
        return self._judged(ending, outcome), said

    def _judged(self, ending: Ending, outcome: Outcome) -> Outcome:
        """The outcome of a job that has not ended by itself if it was asked to."""
        by_itself = outcome.finished is not None and outcome.finished < ending.asked_at
        if not ending.asked or by_itself:
            return outcome
        reason = "interrupted" if self.interruption.count else "its output could not be written"
        return replace(outcome, status=Status.STOPPED, reason=reason)

    def _ask(self, question: Callable[[], T]) -> T:
        """Asks the engine something, for a while also when it does not answer.

        Raises:
          EngineError: it refuses, or has been away for too long.
        """
        began = time.monotonic()
        while True:
            try:
                answer = question()
            except EngineAwayError as error:
                patience = _LITTLE_PATIENCE if self._wishes() else _PATIENCE
                if time.monotonic() - began > patience:
                    raise
                self._notice_engine(f"{error.message}; waiting for it", "yellow", is_away=True)
            else:
                self._notice_engine("The Docker engine answers again.", "", is_away=False)
                return answer
            time.sleep(_AGAIN)

    def _notice_engine(self, text: str, colour: str, is_away: bool) -> None:
        with self._lock:
            is_new, self._is_away = is_away != self._is_away, is_away
        if is_new:
            self.screen.note(text, colour)


_ASKED = {
    1: ("Stopping what runs; ^C again kills it.", "yellow"),
    2: ("Killing what runs.", "yellow"),
}


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
