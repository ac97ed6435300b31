"""What became of a job, by what Kubernetes says of its Job and its pods (pure)."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from caliban.model import exit_codes
from caliban.model.job import Outcome, Status
from caliban.platform.kubernetes import labels, waiting
from caliban.platform.kubernetes.manifest import QUEUE

# Why a pod was ended from outside, by Kubernetes' names for it.
_DISRUPTED = {
    "PreemptionByScheduler": "a job that matters more took its place",
    "PreemptionByKubeScheduler": "a job that matters more took its place",
    "DeletionByTaintManager": "its node was taken away",
    "EvictionByEvictionAPI": "its node was emptied",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node was shut down, or needed the room",
}
_POD_REASONS = {
    "Evicted": "evicted by its node",
    "NodeLost": "its node is gone",
    "NodeShutdown": "its node was shut down",
    "Shutdown": "its node was shut down",
    "Terminated": "its node was shut down",
    "Preempting": "a job that matters more took its place",
}

# The volumes that a node may have to wait for.
_MAY_LACK = {"persistentVolumeClaim", "csi"}

_TIME_LIMIT = "it ran longer than its time limit"

_EXIT = re.compile(r"failed with exit code (\d+)")


# Kubernetes' name for an event, and its message.
Event = tuple[str, str]


def outcome(
    job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], events: Sequence[Event] = ()
) -> Outcome:
    """What became of a job.

    Args:
      job: the Job.
      pods: those of it that there are; the newest counts.
      events: the last ones that tell why it has no pod, or that one no volume.
    """
    pod = newest(pods)
    node = str((pod or {}).get("spec", {}).get("nodeName") or "")
    return replace(_outcome(job, pod, pods, events), node=node)


def _outcome(
    job: Mapping[str, Any],
    pod: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
    events: Sequence[Event],
) -> Outcome:
    condition = _condition(job, ("Complete", "Failed"))
    if condition is None:
        return _open(job, pods, events)
    container = _container(pod)
    ended = container.get("terminated") or {}
    # A container that was ended with its pod, at its time limit for one, may stay "running" there.
    started = _time((ended or container.get("running") or {}).get("startedAt"))
    if pod is None:  # so nobody knows better
        started = _time(_status(job).get("startTime"))
    finished = _time(ended.get("finishedAt")) or _time(_status(job).get("completionTime"))
    finished = finished or _time(condition.get("lastTransitionTime"))
    if condition["type"] == "Complete":
        return Outcome(Status.SUCCEEDED, 0, "", started, finished)
    code, reason = _failure(job, pod, ended, condition)
    return Outcome(Status.FAILED, code, reason, started, finished)


def newest(pods: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The pod of a job's last try; None if there is none."""

    def key(pod: Mapping[str, Any]) -> tuple[bool, str, str]:
        metadata = pod["metadata"]
        is_leaving = bool(metadata.get("deletionTimestamp"))
        return (not is_leaving, metadata.get("creationTimestamp", ""), metadata["name"])

    return max(pods, key=key, default=None)


def is_final(job: Mapping[str, Any]) -> bool:
    """Whether a job has ended."""
    return _condition(job, ("Complete", "Failed")) is not None


