"""Sends what is known of jobs to where their runs are kept, beside all else that is done."""

from __future__ import annotations

import collections
import contextlib
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol, Self

from caliban import joblog, terminal
from caliban.errors import CalibanError
from caliban.model import tracking
from caliban.model.job import Status
from caliban.tracking import outbox
from caliban.tracking.outbox import Entry
from caliban.tracking.place import Place
from caliban.tracking.server import AwayError, RefusedError, Server
from caliban.tracking.service import Service

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore
    from caliban.model.job import Job

# How long a job waits for its run to be made, in seconds: longer ones get no MLFLOW_RUN_ID.
_GLANCE = 0.5

# After so many seconds a server that was away is asked again.
_AGAIN = 2.0

# How long a launch that has nothing else to do waits until all is sent, in seconds: from a server,
# and where one has to be started first.
_PATIENCE, _PATIENCE_TO_START = 10.0, 60.0

# For how long what jobs are made of may still be being found out, in seconds.
_GATHERING = 10.0

# How often something that waits looks up, in seconds.
_TICK = 0.1

# How much of a log is sent, in bytes.
_LONGEST_LOG = 64 << 20


class Tracker(Protocol):
    """Is told of jobs of this machine as they run."""

    def prepare(self, uids: Sequence[str]) -> None:
        """These jobs start soon."""

    def variables(self, uid: str) -> Mapping[str, str]:
        """What a job finds in its environment that starts now."""

    def ended(self, uid: str) -> None:
        """A job has ended, and its outcome is recorded."""


class NoTracker:
    """For jobs whose runs are kept nowhere."""

    def prepare(self, uids: Sequence[str]) -> None:
        """Nothing is prepared."""

    def variables(self, uid: str) -> Mapping[str, str]:
        """Nothing is told."""
        return {}

    def ended(self, uid: str) -> None:
        """Nothing is sent."""


@dataclass(frozen=True)
class Waiting:
    """What could not be sent.

    Attributes:
      number: of jobs.
      why: in words.
    """

    number: int
    why: str


