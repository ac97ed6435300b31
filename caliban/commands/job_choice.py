"""Arguments that name jobs -> the jobs that are wanted, and the engine that has them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from caliban.errors import Problems, UsageError
from caliban.model.job import Job

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore
    from caliban.platform.local import LocalBackend


def check(args: argparse.Namespace) -> None:
    """Sees to it that the arguments of flags.add_job_arguments go together.

    Raises:
      UsageError: both jobs and a group are named.
    """
    if args.jobs and args.xgroup:
        raise UsageError("name jobs, or a group by --xgroup; not both")


def by_number(store: HistoryStore, user: str, numbers: list[int]) -> list[Job]:
    """Jobs of a user, in the order in which they were named, each once.

    Raises:
      UsageError: the user has no jobs of some of the numbers; all of those are named.
    """
    problems = Problems()
    found = [
        problems.attempt(lambda number=number: store.job(user, number), None)  # type: ignore[misc]
        for number in dict.fromkeys(numbers)
    ]
    problems.check()
    return [job for job in found if job is not None]


def connect() -> LocalBackend:
    """The engine of this machine; it is contacted when it is first asked something."""
    from caliban.docker.containers import Containers
    from caliban.docker.engine import Engine
    from caliban.platform.local import LocalBackend

    engine = Engine()
    return LocalBackend(Containers(engine), engine.host)
