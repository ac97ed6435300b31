"""Jobs that were ended while they were on their way: looked for later, in case that they arrived.

Whoever sends a job that has been ended meanwhile ends it on the platform, too. If it is killed in
between, nobody knows that the job is there. So an empty file stays for each such job, until it has
been looked for.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from caliban import home, process, terminal
from caliban.errors import CalibanError
from caliban.model.job import Job
from caliban.remote.backends import Backends

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore

_FOLDER = "stragglers"

# For how long they are looked for, and from when on once more is enough: what was on its way has
# arrived by then. In seconds.
_LONGEST = 3600.0
_ENOUGH = 60.0


def expect(uids: Iterable[str]) -> None:
    """Takes note that jobs may yet arrive that have been ended here."""
    with contextlib.suppress(OSError, CalibanError):  # a full disk, for one
        for uid in uids:
            (home.directory(_FOLDER) / uid).touch(mode=0o600)


def expected() -> dict[str, float]:
    """The uids of jobs that may yet arrive, and since when they are to be looked for."""
    found: dict[str, float] = {}
    with contextlib.suppress(FileNotFoundError):
        for mark in home.path(_FOLDER).iterdir():
            with contextlib.suppress(FileNotFoundError):
                found[mark.name] = mark.stat().st_mtime
    return found


def end(store: HistoryStore, backends: Backends) -> None:
    """Looks for such jobs whose caliban isn't there any more, and ends those that are there.

    A platform that doesn't answer is asked the next time.

    Args:
      store: the history.
      backends: of the platforms.
    """
    marks, now = expected(), time.time()
    late = {uid for uid, since in marks.items() if now - since > _LONGEST}
    _forget(late)
    places: dict[tuple[str, str, str], list[Job]] = {}
    for job in store.jobs([uid for uid in marks if uid not in late]):
        if job.handle is not None:
            _forget([job.uid])  # whoever has recorded that has ended it
        elif process.is_alive(job.owner) is not True:
            place = (job.submission.platform, job.submission.target, job.group)
            places.setdefault(place, []).append(job)
    for (platform, target, group), jobs in places.items():
        with contextlib.suppress(CalibanError):
            backend = backends.of(platform)
            there = backend.find(target, group)
            for job in jobs:
                if backend.misplaced(job.submission):
                    continue
                if handle := there.get(job.uid):
                    backend.stop(handle)
                    store.settle({}, {job.uid: handle})
                    when = datetime.datetime.fromtimestamp(marks[job.uid]).strftime("%H:%M")
                    terminal.note(
                        f"job {job.id}, stopped at {when}, had arrived as {handle.id} all the "
                        "same; it has been ended there"
                    )
                if handle or now - marks[job.uid] > _ENOUGH:
                    _forget([job.uid])


def _forget(uids: Iterable[str]) -> None:
    for uid in uids:
        with contextlib.suppress(OSError):
            (home.path(_FOLDER) / uid).unlink(missing_ok=True)