class Sender:
    """Makes runs for the jobs of a launch before they start, and completes them when they ended.

    One thread does it. Nobody waits for it: a server that is away costs a job nothing.
    """

    def __init__(
        self, store: HistoryStore, place: Place, experiment: str, uids: Sequence[str]
    ) -> None:
        """Sends nothing yet.

        Args:
          store: the history, which stays open until the end of the `with`.
          place: where the runs are kept.
          experiment: what they are part of.
          uids: of the jobs, which have been recorded.
        """
        self._store = store
        self._place = place
        self._experiment = experiment
        self._uids = uids
        self._service = Service(place, os.environ)
        self._server = Server(self._service.url, os.environ)
        self._changed = threading.Condition()
        self._wanted: collections.deque[str] = collections.deque()
        self._ended: collections.deque[str] = collections.deque()
        self._run_ids: dict[str, str] = {}
        self._told: set[str] = set()
        self._away_until = 0.0
        self._is_ready = place.is_server
        self._is_slow = False
        self._began = self._hold_until = time.monotonic()
        self._why = ""
        self._number = 0
        self._closing = 0.0
        # A server that never answers must not keep caliban from ending.
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        patience = _PATIENCE if self._place.is_server or self._is_ready else _PATIENCE_TO_START
        with self._changed:
            self._pass_over_unstarted()
            self._closing = time.monotonic() + patience
            self._changed.notify_all()
        self._thread.join(patience + 1)
        self._service.close()
        if self._place.debug:
            terminal.note(f"MLflow: {self._number} runs written at {self._service.url}")
        mine = {entry.uid for entry in outbox.entries()} & {*self._uids}
        if ended := [
            each for each in self._store.jobs(sorted(mine)) if each.outcome.status.is_final
        ]:
            jobs = "1 job is" if len(ended) == 1 else f"{len(ended)} jobs are"
            why = self._why or "there was no time left"
            terminal.warn(f"{jobs} not in MLflow yet: {why}; 'caliban status' sends what waits")

    def prepare(self, uids: Sequence[str]) -> None:
        """Has runs made for jobs that start soon, unless the server is known to be away."""
        with self._changed:
            new = [uid for uid in uids if uid not in self._run_ids and uid not in self._told]
            for uid in new:
                if (earlier := outbox.find(uid)) and earlier.run_id:
                    self._run_ids[uid] = earlier.run_id  # of a launch that has died
            known = {*self._run_ids, *self._wanted}
            self._wanted.extend(uid for uid in new if uid not in known)
            self._changed.notify_all()

    def variables(self, uid: str) -> Mapping[str, str]:
        """What a job finds in its environment that starts now."""
        found = variables_of(self._service.url, self._experiment, uid)
        with self._changed:
            # After one job has waited in vain, the others don't, until the server is itself again.
            self._is_slow |= not self._changed.wait_for(
                lambda: uid in self._run_ids or uid not in self._wanted or self._is_away(), _GLANCE
            )
            self._told.add(uid)
            run_id = self._run_ids.get(uid, "")
        if run_id:
            with contextlib.suppress(CalibanError):
                outbox.tell(uid, run_id)
        return {**found, tracking.ID: run_id} if run_id else found

    def ended(self, uid: str) -> None:
        """Has it sent what is known of a job that has ended."""
        with self._changed:
            self._ended.append(uid)
            self._changed.notify_all()

    def _pass_over_unstarted(self) -> None:
        """Jobs that never started get no run, unless one was made for them already."""
        for job in self._store.jobs([uid for uid in self._uids if uid not in self._told]):
            if job.outcome.status is Status.STOPPED and job.outcome.started is None:
                if run_id := self._run_ids.get(job.uid):
                    outbox.tell(job.uid, run_id)
                    self._ended.append(job.uid)
                else:
                    outbox.forget(job.uid)

    def _is_away(self) -> bool:
        return not self._is_ready or self._is_slow or time.monotonic() < self._away_until

    def _work(self) -> None:
        try:
            outbox.expect(Entry(uid, self._place, self._experiment) for uid in self._uids)
            self._service.start()
            self._start()
            while (work := self._next()) is not None:
                self._attempt(work)
            self._catch_up()
        except CalibanError as error:
            self._why = error.message
        except Exception as error:  # noqa: BLE001 - it is told at the end; the jobs go on
            self._why = str(error) or type(error).__name__
        finally:
            self._server.close()
            with self._changed:
                self._wanted.clear()
                self._changed.notify_all()

    def _catch_up(self) -> None:
        """Sends what earlier launches have left over."""
        left = {
            entry.uid: entry
            for entry in outbox.entries()
            if entry.place == self._place and entry.uid not in self._uids
        }
        for job in self._store.jobs(sorted(left)):
            now = time.monotonic()
            if now > self._closing or now < self._away_until:
                return
            if job.outcome.status.is_final:
                send(self._store, self._server, left[job.uid], job)

    def _start(self) -> None:
        while not self._service.is_ready():
            if self._closing and time.monotonic() > self._closing:
                return
            time.sleep(_TICK)
        self._is_ready = True

    def _next(self) -> tuple[str, bool] | None:
        """The next job, and whether it has ended; runs to be made come first. None at the end."""
        with self._changed:
            while True:
                now = time.monotonic()
                is_away = now < self._away_until
                if self._closing and (is_away or not self._ended or now > self._closing):
                    return None
                while self._wanted and self._wanted[0] in self._told:
                    self._wanted.popleft()
                if self._wanted and not is_away and not self._closing:
                    return self._wanted[0], False
                due = max(self._away_until, 0 if self._closing else self._hold_until)
                if self._ended and now >= due:
                    return self._ended[0], True
                pause = due if self._ended else self._away_until
                self._changed.wait(pause - now if pause > now else None)

    def _attempt(self, work: tuple[str, bool]) -> None:
        uid, has_ended = work
        run_id = ""
        try:
            if has_ended and not self._send(uid):
                with self._changed:
                    self._ended.rotate(-1)
                    self._hold_until = time.monotonic() + _TICK
                return
            if not has_ended:
                run_id = self._server.create(self._experiment, uid)
        except AwayError as error:
            self._why = error.message
            with self._changed:
                self._away_until = time.monotonic() + _AGAIN
                self._wanted.clear()
                self._changed.notify_all()
            return
        except CalibanError as error:
            self._why = error.message
        with self._changed:
            if run_id:
                self._run_ids[uid] = run_id
                self._is_slow = False
            queue = self._ended if has_ended else self._wanted
            with contextlib.suppress(ValueError):
                queue.remove(uid)
            self._changed.notify_all()

    def _send(self, uid: str) -> bool:
        """Sends what is known of a job; returns False if that is not all that will be soon."""
        provenance = self._store.provenances.of_job(uid)
        is_early = time.monotonic() - self._began < _GATHERING
        if provenance is None and is_early and not self._closing:
            return False
        entry = outbox.find(uid)
        jobs = self._store.jobs([uid])
        if entry and jobs:
            send(self._store, self._server, entry, jobs[0])
            self._number += 1
        return True


