"""What is sent of a Job, as far as it decides what the job does (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from caliban.model.job import Submission
from caliban.platform.base import Particulars
from caliban.platform.kubernetes.place import Place


def of(submission: Submission) -> Particulars:
    """What a job is that `manifest.plan` returned, also one of the user's own manifest.

    Args:
      submission: of the job.
    """
    pod = submission.payload["body"]["spec"]["template"]["spec"]
    containers = [each for each in pod.get("containers", ()) if isinstance(each, Mapping)]
    place = Place.parse(submission.target)
    machine = {
        "cluster": place.cluster,
        "namespace": place.namespace,
        **_resources(containers),
        **{str(key): str(value) for key, value in (pod.get("nodeSelector") or {}).items()},
        **_affinity(pod),
    }
    if account := pod.get("serviceAccountName"):
        machine["service account"] = str(account)
    variables = {
        str(each.get("name", "")) for container in containers for each in container.get("env") or ()
    }
    return Particulars(
        image=str(containers[0]["image"]),
        machine=machine,
        variables=tuple(sorted(variables)),
        secrets=tuple(sorted({*_secrets(pod)})),
    )


def _resources(containers: list[Mapping[str, Any]]) -> dict[str, str]:
    """What is asked for, and what of it is a limit only; of several containers, by their names."""
    found: dict[str, str] = {}
    for container in containers:
        prefix = f"{container.get('name', '')} " if len(containers) > 1 else ""
        resources = container.get("resources") or {}
        wanted = {**(resources.get("requests") or {})}
        for name, value in (resources.get("limits") or {}).items():
            # Of GPUs and the like the limit is the request.
            is_more = name in wanted or name in ("cpu", "memory")
            wanted.setdefault(f"{name} limit" if is_more else name, value)
        found |= {f"{prefix}{name}": str(value) for name, value in wanted.items()}
    return found


def _affinity(pod: Mapping[str, Any]) -> dict[str, str]:
    """Labels of which the pod's node must have one of several values."""
    value: Any = pod
    for key in ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"):
        value = value.get(key) if isinstance(value, Mapping) else None
    terms = value.get("nodeSelectorTerms") if isinstance(value, Mapping) else None
    return {
        str(each.get("key", "")): " or ".join(map(str, each.get("values") or ()))
        for term in terms or ()
        for each in term.get("matchExpressions") or ()
        if each.get("operator") == "In"
    }


def _secrets(value: Any) -> Iterator[str]:
    """The names of all Secrets that a pod's spec refers to, wherever it does."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if key in ("secretRef", "secretKeyRef") and isinstance(each, Mapping):
                yield str(each.get("name", ""))
            elif key == "secret" and isinstance(each, Mapping):
                yield str(each.get("secretName") or each.get("name") or "")
            elif key == "imagePullSecrets":
                yield from (str(secret.get("name", "")) for secret in each or ())
            else:
                yield from _secrets(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _secrets(each)
