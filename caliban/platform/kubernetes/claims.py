"""The PersistentVolumeClaims of a namespace: whether those that jobs mount are there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from caliban.errors import RefusedError, UsageError
from caliban.platform.kubernetes import storage
from caliban.platform.kubernetes.place import Place

if TYPE_CHECKING:
    from caliban.platform.kubernetes.connection import Connection


def find(connection: Connection, place: Place, names: Iterable[str]) -> list[dict[str, Any]]:
    """Sees to it that claims are there, and can be written to.

    Args:
      connection: to the cluster.
      place: whose namespace they are in.
      names: of the claims.

    Returns:
      Those that the user may see.

    Raises:
      UsageError: one is not there, or can't be written to.
      CalibanError: the cluster can't be asked.
    """
    path = f"/api/v1/namespaces/{place.namespace}/persistentvolumeclaims"
    found = []
    for name in dict.fromkeys(names):
        try:
            claim = connection.get(f"{path}/{name}")
        except RefusedError as error:
            if error.status == 404:
                raise _missing(name, place, _names(connection, path)) from None
            if error.status != 403:
                raise
            continue  # without the right to see it, the job tells
        storage.check(claim)
        found.append(claim)
    return found


def _missing(name: str, place: Place, there: list[str]) -> UsageError:
    return UsageError(
        f"the namespace {place.namespace} of {place.cluster} has no PersistentVolumeClaim '{name}'",
        f"It has: {', '.join(there)}." if there else "'kubectl create -f' makes one of a manifest.",
    )


def _names(connection: Connection, path: str) -> list[str]:
    try:
        return sorted(each["metadata"]["name"] for each in connection.items(path))
    except RefusedError:
        return []  # who may see one by its name may not see all
