"""Kubernetes Engine's control plane: clusters, their node pools, and operations."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.google_cloud.schema import Violation
from tests.google_cloud.server import ApiError, Call, Handler

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_KEY = re.compile("[a-z][a-z0-9_-]{0,62}")


# By which Google names a project in links, where users name it by its id.
_NUMBER = "31415926535"

_VERSION = "1.33.5-gke.1201000"

# The parts of the work of making a cluster, and how many steps each has.
_STAGES = {"CLUSTER_CONFIGURING": 4, "CLUSTER_DEPLOYING": 6, "CLUSTER_HEALTHCHECKING": 3}


@dataclass
class _Operation:
    resource: dict[str, Any]
    began: float
    done_at: float
    when_done: Callable[[], None]


class GKE:
    """The clusters of all projects.

    Attributes:
      clusters: by name.
      takes: seconds until a cluster is made, or gone.
      endpoint: where the clusters' own API is, and the certificate that it is known by.
      failure: why operations fail from now on; "" if they don't.
      missing: zones that don't answer just now.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clusters: dict[str, dict[str, Any]] = {}
        self.takes = 0.0
        self.endpoint = ("10.0.0.1", "Y2VydGlmaWNhdGU=")
        self.failure = ""
        self.missing: tuple[str, ...] = ()
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
        if call.body.get("parent", call.path["parent"]) != call.path["parent"]:
            raise ApiError("INVALID_ARGUMENT", "parent is not that of the address")
        if found := list(violations(wanted, call.path["parent"])):
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
            "nodePools": [
                {**each, "status": "PROVISIONING", "version": _VERSION}
                for each in wanted.get("nodePools", [])
            ],
            "currentMasterVersion": _VERSION,
            "currentNodeVersion": _VERSION,
            "currentNodeCount": sum(
                each.get("initialNodeCount", 0) for each in wanted.get("nodePools", [])
            ),
            "createTime": _timestamp(self._clock()),
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
        listed: dict[str, Any] = {"clusters": found} if found else {}
        return {**listed, "missingZones": [*self.missing]} if self.missing else listed

    def _delete(self, call: Call) -> dict[str, Any]:
        self._settle()
        name = call.path["name"]
        if self._cluster(name)["status"] in ("PROVISIONING", "STOPPING"):
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
        parent = f"{call.path['parent']}/operations/"
        found = [each for name, each in self._operations.items() if name.startswith(parent)]
        return {"operations": [each.resource for each in found]} if found else {}

    def _server_config(self, call: Call) -> dict[str, Any]:
        versions = {"defaultVersion": _VERSION, "validVersions": [_VERSION]}
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
        for each in self.clusters[name]["nodePools"]:
            each["status"] = status

    def _forget(self, name: str) -> None:
        del self.clusters[name]

    def _start(self, cluster: str, kind: str, when_done: Callable[[], None]) -> dict[str, Any]:
        number = f"operation-{len(self._operations) + 1}"
        name = f"{cluster.partition('/clusters/')[0]}/operations/{number}"
        resource = {
            "name": number,
            "operationType": kind,
            "status": "RUNNING",
            "startTime": _timestamp(self._clock()),
            "targetLink": _link(cluster),
        }
        now = self._clock()
        self._operations[name] = _Operation(resource, now, now + self.takes, when_done)
        return dict(resource)

    def _settle(self) -> None:
        """Ends the operations whose time has come, and says how far the others are."""
        now = self._clock()
        for name, each in self._operations.items():
            if each.resource["status"] == "DONE":
                continue
            if now < each.done_at:
                done = (now - each.began) / self.takes
                each.resource["progress"] = {"metrics": _metrics(done)}
                continue
            each.resource["status"] = "DONE"
            each.resource["endTime"] = _timestamp(now)
            if self.failure:
                each.resource["error"] = {"code": 8, "message": self.failure}
                target = each.resource["targetLink"].rpartition("/")[2]
                self._become(f"{name.partition('/operations/')[0]}/clusters/{target}", "ERROR")
            else:
                each.when_done()


def _timestamp(seconds: float) -> str:
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _link(cluster: str) -> str:
    """The link to a cluster: with the project's number, and zones in words of their own."""
    _, _, _, location, _, name = cluster.split("/")
    place = "zones" if location.count("-") == 2 else "locations"
    base = f"https://container.googleapis.com/v1/projects/{_NUMBER}"
    return f"{base}/{place}/{location}/clusters/{name}"


def _metrics(done: float) -> list[dict[str, Any]]:
    """How many steps of each part are done, if `done` of all the work is."""
    left = int(done * sum(_STAGES.values()))
    found = []
    for stage, steps in _STAGES.items():
        found.append({"name": stage, "intValue": str(min(left, steps))})
        found.append({"name": f"{stage}_TOTAL", "intValue": str(steps)})
        left -= min(left, steps)
    return found


def violations(cluster: Mapping[str, Any], parent: str) -> Iterator[Violation]:
    """What is wrong with a cluster that fits the schema."""
    _, project, _, location = parent.split("/")
    if not _NAME.fullmatch(cluster.get("name", "")):
        yield Violation("cluster.name", "must be lower case letters, digits and -, at most 40")
    for key in cluster.get("resourceLabels", {}):
        if not _KEY.fullmatch(key):
            yield Violation(f"cluster.resourceLabels.{key}", "is not a label")
    if not cluster.get("nodePools"):
        yield Violation("cluster.nodePools", "is required")
    pool = cluster.get("workloadIdentityConfig", {}).get("workloadPool")
    if pool not in (None, f"{project}.svc.id.goog"):
        yield Violation("cluster.workloadIdentityConfig.workloadPool", "is not the project's")
    if cluster.get("autopilot", {}).get("enabled"):
        if "autoscaling" in cluster:
            yield Violation("cluster.autoscaling", "is not for Autopilot clusters")
        if location.count("-") != 1:
            yield Violation("parent", "Autopilot clusters must be regional clusters")
        return
    scaling = cluster.get("autoscaling", {})
    region = "-".join(location.split("-")[:2])
    for zone in scaling.get("autoprovisioningLocations", []):
        if not zone.startswith(f"{region}-"):
            yield Violation("cluster.autoscaling.autoprovisioningLocations", "is elsewhere")
    limits = scaling.get("resourceLimits", [])
    kinds = [each.get("resourceType") for each in limits]
    if len({*kinds}) < len(kinds):
        yield Violation("cluster.autoscaling.resourceLimits", "has a resource twice")
    if scaling.get("enableNodeAutoprovisioning") and not {"cpu", "memory"} <= {*kinds}:
        yield Violation("cluster.autoscaling.resourceLimits", "must have cpu and memory")
