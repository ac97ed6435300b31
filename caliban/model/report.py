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

# Stands for the beginning of any line that has no metrics.
_OTHER = b"."

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

    Where stdout and stderr go to one place, a line may have what a progress bar leaves before it:
    something that the bar would go back over by a carriage return.

    Attributes:
      values: the last value of each metric, in the order in which they were first reported.
    """

    def __init__(self) -> None:
        self.values: dict[str, Metric] = {}
        self._line = b""

    def feed(self, data: bytes) -> bool:
        """Takes the next piece of output; returns whether it had a metric."""
        found = False
        data = self._line + data
        # Most output has no metrics. What matters of it is only what its last line begins with.
        if _PREFIX in data:
            *lines, last = data.split(b"\n")
            for line in lines:
                found |= self._take(line)
        else:
            last = data[data.rfind(b"\n") + 1 :]
        self._line = _beginning(last)
        return found

    def end(self) -> None:
        """The output is at its end, perhaps in the middle of a line."""
        self._take(self._line)
        self._line = b""

    def _take(self, line: bytes) -> bool:
        """Reads a whole line; one that is no JSON object after all is passed over."""
        after_bar = line.partition(b"\r")[2]
        at = after_bar.find(_PREFIX)
        line = line if at < 0 else after_bar[at:]
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


def _beginning(line: bytes) -> bytes:
    """What matters of a line that has not ended: less than all of it, unless it has metrics."""
    if line.startswith(_PREFIX) or _PREFIX.startswith(line):
        kept = line
    elif b"\r" in line:
        after_bar = line.partition(b"\r")[2]
        at = after_bar.find(_PREFIX)
        kept = b"\r" + after_bar[at if at >= 0 else 1 - len(_PREFIX) :]
    else:
        kept = _OTHER
    return kept if len(kept) <= _LONGEST else _OTHER


# What differs between failures of one kind: addresses, numbers, paths, quoted words.
_VARIABLE = re.compile(
    r"0x[0-9a-fA-F]+|(?<![\w.])[-+]?\d[\d_,.]*(?:e[-+]?\d+)?\w*|(?:/[\w.+-]+){2,}/?", re.IGNORECASE
)

# Lines that end an output without telling why: rules and carets, and what absl says last of a flag
# that it has refused.
_MEANINGLESS = re.compile(r"[\W_]*|Pass --helpshort or --helpfull to see help on flags\.")

# The frame of a terminal's bar, of which only what comes last can be seen.
_FRAME = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")

# What Python prints of an exception that nobody has caught: this, lines that are indented, and the
# exception itself.
_TRACEBACK = "Traceback (most recent call last):"
_EXCEPTION = re.compile(r"(?:(?:\w+\.)+\w+|[A-Z]\w*)(?:: .*)?")

# It is the last thing on stderr. What had gone to stdout just before may come after it: some lines.
_LATE = 3

_LENGTH = 200


def cause(lines: Iterable[str]) -> str:
    """The line of a failed job's output that most likely tells why.

    That is the exception by which Python has ended, otherwise the last line that says something.

    Args:
      lines: the end of the output.
    """
    last = raised = ""
    is_inside, later = False, 0
    for line in lines:
        text = _FRAME.sub("", line).rstrip("\r\n").rpartition("\r")[2]
        # Behind a line without an end there may be one of metrics.
        shown = text.partition("caliban: {")[0].strip()
        if _MEANINGLESS.fullmatch(shown):
            continue
        last = shown
        later += 1
        if shown.endswith(_TRACEBACK):
            is_inside, raised = True, ""
        elif is_inside and not text[0].isspace() and _EXCEPTION.fullmatch(shown):
            is_inside, raised, later = False, shown, 0
    found = raised if raised and later <= _LATE else last
    return fit(found[:_LENGTH])


def kind(cause: str) -> str:
    """What causes of one kind have in common: their text with what varies replaced by "*"."""
    return _VARIABLE.sub("*", cause)
