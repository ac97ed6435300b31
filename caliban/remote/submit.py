"""Sends recorded jobs to a platform, several at a time, and records what has become of each."""

from __future__ import annotations

import datetime
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from caliban.errors import CalibanError, RefusedError
from caliban.interrupt import Interruption
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, Job, Outcome, Status, Submission
from caliban.model.report import Report
from caliban.platform.base import RemoteBackend
from caliban.remote.backends import WaitEndedError, Waits

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore

# How often something that waits looks up, in seconds.
_TICK = 0.05

# What has been accepted is recorded together: so many jobs, or those of so many seconds. If caliban
# is killed in between, they are found on the platform.
_BATCH = 50
_PAUSE = 0.2

# How often is looked whether somebody has ended jobs that wait to be sent, in seconds.
_GLANCE = 1.0


@dataclass(frozen=True)
class Unsent:
    """A recorded job that is to be sent.

    Attributes:
      id: its number in the history.
      uid: see JobRequest.
      group: its experiment group.
      experiment: its arguments and parameters.
      submission: what is sent.
      is_new: whether nobody can have sent it before.
    """

    id: int
    uid: str
    group: str
    experiment: Experiment
    submission: Submission
    is_new: bool = True

    @classmethod
    def left(cls, job: Job) -> Unsent:
        """One whose caliban has died before it was recorded where it is, if it was sent at all."""
        return cls(job.id, job.uid, job.group, job.experiment, job.submission, is_new=False)


class Progress(Protocol):
    """Is told of the jobs as they are sent, by one thread."""

    def accepted(self, job: Unsent, handle: Handle) -> None:
        """The platform has a job, and that is recorded."""

    def refused(self, job: Unsent, error: CalibanError) -> None:
        """The platform won't have a job, and that is recorded."""

    def stopped(self, job: Unsent) -> None:
        """Somebody has ended a job before it was sent, or while it was."""

    def note(self, text: str, colour: str = "") -> None:
        """Something to be read."""

    def idle(self) -> None:
        """Called several times a second."""


@dataclass
class Sent:
    """What has become of jobs that were to be sent.

    Attributes:
      handles: of those that the platform has, by uid.
      refused: why it won't have others, by uid.
      stopped: the uids of those that somebody has ended meanwhile.
      problem: why no more were sent; None if all were, or the user wanted it to end.
      is_interrupted: whether the user wanted it to end.
    """

    handles: dict[str, Handle] = field(default_factory=dict)
    refused: dict[str, CalibanError] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    problem: CalibanError | None = None
    is_interrupted: bool = False

    def has(self, job: Unsent) -> bool:
        """Whether it is known what has become of a job."""
        return job.uid in self.handles or job.uid in self.refused or job.uid in self.stopped


_Answer = Handle | BaseException


