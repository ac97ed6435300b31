"""What jobs on Kubernetes have printed: read, and followed across lost connections and retries."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caliban.errors import PlatformError, RefusedError, UnknownOutcomeError
from caliban.platform.kubernetes import outcome
from caliban.platform.quota import Clock

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from caliban.platform.kubernetes.connection import Connection

# Seconds without a line after which is looked whether the connection is still one.
_PATIENCE = 30.0

# Seconds between two looks whether a job has started, or goes on after a lost connection.
_INTERVAL = 1.0

# How often in a row the cluster may not answer before following it fails.
_FAILURES = 10

_PIECE = 1 << 16

# Engines keep lines in pieces of this size. Older nodes put the time before each of them.
_PART = 1 << 14

_TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?")


@dataclass(frozen=True)
class _Moment:
    """When a line was printed, to the nanosecond; moments can be compared.

    Attributes:
      seconds: since 1970.
      nanoseconds: beyond those.
    """

    seconds: int
    nanoseconds: int

    @classmethod
    def of(cls, match: re.Match[bytes]) -> _Moment:
        when = datetime.datetime.fromisoformat((match[1] + match[3]).decode())
        return cls(int(when.timestamp()), int((match[2] or b"").ljust(9, b"0")))

    @property
    def key(self) -> tuple[int, int]:
        """To compare it by."""
        return self.seconds, self.nanoseconds

    @property
    def text(self) -> str:
        """As the API has it, which knows whole seconds only."""
        when = datetime.datetime.fromtimestamp(self.seconds, datetime.UTC)
        return when.strftime("%Y-%m-%dT%H:%M:%SZ")


class Log:
    """What one job has printed."""

    def __init__(self, connection: Connection, namespace: str, name: str, clock: Clock) -> None:
        """Takes the job.

        Args:
          connection: to its cluster.
          namespace: where it is there.
          name: of the Job.
          clock: to wait by.
        """
        self._connection = connection
        self._clock = clock
        self._name = name
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"

    def read(self, tail: int | None = None) -> Iterator[bytes]:
        """The lines that there are, of the job's last try.

        Args:
          tail: how many of the last ones; None for all.

        Raises:
          RefusedError: they can't be had any more.
          PlatformError: the cluster can't be asked.
        """
        pod = self._pod()
        if pod is None:
            self._connection.get(f"{self._jobs}/{self._name}")  # a RefusedError, if it is gone
            return
        if not _has_started(pod):
            return
        reader = _Reader(pod["metadata"]["uid"], tail)
        params = {"container": outcome.worker(pod), **reader.params}
        with self._connection.stream(self._path(pod), params, _PATIENCE) as answer:
            yield from reader.lines(answer)
        if reader.is_broken:
            raise UnknownOutcomeError(
                f"the connection broke while the log of {self._name} was read"
            )

    def follow(self, tail: int | None = None) -> Iterator[bytes]:
        """The lines that there are, and those that come, until the job has ended.

        Of a job that is started again, those of each try from now on.

        Args:
          tail: how many of those that there are; None for all.

        Raises:
          RefusedError: the job is gone before anything was read.
          PlatformError: the cluster can't be asked, for a while.
        """
        reader: _Reader | None = None
        failures = 0
        while True:
            try:
                job = self._job(may_be_gone=reader is not None)
                pod = self._pod()
                if pod is not None and _has_started(pod):
                    if reader is None or reader.pod != pod["metadata"]["uid"]:
                        reader = _Reader(pod["metadata"]["uid"], tail if reader is None else None)
                    yield from self._lines_of(pod, reader)
                failures = 0
                # As it was before reading: whatever was printed until then has been read.
                if job is None or (outcome.is_final(job) and not (reader and reader.is_broken)):
                    return
            except RefusedError:
                raise
            except PlatformError:
                failures += 1
                if failures > _FAILURES:
                    raise
            self._clock.sleep(_INTERVAL)

    def _lines_of(self, pod: Mapping[str, Any], reader: _Reader) -> Iterator[bytes]:
        """The lines of a pod that come while the connection lasts; none if the pod is gone."""
        params = {"container": outcome.worker(pod), "follow": "true", **reader.params}
        try:
            with self._connection.stream(self._path(pod), params, _PATIENCE) as answer:
                yield from reader.lines(answer)
        except RefusedError as error:
            if error.status not in (400, 404):
                raise
            reader.is_broken = False

    def _job(self, may_be_gone: bool) -> dict[str, Any] | None:
        """The job; None if it has been deleted meanwhile."""
        try:
            return self._connection.get(f"{self._jobs}/{self._name}")
        except RefusedError as error:
            if may_be_gone and error.status == 404:
                return None
            raise

    def _pod(self) -> Mapping[str, Any] | None:
        """The pod of the last try."""
        params = {"labelSelector": f"job-name={self._name}"}
        return outcome.newest(self._connection.items(self._pods, params))

    def _path(self, pod: Mapping[str, Any]) -> str:
        return f"{self._pods}/{pod['metadata']['name']}/log"


class _Reader:
    """Reads the lines of one pod, each once, though connections break.

    Attributes:
      pod: uid of the pod.
      is_broken: whether the last connection ended before the log did.
    """

    def __init__(self, pod: str, tail: int | None) -> None:
        self.pod = pod
        self.is_broken = False
        self._tail = tail
        self._last: _Moment | None = None
        self._count = 0

    @property
    def params(self) -> dict[str, str]:
        """What to ask for: all lines, or those since the last one."""
        found = {"timestamps": "true"}
        if self._last is not None:
            found["sinceTime"] = self._last.text
        elif self._tail is not None:
            found["tailLines"] = str(self._tail)
        return found

    def lines(self, answer: BaseHTTPResponse) -> Iterator[bytes]:
        """The lines that are new; it ends when the connection does, however that is.

        Raises:
          RefusedError: the log is gone.
        """
        repeated, last = self._count, self._last
        self.is_broken = True
        with contextlib.suppress(UnknownOutcomeError):
            for line in _lines(answer):
                match = _TIME.match(line)
                if match is None:
                    # That is the node speaking, in the place of a log that it doesn't have.
                    said = line.decode(errors="replace").strip()
                    raise RefusedError(f"the log is gone: {said}", status=404)
                moment = _Moment.of(match)
                if last is not None and moment.key < last.key:
                    continue
                if moment == last and repeated:
                    repeated -= 1
                    continue
                self._count = self._count + 1 if moment == self._last else 1
                self._last = moment
                yield _text(line[match.end() :])
            self.is_broken = False


def _lines(answer: BaseHTTPResponse) -> Iterator[bytes]:
    """The lines of an answer.

    Raises:
      UnknownOutcomeError: the connection broke; half a line is left out.
    """
    import urllib3

    rest = b""
    try:
        for piece in answer.stream(_PIECE):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line + b"\n"
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise UnknownOutcomeError(f"the connection broke while a log was read: {error}") from None
    if rest:
        yield rest + b"\n"


def _text(line: bytes) -> bytes:
    """A line without the times that older nodes put within long ones."""
    at = _PART
    while at < len(line) and (match := _TIME.match(line, at)):
        line = line[:at] + line[match.end() :]
        at += _PART
    return line


def _has_started(pod: Mapping[str, Any]) -> bool:
    """Whether the container of a pod has begun, or has even ended."""
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    name = outcome.worker(pod)
    return any(
        each["name"] == name and (each["state"].keys() & {"running", "terminated"})
        for each in statuses
    )
