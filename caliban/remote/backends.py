"""The platforms elsewhere, each opened when it is first needed."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from caliban.errors import CalibanError
from caliban.model.job import Job
from caliban.platform.base import RemoteBackend
from caliban.platform.quota import Clock

if TYPE_CHECKING:
    from caliban.platform.rest import Session

# The command that sends jobs to each.
_COMMANDS = {"kubernetes": "caliban cluster job submit", "vertex": "caliban cloud"}

PLATFORMS = tuple(_COMMANDS)


def is_remote(job: Job) -> bool:
    """Whether a job was, or is to be, sent to a platform elsewhere that can be asked about it."""
    return job.submission.platform in PLATFORMS


def resume_command(platform: str, group: str) -> str:
    """The command that goes on with the jobs of a group on a platform."""
    return f"{_COMMANDS[platform]} --resume {shlex.quote(group)}"


class WaitEndedError(CalibanError):
    """Nobody waits any more: the user wants it to end."""


class Waits:
    """A clock whose waits can be ended, all at once."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self.clock = Clock(time.monotonic, self._sleep)

    def begin(self) -> None:
        """From now on waits take their time."""
        self._ended.clear()

    def end(self) -> None:
        """Makes whoever waits raise a WaitEndedError, now and from now on."""
        self._ended.set()

    def _sleep(self, seconds: float) -> None:
        if self._ended.wait(seconds):
            raise WaitEndedError("interrupted")


class Backends:
    """The backends of all platforms; for several threads.

    Attributes:
      waits: what the backends wait by.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        cloud_key: str | None = None,
        per_minute: float | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
          environment: variables, by which credentials and configurations are found.
          cloud_key: a key of Google's, see google.access.
          per_minute: jobs that may be submitted to each project and region of Google's; None for
            what Google allows everybody.
        """
        self.waits = Waits()
        self._environment = environment
        self._cloud_key = cloud_key
        self._per_minute = per_minute
        self._session: Session | None = None
        self._opened: dict[str, RemoteBackend] = {}
        self._locks = {platform: threading.RLock() for platform in PLATFORMS}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes connections."""
        for backend in self._opened.values():
            backend.close()
        if self._session is not None:
            self._session.close()

    def of(self, platform: str) -> RemoteBackend:
        """The backend of a platform.

        Args:
          platform: one of PLATFORMS.

        Raises:
          CalibanError: there are no credentials for it, for one.
        """
        if platform not in PLATFORMS:
            raise CalibanError(f"caliban can't ask '{platform}' for jobs")
        with self._locks[platform]:
            if platform not in self._opened:
                self._opened[platform] = self._open(platform)
            return self._opened[platform]

    def opened(self) -> list[RemoteBackend]:
        """Those that have been needed so far."""
        return list(self._opened.values())

    def _open(self, platform: str) -> RemoteBackend:
        if platform == "kubernetes":
            from caliban.platform.kubernetes.backend import KubernetesBackend

            return KubernetesBackend(self._environment, self._cloud_key, self.waits.clock)
        from caliban.platform import vertex

        per_minute = self._per_minute or vertex.PER_MINUTE
        return vertex.VertexBackend(self.session(), self._environment, per_minute)

    def session(self) -> Session:
        """Speaks with Google's APIs.

        Raises:
          CalibanError: there are no credentials, or Google doesn't accept them.
        """
        from caliban.platform import google
        from caliban.platform.rest import Session

        with self._locks["vertex"]:
            if self._session is None:
                access = google.access(self._cloud_key, self._environment)
                self._session = Session(access.credentials, self.waits.clock, access.remedy)
            return self._session
