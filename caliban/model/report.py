"""What a job says of itself in its output: metrics, and the line that tells why it failed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Metric: TypeAlias = float | int | str | bool

# What a line of metrics begins with; a JSON object follows.
_PREFIX = b"caliban: {"

# A line of metrics that is longer is none.
_LONGEST = 1 << 16

# How many different metrics a job may report.
_MOST = 1000


@dataclass(frozen=True)
class Report:
    """What is known of a job from its output.

    Attributes:
      metrics: the last value of each.
      cause: why it failed, in its own words; "" if it didn't, or didn't say.
    """

    metrics: Mapping[str, Metric]
    cause: str = ""


# What a text of PostgreSQL cannot hold, and what UTF-8 has no bytes for.
_UNFIT = re.compile("[\0\ud800-\udfff]")


def fit(text: str) -> str:
    """A text as any database can keep it, and anybody print it: what it lacks is replaced."""
    return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", text)


class Metrics:
    """Finds the lines `caliban: {"accuracy": 0.97}` in a job's output, in whatever pieces it comes.

    Attributes:
      values: the last value of each metric, in the order in which they were first reported.
    """

    def __init__(self) -> None:
        self.values: dict[str, Metric] = {}
        self._line = b""
        self._skips = False

    def feed(self, data: bytes) -> bool:
        """Takes the next piece of output; returns whether it had a metric."""
        found = False
        if self._line or self._skips:
            rest, newline, data = data.partition(b"\n")
            if not newline:
                self._begin(rest)
                return False
            found = not self._skips and self._take(self._line + rest)
            self._line, self._skips = b"", False
        # Most output has no metrics. What matters of it is only how its last line begins.
        if data.startswith(_PREFIX) or b"\n" + _PREFIX in data:
            *lines, last = data.split(b"\n")
            for line in lines:
                found |= self._take(line)
        else:
            last = data[data.rfind(b"\n") + 1 :]
        self._begin(last)
        return found

    def end(self) -> None:
        """The output is at its end, perhaps in the middle of a line."""
        self._take(self._line)
        self._line = b""

    def _begin(self, start: bytes) -> None:
        """Keeps the beginning of a line, as long as it may become one of metrics."""
        line = self._line + start
        may_be = line.startswith(_PREFIX) or _PREFIX.startswith(line)
        is_long = len(line) > _LONGEST
        self._skips = self._skips or (bool(line) and (is_long or not may_be))
        self._line = b"" if self._skips else line

    def _take(self, line: bytes) -> bool:
        """Reads a whole line; one that is no JSON object after all is passed over."""
        if not line.startswith(_PREFIX):
            return False
        try:
            reported = json.loads(line[len(_PREFIX) - 1 :])
        except (ValueError, RecursionError):
            return False
        for name, value in reported.items():
            name = fit(name)
            is_known = name in self.values or len(self.values) < _MOST
            if is_known and isinstance(value, (int, float, str, bool)):
                has_no_json = isinstance(value, float) and not math.isfinite(value)
                is_text = isinstance(value, str) or has_no_json
                self.values[name] = fit(str(value)) if is_text else value
        return True


# What differs between failures of one kind: addresses, numbers, paths, quoted words.
_VARIABLE = re.compile(
    r"0x[0-9a-fA-F]+|(?<![\w.])[-+]?\d[\d_,.]*(?:e[-+]?\d+)?\w*|(?:/[\w.+-]+){2,}/?", re.IGNORECASE
)

# Lines that end an output without telling why: rules and carets, and what absl says last of a flag
# that it has refused.
_MEANINGLESS = re.compile(r"[\W_]*|Pass --helpshort or --helpfull to see help on flags\.")

# The frame of a terminal's bar, of which only what comes last can be seen.
_FRAME = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")

_LENGTH = 200


def cause(lines: Iterable[str]) -> str:
    """The line of a failed job's output that most likely tells why: the last that says something.

    Args:
      lines: the end of the output.
    """
    last = ""
    for line in lines:
        shown = _FRAME.sub("", line).rstrip("\r\n").rpartition("\r")[2].strip()
        if not _MEANINGLESS.fullmatch(shown) and not shown.startswith("caliban: {"):
            last = shown
    return fit(last[:_LENGTH])


def kind(cause: str) -> str:
    """What causes of one kind have in common: their text with what varies replaced by "*"."""
    return _VARIABLE.sub("*", cause)
