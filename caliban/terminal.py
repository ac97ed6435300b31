"""What people see: notes on stderr, results on stdout, colour, a progress bar, JSON."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from caliban.errors import UsageError

if TYPE_CHECKING:
    from tqdm import tqdm

# What turns colours on and off, and a word with what stands before it.
_PAINT = re.compile(r"\033\[[\d;]*m")
_WORD = re.compile(r" *(?:[^ ]+: )*[^ ]+| +")

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1", "dim": "2"}


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Colours text where `stream` (stdout by default) is a terminal that wants it.

    NO_COLOR (https://no-color.org) turns colour off, FORCE_COLOR turns it on.
    """
    wanted = _wants_colour(stream or sys.stdout)
    return f"\033[{_COLOURS[colour]}m{text}\033[0m" if wanted else text


def link(url: str) -> str:
    """An address that a terminal opens at a click, also where it takes several lines (OSC 8).

    The text is the address itself; where stdout is no terminal there is nothing else.
    """
    is_wanted = sys.stdout.isatty() and _wants_colour(sys.stdout)
    return f"\033]8;;{url}\033\\{url}\033]8;;\033\\" if is_wanted else url


def _wants_colour(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or can_redraw(stream)


def can_redraw(stream: TextIO) -> bool:
    """Whether a stream goes to a terminal that knows more than to print one line after another."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def one_line(text: str) -> str:
    """A text of somebody else's without what would move a terminal's cursor."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def abridged(text: str, longest: int = 1000) -> str:
    """A text that quotes what a user has written, without the middle where that is very long."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} ... {len(text) - 2 * half} more characters ... {text[-half:]}"


def note(text: str, colour: str = "") -> None:
    """Tells the user something that is not the result: a line on stderr."""
    sys.stdout.flush()  # what was printed before comes first, also where both go to one place
    print(paint(text, colour, sys.stderr) if colour else text, file=sys.stderr, flush=True)  # noqa: T201


def warn(text: str) -> None:
    """A note about something that may not be as the user thinks."""
    note(f"{paint('warning:', 'yellow', sys.stderr)} {text}")


def result(text: str) -> None:
    """Prints what the user asked for: a line on stdout."""
    print(text)  # noqa: T201


def give_up_stdout() -> None:
    """Nothing is written to stdout any more, nor what it could not take so far, and nothing fails.

    Otherwise Python would try again with the next note, and complain again.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def result_bytes(data: bytes) -> None:
    """Prints a result as it is, byte for byte, on stdout."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def json_text(value: Any) -> str:
    """A value as indented JSON, in ASCII: what a job has printed may be no valid Unicode."""
    import json

    return json.dumps(value, indent=2)


def result_json(value: Any) -> None:
    """Prints a result for programs: indented JSON on stdout."""
    print(json_text(value))  # noqa: T201


def confirm(question: str, hint: str) -> bool:
    """Asks a question that y or yes answers with yes, and anything else with no.

    Args:
      question: without what can be answered; it is shown on stderr.
      hint: how to do without an answer.

    Raises:
      UsageError: there is nobody to answer.
    """
    sys.stdout.flush()
    sys.stderr.write(f"{question} [yN]: ")
    sys.stderr.flush()
    line = b""
    try:
        if sys.stdin is not None:
            if sys.stdin.isatty():
                # A signal just before a read isn't noticed until that returns: a person waits.
                while not select.select([sys.stdin], [], [], 0.2)[0]:
                    pass
            line = sys.stdin.buffer.readline()
    finally:
        if not line.endswith(b"\n"):  # ^C, or ^D
            sys.stderr.write("\n")
    if not line:
        raise UsageError("nobody answers: standard input is at its end", hint)
    return line.strip().lower() in (b"y", b"yes")


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lays out rows of cells as lines with aligned columns, two spaces between them."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def folded(text: str, stream: TextIO | None = None) -> str:
    """A line for people, with breaks between words where a terminal is not as wide as it is long.

    What follows a break stands two columns further to the right than the line. A word that ends
    with a colon stays with the next one.

    Args:
      text: the line.
      stream: where it goes, stdout by default; nothing is changed if that is no terminal.
    """
    try:
        room = size(stream or sys.stdout).columns
    except (OSError, ValueError):
        return text
    indent = " " * (2 + len(text) - len(text.lstrip(" ")))
    lines = [""]
    for word in _WORD.findall(text):
        if lines[-1].strip() and width(lines[-1] + word) > room:
            lines.append(indent + word.lstrip(" "))
        else:
            lines[-1] += word
    return "\n".join(lines)


def width(text: str) -> int:
    """How many columns of a terminal a text takes, in a line that is long enough."""
    shown = _PAINT.sub("", text)
    if shown.isascii():
        return len(shown)
    from unicodedata import combining, east_asian_width

    return sum(1 + (east_asian_width(c) in "WF") for c in shown if not combining(c))


def amount(size: float) -> str:
    """A number of bytes for people: "312 B", "46.1 kB"."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def streams_are_one() -> bool:
    """Whether stdout and stderr go to one place, as on a terminal, or with `2>&1`."""
    try:
        return os.path.samestat(os.fstat(1), os.fstat(2))
    except OSError:
        return False


def size(stream: TextIO) -> os.terminal_size:
    """That of the terminal behind a stream; the usual one if it has not been told its own.

    Raises:
      OSError: there is none, or it has been closed.
    """
    found = os.get_terminal_size(stream.fileno())
    return os.terminal_size((found.columns or 80, found.lines or 24))


# What the bar counts.
_TITLE = "jobs"


class Output:
    """Passes jobs' output on unchanged, with a bar that counts jobs below it on a terminal.

    A job's own tqdm bar redraws the line it is on, and so does ours. Ours is therefore drawn only
    while the cursor stands at the start of a line, and wiped before a job's bytes are written.

    Attributes:
      lost: why nothing can be written any more: the terminal or the other end of a pipe was closed,
        or the disk is full; None as long as it can.
    """

    def __init__(self, total: int) -> None:
        self.lost: OSError | None = None
        self._bar: tqdm[Any] | None = None
        self._shown = False
        self._at_line_start = True
        self._why = ""
        if total > 1 and can_redraw(sys.stderr):
            from tqdm import tqdm

            # Room is left for the ^C that a terminal echoes: on a line of its own it would stay.
            columns = size(sys.stderr).columns - 3
            self._bar = tqdm(
                total=total, unit="job", desc=_TITLE, leave=False, ncols=columns, delay=1e9
            )

    def write(self, stream: TextIO, data: bytes) -> None:
        """Writes a job's bytes to stdout or stderr at once."""
        with self._reader():
            self.hide()
            stream.flush()
            buffer = stream.buffer
            buffer.write(data)
            buffer.flush()
        if stream.isatty() and data:
            self._at_line_start = data.endswith(b"\n")

    def note(self, text: str, colour: str = "") -> None:
        """A line of caliban's own between the jobs' lines."""
        with self._reader():
            self.hide()
            if not self._at_line_start:
                sys.stderr.write("\n")
                self._at_line_start = True
            note(text, colour)

    def advance(self) -> None:
        """Counts one job as done."""
        if self._bar is not None:
            self._bar.update()
        self.idle()

    def held_up(self, why: str) -> None:
        """Says why nothing goes on just now: in front of the bar, or as a note where there is none.

        Args:
          why: in words; "" if it goes on.
        """
        if why == self._why:
            return
        self._why = why
        if self._bar is not None:
            self._bar.set_description_str(why or _TITLE, refresh=False)
        elif why:
            self.note(why, "yellow")

    def idle(self) -> None:
        """Shows the bar, if the cursor is where it may be drawn."""
        if self._bar is not None and self._at_line_start:
            with self._reader():
                self._bar.refresh()
                self._shown = True

    @contextlib.contextmanager
    def _reader(self) -> Iterator[None]:
        """Takes note when there is no reader any more, and goes on without one."""
        try:
            yield
        except OSError as error:
            self.lost = error

    def hide(self) -> None:
        """Wipes the bar off the screen until `idle`."""
        if self._bar is not None and self._shown:
            # Not tqdm's own clear(), which leaves what the terminal echoed behind the bar: "^C".
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
            self._shown = False

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self.hide()
            self._bar.close()
