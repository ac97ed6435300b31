"""What a Job names and has to be there: without, it would be taken, and wait for ever."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from caliban.errors import Problems, RefusedError, UsageError
from caliban.model.suggestion import near
from caliban.platform.kubernetes import manifest, storage
from caliban.platform.kubernetes.place import Place

if TYPE_CHECKING:
    from caliban.platform.kubernetes.connection import Connection

# Nothing of things but their names: what is in a Secret stays where it is.
_NAME_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_NAMES_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

# How many of the names that there are a message has.
_NAMED = 12


@dataclass(frozen=True)
class _Kind:
    """What can be named.

    Attributes:
      title: of one, with its name.
      path: where they are.
      way: how one comes to be.
      selector: of the fields of those that are worth naming.
    """

    title: str
    path: str
    way: str
    selector: str = ""


def _namespaced(kind: str, plural: str, way: str, selector: str = "") -> _Kind:
    path = f"/api/v1/namespaces/{{namespace}}/{plural}"
    return _Kind(f"{kind} '{{name}}'", path, way, selector)


_NAMESPACE = _Kind(
    "namespace '{name}'", "/api/v1/namespaces", "Make it: {kubectl} create namespace {name}"
)
_CLAIM = _namespaced(
    "PersistentVolumeClaim",
    "persistentvolumeclaims",
    "'kubectl create -f' makes one of a manifest.",
)
_SECRET = _namespaced(
    "Secret",
    "secrets",
    "Make it: {kubectl} --namespace {namespace} create secret generic {name} --from-env-file FILE",
    "type!=kubernetes.io/service-account-token",
)
_CONFIG_MAP = _namespaced("ConfigMap", "configmaps", "'kubectl create -f' makes one of a manifest.")
_ACCOUNT = _namespaced(
    "service account",
    "serviceaccounts",
    "Make it: {kubectl} --namespace {namespace} create serviceaccount {name}",
)
_KUEUE = _Kind(
    "Kueue ({name}), which has queues",
    "/apis",
    "Leave out --queue, or have it installed: https://kueue.sigs.k8s.io",
)
_QUEUE = _Kind(
    "queue '{name}'",
    "/apis/{group}/{version}/namespaces/{{namespace}}/localqueues",
    "Whoever looks after Kueue there makes a LocalQueue of this name.",
)
_DRIVER = _Kind(
    "driver of buckets ({name})",
    "/apis/storage.k8s.io/v1/csidrivers",
    "Enable it: gcloud container clusters update {google[2]} --project {google[0]} --location "
    "{google[1]} --update-addons GcsFuseCsiDriver=ENABLED",
)
_KUEUE_GROUP = manifest.QUEUE.partition("/")[0]

# By which keys a pod refers to what, wherever it does.
_REFERENCES = {
    "secretRef": _SECRET,
    "secretKeyRef": _SECRET,
    "secret": _SECRET,
    "configMapRef": _CONFIG_MAP,
    "configMapKeyRef": _CONFIG_MAP,
    "configMap": _CONFIG_MAP,
}


def check_namespace(connection: Connection, place: Place) -> None:
    """Sees to it that the namespace of a place is there, as far as the user may see that.

    Raises:
      UsageError: it is not.
      CalibanError: the cluster can't be asked.
    """
    search = _Search(connection, place)
    search.find(_NAMESPACE, place.namespace)
    search.problems.check()


def check(
    connection: Connection, place: Place, body: Mapping[str, Any], count: int = 1
) -> list[str]:
    """Sees to it that what a Job names is there.

    Args:
      connection: to the cluster.
      place: where in it the Job will be.
      body: of the Job.
      count: how many jobs name the same.

    Returns:
      What there is to say besides: what the user may not see, for one.

    Raises:
      UsageError: with all that is missing, or no good, and with the names that there are.
      CalibanError: the cluster can't be asked.
    """
    search = _Search(connection, place)
    notes = []
    for name in dict.fromkeys(storage.claims(body)):
        if not (claim := search.find(_CLAIM, name)):
            continue
        search.problems.attempt(functools.partial(storage.check, claim), None)
        if count > 1 and not storage.is_shared(claim):
            notes.append(
                f"The PersistentVolumeClaim '{name}' is on one node at a time "
                f"({', '.join(storage.accesses(claim))}): jobs on others wait for it."
            )
    for kind, name in dict.fromkeys(_references(body["spec"]["template"]["spec"])):
        search.find(kind, name, _NAME_ONLY)
    if storage.mounts_bucket(body):
        search.find(_DRIVER, storage.BUCKET_DRIVER)
    queue = (body["metadata"].get("labels") or {}).get(manifest.QUEUE)
    if queue and (kueue := search.find(_KUEUE, _KUEUE_GROUP)):
        version = kueue["preferredVersion"]["version"]
        path = _QUEUE.path.format(group=_KUEUE_GROUP, version=version)
        search.find(replace(_QUEUE, path=path), queue, _NAME_ONLY)
    search.problems.check()
    if search.unseen:
        are = "are" if len(search.unseen) > 1 else "is"
        notes.append(
            f"You may not see whether the {' and the '.join(search.unseen)} {are} there: if not, "
            "the jobs wait."
        )
    return notes


class _Search:
    """Looks for things, and collects what is not there, and what can't be seen.

    Attributes:
      problems: what is not there.
      unseen: titles of what the user may not see.
    """

    def __init__(self, connection: Connection, place: Place) -> None:
        self._connection = connection
        self._place = place
        self.problems = Problems()
        self.unseen: list[str] = []

    def find(self, kind: _Kind, name: str, accept: str = "application/json") -> dict[str, Any]:
        """What there is of a name; {} for nothing that can be seen."""
        return self.problems.attempt(lambda: self._find(kind, name, accept), {})

    def _find(self, kind: _Kind, name: str, accept: str) -> dict[str, Any]:
        path = kind.path.format(namespace=self._place.namespace)
        try:
            return self._connection.get(f"{path}/{name}", accept=accept)
        except RefusedError as error:
            if error.status == 404:
                raise self._missing(kind, name, path) from None
            if error.status != 403:
                raise
            self.unseen.append(kind.title.format(name=name))
            return {}

    def _missing(self, kind: _Kind, name: str, path: str) -> UsageError:
        place = self._place
        where = f"the cluster {place.cluster}"
        if "{namespace}" in kind.path:
            where = f"the namespace {place.namespace} of {place.cluster}"
        hint = kind.way.format(
            kubectl=place.kubectl,
            namespace=place.namespace,
            name=name,
            google=place.on_google or ("PROJECT", "LOCATION", "NAME"),
        )
        if there := self._names(kind, path):
            close = near(name, there, _NAMED)  # what may have been meant is among those named
            there = close + [each for each in there if each not in close]
            more = f", and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
            hint = f"It has: {', '.join(there[:_NAMED])}{more}.\n{hint}"
        return UsageError(f"{where} has no {kind.title.format(name=name)}", hint)

    def _names(self, kind: _Kind, path: str) -> list[str]:
        if kind in (_KUEUE, _DRIVER):
            return []  # others are no help
        params = {"fieldSelector": kind.selector} if kind.selector else None
        try:
            found = self._connection.items(path, params, _NAMES_ONLY)
        except RefusedError:
            return []  # who may see one by its name may not see all
        return sorted(each["metadata"]["name"] for each in found)


def _references(pod: Any) -> Iterator[tuple[_Kind, str]]:
    """What a pod refers to that has to be there before its containers start."""
    if isinstance(pod, Mapping):
        if account := pod.get("serviceAccountName"):
            yield _ACCOUNT, str(account)
        for key, value in pod.items():
            kind = _REFERENCES.get(key)
            if kind is None or not isinstance(value, Mapping):
                yield from _references(value)
            elif not value.get("optional") and (
                name := value.get("secretName") or value.get("name")
            ):
                yield kind, str(name)
    elif isinstance(pod, list | tuple):
        for each in pod:
            yield from _references(each)
