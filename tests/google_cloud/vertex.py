"""Custom jobs of Vertex AI: created, listed, cancelled; they run by the clock, or by a program."""

from __future__ import annotations

import datetime
import itertools
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.google_cloud import filters
from tests.google_cloud.faults import Quota
from tests.google_cloud.logs import Logs
from tests.google_cloud.paging import page
from tests.google_cloud.schema import Violation
from tests.google_cloud.server import ApiError, Call, Handler

ENDED = frozenset(
    f"JOB_STATE_{state}"
    for state in ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED")
)
MOST_A_PAGE = 100

_FIELDS = re.compile(r"display_name|state|create_time|update_time|labels\.[a-z][a-z0-9_-]*")
_KEY = re.compile("[a-z][a-z0-9_-]{0,62}")
_VALUE = re.compile("[a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Running:
    """A job that a program is to run.

    Attributes:
      name: of the job's resource.
      container: its containerSpec: imageUri, command, args, env.
      cancelled: set when the job is to end.
      write: takes a line that the job prints, and whether it goes to stderr.
    """

    name: str
    container: Mapping[str, Any]
    cancelled: threading.Event
    write: Callable[[str, bool], None]


class Run(Protocol):
    """Runs a job to its end, on a Docker engine for one; returns its exit code."""

    def __call__(self, job: Running) -> int: ...


@dataclass
class Pace:
    """How jobs go on by the clock: the seconds that they wait, and those that they run."""

    waits: float = 0.0
    runs: float = float("inf")


@dataclass
class _Job:
    resource: dict[str, Any]
    created: float
    cancelled: threading.Event = field(default_factory=threading.Event)
    is_set: bool = False


class Vertex:
    """The jobs of all projects and regions.

    Attributes:
      pace: of jobs that no program runs.
      run: the program that runs jobs; None to let them go on by the clock.
      quota: how many jobs may be created or deleted a minute, in a project and region; None for any
        number.
    """

    def __init__(self, clock: Callable[[], float], logs: Logs) -> None:
        self.pace = Pace()
        self.run: Run | None = None
        self.quota: Quota | None = None
        self._clock = clock
        self._logs = logs
        self._jobs: dict[str, _Job] = {}
        self._ids = itertools.count(4_000_000_000_000_000_001)
        self._lock = threading.RLock()

    @property
    def handlers(self) -> dict[str, Handler]:
        """What is served."""
        base = "projects.locations.customJobs"
        return {
            f"{base}.create": self._create,
            f"{base}.get": self._get,
            f"{base}.list": self._list,
            f"{base}.cancel": self._cancel,
            f"{base}.delete": self._delete,
        }

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """All jobs as they are now, the oldest first."""
        with self._lock:
            return [dict(self._current(job)) for job in self._jobs.values()]

    def end(self, name: str, state: str, message: str = "", code: int = 3) -> None:
        """Ends a job, whatever the clock says."""
        with self._lock:
            job = self._jobs[name]
            job.is_set = True
            self._end(job, state, message, code)

    def set_state(self, name: str, state: str) -> None:
        """Gives a job a state that it stays in."""
        with self._lock:
            job = self._jobs[name]
            job.is_set = True
            job.resource["state"] = f"JOB_STATE_{state}"

    def forget(self, name: str) -> None:
        """Loses a job, as if somebody had deleted it."""
        with self._lock:
            del self._jobs[name]

    def _create(self, call: Call) -> dict[str, Any]:
        parent = call.path["parent"]
        if found := list(violations(call.body)):
            problems = "; ".join(f"{each.field}: {each.description}" for each in found)
            raise ApiError("INVALID_ARGUMENT", f"List of found errors: {problems}", found)
        self._count(parent)
        return self.add(parent, call.body)

    def add(self, parent: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Makes a job, without anybody asking for it."""
        with self._lock:
            name = f"{parent}/customJobs/{next(self._ids)}"
            now = self._clock()
            resource = {
                **body,
                "name": name,
                "state": "JOB_STATE_PENDING",
                "createTime": _time(now),
                "updateTime": _time(now),
            }
            job = self._jobs[name] = _Job(resource, now)
            if self.run:
                threading.Thread(target=self._run, args=(job, self.run), daemon=True).start()
            return dict(resource)

    def _get(self, call: Call) -> dict[str, Any]:
        with self._lock:
            return dict(self._current(self._job(call.path["name"])))

    def _list(self, call: Call) -> dict[str, Any]:
        parent = call.path["parent"] + "/customJobs/"
        try:
            test = filters.parse(call.query.get("filter", ""), _FIELDS)
        except filters.FilterError as error:
            raise ApiError("INVALID_ARGUMENT", f"Invalid filter: {error}") from None
        with self._lock:
            names = [name for name in reversed(self._jobs) if name.startswith(parent)]
            found = [dict(self._current(self._jobs[name])) for name in names]
        found = [each for each in found if test(each)]
        if mask := call.query.get("readMask"):
            found = [_masked(each, mask) for each in found]
        return page("customJobs", found, call.query, MOST_A_PAGE)

    def _cancel(self, call: Call) -> dict[str, Any]:
        with self._lock:
            job = self._job(call.path["name"])
            state = self._current(job)["state"]
            if state in ENDED:
                message = f"Cannot cancel a CustomJob in state {state}."
                raise ApiError("FAILED_PRECONDITION", message)
            job.cancelled.set()
            job.resource["state"] = "JOB_STATE_CANCELLING"
            return {}

    def _delete(self, call: Call) -> dict[str, Any]:
        name = call.path["name"]
        self._count(name.partition("/customJobs/")[0])
        with self._lock:
            if self._current(self._job(name))["state"] not in ENDED:
                raise ApiError("FAILED_PRECONDITION", "The CustomJob has not ended.")
            del self._jobs[name]
        parent = name.partition("/customJobs/")[0]
        return {"name": f"{parent}/operations/1", "done": True, "response": {}}

    def _count(self, parent: str) -> None:
        wait = self.quota.take(parent) if self.quota else 0
        if wait:
            message = "Quota exceeded for aiplatform.googleapis.com/custom_model_training_requests."
            raise ApiError("RESOURCE_EXHAUSTED", message, retry_after=wait)

    def _job(self, name: str) -> _Job:
        if name not in self._jobs:
            raise ApiError("NOT_FOUND", f"The CustomJob {name} is not found.")
        return self._jobs[name]

    def _current(self, job: _Job) -> dict[str, Any]:
        """A job as it is now, by the clock if no program runs it."""
        resource = job.resource
        if job.is_set or self.run or resource["state"] in ENDED:
            return resource
        if job.cancelled.is_set():
            self._end(job, "CANCELLED", "CANCELED", 1)
            return resource
        age = self._clock() - job.created
        if age >= self.pace.waits:
            resource["state"] = "JOB_STATE_RUNNING"
            resource["startTime"] = _time(job.created + self.pace.waits)
        if age >= self.pace.waits + self.pace.runs:
            self._end(job, "SUCCEEDED")
        return resource

    def _end(self, job: _Job, state: str, message: str = "", code: int = 3) -> None:
        job.resource["state"] = f"JOB_STATE_{state}"
        job.resource.setdefault("startTime", job.resource["createTime"])
        job.resource["endTime"] = _time(self._clock())
        if message:
            job.resource["error"] = {"code": code, "message": message}

    def _run(self, job: _Job, run: Run) -> None:
        """Lets a program run a job."""
        resource = job.resource
        with self._lock:
            resource["state"] = "JOB_STATE_RUNNING"
            resource["startTime"] = _time(self._clock())
        container = resource["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]

        def write(line: str, is_error: bool) -> None:
            self._logs.write(resource["name"], line, "ERROR" if is_error else "INFO")

        code = run(Running(resource["name"], container, job.cancelled, write))
        with self._lock:
            if job.cancelled.is_set():
                self._end(job, "CANCELLED", "CANCELED", 1)
            elif code:
                self._end(job, "FAILED", failure(code))
            else:
                self._end(job, "SUCCEEDED")


def failure(code: int) -> str:
    """What Vertex AI says of a job whose program has failed."""
    return (
        f"The replica workerpool0-0 exited with a non-zero status of {code}. To find out more "
        "about why your job exited please check the logs: "
        "https://console.cloud.google.com/logs/viewer"
    )


def violations(job: Mapping[str, Any]) -> Iterator[Violation]:
    """What is wrong with a job that fits the schema: what the API's descriptions ask for."""
    if not 1 <= len(job.get("displayName", "")) <= 128:
        yield Violation("displayName", "must have 1 to 128 characters")
    labels = job.get("labels", {})
    if len(labels) > 64:
        yield Violation("labels", "more than 64")
    for key, value in labels.items():
        if not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
            yield Violation(f"labels.{key}", f"'{key}': '{value}' is not a label")
    spec = job.get("jobSpec", {})
    pools = spec.get("workerPoolSpecs", [])
    if not pools:
        yield Violation("jobSpec.workerPoolSpecs", "is required")
    for index, pool in enumerate(pools):
        yield from _pool_violations(pool, f"jobSpec.workerPoolSpecs[{index}]")
    if pools and pools[0].get("replicaCount") != "1":
        yield Violation("jobSpec.workerPoolSpecs[0].replicaCount", "must be 1")
    output = spec.get("baseOutputDirectory", {}).get("outputUriPrefix", "gs://b")
    if not re.fullmatch(r"gs://[a-z0-9._-]{1,222}(/.*)?", output):
        yield Violation("jobSpec.baseOutputDirectory.outputUriPrefix", "must begin with gs://")
    account = spec.get("serviceAccount", "a@b")
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", account):
        yield Violation("jobSpec.serviceAccount", "must be an e-mail address")
    network = spec.get("network", "projects/1/global/networks/n")
    if not re.fullmatch(r"projects/\d+/global/networks/[a-z0-9-]+", network):
        yield Violation("jobSpec.network", "must be projects/NUMBER/global/networks/NAME")


def _pool_violations(pool: Mapping[str, Any], field: str) -> Iterator[Violation]:
    machine = pool.get("machineSpec", {})
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", machine.get("machineType", "")):
        yield Violation(f"{field}.machineSpec.machineType", "is required")
    if ("acceleratorType" in machine) != (machine.get("acceleratorCount", 0) > 0):
        yield Violation(f"{field}.machineSpec", "acceleratorType and acceleratorCount go together")
    if int(pool.get("replicaCount", "0")) < 1:
        yield Violation(f"{field}.replicaCount", "must be positive")
    container = pool.get("containerSpec", {})
    if not container.get("imageUri"):
        yield Violation(f"{field}.containerSpec.imageUri", "is required")
    if len(container.get("env", [])) > 100:
        yield Violation(f"{field}.containerSpec.env", "more than 100")
    for variable in container.get("env", []):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable.get("name", "")):
            yield Violation(f"{field}.containerSpec.env", f"not a name: {variable.get('name')}")
    size = pool.get("diskSpec", {}).get("bootDiskSizeGb", 100)
    if not 100 <= size <= 64000:
        yield Violation(f"{field}.diskSpec.bootDiskSizeGb", "must be 100 to 64000")


def _masked(resource: Mapping[str, Any], mask: str) -> dict[str, Any]:
    return {key: resource[key] for key in mask.split(",") if key in resource}


def _time(seconds: float) -> str:
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
