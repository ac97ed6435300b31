"""How scripts/bench.py measures: its lines, and what programs cost."""

from __future__ import annotations

import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
      name: what was measured.
      measured: the figure, in `unit`.
      reference: what it is compared to, and that one's figure.
      value: the figure in the terms of the bound.
      bound: what it should not exceed.
      unit: of value and bound: "x" for a ratio, otherwise "s" or "MB".
    """

    name: str
    measured: str
    reference: str
    value: float
    bound: float
    unit: str = "x"

    @property
    def holds(self) -> bool:
        """Whether the figure is within its bound."""
        return self.value <= self.bound

    def cells(self) -> list[str]:
        """The line's cells."""
        verdict = "ok" if self.holds else "OVER"
        value, bound = f"{self.value:.2f} {self.unit}", f"{self.bound:g} {self.unit}"
        return [self.name, self.measured, self.reference, value, bound, verdict]


def cpu(command: Sequence[str], stdin: str | None = None) -> float:
    """CPU seconds of a program, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, input=stdin, stdout=subprocess.DEVNULL, check=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def wall(command: Sequence[str]) -> float:
    """Seconds that a program takes, whose output is not wanted."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def paired(
    measure: Callable[[Sequence[str]], float], ours: Sequence[str], theirs: Sequence[str], runs: int
) -> tuple[float, float]:
    """Medians of two programs that are run in turn, so that both meet the same conditions."""
    pairs = [(measure(ours), measure(theirs)) for _ in range(runs)]
    mine, reference = zip(*pairs, strict=True)
    return statistics.median(mine), statistics.median(reference)
