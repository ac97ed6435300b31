"""Cloud Logging: what jobs have printed."""

from __future__ import annotations

import datetime
import itertools
import re
import threading
from collections.abc import Callable
from typing import Any

from tests.google_cloud import filters
from tests.google_cloud.paging import page
from tests.google_cloud.server import ApiError, Call, Handler

_FIELDS = re.compile(
    r"resource\.type|resource\.labels\.\w+|timestamp|severity|insertId|logName|textPayload"
    r"|jsonPayload\.message"
)


class Logs:
    """The entries of all projects.

    Attributes:
      delay: seconds until an entry can be read.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.delay = 0.0
        self._clock = clock
        self._entries: list[tuple[float, dict[str, Any]]] = []
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    @property
    def handlers(self) -> dict[str, Handler]:
        """What is served."""
        return {"entries.list": self._list}

    def write(self, job: str, line: str, severity: str = "INFO", at: float | None = None) -> None:
        """Keeps a line of a job.

        Args:
          job: name of its resource.
          line: without its end.
          severity: ERROR for what goes to stderr.
          at: seconds since the epoch; now by default.
        """
        _, project, _, _, _, number = job.split("/")
        with self._lock:
            now = self._clock() if at is None else at
            when = datetime.datetime.fromtimestamp(now, datetime.UTC)
            timestamp = when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            entry = {
                "insertId": f"id{next(self._numbers):08d}",
                "logName": f"projects/{project}/logs/workerpool0-0",
                "resource": {
                    "type": "ml_job",
                    "labels": {
                        "job_id": number,
                        "project_id": project,
                        "task_name": "workerpool0-0",
                    },
                },
                "severity": severity,
                "timestamp": timestamp,
                "receiveTimestamp": timestamp,
                "jsonPayload": {"message": line},
            }
            self._entries.append((now, entry))

    def _list(self, call: Call) -> dict[str, Any]:
        body = call.body
        if not body.get("resourceNames"):
            raise ApiError("INVALID_ARGUMENT", "resourceNames is required")
        order = body.get("orderBy", "timestamp asc")
        if order not in ("timestamp asc", "timestamp desc"):
            raise ApiError("INVALID_ARGUMENT", f"Invalid orderBy: {order}")
        try:
            test = filters.parse(body.get("filter", ""), _FIELDS)
        except filters.FilterError as error:
            raise ApiError("INVALID_ARGUMENT", f"Unparseable filter: {error}") from None
        with self._lock:
            there = [e for at, e in self._entries if at + self.delay <= self._clock()]
        projects = tuple(f"{name}/" for name in body["resourceNames"])
        found = [e for e in there if e["logName"].startswith(projects) and test(e)]
        found.sort(key=lambda e: (e["timestamp"], e["insertId"]), reverse=order.endswith("desc"))
        return page("entries", found, body, most=1000, default=50)
