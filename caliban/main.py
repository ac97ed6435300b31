"""The command `caliban`: the one place that turns errors into messages and exit codes."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence

from caliban import interrupt
from caliban.errors import INTERRUPTED, CalibanError, UsageError

BUG = 3
BROKEN_PIPE = 128 + signal.SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one caliban command.

    Args:
      argv: arguments without the program's name; the process's own by default.

    Returns:
      The exit code: 0 all done, 1 a job or a build failed, 2 wrong usage or configuration, 3 a bug
      in caliban, 130 interrupted.
    """
    from caliban import cli

    if "_ARGCOMPLETE" in os.environ:  # a shell asks, by the script of `caliban completion`
        from caliban import completion

        return guarded("caliban", completion.answer)
    # Most of what a short command makes is what it imports, and stays: to look for garbage in there
    # every 700 objects, as Python does, is an eighth of the time until a job starts.
    gc.set_threshold(200_000)
    if argv is not None:
        return guarded("caliban", lambda: cli.run(argv))
    try:
        return guarded("caliban", lambda: cli.run(sys.argv[1:]))
    finally:
        gc.freeze()  # or Python would look once more, when all of it goes anyway


def guarded(program: str, action: Callable[[], int]) -> int:
    """Runs an action and turns whatever it raises into a message and an exit code.

    Args:
      program: name that the message starts with.
      action: what to do; returns the exit code.
    """
    _prepare_streams()
    try:
        with interrupt.by_any_signal():
            code = action()
            sys.stdout.flush()
            return code
    except UsageError as error:
        from caliban import terminal

        _report(program, "\n".join(map(terminal.abridged, error.message.split("\n"))), error.hint)
        return error.exit_code
    except CalibanError as error:
        _report(program, error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            if sys.stderr.isatty():
                sys.stderr.write("\n")  # the cursor stands behind "^C", or what was being shown
        _report(program, "interrupted")
        return INTERRUPTED
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG and isinstance(error.filename, str):
            # No file has it: it is of a flag, or of a file that the user has written.
            _report(program, f"no file can have so long a name: {error.filename[:60]}...")
            return UsageError.exit_code
        if error.errno not in (errno.EPIPE, errno.EIO, errno.ENOSPC):
            _report_bug(program, error)
            return BUG
        # Python would flush again at exit what could not be written, and complain again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        if error.errno == errno.ENOSPC:
            _report(program, f"the disk is full: {error.strerror}")
            return CalibanError.exit_code
        # The reader of our output has gone: `| head` for one, or a closed terminal.
        os.dup2(nowhere, sys.stderr.fileno())
        return BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the boundary: what arrives here is a bug
        _report_bug(program, error)
        return BUG


def _prepare_streams() -> None:
    """Makes stdout and stderr take anything, also where the caller closed them (`>&-`, `<&-`)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the whole process
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    # Arguments may be bytes that are no text, or letters that the locale lacks. As results they go
    # out as they came in; on stderr, Python escapes them.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")


def _report(program: str, message: str, hint: str = "") -> None:
    from caliban import terminal

    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):  # the terminal may be closed; the exit code tells, too
        terminal.note(f"{terminal.paint(f'{program}: error:', 'red', sys.stderr)} {message}")
        if hint:
            terminal.note(hint)


def _report_bug(program: str, error: Exception) -> None:
    """Keeps the traceback in a file and names it: a user can send it, and need not read it."""
    import datetime
    import traceback

    from caliban import home

    # Without the arguments, which may hold a secret.
    lines = ["".join(traceback.format_exception(error)), sys.version, "\n"]
    when = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    message = f"this is a bug in {program}: {type(error).__name__}: {error}"
    try:
        path = home.directory() / f"crash-{when}-{os.getpid()}.txt"
        home.write_private(path, "".join(lines))
    except CalibanError:
        _report(program, message, "".join(lines))
    else:
        _report(program, message, f"Details are in {path}. Please report it with that file.")


if __name__ == "__main__":
    sys.exit(main())
