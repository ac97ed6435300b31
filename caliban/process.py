"""The only module that starts other programs, and the one that tells processes apart."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

from caliban.errors import CalibanError

PIPE = subprocess.PIPE
Child: TypeAlias = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Completed:
    """A program that has ended.

    Attributes:
      exit_code: of the program; -N when signal N ended it.
      stdout: what it wrote there.
      stderr: what it wrote there.
    """

    exit_code: int
    stdout: str
    stderr: str


def run(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Runs a program to its end, without standard input, and keeps what it printed.

    Args:
      command: program and arguments.
      environment: variables on top of this process's own.

    Raises:
      CalibanError: there is no such program.
    """
    with start(command, environment=environment) as child:
        stdout, stderr = child.communicate()
    return Completed(
        child.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace")
    )


def run_within(
    command: Sequence[str],
    seconds: float,
    size: int,
    environment: Mapping[str, str] | None = None,
) -> Completed | None:
    """Runs a program that is not to be waited for long, without standard input.

    Args:
      command: program and arguments.
      seconds: after which it is ended.
      size: how many bytes of its output are of interest; when it has printed more, it is ended.
      environment: variables on top of this process's own.

    Returns:
      What it printed, of which a little more than `size` says that there was more; None if it took
      too long.

    Raises:
      CalibanError: there is no such program.
    """
    import selectors
    import time

    deadline = time.monotonic() + seconds
    with start(command, environment=environment) as child, selectors.DefaultSelector() as ready:
        printed = {child.stdout: bytearray(), child.stderr: bytearray()}
        for pipe in printed:
            ready.register(pipe, selectors.EVENT_READ)  # type: ignore[arg-type]
        while ready.get_map():
            left = deadline - time.monotonic()
            if left <= 0 or not (events := ready.select(left)):
                return None
            for key, _ in events:
                piece = os.read(key.fd, 1 << 16)
                printed[key.fileobj] += piece  # type: ignore[index]
                if not piece:
                    ready.unregister(key.fileobj)
            if max(map(len, printed.values())) > size:
                child.kill()
                break
        if not ended(child, max(deadline - time.monotonic(), 0.0)):
            return None
        code = child.returncode
    # As PEP 383 has it: what is no UTF-8 in a diff can be told from what is.
    stdout, stderr = (each.decode(errors="surrogateescape") for each in printed.values())
    return Completed(code, stdout, stderr)


@contextmanager
def start(
    command: Sequence[str],
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
    merge_stderr: bool = False,
) -> Iterator[Child]:
    """Starts a program in a session of its own; on leaving, it has ended and its pipes are closed.

    The session keeps a ^C of the terminal for caliban alone, which then ends the program in order.

    Args:
      command: program and arguments.
      stdin: file that it reads, or subprocess.PIPE; nothing by default.
      environment: variables on top of this process's own.
      merge_stderr: whether its stderr goes where its stdout goes.

    Raises:
      CalibanError: there is no such program.
    """
    child = spawn(command, stdin, environment, merge_stderr)
    try:
        yield child
    finally:
        close(child)


def spawn(
    command: Sequence[str],
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
    merge_stderr: bool = False,
) -> Child:
    """As `start`, for a program that outlives the caller's block; end it with `close`."""
    with _errors(command):
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge_stderr else subprocess.PIPE,
            env={**os.environ, **environment} if environment else None,
            start_new_session=True,
        )


@contextmanager
def attach(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    keep_stderr: bool = False,
) -> Iterator[Child]:
    """Starts a program that has this one's terminal, and gets what is typed, ^C included.

    On leaving, it has ended, and the terminal has its settings back, whatever ended the program.

    Args:
      command: program and arguments.
      environment: variables on top of this process's own.
      keep_stderr: whether its stderr goes into a pipe, and not where this program's own goes.

    Raises:
      CalibanError: there is no such program.
    """
    with _terminal_settings():
        with _errors(command):
            child = subprocess.Popen(
                command,
                stderr=subprocess.PIPE if keep_stderr else None,
                env={**os.environ, **environment} if environment else None,
            )
        try:
            yield child
        finally:
            child.kill()  # SIGTERM it may pass on to what it is attached to, and stay
            close(child)


@contextmanager
def _terminal_settings() -> Iterator[None]:
    """Gives the terminal on stdin its settings back: echo, lines, and which keys mean something."""
    import termios

    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    number = sys.stdin.fileno()
    settings = termios.tcgetattr(number)
    try:
        yield
    finally:
        # A terminal that is closed has none; one that is somebody else's by now would stop us.
        with contextlib.suppress(OSError, termios.error):
            if os.tcgetpgrp(number) == os.getpgrp():
                termios.tcsetattr(number, termios.TCSANOW, settings)


def ended(child: Child, seconds: float) -> bool:
    """Waits for a program, but not for longer than this, and says whether it has ended."""
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def leave(command: Sequence[str]) -> Child:
    """Starts a program that goes on by itself, even after this one, and whose output nobody needs.

    Returns:
      The program, which need not be waited for.

    Raises:
      CalibanError: there is no such program.
    """
    with _errors(command):
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    _left.append(child)
    return child


# Kept, because Python warns of a child that is forgotten while it runs.
_left: list[Child] = []


@contextmanager
def _errors(command: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise CalibanError(
            f"the program '{command[0]}' is not installed, or not on PATH",
            f"It was needed for: {shlex.join(command)}",
        ) from None
    except OSError as error:
        raise CalibanError(f"cannot start {shlex.join(command)}: {error.strerror}") from None


def close(child: Child) -> None:
    """Ends a spawned program, if it still runs, and closes its pipes."""
    if child.poll() is None:
        child.terminate()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # what was still buffered has no reader any more
    child.wait()


def kill(program: str, *words: str) -> None:
    """Kills the programs of this user that were called so, by this process or another one.

    Args:
      program: name of the program, without its folder.
      words: arguments that it has, in this order and without others between them.
    """
    for pid, command in _commands():
        found = [Path(command[0]).name, *command[1:]]
        if found[0] == program and any(
            found[at : at + len(words)] == [*words] for at in range(1, len(found))
        ):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _commands() -> Iterator[tuple[int, list[str]]]:
    """The processes of this machine, as far as they can be seen, with their words."""
    if not Path("/proc/self/cmdline").exists():  # a Mac, where a word with spaces is several
        for line in run(["ps", "-axwwo", "pid=,command="]).stdout.splitlines():
            pid, *command = line.split()
            if command:
                yield int(pid), command
        return
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                command = os.fsdecode((folder / "cmdline").read_bytes()).split("\0")
                if command[0]:
                    yield int(folder.name), command


def find(program: str) -> str | None:
    """Where a program is, if it is on PATH."""
    return shutil.which(program)


def identity() -> str:
    """Names this process among all that ever ran on all machines: host, pid and start time."""
    pid = os.getpid()
    return f"{socket.gethostname()}/{pid}/{_start_time(pid)}"


def is_alive(owner: str) -> bool | None:
    """Whether the process that `identity` named still runs; None when this machine can't tell."""
    host, _, rest = owner.partition("/")
    pid, _, started = rest.partition("/")
    if host != socket.gethostname() or not pid.isdigit():
        return None
    now = _start_time(int(pid))
    return bool(now) and now == started


def _start_time(pid: int) -> str:
    """When a process started, in a form that only serves for comparison; "" if there is none."""
    try:
        # Counted after the name, which may hold spaces: field 3 of `man 5 proc` comes first.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    return run(["ps", "-o", "lstart=", "-p", str(pid)]).stdout.strip()
