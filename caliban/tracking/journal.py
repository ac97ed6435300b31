"""What jobs have said to a tracking server that was away: kept in order, until it is passed on."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from caliban import home

# Where a server that keeps files itself has them, and how it says that it does.
FILES = "/api/2.0/mlflow-artifacts/artifacts/"
_KEPT_BY_SERVER = "mlflow-artifacts:"

# Where the id of a run is: under these names, and in the tag of a run within another one.
_IDS = ("run_id", "run_uuid", "source_run_id")
_PARENT = "mlflow.parentRunId"

# How many metrics MLflow takes at a time, and a little less.
_MOST_METRICS = 500

# Up to this size a content is in memory, in bytes.
SMALL = 1 << 20

# What is larger is kept only if so much of the disk stays free, in bytes.
_FREE = 1 << 30


@dataclass(frozen=True)
class Names:
    """What a run is called.

    Attributes:
      run: its id.
      experiment: that of its experiment.
      folder: where its files are among all of the server's; "" if the server doesn't keep them.
    """

    run: str
    experiment: str
    folder: str

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> Self:
        """Those of a run as the server describes it."""
        info = run["info"]
        place = str(info.get("artifact_uri", ""))
        folder = ""
        if place.startswith(_KEPT_BY_SERVER):
            folder = place.removeprefix(_KEPT_BY_SERVER).lstrip("/")
            if place.startswith(f"{_KEPT_BY_SERVER}//"):
                folder = folder.partition("/")[2]
        return cls(str(info["run_id"]), str(info.get("experiment_id", "")), folder)

    @classmethod
    def stand_in(cls, name: str) -> Self:
        """Those of a run that is not there yet."""
        return cls(name, name, name)

    def replace(self, others: Names, value: Any) -> Any:
        """JSON with the others in the place of these."""
        if isinstance(value, list):
            return [self.replace(others, each) for each in value]
        if not isinstance(value, dict):
            return value
        found = {}
        for key, each in value.items():
            if key in _IDS and each == self.run:
                each = others.run
            elif key == "experiment_id" and each == self.experiment:
                each = others.experiment
            elif key == "experiment_ids" and isinstance(each, list):
                each = [others.experiment if one == self.experiment else one for one in each]
            elif key == "value" and each == self.run and value.get("key") == _PARENT:
                each = others.run
            found[key] = self.replace(others, each)
        return found


@dataclass(frozen=True)
class Request:
    """What a job asks of a tracking server.

    Attributes:
      verb: of HTTP.
      address: path and query.
      kind: the content's type; "" for none.
      content: what is sent along.
    """

    verb: str
    address: str
    kind: str = ""
    content: bytes | IO[bytes] = b""

    def close(self) -> None:
        """Closes the content, if it is a file."""
        if not isinstance(self.content, bytes):
            self.content.close()

    @property
    def method(self) -> str:
        """That of MLflow's REST API: "runs/log-metric"; "" for files, and what is none."""
        path, _, method = urlsplit(self.address).path.partition("/mlflow/")
        return method if path.startswith("/api/") else ""

    @property
    def file(self) -> str:
        """The file that is sent, as its path is in the address; "" for none."""
        path = urlsplit(self.address).path
        return path.removeprefix(FILES) if self.verb == "PUT" and path.startswith(FILES) else ""

    @property
    def arguments(self) -> dict[str, Any]:
        """What the method is told, by the query or as JSON."""
        found = dict(parse_qsl(urlsplit(self.address).query))
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(self.content, bytes) and isinstance(
                told := json.loads(self.content), dict
            ):
                found |= told
        return found

    @property
    def metrics(self) -> tuple[str, list[dict[str, Any]]]:
        """The run and the metrics that are logged, if nothing else is asked; ("", []) if not."""
        told = self.arguments if self.method in ("runs/log-metric", "runs/log-batch") else {}
        run_id = str(told.pop("run_id", ""))
        told.pop("run_uuid", None)
        if self.method == "runs/log-metric":
            return run_id, [told]
        metrics = told.get("metrics")
        if isinstance(metrics, list) and metrics and len(told) == 1:
            return run_id, metrics
        return "", []

    def mentions(self, names: Names) -> bool:
        """Whether it may be about that run."""
        is_told = isinstance(self.content, bytes) and names.run.encode() in self.content
        return is_told or names.run in self.address

    def renamed(self, old: Names, new: Names) -> Request:
        """The same of a run that has another name."""
        parts, content = urlsplit(self.address), self.content
        if parts.path.startswith(f"{FILES}{old.folder}/"):
            path = f"{FILES}{quote(new.folder)}{parts.path[len(FILES) + len(old.folder) :]}"
            return replace(self, address=parts._replace(path=path).geturl())
        if parts.query:
            query = urlencode(old.replace(new, dict(parse_qsl(parts.query))))
            parts = parts._replace(query=query)
        if isinstance(content, bytes) and self.method and content:
            with contextlib.suppress(ValueError, RecursionError):
                content = json.dumps(old.replace(new, json.loads(content))).encode()
        return replace(self, address=parts.geturl(), content=content)


