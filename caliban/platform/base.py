"""What every platform offers: the Backend protocol."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

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


@dataclass(frozen=True)
class Links:
    """Where people look at a job that runs elsewhere.

    Attributes:
      console: the URL of its page; "" if it has none.
      logs: the command of the platform's own that shows its log.
    """

    console: str
    logs: str


@dataclass(frozen=True)
class Particulars:
    """What is sent of a job elsewhere, as far as it decides what the job does.

    Attributes:
      image: that it runs.
      machine: what it runs on, see model.provenance.Machine.requested.
      variables: names of the environment variables that it is given, never their values.
      secrets: names of the platform's secrets that it finds something of.
    """

    image: str
    machine: Mapping[str, str]
    variables: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


class RemoteBackend(Backend, Protocol):
    """A place elsewhere, to which jobs are sent, and where they stay when caliban has ended.

    What goes wrong there is a PlatformError, or another CalibanError.

    Attributes:
      GONE: why a job that it doesn't have any more has ended, in words.
      KEEPS_LOGS: whether the log of a job is still there when that has been stopped.
      AT_A_TIME: how many jobs are sent at a time.
      LATE: for how many seconds after a job's end its log may still lack some of it.
    """

    GONE: ClassVar[str]
    KEEPS_LOGS: ClassVar[bool]
    AT_A_TIME: ClassVar[int] = 8
    LATE: ClassVar[float] = 0.0

    def close(self) -> None:
        """Closes connections that are its own."""

    def particulars(self, submission: Submission) -> Particulars:
        """What a job is that `plan` returned: pure, without asking anybody."""

    def with_variables(self, submission: Submission, variables: Mapping[str, str]) -> Submission:
        """The same job, which finds more in its environment: pure, without asking anybody."""

    def locate(self, target: str) -> None:
        """Finds out what tells a target from others of its name, for `plan` to write it down."""

    def misplaced(self, submission: Submission) -> str:
        """Why a job may well be there although its target hasn't got it; "" if it has gone.

        Raises:
          CalibanError: the target can't be asked.
        """

    def check_needs(self, submission: Submission, count: int = 1) -> list[str]:
        """Sees to it that what a job names is there, where a job would wait for it for ever.

        Args:
          submission: what `plan` returned.
          count: how many jobs like it there are.

        Returns:
          What there is to say of it.

        Raises:
          UsageError: something isn't there.
          CalibanError: the target can't be asked.
        """
        return []

    def submit(self, submission: Submission, is_new: bool = False) -> Handle:
        """Sends a job, unless the platform has one with its uid.

        Args:
          submission: what `plan` returned.
          is_new: whether nobody has ever sent it before, so that it needn't be looked for.
        """

    def find(self, target: str, group: str) -> Mapping[str, Handle]:
        """The jobs of an experiment group that a target has, by uid."""

    def doubles(self) -> set[Handle]:
        """Jobs that `status` has seen beside those it was asked about, with the uid of one of them.

        They are told once, and only while they go on.
        """
        return set()

    def seconds(self, target: str, count: int) -> float:
        """How long so many submissions take at least, by the platform's own limits, in seconds."""

    def held_up(self) -> datetime.datetime | None:
        """Until when the platform wants nothing to be sent; None if it does, or doesn't say."""
        return None

    def links(self, handle: Handle) -> Links:
        """Where to look at a job."""
