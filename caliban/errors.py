"""The errors that a user sees. Only `main` catches them."""

from __future__ import annotations

from collections.abc import Callable

# That of the module `typing`, whose import would be a tenth of what `caliban --help` costs.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T")

# Exit code of a command that a signal ended.
INTERRUPTED = 130


class CalibanError(Exception):
    """Something failed that the user can read about and act on.

    Attributes:
      message: what happened, and where.
      hint: what to do about it; empty when the message says it all.
      exit_code: what the process exits with.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CalibanError):
    """Flags, a configuration or an experiment file ask for something that cannot be."""

    exit_code = 2


class EngineError(CalibanError):
    """The Docker engine is not there, or refused what was asked of it."""


class EngineAwayError(EngineError):
    """The Docker engine does not answer at the moment: it may be restarting."""


class BuildError(CalibanError):
    """An image could not be built."""


class HistoryError(CalibanError):
    """The history database cannot be opened, read or written."""


class PlatformError(CalibanError):
    """A platform elsewhere has not done what was asked for, or nobody knows.

    Attributes:
      status: of HTTP; 0 if there was no answer.
      reason: the platform's name for the error: "NOT_FOUND"; "" without.
    """

    def __init__(self, message: str, hint: str = "", status: int = 0, reason: str = "") -> None:
        super().__init__(message, hint)
        self.status = status
        self.reason = reason


class RefusedError(PlatformError):
    """A platform has refused a request: it was not carried out."""

    @property
    def is_general(self) -> bool:
        """Whether it is not about this job: any other one would be refused there as well."""
        # Nobody known, no rights, no such place, a quota that is used up.
        return self.status in (401, 403, 404, 429)


class UnknownOutcomeError(PlatformError):
    """No answer came, or none that says so: the request may have been carried out."""

    @property
    def is_answer(self) -> bool:
        """Whether the platform itself has said that it couldn't: the request has ended, then."""
        # Only its own errors have a name. Others, of a proxy for one, may come while it works on.
        return self.reason == "UNAVAILABLE"


class Problems:
    """Collects usage errors, so that the user sees all of them at once."""

    def __init__(self) -> None:
        self._found: list[UsageError] = []

    def attempt(self, action: Callable[[], T], otherwise: T) -> T:
        """Calls `action`; if it raises a UsageError, keeps that and returns `otherwise`."""
        try:
            return action()
        except UsageError as error:
            self._found.append(error)
            return otherwise

    def check(self) -> None:
        """Raises what was found, as one error.

        Raises:
          UsageError: something was found.
        """
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            lines = [f"{len(self._found)} problems:"]
            for error in self._found:
                told = "\n".join(filter(None, (error.message, error.hint)))
                lines.append("- " + told.replace("\n", "\n  "))
            raise UsageError("\n".join(lines))
