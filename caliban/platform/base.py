"""What every platform offers: the Backend protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from caliban.model.job import Handle, JobRequest, Outcome, Submission


class Backend(Protocol):
    """A place where jobs run. Each platform is a module with one class of this shape."""

    def plan(self, request: JobRequest) -> Submission:
        """Puts a job into the platform's words: pure, without asking anybody."""

    def submit(self, submission: Submission) -> Handle:
        """Starts a job; for the same uid, however often it is called, there is one job."""

    def status(self, handles: Sequence[Handle]) -> Mapping[Handle, Outcome]:
        """What became of jobs; a job that the platform doesn't know is missing."""

    def stop(self, handle: Handle) -> object:
        """Asks a job to end; returns before it has."""

    def logs(self, handle: Handle, follow: bool, tail: int | None) -> Iterator[bytes]:
        """What a job has printed, and with `follow` what it prints until it ends.

        Args:
          handle: of the job.
          follow: see above.
          tail: how many of the lines that there are now; None for all.
        """
