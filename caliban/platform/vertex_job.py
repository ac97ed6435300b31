"""A custom job of Vertex AI: what is sent to make one, and what its state means."""

from __future__ import annotations

import copy
import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from caliban.errors import UsageError
from caliban.model import labels, settings, tracking
from caliban.model.image import OUTPUT_VARIABLE
from caliban.model.job import JobRequest, Outcome, Status, Submission
from caliban.model.resources import Machine
from caliban.platform.answers import one_line
from caliban.platform.base import Particulars

NAME = "vertex"

# Where jobs on Vertex AI find the buckets of Cloud Storage.
_BUCKETS = "/gcs/"

_LONGEST_NAME = 128
_MOST_VARIABLES = 100

# Machines that have no persistent disks: the type of theirs is left to Google.
_OTHER_DISKS = ("a3-ultragpu-", "a4-", "ct6e-", "g4-")


@dataclass(frozen=True)
class Options:
    """How the jobs of a launch are run.

    Attributes:
      project: id of the project that they belong to, and that pays.
      region: where they run.
      machine: type of their machines.
      accelerator: type of the GPUs or TPUs of each machine, as Vertex AI has it; "" without, and
        where the type of the machine says it all.
      accelerators: how many of them.
      topology: how the chips of its TPUs are connected; "" where that needn't be said.
      name: what they are called, with their number.
      labels: of the user.
      environment: variables that they find.
      command: argv before the job's own arguments, instead of what the image itself starts.
      replicas: how many machines each has.
      spot: whether Google may take the machines away, which costs less.
      timeout: seconds that they may run; 0 for Vertex AI's own limit, 7 days.
      service_account: as whom they run; "" for Vertex AI's own.
      network: that they are peered with; "" for none.
      boot_disk_gb: size of their disk; 0 for the usual one.

    Raises:
      UsageError: there are no such jobs.
    """

    project: str
    region: str
    machine: str
    accelerator: str = ""
    accelerators: int = 0
    topology: str = ""
    name: str = "caliban"
    labels: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    replicas: int = 1
    spot: bool = False
    timeout: int = 0
    service_account: str = ""
    network: str = ""
    boot_disk_gb: int = 0

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise UsageError(f"{self.replicas} replicas are none", "Ask for 1 or more.")
        if self.timeout < 0:
            raise UsageError(f"a job can't end after {self.timeout} seconds")
        if self.boot_disk_gb and not 100 <= self.boot_disk_gb <= 64_000:
            raise UsageError(
                f"a boot disk can't have {self.boot_disk_gb} GB", "It has 100 to 64000 of them."
            )
        if self.service_account and not re.fullmatch(r"[^@\s]+@[^@\s]+", self.service_account):
            raise UsageError(
                f"'{self.service_account}' is not a service account",
                f"It is an address like trainer@{self.project}.iam.gserviceaccount.com.",
            )
        if self.network and not re.fullmatch(
            r"projects/\d+/global/networks/[a-z0-9-]+", self.network
        ):
            raise UsageError(
                f"'{self.network}' is not the full name of a network",
                "It is projects/NUMBER/global/networks/NAME, with the project's number.",
            )
        if len(self.environment) >= _MOST_VARIABLES:
            raise UsageError(
                f"{len(self.environment)} environment variables are too many for Vertex AI",
                f"A job has fewer than {_MOST_VARIABLES}.",
            )

    @classmethod
    def on(cls, machine: Machine, project: str) -> Options:
        """Plain jobs on a machine."""
        accelerators = machine.gpu or machine.tpu
        accelerator = accelerators.vertex if accelerators else ""
        return cls(
            project=project,
            region=machine.region,
            machine=machine.type,
            accelerator=accelerator,
            accelerators=accelerators.count if accelerators and accelerator else 0,
            topology=machine.topology,
        )

    @property
    def target(self) -> str:
        """The place of these jobs: "PROJECT/REGION"."""
        return f"{self.project}/{self.region}"

    @property
    def has_tpus(self) -> bool:
        """Whether the machines have TPUs."""
        return self.accelerator.startswith("TPU_") or bool(self.topology)

    def to_json(self) -> dict[str, Any]:
        """The options as JSON, without what is as usual; `from_json` reads it back."""
        return settings.to_json(self, Options("", "", ""))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Options:
        """Reads what `to_json` wrote.

        Raises:
          TypeError: it was not written by that.
        """
        return cls(**settings.read(value, "labels", "environment"))


def labels_of(request: JobRequest) -> labels.Labels:
    """The labels of a job, and what there is to say of them."""
    options = Options.from_json(request.settings)
    standard = {
        "job_name": options.name,
        "gpu_enabled": str(bool(options.accelerators) and not options.has_tpus).lower(),
        "tpu_enabled": str(options.has_tpus).lower(),
    }
    extra = dict(options.labels)
    return labels.of_job(request.uid, request.group, standard, extra, request.experiment)


def plan(request: JobRequest) -> Submission:
    """Puts a job into Vertex AI's words: pure, without asking anybody.

    Args:
      request: whose settings are Options, and whose output is a folder of Cloud Storage.
    """
    options = Options.from_json(request.settings)
    number = f"_{request.index + 1}"
    body: dict[str, Any] = {
        "displayName": options.name[: _LONGEST_NAME - len(number)] + number,
        "labels": dict(labels_of(request).values),
        "jobSpec": _spec(request, options),
    }
    payload: dict[str, Any] = {"settings": request.settings, "body": body}
    if request.output:
        payload["output"] = request.output
    return Submission(NAME, options.target, payload)


