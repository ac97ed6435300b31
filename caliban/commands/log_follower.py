"""Follows jobs' output from wherever it is to be had: files, the engine, platforms elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from caliban import joblog, settle, terminal
from caliban.commands import log_source
from caliban.errors import CalibanError
from caliban.model.job import Handle, Job, Status
from caliban.remote.backends import is_remote

if TYPE_CHECKING:
    from caliban.commands.job_choice import Places
    from caliban.history.store import HistoryStore
    from caliban.platform.local import LocalBackend

# How often a reader looks whether a job has printed more, in seconds.
_PAUSE = 0.2

# How often a platform elsewhere is asked about jobs that print no more, in seconds.
_ASK = 2.0

# Looking what has become of the jobs takes at most this part of the time, however many there are.
_SHARE = 0.05

# How many pieces of one job's file are shown before the next one has its turn.
_PIECES = 16

# How many bytes of a container's output are read ahead.
_MOST = 1 << 20

# A line without an end is shown in pieces of this many bytes.
_LONGEST = 1 << 16


class Output:
    """Writes jobs' bytes to stdout: as they are, or as lines after their jobs' numbers."""

    def __init__(self, several: bool) -> None:
        self._several = several
        self._is_terminal = sys.stdout.isatty() and sys.stderr.isatty()
        self._partial: dict[int, bytes] = {}
        self._at_line_start = True

    def write(self, data: bytes) -> None:
        """Writes bytes as they are."""
        if data:
            sys.stdout.buffer.write(data)
            self._at_line_start = data.endswith(b"\n")

    def write_of(self, number: int, data: bytes) -> None:
        """Writes what one of several jobs has printed; the start of a line waits for its end."""
        if not self._several:
            self.write(data)
            return
        *lines, rest = (self._partial.get(number, b"") + data).split(b"\n")
        if len(rest) > _LONGEST:
            lines, rest = [*lines, rest], b""
        self._partial[number] = rest
        prefix = terminal.paint(f"[{number}]", "cyan").encode() + b" "
        self.write(b"".join(prefix + line + b"\n" for line in lines))

    def end(self, number: int) -> None:
        """A job prints no more."""
        if rest := self._partial.pop(number, b""):
            self.write_of(number, rest + b"\n")

    def note(self, text: str, colour: str = "") -> None:
        """A line of caliban's own, on stderr."""
        self.flush()
        if self._is_terminal and not self._at_line_start:
            sys.stderr.write("\n")
            self._at_line_start = True
        terminal.note(text, colour)

    def flush(self) -> None:
        """Makes what was written visible."""
        sys.stdout.buffer.flush()


class _Stream:
    """Reads what the engine says of a container, without waiting for it.

    Attributes:
      is_over: whether the container has ended, and all of its output was read.
    """

    def __init__(self, pieces: Iterator[bytes], skip: int, arrived: threading.Event) -> None:
        """Begins after `skip` bytes; much that can be read is told by `arrived`."""
        self._skip = skip
        self._arrived = arrived
        self._read = bytearray()
        self._error: BaseException | None = None
        self._has_all = False
        self._changed = threading.Condition()
        self.is_over = False
        threading.Thread(target=self._fill, args=(pieces,), daemon=True).start()

    def _fill(self, pieces: Iterator[bytes]) -> None:
        try:
            # An engine gives each line by itself, and there may be millions.
            for piece in pieces:
                with self._changed:
                    self._read += piece
                    if len(self._read) >= _MOST:
                        self._arrived.set()
                        self._changed.wait_for(lambda: not self._read)
        except BaseException as error:  # noqa: BLE001 - it is raised where the stream is read
            self._error = error
        with self._changed:
            self._has_all = True
            self._arrived.set()

    def read(self) -> bytes:
        """All that there is by now; b"" if there is nothing more now."""
        with self._changed:
            piece, self._read = self._read, bytearray()
            has_all = self._has_all
            self._changed.notify()
        piece, self._skip = piece[self._skip :], max(self._skip - len(piece), 0)
        if has_all and not piece:
            self.is_over = True
            if self._error is not None:
                raise self._error
        return bytes(piece)


