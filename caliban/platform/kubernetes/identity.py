"""Which cluster it is: a context of the same name may lead to another one tomorrow."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from caliban.errors import RefusedError

if TYPE_CHECKING:
    from caliban.platform.kubernetes.connection import Connection

# Every cluster has one, made with the cluster, so that its uid tells clusters apart.
_NAMESPACE = "/api/v1/namespaces/kube-system"


def find(connection: Connection) -> dict[str, str]:
    """What tells a cluster from others: its address, and what it has to itself if that may be read.

    Raises:
      CalibanError: the cluster can't be asked.
    """
    found = {"server": connection.server}
    # Who may make jobs need not be somebody who may see all namespaces.
    with contextlib.suppress(RefusedError, KeyError):
        found["uid"] = str(connection.get(_NAMESPACE)["metadata"]["uid"])
    return found


def difference(cluster: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """How a cluster is another one than it was, in words; "" if it is the same.

    Its address decides only if nothing better is known.

    Args:
      cluster: what it is called.
      before: what `find` returned once.
      now: what it returns now.
    """
    key = "uid" if "uid" in before and "uid" in now else "server"
    if before.get(key) == now.get(key):
        return ""
    if before["server"] == now["server"]:
        return f"the cluster {cluster} has been replaced by another one at {now['server']}"
    return f"the context {cluster} leads to {now['server']} now, not to {before['server']}"
