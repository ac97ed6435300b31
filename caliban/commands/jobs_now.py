"""Jobs as they are now, for the commands that tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caliban.errors import UsageError
from caliban.model.job import Job

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore


def by_number(store: HistoryStore, user: str, numbers: Sequence[int]) -> list[Job]:
    """Jobs of a user, in the order of the numbers, brought up to date if they are open.

    Raises:
      UsageError: the user has no job of one of the numbers.
    """
    jobs = [store.job(user, number) for number in numbers]
    still_open = [job for job in jobs if not job.outcome.status.is_final]
    if not still_open:
        return jobs
    _refresh(store, still_open)
    return [store.job(user, number) for number in numbers]


def of_group(store: HistoryStore, user: str, group: str) -> list[Job]:
    """The newest job of each experiment of a group, by number, brought up to date.

    Raises:
      UsageError: the user has no such group, or it has no jobs.
    """
    from caliban import settle

    _refresh(store, settle.unsettled(store, user, group))
    jobs = store.group_jobs(user, group, 1)
    if not jobs:
        raise UsageError(f"experiment group '{group}' has no jobs")
    return sorted(jobs, key=lambda job: job.id)


def _refresh(store: HistoryStore, jobs: Sequence[Job]) -> None:
    from caliban import settle
    from caliban.commands import job_choice

    with job_choice.Places() as places:
        settle.refresh(store, jobs, places.connect, places.backends)
