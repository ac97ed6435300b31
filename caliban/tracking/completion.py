"""What is known of jobs that have ended, written into their runs, by whoever comes to it."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from caliban import joblog, terminal
from caliban.errors import CalibanError
from caliban.model import tracking
from caliban.model.job import Status
from caliban.tracking import outbox
from caliban.tracking.journal import Journal, Names, Request, together
from caliban.tracking.outbox import Entry
from caliban.tracking.place import Place
from caliban.tracking.server import KEPT_ELSEWHERE, AwayError, RefusedError, Server
from caliban.tracking.service import Service

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore
    from caliban.model.job import Job

# How much of a log is sent, in bytes.
_LONGEST_LOG = 64 << 20

# HTTP's status of a server that has failed at something, and doesn't know why.
_BROKEN = 500


@dataclass(frozen=True)
class Waiting:
    """What could not be sent.

    Attributes:
      number: of jobs.
      why: in words.
    """

    number: int
    why: str


@dataclass(frozen=True)
class PassedOn:
    """What became of all that a job has said itself.

    Attributes:
      run: as its server calls it.
      refused: why the server didn't take some of it.
    """

    run: Names
    refused: Sequence[str]


def pass_on(server: Server, entry: Entry, journal: Journal, started: int | None) -> PassedOn:
    """Sends what a job has said itself; it gets a run if it has none.

    Args:
      server: that keeps its run.
      entry: of the job.
      journal: what it has said.
      started: when the job was, in milliseconds since 1970; None if nobody knows.

    Raises:
      AwayError: the server doesn't answer.
      RefusedError: it says no to all.
    """
    run = Names.of(server.find(entry.experiment, entry.uid, entry.run_id, started))
    stand_in = Names.stand_in(tracking.run_name(entry.uid))
    refused: list[str] = []

    def send(requests: Sequence[Request]) -> None:
        if len(requests) > 1:
            try:
                server.repeat(together(requests).renamed(stand_in, run))
                return
            except RefusedError as error:
                if not error.is_lasting:
                    raise  # otherwise, it is about one of them
            except AwayError as error:
                if not error.status:
                    raise
        for request in requests:
            send_one(request)

    def send_one(request: Request) -> None:
        if request.file.startswith(f"{stand_in.folder}/") and not run.folder:
            refused.append(KEPT_ELSEWHERE)
            return
        try:
            repeat(request.renamed(stand_in, run))
        except RefusedError as error:
            if not error.is_lasting:
                raise
            refused.append(error.message)

    def repeat(request: Request) -> None:
        try:
            server.repeat(request)
            return
        except AwayError as error:
            is_small = isinstance(request.content, bytes) and not request.file
            if error.status != _BROKEN or not is_small:
                raise
        server.mark(run.run, entry.uid)
        # As it can write that, it is the request that it has trouble with, if it has it again.
        try:
            server.repeat(request)
        except AwayError as error:
            if error.status != _BROKEN:
                raise
            raise RefusedError(error.message, status=400) from None

    journal.pass_on(send)
    return PassedOn(run, refused)


def send(
    store: HistoryStore, server: Server, entry: Entry, job: Job, journal: Journal
) -> Sequence[str]:
    """Writes down all that is known of a job that has ended, unless somebody else has done it.

    Args:
      store: the history.
      server: that keeps its run.
      entry: of the job.
      job: as it is recorded.
      journal: what it has said itself and the server has not been told.

    Returns:
      Why the server didn't take some of that.

    Raises:
      AwayError: the server doesn't answer.
      RefusedError: it says no.
    """
    run = tracking.run_of(job, store.provenances.of_job(job.uid))
    refused: Sequence[str] = ()
    with outbox.sending(entry) as is_wanted, _log(job.uid) as log:
        if is_wanted:
            run_id = entry.run_id
            if not journal.is_empty():
                found = pass_on(server, entry, journal, run.started)
                run_id, refused = found.run.run, found.refused
            server.record(entry.experiment, entry.uid, run_id, run, log)
    return refused


def was_never_wanted(entry: Entry, job: Job) -> bool:
    """Whether a job needs no run: it was stopped before it had started, and has none."""
    is_unstarted = job.outcome.status is Status.STOPPED and job.outcome.started is None
    return is_unstarted and not entry.run_id and not entry.port


def tell_refused(refused: Sequence[str]) -> None:
    """Says what could not be kept, or the server didn't take, of what jobs have said themselves."""
    if refused:
        entries = "1 entry" if len(refused) == 1 else f"{len(refused)} entries"
        terminal.warn(f"{entries} that jobs logged while MLflow was away are lost: {refused[0]}")


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


def flush(store: HistoryStore, seconds: float, incomplete: Collection[str] = ()) -> list[Waiting]:
    """Sends what waits of jobs that have ended, as far as there is time for it.

    Args:
      store: the history.
      seconds: how long it may take.
      incomplete: the uids of jobs whose output is not here yet: they wait for that.

    Returns:
      What could not be sent, and why.
    """
    entries = {entry.uid: entry for entry in outbox.entries()}
    if not entries:
        return []
    until = time.monotonic() + seconds
    left: Counter[str] = Counter()
    refused: list[str] = []
    by_place: dict[Place, list[Job]] = {}
    for job in store.jobs(sorted(entries)):
        if was_never_wanted(entries[job.uid], job):
            outbox.forget(job.uid)
        elif job.outcome.status.is_final and job.uid in incomplete:
            left["their output is not here yet"] += 1
        elif job.outcome.status.is_final:
            by_place.setdefault(entries[job.uid].place, []).append(job)
    for place, jobs in by_place.items():
        service = Service(place, os.environ)
        with (
            contextlib.closing(service),
            contextlib.closing(Server(service.url, os.environ, service.host)) as server,
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
                    journal = outbox.journal(job.uid)
                    refused += send(store, server, entries[job.uid], job, journal)
                except AwayError as error:
                    if not error.status:
                        left[error.message] += len(jobs) - number
                        break
                    left[error.message] += 1  # it may be about this job alone
                except RefusedError as error:
                    left[error.message] += 1
    tell_refused(refused)
    return [Waiting(number, why) for why, number in left.items()]