class _Followed:
    """A job's output as it comes: from its file; from the engine once nobody writes that any more.

    Attributes:
      is_over: whether the job has ended, and all of its output was read.
    """

    def __init__(self, job: Job, tail: int | None, arrived: threading.Event) -> None:
        self._uid = job.uid
        self._tail = tail
        self._arrived = arrived
        self._file = joblog.Reader(job.uid, tail)
        self._stream: _Stream | None = None
        self.was_open = job.outcome.status in log_source.OPEN
        self.has_printed = False
        self.is_over = False

    @property
    def has_stream(self) -> bool:
        """Whether it is, or was, read from the engine."""
        return self._stream is not None

    @property
    def is_streamed(self) -> bool:
        """Whether it is being read from the engine, which must not remove the container yet."""
        return self._stream is not None and not self._stream.is_over

    def take_over(self, backend: LocalBackend, handle: Handle) -> None:
        """From now on it is read from the engine; what the file had is passed over there."""
        tail = None if self._file.at else self._tail
        skip = self._file.at
        if not backend.keeps_bytes(handle):
            skip = joblog.length_as_text(self._uid, skip)
        pieces = backend.logs(handle, follow=True, tail=tail)
        self._stream = _Stream(pieces, skip, self._arrived)

    def follow_there(self, pieces: Iterator[bytes]) -> None:
        """From now on it is read from a platform elsewhere, which nothing was read from so far."""
        self._stream = _Stream(pieces, 0, self._arrived)

    @property
    def tail(self) -> int | None:
        """How many of the lines that there are now are wanted; None for all."""
        return self._tail

    def read(self, job: Job) -> bytes:
        """The next bytes; b"" if there is nothing more now.

        Args:
          job: what is known of it from before this was called.
        """
        data = self._stream.read() if self._stream else b"".join(_pieces(self._file.read))
        self.has_printed = self.has_printed or bool(data)
        if not data and not self.is_streamed and job.outcome.status.is_final:
            self.is_over = True
            self._file.close()
        return data


def _pieces(read: Callable[[], bytes]) -> Iterator[bytes]:
    """What can be read now, as far as it is one job's turn."""
    for _ in range(_PIECES):
        if not (piece := read()):
            return
        yield piece


def follow(
    store: HistoryStore,
    places: Places,
    jobs: Sequence[Job],
    tail: int | None,
    output: Output,
) -> int:
    """Shows what jobs have printed, and what they print until they end.

    Args:
      store: the history, which says when they have ended.
      places: where the jobs are.
      jobs: those that are followed.
      tail: how many of the lines that each has printed by now; None for all.
      output: where they are shown.

    Returns:
      The exit code: 1 if one could not be followed to its end elsewhere, or its log not be read.
    """
    code = 0
    attendance = _Attendance(store, places)
    arrived = threading.Event()
    logs = {job.uid: _Followed(job, tail, arrived) for job in jobs}
    known = {job.uid: job for job in jobs}
    for job in jobs:
        if log_source.is_out_of_reach(job):
            output.note(f"job {job.id}: {log_source.why_nothing(job)}")
            del logs[job.uid]
        elif len(jobs) == 1 and job.outcome.status is Status.SUBMITTED:
            output.note(f"job {job.id}: {log_source.why_nothing(job)}")
    look_again = 0.0
    while logs:
        if (began := time.monotonic()) >= look_again:
            known = {job.uid: job for job in store.jobs(list(logs))}
            took = time.monotonic() - began
            for uid, why in attendance.see_to(known, logs).items():
                output.note(f"job {known[uid].id}: {why}")
                code = max(code, int(is_remote(known[uid])))
                del logs[uid]
            # Not counted: to keep the output of a job that has ended takes long, and is done once.
            look_again = time.monotonic() + max(_PAUSE, took / _SHARE)
        is_quiet = True
        for uid, log in list(logs.items()):
            job = known[uid]
            try:
                is_quiet = not _pass_on(log, job, output) and is_quiet
            except CalibanError as error:  # it is about this job alone
                output.note(f"job {job.id}: {error.message}")
                code = 1
                del logs[uid]
                continue
            if log.is_over:
                del logs[uid]
                _end(log, job, tail, output)
        output.flush()
        if is_quiet and logs:
            arrived.wait(_PAUSE)
            arrived.clear()
    return code


