"""`caliban status --watch`: shows jobs again and again, until nothing is open."""

from __future__ import annotations

import contextlib
import datetime
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from caliban import terminal
from caliban.errors import INTERRUPTED

if TYPE_CHECKING:
    from caliban.commands.status import View

# Between two looks, in seconds; and where platforms elsewhere are asked, who count that.
_PAUSE = 2.0
_PAUSE_THERE = 5.0

# Of a terminal: another screen and back, to its first line, and what lies behind is wiped.
_ENTER, _LEAVE = "\033[?1049h", "\033[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\033[H", "\033[K", "\033[J"

# Shows a view as it is at a time; without one, it says nothing that changes by itself.
Lines = Callable[["View", datetime.datetime | None], Iterable[str]]


def run(look: Callable[[], View], lines: Lines, is_for_programs: bool) -> int:
    """Shows jobs until none of them is open; 130 after ^C, 1 if some could not be asked about.

    Args:
      look: brings the jobs up to date and chooses those to show.
      lines: what is printed of them.
      is_for_programs: whether a terminal gets the same as a file.
    """
    has_screen = terminal.can_redraw(sys.stdout)
    if has_screen and not is_for_programs:
        return _on_screen(look, lines)
    return _as_it_changes(look, lines)


def _on_screen(look: Callable[[], View], lines: Lines) -> int:
    """Draws over what was drawn before, on a screen of its own; the last state stays behind."""
    view, notes, is_interrupted = None, "", False
    _write(_ENTER)
    try:
        while view is None or view.is_open:
            if view is not None:
                _wait(view)
            with collected() as said:
                view = look()
            notes = said.getvalue()
            drawn = [*notes.splitlines(), *lines(view, _now())]
            text = "".join(f"{line}{_REST_OF_LINE}\n" for line in _fitting(drawn))
            _write(f"{_HOME}{text}{_REST_OF_SCREEN}")
    except KeyboardInterrupt:
        is_interrupted = True
    finally:
        _write(_LEAVE)
    if view is None:
        return INTERRUPTED
    sys.stderr.write(notes)
    for line in lines(view, _now()):
        terminal.result(line)
    return INTERRUPTED if is_interrupted else int(not view.is_complete)


def _as_it_changes(look: Callable[[], View], lines: Lines) -> int:
    """Prints the jobs once, and again after each change."""
    before, noted = "", ""
    try:
        while True:
            with collected() as said:
                view = look()
            if (notes := said.getvalue()) != noted:
                noted = notes
                sys.stderr.write(notes)
            text = "\n".join(lines(view, None))
            if text != before:
                terminal.result(f"\n{text}" if before else text)
                sys.stdout.flush()
                before = text
            if not view.is_open:
                return int(not view.is_complete)
            _wait(view)
    except KeyboardInterrupt:
        return INTERRUPTED


def _wait(view: View) -> None:
    time.sleep(_PAUSE_THERE if view.is_elsewhere else _PAUSE)


@contextlib.contextmanager
def collected() -> Iterator[io.StringIO]:
    """Keeps notes back, which would be lost on a screen, and be repeated at every look."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield said
    except Exception:
        sys.stderr.write(said.getvalue())
        raise


def _fitting(lines: Iterable[str]) -> Iterator[str]:
    """The lines that the terminal has room for; the last one counts the others."""
    size = terminal.size(sys.stdout)
    room = size.lines - 2  # for the count, and for the cursor
    rest = 0
    for line in (part for each in lines for part in each.split("\n")):
        room -= 1 + max(terminal.width(line) - 1, 0) // size.columns
        if rest or room < 0:
            rest += 1
        else:
            yield line
    if rest:
        yield f"... and {rest} more lines"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
