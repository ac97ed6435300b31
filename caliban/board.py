"""What is seen of jobs that run side by side: a line for each, and one for all of them."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from caliban import terminal

# What steers a terminal, and would break the lines of others.
_CONTROLS = re.compile(r"\x1b\[[\d;?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f]")

# Lines are drawn anew at most so often, in seconds.
_PAUSE = 0.1

# A line without an end is shown in pieces of this many bytes.
_LONGEST = 1 << 16


class Screen(Protocol):
    """What shows the jobs; several threads use it at once.

    Attributes:
      lost: why nothing can be shown any more; None as long as it can.
    """

    @property
    def lost(self) -> OSError | None:
        """See above."""

    def wait(self, number: int, text: str) -> None:
        """A job can't start yet, for a reason in words; told once, where it would be a note."""

    def begin(self, number: int, text: str) -> None:
        """A job has started."""

    def write(self, number: int, stream: int, data: bytes) -> None:
        """A job has printed something, to stream 1 or 2."""

    def end(self, number: int, text: str, colour: str, succeeded: bool) -> None:
        """A job has ended."""

    def note(self, text: str, colour: str = "") -> None:
        """A line of caliban's own."""

    def idle(self) -> None:
        """Called several times a second."""


@dataclass
class _Row:
    """A running job.

    Attributes:
      text: what it is.
      began: when, by time.monotonic.
      partial: the beginning of a line that it has not ended yet.
      last: the last line that it has printed.
      waits: whether it has not started yet.
    """

    text: str
    began: float
    waits: bool = False
    partial: bytes = b""
    last: str = ""


class Live:
    """Shows jobs that run one after another: their output is passed on as it is.

    Attributes:
      lost: why nothing can be shown any more; None as long as it can.
    """

    def __init__(self, total: int) -> None:
        """Begins a launch of so many jobs."""
        self._output = terminal.Output(total)
        self._total = total
        self._begun = 0
        self._has_waited = False
        self._lock = threading.RLock()

    @property
    def lost(self) -> OSError | None:
        """See above."""
        return self._output.lost

    def wait(self, number: int, text: str) -> None:
        """A job can't start yet, for a reason in words; that is told once."""
        with self._lock:
            if not self._has_waited:
                self._output.note(f"job {number}: {text}")
            self._has_waited = True

    def begin(self, number: int, text: str) -> None:
        """A job has started."""
        with self._lock:
            self._begun += 1
            heading = f"[{self._begun}/{self._total}] job {number} {text}"
            self._output.note(heading.rstrip(), "bold")

    def write(self, number: int, stream: int, data: bytes) -> None:
        """A job has printed something, to stream 1 or 2."""
        with self._lock:
            self._output.write(sys.stdout if stream == 1 else sys.stderr, data)

    def end(self, number: int, text: str, colour: str, succeeded: bool) -> None:
        """A job has ended."""
        with self._lock:
            self._output.note(f"job {number} {text}", colour)
            self._output.advance()

    def note(self, text: str, colour: str = "") -> None:
        """A line of caliban's own."""
        with self._lock:
            self._output.note(text, colour)

    def idle(self) -> None:
        """Draws the bar, where there is room for it."""
        with self._lock:
            self._output.idle()

    def close(self) -> None:
        """Takes the bar off the screen."""
        with self._lock:
            self._output.close()


