"""What has become of jobs that nobody has been waiting for."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from caliban import gpu_pool, joblog, process, terminal
from caliban.errors import EngineAwayError, EngineError
from caliban.model.job import Handle, Job, Outcome, Status
from caliban.model.report import Report
from caliban.platform.local import LocalBackend

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore
    from caliban.remote.backends import Backends


def unsettled(store: HistoryStore, user: str, group: str | None = None) -> list[Job]:
    """The open jobs of a user, or of one group, that may not be as they are recorded.

    Those that wait for a launcher which is there are not among them: of a long sweep, nearly all.

    Raises:
      UsageError: the user has no such group.
    """
    return store.open_jobs(user, group, lambda owner: process.is_alive(owner) is True)


def refresh(
    store: HistoryStore,
    jobs: Sequence[Job],
    connect: Callable[[], LocalBackend],
    backends: Callable[[], Backends] | None = None,
    gives_up: bool = True,
) -> bool:
    """Finds out what became of jobs that the history has as open, and records it.

    What their launchers would have tidied up, had they not died, is tidied up as well, see `tidy`.

    Args:
      store: the history.
      jobs: open ones; those of other machines are left alone.
      connect: makes the local backend, when it is needed.
      backends: makes those of the platforms elsewhere, when they are needed; without, their jobs
        are left alone.
      gives_up: whether jobs without a container whose launcher has died are recorded as stopped.
        If not, the engine is asked even if no job is open.

    Returns:
      Whether every one could be asked about.
    """
    is_complete = _refresh_elsewhere(store, jobs, backends) if backends else True
    return _refresh_here(store, jobs, connect, gives_up) and is_complete


def _refresh_elsewhere(
    store: HistoryStore, jobs: Sequence[Job], backends: Callable[[], Backends]
) -> bool:
    """The same for the jobs of platforms elsewhere."""
    from caliban.remote import output, stragglers
    from caliban.remote.backends import is_remote

    sent = [job for job in jobs if job.handle and is_remote(job)]
    if not (sent or output.wanted() or stragglers.expected()):
        return True
    from caliban.remote import refresh as elsewhere

    stragglers.end(store, backends())
    return elsewhere.refresh(store, sent, backends())


def _refresh_here(
    store: HistoryStore,
    jobs: Sequence[Job],
    connect: Callable[[], LocalBackend],
    gives_up: bool,
) -> bool:
    """The same for the jobs of this machine."""
    is_alive = functools.cache(process.is_alive)  # thousands of jobs may have one launcher
    local = [job for job in jobs if job.handle and job.handle.platform == "local"]
    if not local and gives_up:
        return True
    backend = connect()
    here = [job for job in local if job.handle and job.handle.target == backend.target]
    complete = len(here) == len(local)
    try:
        found = backend.status([job.handle for job in here if job.handle])
    except EngineError as error:
        terminal.warn(f"{error.message}; {len(local)} of the jobs shown as last known")
        return False
    outcomes: dict[str, Outcome] = {}
    ended: list[tuple[Job, Handle]] = []
    for job in here:
        assert job.handle is not None
        outcome = found.get(job.handle)
        if outcome is None or outcome.status is Status.SUBMITTED:
            if not gives_up or is_alive(job.owner) is not False or _is_starting(job):
                continue  # it is queued, or its launcher is about to record its outcome
            outcome = _lost(job)
        if not (outcome.status.is_final and job.handle in found):
            outcomes[job.uid] = outcome
        elif is_alive(job.owner) is False:
            ended.append((job, job.handle))
        # The launcher of others is about to record it, and knows whether the user has ended it.
    store.settle(outcomes)
    try:
        # One by one, so that nothing is lost should this be ended in between.
        for job, handle in ended:
            said = keep_output(backend, handle, job.uid, found[handle])
            store.settle({job.uid: found[handle]}, reports={job.uid: said})
            backend.release(handle)
        tidy(store, backend)
    except EngineError as error:
        terminal.warn(f"{error.message}; some jobs are shown as last known")
        return False
    return complete


def tidy(store: HistoryStore, backend: LocalBackend) -> None:
    """Removes what launchers that have died have left of jobs whose outcome is recorded.

    Containers of jobs that this history does not know belong to others, and are left alone.

    Raises:
      EngineError: the engine does not answer.
    """
    gpu_pool.tidy(store.leases(backend.machine), backend)
    there = backend.containers()
    for job in store.jobs(sorted(there)):
        handle = there[job.uid]
        if not job.outcome.status.is_final or process.is_alive(job.owner) is not False:
            continue
        state = backend.status([handle]).get(handle)
        if state is not None and state.status is Status.RUNNING:
            terminal.warn(
                f"the container {handle.id} of job {job.id} runs, though that is "
                f"{job.outcome.status.value}; 'docker rm --force {handle.id}' ends it"
            )
        elif state is not None:
            if joblog.find(job.uid) is None:
                keep_output(backend, handle, job.uid, job.outcome)
            backend.release(handle)


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


def keep_output(backend: LocalBackend, handle: Handle, uid: str, outcome: Outcome) -> Report:
    """Writes the whole output of a container that nobody followed to its end into the job's log.

    Returns:
      What the job said of itself.

    Raises:
      EngineAwayError: the engine does not answer; the container has to stay.
    """
    from caliban.remote import output

    return output.keep(uid, output.gathered(_lines(backend, handle)), outcome)


def _lines(backend: LocalBackend, handle: Handle) -> Iterator[bytes]:
    """What the engine has of a container's output, if it keeps any."""
    try:
        yield from backend.logs(handle)
    except EngineAwayError:
        raise
    except EngineError:
        pass  # what there was by then


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
