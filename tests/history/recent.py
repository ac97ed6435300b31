"""The newest jobs of a user."""

from __future__ import annotations

from caliban.history.store import HistoryStore
from caliban.model.job import Job

_ALL = 100_000


def recent_jobs(store: HistoryStore, user: str, limit: int = _ALL) -> list[Job]:
    """Those over all groups, the oldest first."""
    return store.jobs([each.uid for each in store.recent_outlines(user, limit)])
