"""Kubernetes Engine's control plane: clusters, their node pools, and operations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.google_cloud.schema import Violation
from tests.google_cloud.server import ApiError, Call, Handler

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_KEY = re.compile("[a-z][a-z0-9_-]{0,62}")


@dataclass
class _Operation:
    resource: dict[str, Any]
    done_at: float
    when_done: Callable[[], None]


class GKE:
    """The clusters of all projects.

    Attributes:
      clusters: by name.
      takes: seconds until a cluster is made, or gone.
      endpoint: where the clusters' own API is, and the certificate that it is known by.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clusters: dict[str, dict[str, Any]] = {}
        self.takes = 0.0
        self.endpoint = ("10.0.0.1", "Y2VydGlmaWNhdGU=")
        self._clock = clock
        self._operations: dict[str, _Operation] = {}

    @property
    def handlers(self) -> dict[str, Handler]:
        """What is served."""
        base = "projects.locations"
        return {
            f"{base}.clusters.create": self._create,
            f"{base}.clusters.get": self._get,
            f"{base}.clusters.list": self._list,
            f"{base}.clusters.delete": self._delete,
            f"{base}.clusters.nodePools.list": self._node_pools,
            f"{base}.operations.get": self._operation,
            f"{base}.operations.list": self._operation_list,
            f"{base}.getServerConfig": self._server_config,
        }

    def _create(self, call: Call) -> dict[str, Any]:
        wanted = call.body.get("cluster", {})
        if found := list(violations(wanted)):
            problems = "; ".join(f"{each.field}: {each.description}" for each in found)
            raise ApiError("INVALID_ARGUMENT", problems, found)
        parent = call.path["parent"]
        name = f"{parent}/clusters/{wanted['name']}"
        if name in self.clusters:
            raise ApiError("ALREADY_EXISTS", f"Already exists: {name}.")
        address, certificate = self.endpoint
        self.clusters[name] = {
            **wanted,
            "location": parent.rpartition("/")[2],
            "status": "PROVISIONING",
            "endpoint": address,
            "masterAuth": {"clusterCaCertificate": certificate},
            "selfLink": f"https://container.googleapis.com/v1/{name}",
        }
        return self._start(name, "CREATE_CLUSTER", lambda: self._become(name, "RUNNING"))

    def _get(self, call: Call) -> dict[str, Any]:
        self._settle()
        return self._cluster(call.path["name"])

    def _list(self, call: Call) -> dict[str, Any]:
        self._settle()
        project, _, location = call.path["parent"].partition("/locations/")
        parents = f"{project}/locations/" if location == "-" else f"{call.path['parent']}/"
        found = [each for name, each in self.clusters.items() if name.startswith(parents)]
        return {"clusters": found} if found else {}

    def _delete(self, call: Call) -> dict[str, Any]:
        self._settle()
        name = call.path["name"]
        if self._cluster(name)["status"] != "RUNNING":
            raise ApiError("FAILED_PRECONDITION", "Cluster is running incompatible operation.")
        self._become(name, "STOPPING")
        return self._start(name, "DELETE_CLUSTER", lambda: self._forget(name))

    def _node_pools(self, call: Call) -> dict[str, Any]:
        self._settle()
        pools = self._cluster(call.path["parent"]).get("nodePools", [])
        return {"nodePools": pools} if pools else {}

    def _operation(self, call: Call) -> dict[str, Any]:
        self._settle()
        if call.path["name"] not in self._operations:
            raise ApiError("NOT_FOUND", f"Not found: {call.path['name']}.")
        return self._operations[call.path["name"]].resource

    def _operation_list(self, call: Call) -> dict[str, Any]:
        self._settle()
        return {"operations": [each.resource for each in self._operations.values()]}

    def _server_config(self, call: Call) -> dict[str, Any]:
        versions = {"defaultVersion": "1.33.5-gke.1201000", "validVersions": ["1.33.5-gke.1201000"]}
        channels = [
            {"channel": each, **versions} for each in ("RAPID", "REGULAR", "STABLE", "EXTENDED")
        ]
        return {"defaultClusterVersion": versions["defaultVersion"], "channels": channels}

    def _cluster(self, name: str) -> dict[str, Any]:
        if name not in self.clusters:
            raise ApiError("NOT_FOUND", f"Not found: {name}.")
        return self.clusters[name]

    def _become(self, name: str, status: str) -> None:
        self.clusters[name]["status"] = status

    def _forget(self, name: str) -> None:
        del self.clusters[name]

    def _start(self, cluster: str, kind: str, when_done: Callable[[], None]) -> dict[str, Any]:
        number = f"operation-{len(self._operations) + 1}"
        name = f"{cluster.partition('/clusters/')[0]}/operations/{number}"
        resource = {
            "name": number,
            "operationType": kind,
            "status": "RUNNING",
            "targetLink": f"https://container.googleapis.com/v1/{cluster}",
        }
        self._operations[name] = _Operation(resource, self._clock() + self.takes, when_done)
        return dict(resource)

    def _settle(self) -> None:
        """Ends the operations whose time has come."""
        for each in self._operations.values():
            if each.resource["status"] == "RUNNING" and each.done_at <= self._clock():
                each.resource["status"] = "DONE"
                each.when_done()


def violations(cluster: Mapping[str, Any]) -> Iterator[Violation]:
    """What is wrong with a cluster that fits the schema."""
    if not _NAME.fullmatch(cluster.get("name", "")):
        yield Violation("cluster.name", "must be lower case letters, digits and -, at most 40")
    for key in cluster.get("resourceLabels", {}):
        if not _KEY.fullmatch(key):
            yield Violation(f"cluster.resourceLabels.{key}", "is not a label")
    if cluster.get("autopilot", {}).get("enabled"):
        for field in ("nodePools", "autoscaling"):
            if field in cluster:
                yield Violation(f"cluster.{field}", "is not for Autopilot clusters")
        return
    if not cluster.get("nodePools"):
        yield Violation("cluster.nodePools", "is required")
    scaling = cluster.get("autoscaling", {})
    kinds = {each.get("resourceType") for each in scaling.get("resourceLimits", [])}
    if scaling.get("enableNodeAutoprovisioning") and not {"cpu", "memory"} <= kinds:
        yield Violation("cluster.autoscaling.resourceLimits", "must have cpu and memory")
