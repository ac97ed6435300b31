"""Arguments that name jobs -> the jobs that are wanted, and the places that have them."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Self

from caliban.errors import Problems, UsageError
from caliban.model.job import Job

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore
    from caliban.platform.local import LocalBackend
    from caliban.remote.backends import Backends


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


class Places:
    """Where jobs are: the engine of this machine, and the platforms elsewhere."""

    def __init__(self, cloud_key: str | None = None) -> None:
        """Opens nothing yet.

        Args:
          cloud_key: the flag of that name; None without.
        """
        self._cloud_key = cloud_key
        self._local: LocalBackend | None = None
        self._backends: Backends | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._backends is not None:
            self._backends.close()

    def connect(self) -> LocalBackend:
        """The engine of this machine."""
        if self._local is None:
            self._local = connect()
        return self._local

    def backends(self) -> Backends:
        """The platforms elsewhere, as the user whom command line, environment or project name.

        Raises:
          UsageError: the configuration of the project here can't be read.
        """
        from caliban import config
        from caliban.remote.backends import Backends

        if self._backends is None:
            settings = config.load(config.project())
            key = settings.cloud_key(self._cloud_key, os.environ)
            self._backends = Backends(os.environ, key, settings.gcloud.per_minute)
        return self._backends