def waits_for_pod(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a job ought to have a pod, and has none."""
    is_suspended = _condition(job, ("Suspended",)) or job.get("spec", {}).get("suspend")
    return not pods and not is_final(job) and not is_suspended


def waits_for_volume(pod: Mapping[str, Any]) -> bool:
    """Whether a pod has a node, and may wait there for a volume of a claim or a bucket."""
    spec = pod.get("spec") or {}
    has_claim = any(each.keys() & _MAY_LACK for each in spec.get("volumes") or ())
    return has_claim and bool(spec.get("nodeName")) and of_pod(pod) == Outcome(Status.SUBMITTED)


def _open(
    job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], events: Sequence[Event]
) -> Outcome:
    """A job that has not ended."""
    if job.get("spec", {}).get("suspend"):
        queue = job["metadata"].get("labels", {}).get(QUEUE, "")
        waits = f"waits in the queue '{queue}'" if queue else "it was suspended"
        return Outcome(Status.SUBMITTED, reason=f"Suspended: {waits}")
    pod = newest(pods)
    if pod is None:
        return Outcome(Status.SUBMITTED, reason=waiting.of_events(events))
    found = of_pod(pod, job)
    if found.status is Status.SUCCEEDED or _was_last(job, pods, found):
        # The Job itself will say so in a moment.
        return Outcome(Status.RUNNING, started=found.started)
    if found.status is Status.FAILED:
        return Outcome(Status.SUBMITTED, reason=f"is started again after: {found.reason}")
    if found.status is Status.SUBMITTED and not found.reason:
        return Outcome(Status.SUBMITTED, reason=waiting.of_events(events))
    return found


def _was_last(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], found: Outcome) -> bool:
    """Whether a try that ended so was a job's last one."""
    if found.status is not Status.FAILED:
        return False
    spec = job.get("spec", {})
    rules = (spec.get("podFailurePolicy") or {}).get("rules") or ()
    if found.exit_code and any("onExitCodes" in each for each in rules):
        return True
    failed = [pod for pod in pods if _status(pod).get("phase") == "Failed"]
    return len(failed) > int(spec.get("backoffLimit", 0))


def of_pod(pod: Mapping[str, Any], job: Mapping[str, Any] | None = None) -> Outcome:
    """What became of one pod, which is one try of a job.

    Args:
      pod: the pod.
      job: its Job, if that is known.
    """
    container = _container(pod)
    phase = _status(pod).get("phase")
    ended = container.get("terminated") or {}
    started, finished = _time(ended.get("startedAt")), _time(ended.get("finishedAt"))
    if phase == "Failed" or ended.get("exitCode"):
        code, reason = _failure(job or {"spec": {"template": pod}}, pod, ended, {})
        return Outcome(Status.FAILED, code, reason, started, finished)
    if phase == "Succeeded":
        return Outcome(Status.SUCCEEDED, 0, "", started, finished)
    if running := container.get("running") or ended:
        reason = "its node doesn't answer" if _is_out_of_sight(pod) else ""
        return Outcome(Status.RUNNING, reason=reason, started=_time(running.get("startedAt")))
    return Outcome(Status.SUBMITTED, reason=waiting.of_pod(pod))


def _failure(
    job: Mapping[str, Any],
    pod: Mapping[str, Any] | None,
    ended: Mapping[str, Any],
    condition: Mapping[str, Any],
) -> tuple[int | None, str]:
    """The exit code of a job that has failed, and why, in words."""
    code = ended.get("exitCode")
    status = _status(pod or {})
    if "DeadlineExceeded" in (condition.get("reason"), status.get("reason")):
        return code, _deadline(job)
    disruption = _condition(pod or {}, ("DisruptionTarget",))
    if disruption is not None and disruption.get("reason") in _DISRUPTED:
        return code, _DISRUPTED[disruption["reason"]]
    if ended.get("reason") == "OOMKilled":
        return code, "out of memory"
    if status.get("reason") in _POD_REASONS:
        said = " ".join(str(status.get("message", "")).split()).rstrip(".")
        return code, _POD_REASONS[status["reason"]] + (f": {said}" if said else "")
    if code:
        return code, _of_code(code, ended)
    if match := _EXIT.search(condition.get("message", "")):
        return int(match[1]), exit_codes.describe(int(match[1]))
    said = status.get("message") or condition.get("message") or "no reason given"
    named = status.get("reason") or condition.get("reason")
    return code, f"{named}: {said}" if named else said


def _of_code(code: int, ended: Mapping[str, Any]) -> str:
    """An exit code in words; what the engine said where the container could not be started."""
    said = " ".join(str(ended.get("message", "")).split()).removesuffix(": unknown")
    if ended.get("reason") in ("ContainerCannotRun", "StartError") and said:
        # Each layer of the engine has put something before what matters.
        at = max(said.find("exec: "), 0)
        return f"{exit_codes.describe(code)}: {said[at : at + 300]}"
    return exit_codes.describe(code)


def _deadline(job: Mapping[str, Any]) -> str:
    spec = job.get("spec", {})
    pod = spec.get("template", {}).get("spec", {})
    seconds = pod.get("activeDeadlineSeconds") or spec.get("activeDeadlineSeconds")
    return f"{_TIME_LIMIT} of {seconds} s" if seconds else _TIME_LIMIT


def _container(pod: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The state of the container that does a pod's work."""
    if pod is None:
        return {}
    name = worker(pod)
    statuses = _status(pod).get("containerStatuses") or ()
    return next((each.get("state") or {} for each in statuses if each["name"] == name), {})


def worker(pod: Mapping[str, Any]) -> str:
    """The name of the container that does a pod's work: the one that is said, or the first.

    A cluster may put others before it: a proxy of its network, or what mounts a bucket.
    """
    names: list[str] = [each["name"] for each in pod["spec"]["containers"]]
    said = (pod.get("metadata", {}).get("annotations") or {}).get(labels.WORKER)
    return said if said in names else names[0]


def _condition(thing: Mapping[str, Any], kinds: Sequence[str]) -> Mapping[str, Any] | None:
    conditions = _status(thing).get("conditions") or ()
    return next(
        (each for each in conditions if each.get("type") in kinds and each.get("status") == "True"),
        None,
    )


def _status(thing: Mapping[str, Any]) -> Mapping[str, Any]:
    return thing.get("status") or {}


def _is_out_of_sight(pod: Mapping[str, Any]) -> bool:
    """Whether the cluster has lost a pod's node: nodes say why a pod isn't ready, it doesn't."""
    conditions = _status(pod).get("conditions") or ()
    return any(
        each.get("type") == "Ready" and each.get("status") == "False" and not each.get("reason")
        for each in conditions
    )


def _time(text: str | None) -> datetime.datetime | None:
    return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC) if text else None
