"""Where jobs on a cluster write: each to a directory of a claim, or of a bucket on GKE (pure).

References: https://kubernetes.io/docs/concepts/storage/persistent-volumes/ and, of buckets,
https://cloud.google.com/kubernetes-engine/docs/how-to/cloud-storage-fuse-csi-driver-ephemeral
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from caliban.errors import UsageError
from caliban.model.image import OUTPUT
from caliban.platform.kubernetes.options import check_name

_CLAIMS = "pvc:"

# What the volume is called in a pod.
_NAME = "output"

# Paths have at most 4096 bytes; what follows are the group, the job and its own files.
_LONGEST = 600

_EXAMPLE = "It looks like pvc:results or pvc:results/some/path; on GKE, like gs://bucket/some/path."

_BUCKETS = "gs://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")

# What makes a directory of a bucket a volume on GKE: a driver, and the annotation of a pod by which
# it gets a container beside it that does the work.
BUCKET_DRIVER = "gcsfuse.csi.storage.gke.io"
_BUCKET_NOTE = {"gke-gcsfuse/volumes": "true"}

# The options of such a volume are one text, in which this ends one.
_ENDS_OPTION = re.compile(r"[\s,]")

# The accesses with which a job may write to a claim, and the one with which jobs on several nodes.
_SHARED = "ReadWriteMany"
_WRITABLE = (_SHARED, "ReadWriteOnce", "ReadWriteOncePod")

# The label of a pod that has the name of its Job, on all versions of Kubernetes.
_JOB_LABEL = "metadata.labels['job-name']"
_JOB_VARIABLE = "CALIBAN_JOB_NAME"


def understand(text: str | None) -> str:
    """The folder that --output names, without a slash at its end; "" for none.

    Args:
      text: "pvc:CLAIM" or "pvc:CLAIM/PATH", or "gs://BUCKET" or "gs://BUCKET/PATH".

    Raises:
      UsageError: it is something else, or not in the claim or bucket.
    """
    if text is None:
        return ""
    found = text.rstrip("/")
    name, path = _split(found)
    if is_bucket(found):
        if not _BUCKET.fullmatch(name):
            raise UsageError(f"--output {text}: '{name}' can't be the name of a bucket", _EXAMPLE)
        _options_path(path)
    elif found.startswith(_CLAIMS) and name:
        check_name("a PersistentVolumeClaim", name)
    else:
        raise UsageError(
            f"--output {text}: jobs on a cluster write to a PersistentVolumeClaim, and not there",
            _EXAMPLE,
        )
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


def is_bucket(address: str) -> bool:
    """Whether an address is in a bucket, which only clusters of GKE can mount."""
    return address.startswith(_BUCKETS)


def _split(address: str) -> tuple[str, str]:
    """The claim or bucket that an address names, and where in it."""
    scheme = _BUCKETS if is_bucket(address) else _CLAIMS
    name, _, path = address.removeprefix(scheme).partition("/")
    return name, path


def _options_path(path: str) -> str:
    """A path that is an option of a volume.

    Raises:
      UsageError: it can't be one.
    """
    if _ENDS_OPTION.search(path):
        raise UsageError(
            f"'{path}' can't be a folder of a bucket that jobs write to: there is a comma or a "
            "space in it",
            "It is made of the path that --output names, and of the name of the experiment group.",
        )
    return path


def notes(address: str) -> dict[str, str]:
    """The annotations of a pod that has the volume of an address."""
    return dict(_BUCKET_NOTE) if is_bucket(address) else {}


def volume(address: str, owner: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The volume of a job that writes to an address, and where its container sees it.

    The directory is made by the node, and the job sees nothing else of the claim or bucket.

    Args:
      address: of the job's own directory.
      owner: user and group that the job is; 0 for root.

    Raises:
      UsageError: there can't be such a volume.
    """
    claim, path = _split(address)
    if is_bucket(address):
        options = [f"only-dir={_options_path(path)}"]
        if owner:
            options += [f"uid={owner}", f"gid={owner}"]
        attributes = {"bucketName": claim, "mountOptions": ",".join(options)}
        bucket = {"driver": BUCKET_DRIVER, "volumeAttributes": attributes}
        return {"name": _NAME, "csi": bucket}, [{"name": _NAME, "mountPath": OUTPUT}]
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
    for source in _sources(body, "persistentVolumeClaim"):
        if isinstance(name := source.get("claimName"), str):
            yield name


def mounts_bucket(body: Mapping[str, Any]) -> bool:
    """Whether the pod of a Job has a volume that is a bucket."""
    return any(source.get("driver") == BUCKET_DRIVER for source in _sources(body, "csi"))


def _sources(body: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    """What the volumes of a Job's pod are made of, those of a kind."""
    for each in body["spec"]["template"]["spec"].get("volumes") or ():
        source = each.get(kind) if isinstance(each, Mapping) else None
        if isinstance(source, Mapping):
            yield source


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
