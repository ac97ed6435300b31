"""Where the output of jobs is to be had, and why there may be none."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from caliban import joblog, process, terminal
from caliban.errors import EngineError
from caliban.model.job import Handle, Job, Status
from caliban.remote import output as remote_output
from caliban.remote.backends import is_remote

if TYPE_CHECKING:
    from caliban.commands.job_choice import Places
    from caliban.history.store import HistoryStore
    from caliban.platform.local import LocalBackend

# How long the logs of jobs that have ended elsewhere are fetched, in seconds: as long as it takes.
_FETCH = 24 * 3600.0

# What is said of a log that is not whole.
CUT = "the rest of its output could not be kept: its log had no room on the disk"

OPEN = (Status.SUBMITTED, Status.RUNNING)


def is_left(job: Job) -> bool:
    """Whether a job is open, and the caliban that saw to it has died on this machine."""
    return job.outcome.status in OPEN and process.is_alive(job.owner) is False


def is_there(job: Job) -> bool:
    """Whether a job is open on a platform elsewhere, which can be asked for what it prints."""
    return is_remote(job) and job.handle is not None and job.outcome.status in OPEN


def fetch(store: HistoryStore, places: Places, jobs: Sequence[Job]) -> bool:
    """Sees to it that the logs of jobs that have ended elsewhere are here, as far as there are any.

    Returns:
      Whether that could be done for all of them.
    """
    wanted = [
        job for job in jobs if is_remote(job) and job.handle and not remote_output.is_kept(job)
    ]
    if not wanted:
        return True
    problems = remote_output.fetch_all(store, places.backends(), wanted, _FETCH)
    for job in wanted:
        if job.uid in problems:
            terminal.warn(f"the log of job {job.id} can't be fetched: {problems[job.uid]}")
    return not problems


def left_container(connect: Callable[[], LocalBackend], job: Job) -> Handle | None:
    """The container of a job that nobody attends to, if this machine's engine has it."""
    if job.handle is None or job.handle.platform != "local" or not is_left(job):
        return None
    backend = connect()
    try:
        is_here = job.handle.target == backend.target and backend.status([job.handle])
    except EngineError:
        return None  # what is in the file is all that can be had
    return job.handle if is_here else None


def machine_of(handle: Handle) -> str:
    """The machine that a local job runs on."""
    return handle.target.partition(" ")[0]


def why_nothing(job: Job) -> str:
    """Why there is no output of a job."""
    if joblog.find(job.uid):
        return "it has printed nothing" + ("" if job.outcome.status.is_final else " yet")
    if job.handle is None:
        if not is_remote(job):
            return "caliban 0.4 kept no log"
        if job.outcome.status.is_final:
            return f"it was never started ({job.outcome.reason})"
        return "it has not been sent" + (" yet" if process.is_alive(job.owner) else "")
    if is_remote(job) and job.outcome.status.is_final:
        return f"there is no log of it ({job.outcome.reason or job.outcome.status.value})"
    if job.outcome.started is None:
        if job.outcome.status in OPEN:
            return "it has not started yet"
        return f"it was never started ({job.outcome.reason})"
    if not is_remote(job) and (machine := machine_of(job.handle)) != socket.gethostname():
        return f"its log is on the machine where it ran, {machine}"
    if job.outcome.status in OPEN:
        return "it has printed nothing yet"
    return "its log has been removed"


def is_out_of_reach(job: Job) -> bool:
    """Whether the output of an open job can't come to be seen on this machine."""
    if is_remote(job):
        return False
    is_here = job.handle is not None and machine_of(job.handle) == socket.gethostname()
    return job.outcome.status in OPEN and not is_here and joblog.find(job.uid) is None
