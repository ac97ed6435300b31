"""Somebody at a terminal: a program that has one of its own, what it shows, and keys to press."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CTRL_C, CTRL_D = "\x03", "\x04"


class Typist:
    """`caliban` on a terminal of its own.

    Attributes:
      text: what it has shown, without colours.
    """

    def __init__(self, *args: str, cwd: Path | None = None) -> None:
        self._terminal, other_end = pty.openpty()
        termios.tcsetwinsize(other_end, (24, 200))  # wide, so that no line is folded
        self.text = ""
        self._child = subprocess.Popen(
            [sys.executable, "-m", "caliban", *args],
            cwd=cwd,
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(other_end)

    def press(self, keys: str) -> None:
        """Types."""
        os.write(self._terminal, keys.encode())

    def shows(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        """Waits until something is seen; ^ and $ match at each line."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text, re.MULTILINE)):
            assert time.monotonic() < deadline, f"{pattern!r} is not in:\n{self.text}"
            assert self._read(0.1), f"it ended without {pattern!r}:\n{self.text}"
        return found

    def ends(self, seconds: float = 30) -> int:
        """Waits for the end of the program, and returns its exit code."""
        deadline = time.monotonic() + seconds
        while self._read(0.1):
            assert time.monotonic() < deadline, f"it still runs:\n{self.text}"
        return self._child.wait(30)

    def _read(self, seconds: float) -> bool:
        """Takes in what is shown; False when the program has ended."""
        if not select.select([self._terminal], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._terminal, 1 << 16)
        except OSError:
            return False
        shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", data.decode(errors="replace"))
        self.text += shown.replace("\r\n", "\n")
        return bool(data)

    def close(self) -> None:
        """Ends the program, if it still runs, and closes the terminal."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait(5)
        os.close(self._terminal)


@contextmanager
def typing(*args: str, cwd: Path | None = None) -> Iterator[Typist]:
    """Runs `caliban` on a terminal of its own."""
    typist = Typist(*args, cwd=cwd)
    try:
        yield typist
    finally:
        typist.close()
