"""Who is told of jobs of this machine as they run, so that runs of them are kept elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Tracker(Protocol):
    """Is told of jobs of this machine as they run."""

    def prepare(self, uids: Sequence[str]) -> None:
        """These jobs start soon."""

    def variables(self, uid: str) -> Mapping[str, str]:
        """What a job finds in its environment that starts now."""

    def ended(self, uid: str) -> None:
        """A job has ended, and its outcome is recorded."""


class NoTracker:
    """For jobs whose runs are kept nowhere."""

    def prepare(self, uids: Sequence[str]) -> None:
        """Nothing is prepared."""

    def variables(self, uid: str) -> Mapping[str, str]:
        """Nothing is told."""
        return {}

    def ended(self, uid: str) -> None:
        """Nothing is sent."""
