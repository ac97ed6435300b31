"""Jobs that nobody can be asked about any more: their cluster is gone, or their project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from caliban.model.job import Job, Outcome, Status
from caliban.remote import refresh, stopping
from caliban.remote.backends import Backends

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore


def lost(store: HistoryStore, backends: Backends, jobs: Sequence[Job]) -> dict[str, str]:
    """Finds out which jobs nobody can be asked about.

    Args:
      store: the history.
      backends: of the platforms.
      jobs: open ones of platforms elsewhere.

    Returns:
      Why not, by uid; those that can be asked about are missing.
    """
    found = refresh.ask([job for job in jobs if job.handle], backends)
    unknown = {
        uid: outcome.reason for uid, outcome in found.items() if outcome.status is Status.UNKNOWN
    }
    unsent = [job for job in jobs if job.handle is None]
    return {**unknown, **stopping.find_unsent(store, backends, unsent)}


def give_up(store: HistoryStore, jobs: Sequence[Job], whys: Mapping[str, str]) -> None:
    """Records of jobs that nobody waits for them any more; they can be run again then.

    Args:
      store: the history.
      jobs: open ones.
      whys: why they can't be asked about, by uid.
    """
    store.settle(
        {
            job.uid: Outcome(
                Status.STOPPED,
                reason=f"given up, how it ended is not known: {whys[job.uid]}",
                started=job.outcome.started,
            )
            for job in jobs
        }
    )
