"""What jobs elsewhere have printed: fetched into their logs here when they have ended."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from caliban import home, joblog
from caliban.errors import CalibanError, RefusedError
from caliban.joblog import JobLog
from caliban.model import job as jobs_model
from caliban.model import report
from caliban.model.job import Job, Outcome
from caliban.model.report import Report
from caliban.platform.base import RemoteBackend
from caliban.remote.backends import Backends
from caliban.remote.parallel import for_each

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore

# A file for each job whose log is not here yet, or not all of it; empty before it has been fetched.
_FOLDER = f"{joblog.FOLDER}/wanted"

# After so many seconds it is not tried any more by itself.
_LONGEST = 7 * 24 * 3600.0

# How many bytes go into a log at a time.
_PIECE = 1 << 16


class _LateError(Exception):
    """There is no time for the rest."""


def is_kept(job: Job) -> bool:
    """Whether the whole log of a job that has ended is here."""
    return joblog.find(job.uid) is not None and not _mark(job.uid).exists()


def want(uids: Iterable[str]) -> None:
    """Takes note that logs are to be fetched, by whoever has time for it."""
    with contextlib.suppress(OSError):  # a full disk, for one: `caliban logs` fetches them anyway
        for uid in uids:
            home.directory(_FOLDER)
            with contextlib.suppress(FileExistsError):  # since when it is wanted stays
                _mark(uid).touch(mode=0o600, exist_ok=False)


def wanted() -> list[str]:
    """The uids of jobs whose logs are to be fetched yet."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for mark in home.path(_FOLDER).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - mark.stat().st_mtime < _LONGEST:
                    found.append(mark.name)
                else:
                    mark.unlink()
    return found


def _mark(uid: str) -> Path:
    return home.path(_FOLDER) / uid


def keep(uid: str, pieces: Iterator[bytes], outcome: Outcome) -> Report:
    """Writes the whole output of a job that has ended into its log.

    Args:
      uid: of the job.
      pieces: the output; nothing if it is not to be had any more, and what was kept before counts.
      outcome: of the job.

    Returns:
      What the job said of itself.
    """
    metrics = report.Metrics()
    first = next(pieces, b"")
    if not first:
        tail = JobLog(uid)
        for piece in joblog.read(uid):
            metrics.feed(piece)
            tail.write(piece)  # not opened: it takes note of the end only
        return jobs_model.concluded(outcome, metrics, tail.tail)
    with JobLog(uid) as log:
        for piece in itertools.chain([first], pieces):
            log.write(piece)
            metrics.feed(piece)
    return jobs_model.concluded(outcome, metrics, log.tail)


def gathered(lines: Iterable[bytes], until: float = float("inf")) -> Iterator[bytes]:
    """Lines in larger pieces: there may be millions of them.

    Args:
      lines: as a backend gives them.
      until: when to give up, by time.monotonic.
    """
    piece = bytearray()
    for line in lines:
        piece += line
        if time.monotonic() > until:
            yield bytes(piece)
            raise _LateError
        if len(piece) >= _PIECE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def fetch(store: HistoryStore, backends: Backends, job: Job, seconds: float = float("inf")) -> bool:
    """Sees to it that the log of a job that has ended is here, and what it said of itself recorded.

    Where lines come late, it stays wanted for as long, and then is fetched once more.

    Returns:
      Whether there was time for all of what there is by now.

    Raises:
      CalibanError: the platform can't be asked, or doesn't give it.
    """
    if job.handle is None or is_kept(job):
        return True
    want([job.uid])
    backend = backends.of(job.handle.platform)
    with _only_one(job.uid) as mark, contextlib.suppress(_LateError):
        if not _mark(job.uid).exists():
            return True  # somebody else has fetched it meanwhile
        is_early = _is_early(job, mark, backend.LATE)
        if is_early and mark.tell():
            return True  # it is fetched once more when all is there
        until = time.monotonic() + seconds
        try:
            said = keep(
                job.uid, gathered(backend.logs(job.handle, False, None), until), job.outcome
            )
        except RefusedError as error:
            if error.status != 404:
                raise
            said = keep(job.uid, iter(()), job.outcome)  # gone for good
        store.settle({}, reports={job.uid: said})
        if is_early:
            mark.write(b"fetched\n")
        else:
            _mark(job.uid).unlink(missing_ok=True)
        return True
    return False


def _is_early(job: Job, mark: IO[bytes], late: float) -> bool:
    """Whether some of a job's log may be on its way yet: since its end, or the first look at it."""
    now = time.time()
    finished = job.outcome.finished.timestamp() if job.outcome.finished else now
    since = os.fstat(mark.fileno()).st_mtime if mark.tell() else finished
    return max(now - since, 0.0) < late


@contextlib.contextmanager
def _only_one(uid: str) -> Iterator[IO[bytes]]:
    """Waits until nobody else fetches the log."""
    with open(_mark(uid), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def fetch_all(
    store: HistoryStore, backends: Backends, jobs: Sequence[Job], seconds: float
) -> dict[str, str]:
    """Fetches the logs of jobs that have ended, several at a time, as many as there is time for.

    Returns:
      Why some could not be fetched, by uid; "" for want of time.
    """
    left = {job.uid: "" for job in jobs}
    until = time.monotonic() + seconds

    def attempt(job: Job) -> None:
        try:
            is_fetched = fetch(store, backends, job, until - time.monotonic())
        except CalibanError as error:
            left[job.uid] = error.message
        except OSError as error:
            left[job.uid] = str(error)
        else:
            if is_fetched:
                del left[job.uid]

    for_each(jobs, attempt, seconds)
    return dict(left)


def save(backend: RemoteBackend, job: Job, seconds: float) -> None:
    """Keeps what a job has printed so far that is about to be ended, and its output lost."""
    assert job.handle is not None
    want([job.uid])  # in case that this is ended before it is done
    until = time.monotonic() + seconds
    # What can't be had now is lost, and the job ends all the same.
    with contextlib.suppress(CalibanError, _LateError), _only_one(job.uid):
        pieces = gathered(backend.logs(job.handle, False, None), until)
        with JobLog(job.uid) as log:
            for piece in pieces:
                log.write(piece)