def variables_of(url: str, experiment: str, uid: str) -> dict[str, str]:
    """What a job on this machine finds in its environment, but for the id of its run."""
    logins = {name: os.environ[name] for name in tracking.CREDENTIALS if name in os.environ}
    return {
        tracking.URI: url,
        tracking.EXPERIMENT: experiment,
        **tracking.own_variables(uid),
        **logins,
    }


def send(store: HistoryStore, server: Server, entry: Entry, job: Job) -> None:
    """Writes down all that is known of a job that has ended, unless somebody else has done it.

    Raises:
      AwayError: the server doesn't answer.
      RefusedError: it says no.
    """
    run = tracking.run_of(job, store.provenances.of_job(job.uid))
    with outbox.sending(entry) as is_wanted, _log(job.uid) as log:
        if is_wanted:
            server.record(entry.experiment, entry.uid, entry.run_id, run, log)


@contextlib.contextmanager
def _log(uid: str) -> Iterator[IO[bytes] | None]:
    """What a job has printed, as a file; None if nothing was kept."""
    if joblog.find(uid) is None:
        yield None
        return
    with tempfile.TemporaryFile() as file:
        with contextlib.suppress(CalibanError):  # damaged: as far as it goes
            for piece in joblog.read(uid):
                file.write(piece[: _LONGEST_LOG - file.tell()])
        file.seek(0)
        yield file


def flush(store: HistoryStore, seconds: float) -> list[Waiting]:
    """Sends what waits of jobs that have ended, as far as there is time for it.

    Returns:
      What could not be sent, and why.
    """
    entries = {entry.uid: entry for entry in outbox.entries()}
    if not entries:
        return []
    until = time.monotonic() + seconds
    left: Counter[str] = Counter()
    by_place: dict[Place, list[Job]] = {}
    for job in store.jobs(sorted(entries)):
        if job.outcome.status.is_final:
            by_place.setdefault(entries[job.uid].place, []).append(job)
    for place, jobs in by_place.items():
        service = Service(place, os.environ)
        with (
            contextlib.closing(service),
            contextlib.closing(Server(service.url, os.environ)) as server,
        ):
            try:
                service.start()
                service.wait(until)
            except CalibanError as error:
                left[error.message] += len(jobs)
                continue
            for number, job in enumerate(jobs):
                if time.monotonic() > until:
                    left["there was no time left"] += len(jobs) - number
                    break
                try:
                    send(store, server, entries[job.uid], job)
                except AwayError as error:
                    left[error.message] += len(jobs) - number
                    break
                except RefusedError as error:
                    left[error.message] += 1
    return [Waiting(number, why) for why, number in left.items()]
