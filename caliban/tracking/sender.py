"""Sends what is known of jobs to where their runs are kept, beside all else that is done."""

from __future__ import annotations

import collections
import contextlib
import os
import secrets
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Self

from caliban import terminal
from caliban.errors import CalibanError
from caliban.model import tracking
from caliban.model.job import Status
from caliban.tracking import completion, outbox
from caliban.tracking.journal import Journal
from caliban.tracking.line import Line
from caliban.tracking.outbox import Entry
from caliban.tracking.place import Place
from caliban.tracking.server import AwayError, Server
from caliban.tracking.service import Service

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore
    from caliban.model.job import Job
    from caliban.tracking.relay import Relay

# How long a job waits for its run to be made, in seconds: longer ones get no MLFLOW_RUN_ID.
_GLANCE = 0.5

# After so many seconds a server that was away is asked again.
_AGAIN = 2.0

# How long a launch that has nothing else to do waits until all is sent, in seconds: from a server,
# and where one has to be started first.
_PATIENCE, _PATIENCE_TO_START = 10.0, 60.0

# The same for one that has not answered at last.
_LITTLE_PATIENCE = 1.0

# For how long what jobs are made of may still be being found out, in seconds.
_GATHERING = 10.0

# How often something that waits looks up, in seconds.
_TICK = 0.1


class _Work(Enum):
    """What is done for a job: its run is made, told what the job has said, and completed."""

    MAKE = "make"
    PASS_ON = "pass on"
    COMPLETE = "complete"


