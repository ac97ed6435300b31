"""Whether an experiment that is run again comes to the same: state, exit code, metrics."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from caliban.errors import UsageError
from caliban.model.job import Status
from caliban.model.report import Metric


class Verdict(enum.Enum):
    """What comes of a comparison."""

    SAME = "same"
    DIFFERS = "differs"
    FAILED = "failed"
    OPEN = "open"


@dataclass(frozen=True)
class Result:
    """What a job came to.

    Attributes:
      status: what became of it.
      exit_code: of its program; None if that is not known.
      metrics: what it reported.
    """

    status: Status
    exit_code: int | None
    metrics: Mapping[str, Metric]


@dataclass(frozen=True)
class Tolerance:
    """How far apart two values of a metric may be, as a part of the larger one.

    Attributes:
      usual: of metrics that have none of their own.
      by_name: that of single metrics.
    """

    usual: float = 0.0
    by_name: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Reads "0.01", for all metrics, and "loss=0.1", for one.

        Raises:
          UsageError: one is neither.
        """
        usual, by_name = 0.0, {}
        for text in texts:
            name, equals, number = text.rpartition("=")
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if not value >= 0 or (equals and not name):
                raise UsageError(
                    f"--tolerance {text}: expected a number from 0 on, or METRIC=NUMBER",
                    "For example --tolerance 0.01, or --tolerance seconds=inf for any value.",
                )
            if equals:
                by_name[name] = value
            else:
                usual = value
        return cls(usual, by_name)

    def allows(self, name: str, before: Metric | None, after: Metric | None) -> bool:
        """Whether two values of a metric count as the same; None for one that was not reported."""
        of_name = self.by_name.get(name, self.usual)
        if of_name == math.inf:
            return True
        if before is None or after is None:
            return False
        if isinstance(before, bool) or isinstance(after, bool):
            return before is after
        if isinstance(before, str) or isinstance(after, str):
            return before == after
        try:
            return before == after or math.isclose(before, after, rel_tol=of_name)
        except OverflowError:  # an integer beyond all floating-point numbers
            return False


def differences(before: Result, after: Result, tolerance: Tolerance) -> Sequence[str]:
    """The metrics that are not the same, in the order in which they were reported."""
    names = dict.fromkeys([*before.metrics, *after.metrics])
    return [
        name
        for name in names
        if not tolerance.allows(name, before.metrics.get(name), after.metrics.get(name))
    ]


def compare(before: Result, after: Result | None, tolerance: Tolerance) -> Verdict:
    """Whether a job came to the same as one before it.

    One that failed before and does so again, with the same exit code, is the same. What was stopped
    came to nothing that could be, and what has not ended has yet to come to something.

    Args:
      before: what was recorded.
      after: what came of it now; None if nothing did.
      tolerance: how far metrics may be apart.
    """
    if after is not None and not after.status.is_final:
        return Verdict.OPEN
    if after is None or (
        before.status is Status.SUCCEEDED and after.status is not Status.SUCCEEDED
    ):
        return Verdict.FAILED
    is_same = (
        (before.status, before.exit_code) == (after.status, after.exit_code)
        and after.status in (Status.SUCCEEDED, Status.FAILED)
        and not differences(before, after, tolerance)
    )
    return Verdict.SAME if is_same else Verdict.DIFFERS