def together(requests: Sequence[Request]) -> Request:
    """One request for several that log metrics of the same run."""
    metrics = [each for request in requests for each in request.metrics[1]]
    content = {"run_id": requests[0].metrics[0], "metrics": metrics}
    address = "/api/2.0/mlflow/runs/log-batch"
    return Request("POST", address, "application/json", json.dumps(content).encode())


class Journal:
    """What one job has said. Several threads may write, and one at a time may pass it on."""

    def __init__(self, file: Path) -> None:
        """Takes what is there already, of a launch that has died for one.

        Args:
          file: that it is kept in, as long as there is something.
        """
        self._file = file
        self._lock = threading.Lock()
        self._passed_on = 0

    def is_empty(self) -> bool:
        """Whether all has been passed on."""
        return not self._file.exists()

    def write(self, request: Request) -> None:
        """Keeps a request.

        Raises:
          OSError: it can't be kept.
          CalibanError: there is no folder for it.
        """
        content = request.content
        size = len(content) if isinstance(content, bytes) else content.seek(0, 2)
        head = {"verb": request.verb, "address": request.address, "kind": request.kind}
        with self._lock:
            home.directory(*self._file.parent.relative_to(home.path()).parts)
            if size > SMALL and shutil.disk_usage(self._file.parent).free < size + _FREE:
                raise OSError(errno.ENOSPC, "the disk is too full")
            self._file.touch(mode=0o600)
            with self._file.open("r+b") as file:
                end = file.seek(0, 2)
                try:
                    file.write(json.dumps({**head, "size": size}).encode() + b"\n")
                    if isinstance(content, bytes):
                        file.write(content)
                    else:
                        content.seek(0)
                        shutil.copyfileobj(content, file)
                    file.flush()
                except OSError:
                    file.truncate(end)  # a full disk leaves half a request
                    raise

    def pass_on(self, send: Callable[[Sequence[Request]], None]) -> None:
        """Sends what is kept, in order. After an error, it goes on with what that was about.

        Args:
          send: sends one, or several that log metrics of the same run.
        """
        while (found := self._next(self._passed_on)) is not None:
            request, end = found
            requests = [request]
            run_id, metrics = request.metrics
            number = len(metrics)
            while run_id and (more := self._next(end, is_peek=True)) is not None:
                number += len(more[0].metrics[1])
                if more[0].metrics[0] != run_id or number > _MOST_METRICS:
                    more[0].close()
                    break
                requests.append(more[0])
                end = more[1]
            try:
                send(requests)
            finally:
                request.close()
            self._passed_on = end

    def _next(self, start: int, is_peek: bool = False) -> tuple[Request, int] | None:
        """The request at a place, and where it ends; None if all has been passed on."""
        with self._lock:
            try:
                file = self._file.open("rb")
            except FileNotFoundError:
                return None
            with contextlib.ExitStack() as stack:
                stack.callback(file.close)
                size = file.seek(0, 2)
                file.seek(start)
                try:
                    head = json.loads(file.readline())
                    begin = file.tell()
                    end = begin + int(head["size"])
                    request = Request(head["verb"], head["address"], head["kind"])
                except (ValueError, KeyError, TypeError):
                    end = size + 1
                if end > size:  # the end, or half a request: what has kept it was killed
                    if not is_peek:
                        self._file.unlink()
                        self._passed_on = 0
                    return None
                if end - begin <= SMALL:
                    return replace(request, content=file.read(end - begin)), end
                stack.pop_all()
                return replace(request, content=_Part(file, end)), end  # type: ignore[arg-type]


class _Part:
    """A part of a file, as a file."""

    def __init__(self, file: IO[bytes], end: int) -> None:
        self._file = file
        self._end = end

    def __len__(self) -> int:
        return self._end - self._file.tell()

    def read(self, size: int = -1) -> bytes:
        left = len(self)
        return self._file.read(left if size < 0 else min(size, left))

    def close(self) -> None:
        self._file.close()
