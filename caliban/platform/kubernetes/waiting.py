"""Why a job waits, in words, by what Kubernetes says of its pod."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from caliban.platform.kubernetes.hardware import GPU, TPU

_LONGEST = 300

# Why a container doesn't start, by Kubernetes' name for it, and what to do.
_WAITING = {
    "ErrImagePull": "the node can't fetch the image {image}",
    "ImagePullBackOff": "the node can't fetch the image {image}",
    "ErrImageNeverPull": "the node doesn't have the image {image}, and may not fetch it",
    "InvalidImageName": "'{image}' isn't the name of an image",
    "CreateContainerConfigError": "something that it needs isn't there",
    "CreateContainerError": "its container can't be made",
    "RunContainerError": "its container can't be started",
}

# What a scheduler says of nodes that won't do.
_NODES = re.compile(r"0/(?P<all>\d+) nodes are available: (?P<why>.+)", re.DOTALL)
_LACK = re.compile(r"Insufficient (\S+)")
_NO_CLAIM = re.compile(r'persistentvolumeclaim "(?P<name>[^"]+)" not found')
_NO_VOLUME = "unbound immediate PersistentVolumeClaims"

# The events of a pod that waits for a volume.
OF_VOLUMES = ("FailedMount", "FailedAttachVolume")

_NAMES = {GPU: "GPUs", TPU: "TPUs", "cpu": "CPUs", "memory": "memory"}


def of_pod(pod: Mapping[str, Any]) -> str:
    """Why a pod doesn't run yet; "" if it is just about to."""
    status = pod.get("status", {})
    for each in status.get("conditions") or ():
        if each.get("type") == "PodScheduled" and each.get("status") == "False":
            said = _line(each.get("message", ""))
            if each.get("reason") != "Unschedulable":
                return f"{each.get('reason', 'waits for a node')}: {said}".rstrip(": ")
            return f"Unschedulable: {_unschedulable(said, pod)}"
    containers = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    for each in containers:
        waiting = each.get("state", {}).get("waiting") or {}
        if (reason := waiting.get("reason")) in _WAITING:
            meaning = _WAITING[reason].format(image=each.get("image", ""))
            said = _line(waiting.get("message", ""))
            namespace = pod.get("metadata", {}).get("namespace", "default")
            detail = f" ({said})" if said else ""
            return f"{reason}: {meaning}{detail}{_hint(reason, said, namespace)}"
    return ""


def of_events(events: Sequence[tuple[str, str]]) -> str:
    """Why a job has no pod, or that pod no volume, by its last events; "" if they say nothing.

    Args:
      events: Kubernetes' name for each, and its message.
    """
    if not events:
        return ""
    reason, said = events[-1][0], _line(events[-1][1])
    if reason in OF_VOLUMES:
        return f"{reason}: its volume can't be had: {said}"
    match = re.search(r"exceeded quota: (?P<quota>\S+), requested: (?P<what>.*)", said)
    if match:
        return (
            f"FailedCreate: the quota '{match['quota']}' of the namespace is used up (requested: "
            f"{match['what']}); it goes on when other jobs have ended"
        )
    return f"{reason}: {said}"


def _unschedulable(said: str, pod: Mapping[str, Any]) -> str:
    """What nodes lack, and what to do."""
    # Nodes have nothing to do with these, although some versions count them all the same.
    if claim := _NO_CLAIM.search(said):
        return f"its PersistentVolumeClaim '{claim['name']}' is not there"
    if _NO_VOLUME in said:
        return "its PersistentVolumeClaim has no volume yet: 'kubectl describe pvc' tells why"
    match = _NODES.match(said)
    if not match:
        return said
    total = match["all"]
    spec = pod.get("spec", {})
    asked = _asked(spec)
    parts = []
    for clause in re.split(r", (?=\d)", match["why"].partition(" preemption: ")[0].rstrip(". ")):
        count, _, rest = clause.partition(" ")
        rest = rest.removeprefix("node(s) ").rstrip(",")
        if lack := _LACK.fullmatch(rest):
            amount = f"{asked.get(lack[1], 'enough')} {_NAMES.get(lack[1], lack[1])}"
            all_of_them = f"no node has {amount} free"
            some = f"{count} of {total} nodes don't have {amount} free"
        elif "affinity" in rest or "selector" in rest:
            all_of_them = f"no node is of the wanted kind ({_wanted(spec)})"
            some = f"{count} of {total} nodes are of another kind than is wanted ({_wanted(spec)})"
        elif rest == "Too many pods":
            all_of_them = "no node has room for another pod"
            some = f"{count} of {total} nodes have no room for another pod"
        else:
            all_of_them = f"all nodes {rest}"
            some = f"{count} of {total} nodes {rest}"
        parts.append(all_of_them if count == total else some)
    return f"{', '.join(parts)}; ask for less, or wait if the cluster adds nodes by itself"


def _asked(spec: Mapping[str, Any]) -> dict[str, str]:
    """What the containers of a pod ask for."""
    found: dict[str, str] = {}
    for container in spec.get("containers", ()):
        needed = container.get("resources", {})
        found |= {**needed.get("limits", {}), **needed.get("requests", {})}
    return found


def _wanted(spec: Mapping[str, Any]) -> str:
    """The labels that a pod wants its node to have."""
    found = [f"{key}={value}" for key, value in (spec.get("nodeSelector") or {}).items()]
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms", ()):
        for each in term.get("matchExpressions", ()):
            found.append(f"{each['key']} {each['operator']} {' '.join(each.get('values', ()))}")
    return ", ".join(found)


def _hint(reason: str, said: str, namespace: str) -> str:
    if reason == "CreateContainerConfigError" and (match := re.search(r'secret "([^"]+)"', said)):
        return (
            f"; make it: kubectl --namespace {namespace} create secret generic {match[1]} "
            "--from-literal NAME=VALUE"
        )
    return ""


def _line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST]
