"""Where jobs on a cluster write: each to a directory of a PersistentVolumeClaim (pure).

Reference: https://kubernetes.io/docs/concepts/storage/persistent-volumes/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from caliban.errors import UsageError
from caliban.model.image import OUTPUT
from caliban.platform.kubernetes.options import check_name

_SCHEME = "pvc:"

# What the volume is called in a pod.
_NAME = "output"

# Paths have at most 4096 bytes; what follows are the group, the job and its own files.
_LONGEST = 600

_EXAMPLE = "It looks like pvc:results or pvc:results/some/path."
_BUCKET = "To a bucket, the job itself writes: on GKE, --service_account gives it the right."

# The accesses with which a job may write to a claim, and the one with which jobs on several nodes.
_SHARED = "ReadWriteMany"
_WRITABLE = (_SHARED, "ReadWriteOnce", "ReadWriteOncePod")

# The label of a pod that has the name of its Job, on all versions of Kubernetes.
_JOB_LABEL = "metadata.labels['job-name']"
_JOB_VARIABLE = "CALIBAN_JOB_NAME"


def understand(text: str | None) -> str:
    """The folder that --output names, without a slash at its end; "" for none.

    Args:
      text: "pvc:CLAIM" or "pvc:CLAIM/PATH".

    Raises:
      UsageError: it is something else, or not in the claim.
    """
    if text is None:
        return ""
    found = text.rstrip("/")
    claim, path = split(found)
    if not found.startswith(_SCHEME) or not claim:
        raise UsageError(
            f"--output {text}: jobs on a cluster write to a PersistentVolumeClaim, and not there",
            f"{_EXAMPLE}\n{_BUCKET}" if text.startswith("gs://") else _EXAMPLE,
        )
    check_name("a PersistentVolumeClaim", claim)
    if path and {"", ".", ".."} & set(path.split("/")):
        raise UsageError(f"--output {text}: the name of a folder can't be empty, . or ..", _EXAMPLE)
    if not path.isprintable():
        raise UsageError(f"--output {text!r}: a folder can't have such a name", _EXAMPLE)
    if len(found.encode()) > _LONGEST:
        raise UsageError(
            f"--output {found[:40]}...: a path can't be that long",
            f"Choose one with at most {_LONGEST} bytes.",
        )
    return found


def split(address: str) -> tuple[str, str]:
    """The claim that an address names, and where in it."""
    claim, _, path = address.removeprefix(_SCHEME).partition("/")
    return claim, path


def volume(address: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The volume of a job that writes to an address, and where its container sees it.

    The node makes the directory, and the job sees nothing else of the claim.
    """
    claim, path = split(address)
    source = {"name": _NAME, "persistentVolumeClaim": {"claimName": claim}}
    return source, [{"name": _NAME, "mountPath": OUTPUT, "subPath": path}]


def named_by_job(body: dict[str, Any]) -> None:
    """Makes a Job that writes to an address write to a directory of its name instead.

    So it has one of its own, however often it is submitted.

    Args:
      body: of a Job that may have such a volume; it is changed.
    """
    for container in body["spec"]["template"]["spec"]["containers"]:
        for mount in container.get("volumeMounts") or ():
            if mount["name"] == _NAME:
                folder = mount.pop("subPath").rpartition("/")[0].replace("$", "$$")
                mount["subPathExpr"] = f"{folder}/$({_JOB_VARIABLE})".lstrip("/")
                reference = {"fieldRef": {"fieldPath": _JOB_LABEL}}
                container["env"].append({"name": _JOB_VARIABLE, "valueFrom": reference})


def claims(body: Mapping[str, Any]) -> Iterator[str]:
    """The names of the claims that the pod of a Job mounts."""
    for each in body["spec"]["template"]["spec"].get("volumes") or ():
        source = each.get("persistentVolumeClaim") if isinstance(each, Mapping) else None
        if isinstance(source, Mapping) and isinstance(name := source.get("claimName"), str):
            yield name


def check(claim: Mapping[str, Any]) -> None:
    """Sees to it that jobs can write to a claim, as far as it tells.

    Raises:
      UsageError: they can't.
    """
    name, modes = claim["metadata"]["name"], accesses(claim)
    if claim["metadata"].get("deletionTimestamp"):
        problem = "is being deleted"
    elif claim.get("status", {}).get("phase") == "Lost":
        problem = "has lost its volume"
    elif modes and not {*modes} & {*_WRITABLE}:
        problem = f"can only be read: its access is {', '.join(modes)}"
    else:
        return
    raise UsageError(f"the PersistentVolumeClaim '{name}' {problem}", "Jobs can't write there.")


def is_shared(claim: Mapping[str, Any]) -> bool:
    """Whether jobs on several nodes can write to a claim at the same time."""
    return _SHARED in accesses(claim)


def accesses(claim: Mapping[str, Any]) -> list[str]:
    """How a claim may be used: "ReadWriteMany"; what is promised counts before what was wished."""
    found = claim.get("status", {}).get("accessModes") or claim.get("spec", {}).get("accessModes")
    return [str(each) for each in found or ()]
