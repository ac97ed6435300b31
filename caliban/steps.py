"""What long work does, on a terminal: a line for each step, which is drawn anew in its place."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator

from caliban import terminal

# How many seconds lie between two looks at something that takes long.
_AGAIN = 0.2


class Steps:
    """Shows on stderr what a long program does: a line a step on a terminal, else all that it says.

    On a terminal the line of the current step is drawn anew in place, with the time and the last
    line that the program has printed. It stays when the step has ended, unless that did nothing.

    Attributes:
      title: of the current step; "" for none.
      printed: what the program has printed since the last `begin` or `forget`: the lines that are
        shown if it fails.
    """

    def __init__(self) -> None:
        self.title = ""
        self.printed: list[str] = []
        self._said = ""
        self._least = 0.0
        self._began = time.monotonic()
        self._folds = terminal.can_redraw(sys.stderr)

    def begin(self, title: str, least: float = 0.0) -> None:
        """A step begins, and the one before has ended.

        Args:
          title: of the step.
          least: how many seconds it has to take for its line to stay.
        """
        self._stay()
        self.forget()
        self.title, self._said, self._least = title, "", least
        self._began = time.monotonic()
        if not self._folds:
            terminal.note(title)
        self.tick()

    def line(self, text: str, said: str) -> None:
        """The program has printed a line.

        Args:
          text: the line.
          said: as much of it as is worth seeing for a moment; "" for nothing.
        """
        self.printed.append(text)
        if not self._folds:
            terminal.note(text)
        elif said:
            self._said = said
            self.tick()

    def forget(self) -> None:
        """What was printed so far has gone well."""
        self.printed = []

    def drop(self) -> None:
        """The current step has had nothing to do: no line of it stays."""
        self.title = ""

    def tick(self) -> None:
        """Draws the line of the current step anew: time goes by."""
        if self._folds and self.title:
            self._draw(f"{self.title}  {self._said.strip()}", "dim")

    def end(self, failed: bool) -> None:
        """The program has ended; if it failed, all that its last step printed is shown."""
        if self._folds and failed:
            self._draw(f"failed: {self.title}", "red")
            sys.stderr.write("\n")
            for line in self.printed:
                terminal.note(line)
        else:
            self._stay()
        self.title = ""

    def _stay(self) -> None:
        """Leaves the line of a step that has ended, or wipes it."""
        if self._folds:
            stays = time.monotonic() - self._began >= self._least
            self._draw(self.title if stays else "")
            sys.stderr.write("\n" if self.title and stays else "")
            sys.stderr.flush()

    def _draw(self, text: str, colour: str = "") -> None:
        seconds = time.monotonic() - self._began
        width = terminal.size(sys.stderr).columns - 1
        shown = f"{seconds:7.1f} s  {text}".rstrip().expandtabs(1)[:width] if text else ""
        sys.stderr.write(
            "\r\033[K" + (terminal.paint(shown, colour, sys.stderr) if colour else shown)
        )
        sys.stderr.flush()


@contextlib.contextmanager
def patience(title: str) -> Iterator[Callable[[], None]]:
    """Shows on a terminal what is being done, and for how long, until that is done.

    Args:
      title: what is done.

    Yields:
      What is to be called now and then.
    """
    if not terminal.can_redraw(sys.stderr):
        yield lambda: None
        return
    view = Steps()
    drawn = time.monotonic()

    def tick() -> None:
        nonlocal drawn
        if time.monotonic() - drawn >= _AGAIN:
            view.tick()
            drawn = time.monotonic()

    view.begin(title, least=math.inf)
    try:
        yield tick
    finally:
        view.end(failed=False)
