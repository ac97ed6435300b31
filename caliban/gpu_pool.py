"""The GPUs of this machine, of which each job gets some that no other one has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from caliban import process
from caliban.docker import gpus
from caliban.platform.local import LocalBackend

if TYPE_CHECKING:
    from caliban.history.leases import Lease, Leases

# How many of those that have GPUs are named.
_NAMED = 8


class Devices(Protocol):
    """Gives each job GPUs that no other one has."""

    def take(self, uid: str) -> tuple[str, ...] | None:
        """The arguments of `docker run` that give a job its own; None while too few are free."""

    def wait(self, uid: str) -> str:
        """What a job waits for that gets nothing now, and who has it, in words."""

    def keep(self, uid: str) -> None:
        """The job has a container already, which somebody else has started: it keeps its own."""

    def give_back(self, uid: str) -> None:
        """The job's container has gone."""


class NoDevices:
    """For jobs that need none, or share all."""

    def take(self, uid: str) -> tuple[str, ...] | None:
        """Leaves the job's command as it is."""
        return ()

    def wait(self, uid: str) -> str:
        """Nothing is waited for."""
        return ""

    def keep(self, uid: str) -> None:
        """There is nothing to keep."""

    def give_back(self, uid: str) -> None:
        """There is nothing to give back."""


class GpuPool:
    """Gives jobs their GPUs; all terminals of a user share it, by way of the history."""

    def __init__(
        self,
        leases: Leases,
        backend: LocalBackend,
        devices: Sequence[str],
        each: int,
        arguments: Sequence[str],
    ) -> None:
        """Takes nothing yet.

        Args:
          leases: of this machine.
          backend: the engine that the jobs run on.
          devices: the ids of the GPUs.
          each: how many of them a job gets.
          arguments: those of `docker run` that would give it all.
        """
        self._leases = leases
        self._backend = backend
        self._devices = devices
        self._each = each
        self._arguments = arguments

    def take(self, uid: str) -> tuple[str, ...] | None:
        """The arguments of `docker run` that give a job its own; None while too few are free.

        Raises:
          EngineError: it has to be asked about containers, and does not answer.
        """
        # Looked at first, as many jobs may be waiting, and only one can write at a time.
        held = self._leases.held()
        over = [lease for lease in held if lease.uid != uid and is_over(lease, self._backend)]
        left = {lease.device for lease in held if lease not in over and lease.uid != uid}
        if sum(device not in left for device in self._devices) < self._each:
            if over:
                self._leases.take_back(over)
            return None
        owner = process.identity()
        found = self._leases.take(self._devices, self._each, uid, owner, over)
        return gpus.only(self._arguments, found) if found else None

    def wait(self, uid: str) -> str:
        """What a job waits for that gets nothing now, and who has it, in words."""
        held_by = {lease.job for lease in self._leases.held() if lease.uid != uid}
        jobs = sorted(held_by - {0})
        what = "1 GPU" if self._each == 1 else f"{self._each} GPUs"
        more = ", ..." if len(jobs) > _NAMED else ""
        held = f"held by {'job' if len(jobs) == 1 else 'jobs'} {', '.join(map(str, jobs[:_NAMED]))}"
        return f"waiting for {what} ({held}{more})" if jobs else f"waiting for {what}"

    def keep(self, uid: str) -> None:
        """The job has a container already, which somebody else has started: it keeps its own."""
        self._leases.adopt(uid, process.identity())

    def give_back(self, uid: str) -> None:
        """The job's container has gone."""
        self._leases.give_back(uid)


def is_over(lease: Lease, backend: LocalBackend) -> bool:
    """Whether both the process that took a lease and the job's container have gone.

    Args:
      lease: of this machine.
      backend: the engine of this machine that can be asked.

    Raises:
      EngineError: it does not answer.
    """
    if process.is_alive(lease.owner) is not False:
        return False
    if lease.target not in ("", backend.target):
        return lease.has_ended  # its container is in another engine, whose own caliban will tell
    handle = backend.handle_of(lease.uid)
    found = backend.status([handle]).get(handle)
    return found is None or found.status.is_final


def tidy(leases: Leases, backend: LocalBackend) -> None:
    """Takes back the leases that are over.

    Raises:
      EngineError: the engine does not answer.
    """
    if over := [lease for lease in leases.held() if is_over(lease, backend)]:
        leases.take_back(over)