def _spec(request: JobRequest, options: Options) -> dict[str, Any]:
    spec: dict[str, Any] = {"workerPoolSpecs": _pools(request, options)}
    if options.spot or options.timeout:
        scheduling: dict[str, Any] = {"restartJobOnWorkerRestart": False}
        if options.spot:
            scheduling["strategy"] = "SPOT"
        if options.timeout:
            scheduling["timeout"] = f"{options.timeout}s"
        spec["scheduling"] = scheduling
    if options.service_account:
        spec["serviceAccount"] = options.service_account
    if options.network:
        spec["network"] = options.network
    if request.output:
        spec["baseOutputDirectory"] = {"outputUriPrefix": request.output}
    return spec


def _pools(request: JobRequest, options: Options) -> list[dict[str, Any]]:
    """The machines: Vertex AI wants the first by itself, and all others in a second pool."""
    machine: dict[str, Any] = {"machineType": options.machine}
    if options.accelerator:
        machine["acceleratorType"] = options.accelerator
        machine["acceleratorCount"] = options.accelerators
    if options.topology:
        machine["tpuTopology"] = options.topology
    pool: dict[str, Any] = {"machineSpec": machine, "containerSpec": _container(request, options)}
    if options.boot_disk_gb:
        pool["diskSpec"] = {"bootDiskSizeGb": options.boot_disk_gb}
        if not options.machine.startswith(_OTHER_DISKS):
            pool["diskSpec"]["bootDiskType"] = "pd-ssd"
    sizes = [1, options.replicas - 1] if options.replicas > 1 else [1]
    return [{**pool, "replicaCount": str(size)} for size in sizes]


def _container(request: JobRequest, options: Options) -> dict[str, Any]:
    variables = dict(options.environment)
    if tracking.URI in variables:
        variables |= tracking.own_variables(request.uid)
    if request.output.startswith("gs://"):
        variables[OUTPUT_VARIABLE] = _BUCKETS + request.output.removeprefix("gs://")
    container: dict[str, Any] = {"imageUri": request.image}
    if options.command:
        container["command"] = list(options.command)
    if arguments := request.experiment.flags():
        container["args"] = arguments
    if variables:
        container["env"] = [{"name": name, "value": value} for name, value in variables.items()]
    return container


def with_variables(submission: Submission, variables: Mapping[str, str]) -> Submission:
    """The job that `plan` returned, which finds more in its environment."""
    payload = copy.deepcopy(dict(submission.payload))
    for pool in payload["body"]["jobSpec"]["workerPoolSpecs"]:
        env = pool["containerSpec"].setdefault("env", [])
        env += [{"name": name, "value": value} for name, value in variables.items()]
    return replace(submission, payload=payload)


def particulars(submission: Submission) -> Particulars:
    """What a job is that `plan` returned."""
    spec = submission.payload["body"]["jobSpec"]
    pools = spec["workerPoolSpecs"]
    machine, container = pools[0]["machineSpec"], pools[0]["containerSpec"]
    replicas = sum(int(pool["replicaCount"]) for pool in pools)
    accelerators = machine.get("acceleratorType", "")
    project, _, region = submission.target.partition("/")
    found = {
        "project": project,
        "region": region,
        "type": machine["machineType"],
        "accelerators": f"{machine['acceleratorCount']} x {accelerators}" if accelerators else "",
        "topology": machine.get("tpuTopology", ""),
        "machines": str(replicas) if replicas > 1 else "",
        "strategy": spec.get("scheduling", {}).get("strategy", ""),
        "service account": spec.get("serviceAccount", ""),
    }
    return Particulars(
        image=container["imageUri"],
        machine={name: value for name, value in found.items() if value},
        variables=tuple(sorted(each["name"] for each in container.get("env", ()))),
    )


_STATES = {
    "QUEUED": Status.SUBMITTED,
    "PENDING": Status.SUBMITTED,
    "PAUSED": Status.SUBMITTED,
    "RUNNING": Status.RUNNING,
    "UPDATING": Status.RUNNING,
    "CANCELLING": Status.RUNNING,
    "SUCCEEDED": Status.SUCCEEDED,
    "FAILED": Status.FAILED,
    "EXPIRED": Status.FAILED,
    "PARTIALLY_SUCCEEDED": Status.FAILED,
    "CANCELLED": Status.STOPPED,
}

_REASONS = {
    "EXPIRED": "expired",
    "PARTIALLY_SUCCEEDED": "succeeded only in part",
}

_EXIT = re.compile(r"non-zero status of (\d{1,9})\b")


def outcome(job: Mapping[str, Any]) -> Outcome:
    """What became of a job, by what Vertex AI says of it."""
    state = str(job.get("state", "")).removeprefix("JOB_STATE_")
    status = _STATES.get(state, Status.UNKNOWN)
    started, finished = _time(job.get("startTime")), _time(job.get("endTime"))
    if status is Status.SUCCEEDED:
        return Outcome(status, 0, "", started, finished)
    if status is Status.UNKNOWN:
        said = one_line(state) or "none"
        return Outcome(status, reason=f"Vertex AI tells of a state that is not known here, {said}")
    if status is not Status.FAILED:
        return Outcome(status, None, "", started, finished if status.is_final else None)
    message = job.get("error", {}).get("message")
    said = message.strip() if isinstance(message, str) else ""
    match = _EXIT.search(said)
    code = int(match[1]) if match else None
    if "out-of-memory" in said.lower() or "out of memory" in said.lower():
        reason = "out of memory"
    elif code is not None:
        reason = f"exit code {code}"
    else:
        reason = _REASONS.get(state) or (
            one_line(said.splitlines()[0])[:300] if said else "no reason given"
        )
    return Outcome(status, code, reason, started, finished)


def _time(text: str | None) -> datetime.datetime | None:
    return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC) if text else None