class Submitter:
    """Sends jobs to one platform.

    A job that is refused has failed, and the others go on. After an answer by which all would be
    refused, or when nobody knows whether a job has arrived, no more are sent: those left can be
    sent later, with the same uids.
    """

    def __init__(
        self,
        backend: RemoteBackend,
        store: HistoryStore,
        progress: Progress,
        interruption: Interruption,
        waits: Waits,
    ) -> None:
        """Takes what is needed.

        Args:
          backend: of the platform.
          store: the history.
          progress: is told of the jobs.
          interruption: the user's wish to end: once after what is under way, twice at once.
          waits: what the backend waits by.
        """
        self._backend = backend
        self._store = store
        self._progress = progress
        self._interruption = interruption
        self._waits = waits
        self._answers: queue.SimpleQueue[tuple[Unsent, _Answer]] = queue.SimpleQueue()
        self._is_over = False
        self._lock = threading.Lock()
        self._sent = Sent()
        self._failure: BaseException | None = None

    def run(self, jobs: Sequence[Unsent]) -> Sent:
        """Sends the jobs, each unless the platform has it already.

        Raises:
          HistoryError: what has become of some could not be recorded.
        """
        self._waits.begin()
        if left := [job for job in jobs if not job.is_new]:
            self._run([threading.Thread(target=self._find, args=(left,), daemon=True)], left)
        if not self._is_over:
            missing = self._in_order([job for job in jobs if not self._sent.has(job)])
            waiting = iter(missing)
            threads = [
                threading.Thread(target=self._work, args=(waiting,), daemon=True)
                for _ in range(min(self._backend.AT_A_TIME, len(missing)))
            ]
            self._run(threads, missing)
        self._sent.is_interrupted = bool(self._interruption.count)
        return self._sent

    def _in_order(self, jobs: Sequence[Unsent]) -> list[Unsent]:
        """Puts last what may have been under way when its caliban died: it may arrive by then."""
        left = [job for job in jobs if not job.is_new]
        new = [job for job in jobs if job.is_new]
        number = self._backend.AT_A_TIME
        return [*left[number:], *new, *left[:number]]

    def _run(self, threads: Sequence[threading.Thread], jobs: Sequence[Unsent]) -> None:
        """Lets threads ask the platform, while this one records, draws, and looks after signals."""
        try:
            for thread in threads:
                thread.start()
            self._attend(threads, jobs)
        except BaseException:
            self._end()
            raise
        if self._failure is not None:
            raise self._failure

    def _find(self, jobs: Sequence[Unsent]) -> None:
        """Looks for those that may have been sent before, in one list a group and target."""
        places: dict[tuple[str, str], dict[str, Unsent]] = {}
        for job in jobs:
            places.setdefault((job.submission.target, job.group), {})[job.uid] = job
        try:
            for (target, group), wanted in places.items():
                for job in wanted.values():
                    if why := self._backend.misplaced(job.submission):
                        raise CalibanError(f"job {job.id} may be there already: {why}")
                there = self._backend.find(target, group)
                for uid in wanted.keys() & there.keys():
                    self._answers.put((wanted[uid], there[uid]))
        except WaitEndedError:
            pass  # the user wants it to end
        except CalibanError as error:
            self._sent.problem = error
            self._end()
        except BaseException as error:  # noqa: BLE001 - it is dealt with where the thread was started
            self._failure = error
            self._end()

    def _work(self, waiting: Iterator[Unsent]) -> None:
        """Sends one job after another; one of several threads."""
        while (job := self._next(waiting)) is not None:
            answer: _Answer
            try:
                answer = self._backend.submit(job.submission, job.is_new)
            except BaseException as error:  # noqa: BLE001 - it is dealt with where the thread was started
                answer = error
                if not _is_about_one(error):
                    self._end()
            self._answers.put((job, answer))

    def _next(self, waiting: Iterator[Unsent]) -> Unsent | None:
        with self._lock:
            if self._is_over:
                return None
            return next((job for job in waiting if job.uid not in self._sent.stopped), None)

    def _end(self) -> None:
        """Nothing more is sent, and nobody waits until it may be."""
        with self._lock:
            self._is_over = True
        self._waits.end()

    def _attend(self, threads: Sequence[threading.Thread], jobs: Sequence[Unsent]) -> None:
        """Records what comes back, until all is sent or the user wants it to end."""
        looked_at = time.monotonic()
        left = len(jobs)
        while any(thread.is_alive() for thread in threads) and self._interruption.count < 2:
            arrived = self._arrived(min(_BATCH, left))
            self._record(arrived)
            left -= len(arrived)
            self._progress.idle()
            if self._interruption.count and not self._is_over:
                self._progress.note("Waiting for answers that are due; ^C again doesn't.", "yellow")
                self._end()
            if time.monotonic() - looked_at > _GLANCE:
                self._look([job for job in jobs if not self._sent.has(job)])
                looked_at = time.monotonic()
        while arrived := self._arrived(_BATCH, wait=False):
            self._record(arrived)

    def _arrived(self, most: int, wait: bool = True) -> list[tuple[Unsent, _Answer]]:
        """The answers of a moment, or so many."""
        found: list[tuple[Unsent, _Answer]] = []
        until = time.monotonic() + (_PAUSE if wait else 0.0)
        while len(found) < most and not (wait and self._interruption.count > 1):
            left = until - time.monotonic()
            try:
                # In short waits, between which signals are noticed.
                found.append(self._answers.get(left > 0, min(max(left, 0.0), _TICK)))
            except queue.Empty:
                if left <= 0:
                    break
        return found

    def _look(self, jobs: Sequence[Unsent]) -> None:
        """Sees which jobs have been ended by somebody, and need not be sent."""
        ended = self._store.ended([job.uid for job in jobs])
        with self._lock:
            self._sent.stopped |= ended
        for job in jobs:
            if job.uid in ended:
                self._progress.stopped(job)

    def _record(self, answers: Sequence[tuple[Unsent, _Answer]]) -> None:
        handles = {job.uid: each for job, each in answers if isinstance(each, Handle)}
        refused: dict[str, CalibanError] = {}
        for job, each in answers:
            if isinstance(each, CalibanError) and _is_about_one(each):
                refused[job.uid] = each
            elif isinstance(each, WaitEndedError):
                pass  # because of something else
            elif isinstance(each, CalibanError):
                self._sent.problem = self._sent.problem or each
            elif isinstance(each, BaseException):
                self._failure = self._failure or each
        if not handles and not refused:
            return
        now = datetime.datetime.now(datetime.UTC)
        outcomes = {
            uid: Outcome(Status.FAILED, reason=error.message, finished=now)
            for uid, error in refused.items()
        }
        reports = {uid: Report({}, error.message) for uid, error in refused.items()}
        self._store.settle(outcomes, handles, reports)
        self._sent.handles |= handles
        self._sent.refused |= refused
        # Afterwards: who ends a job from now on finds it on the platform.
        ended = self._store.ended(list(handles))
        for job, _ in answers:
            if job.uid in ended:
                self._stop(job, handles[job.uid])
            elif job.uid in handles:
                self._progress.accepted(job, handles[job.uid])
            elif job.uid in refused:
                self._progress.refused(job, refused[job.uid])

    def _stop(self, job: Unsent, handle: Handle) -> None:
        """Ends a job on the platform that somebody has ended here while it was being sent."""
        self._sent.stopped.add(job.uid)
        self._progress.stopped(job)
        try:
            self._backend.stop(handle)
        except CalibanError as error:
            text = f"job {job.id} was stopped, but may run as {handle.id}: {error.message}"
            self._progress.note(text, "red")


def _is_about_one(error: BaseException) -> bool:
    """Whether an error tells that one job was refused, and nothing about others."""
    return isinstance(error, RefusedError) and not error.is_general