class Sender:
    """Makes runs for the jobs of a launch before they start, and completes them when they ended.

    One thread does it. Nobody waits for it: a server that is away costs a job nothing. Jobs that
    reach this machine's loopback speak with a relay there, which keeps what can't be passed on.
    """

    def __init__(
        self,
        store: HistoryStore,
        place: Place,
        experiment: str,
        uids: Sequence[str],
        near: Collection[str] = (),
    ) -> None:
        """Sends nothing yet.

        Args:
          store: the history, which stays open until the end of the `with`.
          place: where the runs are kept.
          experiment: what they are part of.
          uids: of the jobs, which have been recorded.
          near: those of them that reach the loopback of this machine.
        """
        self._store = store
        self._place = place
        self._experiment = experiment
        self._uids = uids
        self._service = Service(place, os.environ)
        self._server = Server(self._service.url, os.environ, self._service.host)
        self._near = frozenset(near)
        self._relay = self._take_relay() if near else None
        self._changed = threading.Condition()
        self._wanted: collections.deque[str] = collections.deque()
        self._ended: collections.deque[str] = collections.deque()
        self._runs: dict[str, Mapping[str, Any]] = {}
        self._prepared: dict[str, int] = {}  # when, in milliseconds since 1970
        self._earlier: dict[str, str] = {}  # the ids of those made by a launch that has died
        self._journals: dict[str, Journal] = {}
        self._told: set[str] = set()
        self._troubles: collections.Counter[str] = collections.Counter()
        self._away_until = 0.0
        self._is_ready = place.is_server
        self._is_slow = self._is_silent = False
        self._began = self._hold_until = time.monotonic()
        self._why = self._unnoted = ""
        self._refused: list[str] = []
        self._number = 0
        self._closing = 0.0
        # A server that never answers must not keep caliban from ending.
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _take_relay(self) -> Relay:
        """A relay, at the port that jobs know which an earlier caliban has left behind."""
        from caliban.tracking.relay import Relay

        known = [entry for uid in self._near if (entry := outbox.find(uid)) and entry.port]
        port, secret = (known[0].port, known[0].secret) if known else (0, secrets.token_hex(16))
        url, host = self._service.url, self._service.host
        relay = Relay(url, os.environ, self._notice, port, secret, host)
        for entry in known:
            line = Line(entry.uid, entry.experiment, outbox.journal(entry.uid))
            line.begin(None, entry.run_id)
            relay.add(line)
        return relay

    def _notice(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> Self:
        if self._relay:
            self._relay.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        patience = _PATIENCE if self._place.is_server or self._is_ready else _PATIENCE_TO_START
        with self._changed:
            self._pass_over_unstarted()
            self._closing = time.monotonic() + patience
            self._changed.notify_all()
        began = time.monotonic()
        while self._thread.is_alive() and time.monotonic() - began < (
            _LITTLE_PATIENCE if self._is_silent else patience + 1
        ):
            self._thread.join(_TICK)
        if self._relay:
            self._relay.close()
            self._refused += self._relay.lost
        self._service.close()
        completion.tell_refused(self._refused)
        if self._unnoted:
            terminal.warn(f"jobs are missing in MLflow: {self._unnoted}")
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
            # Noted now, and not all at the beginning: of many jobs, the first would wait for that.
            unknown = [uid for uid in uids if uid not in self._prepared]
            try:
                outbox.expect(Entry(uid, self._place, self._experiment) for uid in unknown)
            except CalibanError as error:
                self._unnoted = error.message
            known = {*self._runs, *self._wanted, *self._told}
            new = [uid for uid in uids if uid not in known]
            found = {uid: entry.run_id for uid in new if (entry := outbox.find(uid))}
            self._prepared |= dict.fromkeys(new, int(time.time() * 1000))
            self._earlier |= {uid: run_id for uid, run_id in found.items() if run_id}
            self._wanted.extend(uid for uid in new if uid not in self._earlier)
            self._changed.notify_all()

    def variables(self, uid: str) -> Mapping[str, str]:
        """What a job finds in its environment that starts now."""
        with self._changed:
            # After one job has waited in vain, the others don't, until the server is itself again.
            self._is_slow |= not self._changed.wait_for(
                lambda: uid in self._runs or uid not in self._wanted or self._is_away(), _GLANCE
            )
            self._told.add(uid)
            run = self._runs.get(uid)
        run_id = str(run["info"]["run_id"]) if run else self._earlier.get(uid, "")
        url, port, secret, told = self._service.url, 0, "", run_id
        quiet: dict[str, str] = {}
        if self._relay and uid in self._near:
            line = self._line(uid, run, run_id)
            url, told = self._relay.address(uid), line.run_id
            port, secret = self._relay.port, self._relay.secret
            quiet[tracking.QUIET] = "true"
        if told:
            with contextlib.suppress(CalibanError):
                outbox.tell(uid, run_id, port, secret)
        found = {**variables_of(url, self._experiment, uid), **quiet}
        return {**found, tracking.ID: told} if told else found

    def _line(self, uid: str, run: Mapping[str, Any] | None, run_id: str) -> Line:
        """Lets a job speak with the relay."""
        assert self._relay
        line = Line(uid, self._experiment, outbox.journal(uid))
        line.begin(run, run_id)
        self._relay.add(line)
        return line

    def ended(self, uid: str) -> None:
        """Has it sent what is known of a job that has ended."""
        line = self._relay.remove(uid) if self._relay else None
        with self._changed:
            if line:
                self._journals[uid] = line.journal
            self._ended.append(uid)
            self._changed.notify_all()

    def _pass_over_unstarted(self) -> None:
        """Jobs that never started get no run, unless one was made for them already."""
        for job in self._store.jobs([uid for uid in self._uids if uid not in self._told]):
            if job.outcome.status is Status.STOPPED and job.outcome.started is None:
                if run := self._runs.get(job.uid):
                    outbox.tell(job.uid, str(run["info"]["run_id"]))
                    self._ended.append(job.uid)
                else:
                    outbox.forget(job.uid)

    def _is_away(self) -> bool:
        return not self._is_ready or self._is_slow or time.monotonic() < self._away_until

    def _work(self) -> None:
        try:
            self._service.start()
            self._start()
            while (work := self._next()) is not None:
                self._attempt(*work)
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
            # Of jobs elsewhere, the output may not be here yet.
            if job.outcome.status.is_final and job.submission.platform == "local":
                self._complete(left[job.uid], job)

    def _start(self) -> None:
        while not self._service.is_ready():
            if self._closing and time.monotonic() > self._closing:
                self._why = self._service.why_late
                return
            time.sleep(_TICK)
        self._is_ready = True

    def _next(self) -> tuple[_Work, str] | None:
        """What is to be done next, for which job; runs to be made come first. None at the end."""
        with self._changed:
            while True:
                now = time.monotonic()
                is_away = now < self._away_until
                if self._closing and (is_away or not self._ended or now > self._closing):
                    return None
                while self._wanted and self._wanted[0] in self._told:
                    self._wanted.popleft()
                if self._wanted and not is_away and not self._closing:
                    return _Work.MAKE, self._wanted[0]
                due = max(self._away_until, 0 if self._closing else self._hold_until)
                if self._ended and now >= due:
                    return _Work.COMPLETE, self._ended[0]
                if self._relay and not is_away and (behind := self._relay.behind()):
                    return _Work.PASS_ON, min(behind, key=lambda each: self._troubles[each.uid]).uid
                pause = due if self._ended else self._away_until
                self._changed.wait(pause - now if pause > now else None)

    def _attempt(self, work: _Work, uid: str) -> None:
        try:
            if work is _Work.MAKE:
                self._make(uid)
            elif work is _Work.PASS_ON:
                self._pass_on(uid)
            elif not self._has_completed(uid):
                with self._changed:
                    self._ended.rotate(-1)
                    self._hold_until = time.monotonic() + _TICK
                return
        except CalibanError as error:
            self._why = error.message
            self._is_silent = isinstance(error, AwayError) and not error.status
            # At the end, a server that answers is asked once for each.
            is_over = self._closing and work is _Work.COMPLETE and not self._is_silent
            if (isinstance(error, AwayError) or work is _Work.PASS_ON) and not is_over:
                self._put_last(uid)
                self._leave_alone()
                return
        else:
            self._is_silent = False
        with self._changed:
            queue = self._ended if work is _Work.COMPLETE else self._wanted
            with contextlib.suppress(ValueError):
                queue.remove(uid)
            self._changed.notify_all()

    def _put_last(self, uid: str) -> None:
        """What a server has trouble with may be about one job alone: the others come first."""
        with self._changed:
            self._troubles[uid] += 1
            if self._ended and self._ended[0] == uid:
                self._ended.rotate(-1)

    def _leave_alone(self) -> None:
        """Asks the server nothing for a while."""
        if self._relay:
            self._relay.rest()
        with self._changed:
            self._away_until = time.monotonic() + _AGAIN
            self._wanted.clear()
            self._changed.notify_all()

    def _make(self, uid: str) -> None:
        # Not now: who was not told of it in time may have started already, and ended.
        run = self._server.create(self._experiment, uid, self._prepared[uid])
        with self._changed:
            self._runs[uid] = run
            self._is_slow = False

    def _pass_on(self, uid: str) -> None:
        """Sends what a job has said itself that still runs."""
        assert self._relay
        line, entry = self._relay.line(uid), outbox.find(uid)
        if line is None or entry is None:  # it has ended, and somebody else has seen to it
            self._relay.remove(uid)
            return
        with outbox.holding(entry) as is_wanted:
            if is_wanted:
                started = line.runs[line.run_id].get("start_time")
                found = completion.pass_on(self._server, entry, line.journal, started)
                line.names = found.run
                self._refused += found.refused
                outbox.tell(uid, found.run.run)

    def _has_completed(self, uid: str) -> bool:
        """Sends what is known of a job; returns False if that is not all that will be soon."""
        provenance = self._store.provenances.of_job(uid)
        is_early = time.monotonic() - self._began < _GATHERING
        if provenance is None and is_early and not self._closing:
            return False
        entry = outbox.find(uid)
        jobs = self._store.jobs([uid])
        if entry and jobs:
            self._complete(entry, jobs[0])
            self._number += 1
        return True

    def _complete(self, entry: Entry, job: Job) -> None:
        journal = self._journals.get(job.uid) or outbox.journal(job.uid)
        self._refused += completion.send(self._store, self._server, entry, job, journal)


def variables_of(url: str, experiment: str, uid: str) -> dict[str, str]:
    """What a job on this machine finds in its environment, but for the id of its run."""
    logins = {name: os.environ[name] for name in tracking.CREDENTIALS if name in os.environ}
    return {
        tracking.URI: url,
        tracking.EXPERIMENT: experiment,
        **tracking.own_variables(uid),
        **logins,
    }
