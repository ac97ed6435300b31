"""A terminal as its user sees it: tmux, with keys to press and a screen to read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The prompt of the shell outside: it shows the exit code of what ran last.
PROMPT = "host $?> "


class Screen:
    """A terminal with a shell in it.

    Args:
      cwd: where the shell starts.
      environment: all variables that it has.
      account: options of subprocess.run that make it another user's.
    """

    def __init__(self, cwd: Path, environment: Mapping[str, str], **account: Any) -> None:
        # A server of its own, of whom nobody else knows.
        self._folder = tempfile.mkdtemp(prefix="caliban-test-")
        if "user" in account:
            os.chown(self._folder, account["user"], -1)
        variables = {"HISTFILE": "/dev/null", "LANG": "C.UTF-8"}
        self._options = {**account, "env": {**environment, **variables}}
        session = ("new-session", "-d", "-x80", "-y24", "-c", str(cwd))
        # Several words are executed without a shell between, which would drop the prompt.
        self._tmux("-f", "/dev/null", *session, "env", f"PS1={PROMPT}", "bash", "--norc")
        try:
            self.shows("^host 0>$")
        except BaseException:
            self.close()
            raise

    def _tmux(self, *args: str, check: bool = True) -> str:
        command = ["tmux", "-S", f"{self._folder}/socket", *args]
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd="/", **self._options
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def keys(self, *names: str) -> None:
        """Presses keys: "C-c", "Enter"."""
        self._tmux("send-keys", *names)

    def type(self, text: str) -> None:
        """Types a text."""
        self._tmux("send-keys", "-l", text)

    def line(self, text: str) -> None:
        """Types a line."""
        self.type(text)
        self.keys("Enter")

    def text(self) -> str:
        """All lines that there are and were, each without the spaces at its end."""
        lines = self._tmux("capture-pane", "-p", "-J", "-S", "-").splitlines()
        return "\n".join(line.rstrip() for line in lines).rstrip()

    def shows(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Waits until a pattern is on the screen; ^ and $ match at each line."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, text := self.text(), re.MULTILINE)):
            assert time.monotonic() < deadline, f"{pattern!r} is not in:\n{text}"
            time.sleep(0.05)
        return found

    def clear(self) -> None:
        """Forgets all lines above the one with the cursor."""
        self.keys("C-l")
        time.sleep(0.1)
        self._tmux("clear-history")

    def resize(self, columns: int, rows: int) -> None:
        """Changes the size of the window."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def pid(self) -> int:
        """The process of the shell outside."""
        return int(self._tmux("display-message", "-p", "#{pane_pid}"))

    def close(self) -> None:
        """Closes the terminal: what runs in it is hung up."""
        self._tmux("kill-server", check=False)
        shutil.rmtree(self._folder, ignore_errors=True)