def _pass_on(log: _Followed, job: Job, output: Output) -> bool:
    """Shows what there is of a job's output; returns whether there was something.

    Raises:
      CalibanError: it can't be had any more.
    """
    has_some = False
    while data := log.read(job):
        has_some = True
        output.write_of(job.id, data)
        if not job.outcome.status.is_final:
            break  # the next has its turn; what has ended is read to its end at once
    return has_some


def _end(log: _Followed, job: Job, tail: int | None, output: Output) -> None:
    """Says what there is to say of a job whose output has been read to its end."""
    output.end(job.id)
    if log.was_open:
        output.note(f"job {job.id} {job.outcome.describe()}")
    elif not log.has_printed and tail != 0:
        output.note(f"job {job.id}: {log_source.why_nothing(job)}")
    if joblog.is_cut(job.uid):
        output.note(f"job {job.id}: {log_source.CUT}")


class _Attendance:
    """Sees to jobs that nobody else does: those whose caliban has died, and those elsewhere."""

    def __init__(self, store: HistoryStore, places: Places) -> None:
        self._store = store
        self._places = places
        self._asked_at = 0.0

    def see_to(self, known: Mapping[str, Job], logs: Mapping[str, _Followed]) -> dict[str, str]:
        """Returns why nothing more can be found out about some of the jobs, by uid."""
        there = [job for job in known.values() if log_source.is_there(job)]
        ended = [job for job in known.values() if job.outcome.status.is_final]
        log_source.fetch(
            self._store, self._places, [job for job in ended if not logs[job.uid].has_stream]
        )
        left = [job for job in known.values() if log_source.is_left(job)]
        unsent = {job.uid: log_source.why_nothing(job) for job in left if is_remote(job)}
        return {**self._here([job for job in left if not is_remote(job)], logs), **unsent} | (
            self._there(there, logs)
        )

    def _here(self, left: Sequence[Job], logs: Mapping[str, _Followed]) -> dict[str, str]:
        connect = self._places.connect
        for job in left:
            if not logs[job.uid].has_stream and (handle := log_source.left_container(connect, job)):
                logs[job.uid].take_over(connect(), handle)
        # Whoever settles a job that has ended removes its container.
        settled = [job for job in left if not logs[job.uid].is_streamed]
        if settle.refresh(self._store, settled, connect):
            return {}
        why = "caliban has died, and its engine is not here"
        return {job.uid: why for job in settled}

    def _there(self, jobs: Sequence[Job], logs: Mapping[str, _Followed]) -> dict[str, str]:
        for job in jobs:
            if job.handle and not logs[job.uid].has_stream:
                backend = self._places.backends().of(job.handle.platform)
                pieces = backend.logs(job.handle, True, logs[job.uid].tail)
                logs[job.uid].follow_there(pieces)
        silent = [job for job in jobs if not logs[job.uid].is_streamed]
        if not silent or time.monotonic() - self._asked_at < _ASK:
            return {}
        is_known = settle.refresh(self._store, silent, self._places.connect, self._places.backends)
        self._asked_at = time.monotonic()
        why = "what has become of it can't be asked"
        return {} if is_known else {job.uid: why for job in silent}