@dataclass
class Board:
    """Shows the jobs of a sweep on stderr; several threads may use it at once.

    On a terminal each running job has a line, with its time and the last line of its output, below
    what has been noted. Elsewhere there are the notes only.

    Attributes:
      total: how many jobs there are.
      verbose: whether every line that a job prints is shown, after the job's number.
      done: how many have ended.
      failed: how many of those without success.
      lost: why nothing can be shown any more; None as long as it can.
    """

    total: int
    verbose: bool = False
    done: int = 0
    failed: int = 0
    lost: OSError | None = None
    _has_waited: bool = False
    _rows: dict[int, _Row] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _began: float = field(default_factory=time.monotonic)
    _drawn: list[int] = field(default_factory=list)
    _drawn_at: float = 0.0

    def wait(self, number: int, text: str) -> None:
        """A job can't start yet, for a reason in words; where lines are not drawn, told once."""
        with self._lock:
            if self._draws:
                self._rows[number] = _Row(text, time.monotonic(), waits=True)
            elif not self._has_waited:
                self.note(f"job {number}: {text}")
            self._has_waited = True

    def begin(self, number: int, text: str) -> None:
        """A job has started.

        Args:
          number: its id.
          text: its arguments.
        """
        with self._lock:
            self._rows[number] = _Row(text, time.monotonic())
            if not self._draws:
                self.note(f"job {number} started: {text}" if text else f"job {number} started")

    def write(self, number: int, stream: int, data: bytes) -> None:
        """A job has printed something; one place shows both streams."""
        with self._lock:
            row = self._rows[number]
            *lines, row.partial = (row.partial + data).split(b"\n")
            if len(row.partial) > _LONGEST:
                lines, row.partial = [*lines, row.partial], b""
            if self.verbose:
                for line in lines:
                    self.note(f"[{number}] {_shown(line)}")
            # A bar redraws its line: its newest state comes last, before or after a return.
            if shown := next(filter(None, map(_shown, [row.partial, *reversed(lines)])), ""):
                row.last = shown

    def end(self, number: int, text: str, colour: str, succeeded: bool) -> None:
        """A job has ended.

        Args:
          number: its id.
          text: what became of it.
          colour: of that text.
          succeeded: whether that is what was wanted.
        """
        with self._lock:
            row = self._rows.pop(number, None)
            if self.verbose and row and (rest := _shown(row.partial)):
                self.note(f"[{number}] {rest}")
            self.done += 1
            self.failed += not succeeded
            self.note(f"job {number} {text}", colour)

    def note(self, text: str, colour: str = "") -> None:
        """A line that stays, above the jobs' lines."""
        with self._lock:
            self._attempt(lambda: sys.stderr.write(self._wiping()))
            self._attempt(lambda: terminal.note(text, colour))

    def idle(self) -> None:
        """Brings the jobs' lines up to date; to be called several times a second."""
        with self._lock:
            if self._draws and time.monotonic() - self._drawn_at >= _PAUSE:
                self._attempt(self._draw)
                self._drawn_at = time.monotonic()

    def close(self) -> None:
        """Takes the jobs' lines off the screen."""
        with self._lock:
            self._attempt(lambda: print(self._wiping(), end="", file=sys.stderr, flush=True))  # noqa: T201

    def _draw(self) -> None:
        lines = list(self._lines())
        text = "".join(f"{terminal.paint(line, how, sys.stderr)}\n" for line, how in lines)
        sys.stderr.write(self._wiping() + text)  # at once: nobody sees the moment in between
        sys.stderr.flush()
        self._drawn = [terminal.width(line) for line, _ in lines]

    @property
    def _draws(self) -> bool:
        return terminal.can_redraw(sys.stderr) and self.lost is None

    def _lines(self) -> Iterator[tuple[str, str]]:
        """What there is to see now: lines that fit the terminal, and how they are painted."""
        size = _size()
        room = size.columns - 1
        now = time.monotonic()
        most = max(size.lines - 4, 1)
        rows = list(self._rows.items())
        if len(rows) > most:
            most -= 1
        for number, row in rows[:most]:
            text = f"  job {number} {_time(now - row.began):>6}  {row.text}"
            if row.last:
                text += f"  | {row.last}"
            yield _cut(text, room), "dim"
        if len(rows) > most:
            yield _cut(f"  ... and {len(rows) - most} more", room), "dim"
        yield _cut(self._sum(now), room), "bold"

    def _sum(self, now: float) -> str:
        text = f"{self.done}/{self.total} jobs done"
        if self.failed:
            text += f", {self.failed} not well"
        waiting = sum(row.waits for row in self._rows.values())
        if running := len(self._rows) - waiting:
            text += f", {running} running"
        if waiting:
            text += f", {waiting} waiting"
        elapsed = now - self._began
        if self.done:
            left = elapsed / self.done * (self.total - self.done)
            text += f", {_time(elapsed)} so far, about {_time(left)} left"
        return text

    def _wiping(self) -> str:
        """What takes the lines off the screen: up to the first of them, and all below it away."""
        if not self._drawn:
            return ""
        # A terminal that has become narrower shows a line in several.
        columns = max(_size().columns, 1)
        up = sum(max(-(-width // columns), 1) for width in self._drawn)
        self._drawn = []
        return f"\r\033[{up}A\033[J"

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.lost = error


def _shown(line: bytes) -> str:
    """A line as it would be seen: the last state of a bar, without what steers the terminal."""
    text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
    return _CONTROLS.sub("", text.expandtabs(1)).rstrip()


def _size() -> os.terminal_size:
    """That of the terminal.

    Raises:
      OSError: it has been closed.
    """
    return terminal.size(sys.stderr)


def _cut(text: str, columns: int) -> str:
    """The beginning of a text that a terminal of so many columns shows in one line."""
    text = text[: max(columns, 1)]
    while terminal.width(text) > max(columns, 1):
        text = text[:-1]
    return text


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
