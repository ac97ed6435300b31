"""What the exit code of a process means."""

from __future__ import annotations

import signal

# What shells, and those who start containers, mean by these.
_SHELL_CODES = {126: " (the command cannot be executed)", 127: " (command not found)"}


def describe(code: int) -> str:
    """An exit code in words: "exit code 3", "signal 9 (SIGKILL)"; "" for success."""
    if code == 0:
        return ""
    if 128 < code <= 128 + signal.NSIG:
        try:
            return f"signal {code - 128} ({signal.Signals(code - 128).name})"
        except ValueError:
            pass
    return f"exit code {code}{_SHELL_CODES.get(code, '')}"
