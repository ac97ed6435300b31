"""What is sent to make a cluster (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caliban.errors import UsageError
from caliban.model import hardware
from caliban.platform.gke.clusters import Cluster

CHANNELS = ("UNSPECIFIED", "RAPID", "REGULAR", "STABLE", "EXTENDED")

# The channel that isn't sent, because the API has deprecated its name: GKE chooses REGULAR then.
UNSPECIFIED = CHANNELS[0]

# Nodes that are always there run what belongs to the cluster, and small jobs.
_MACHINE = "e2-standard-4"

# Gigabytes of memory for each vCPU: more than any machine has, because memory has no quota.
_MEMORY = 64

_LABELS = {"created_by": "caliban"}

# What lets jobs write to buckets. Autopilot clusters have it without being told.
_ADDONS = {"gcsFuseCsiDriverConfig": {"enabled": True}}

_ALL = "https://www.googleapis.com/auth/cloud-platform"

# What GKE's own programs need on a node. A job has the rights of a service account of its own.
_SCOPES = tuple(
    f"https://www.googleapis.com/auth/{name}"
    for name in (
        "devstorage.read_only",
        "logging.write",
        "monitoring",
        "service.management.readonly",
        "servicecontrol",
        "trace.append",
    )
)

_LIMIT = re.compile(r"(?P<count>\d{1,6})[xX](?P<type>[A-Za-z][\w-]*)", re.ASCII)


@dataclass(frozen=True)
class Wishes:
    """A cluster that is wanted.

    Attributes:
      cluster: by the names that it shall have.
      channel: of GKE's releases, one of CHANNELS.
      zones: where GKE may make nodes for jobs.
      limits: how much it may have, by resource: "cpu", "memory" (GB), "nvidia-l4".
    """

    cluster: Cluster
    channel: str
    zones: Sequence[str]
    limits: Mapping[str, int]


def standard(wanted: Wishes) -> dict[str, Any]:
    """The request for a cluster that makes nodes for jobs, and deletes them when they are idle."""
    nodes = {"autoRepair": True, "autoUpgrade": True}
    autoscaling = {
        "autoprovisioningLocations": [*wanted.zones],
        "autoprovisioningNodePoolDefaults": {
            "imageType": "COS_CONTAINERD",
            "management": nodes,
            "oauthScopes": [_ALL],
        },
        "autoscalingProfile": "OPTIMIZE_UTILIZATION",
        "enableNodeAutoprovisioning": True,
        "resourceLimits": [
            {"resourceType": name, "minimum": "0", "maximum": str(most)}
            for name, most in wanted.limits.items()
        ],
    }
    pool = {
        **_pool({"machineType": _MACHINE}),
        "management": nodes,
        "upgradeSettings": {"maxSurge": 1},
    }
    workloads = {"workloadPool": f"{wanted.cluster.project}.svc.id.goog"}
    return _request(
        wanted.cluster,
        wanted.channel,
        {
            "addonsConfig": _ADDONS,
            "autoscaling": autoscaling,
            "nodePools": [pool],
            "shieldedNodes": {"enabled": True},
            "workloadIdentityConfig": workloads,
        },
    )


def autopilot(cluster: Cluster, channel: str) -> dict[str, Any]:
    """The request for a cluster whose nodes Google looks after.

    Such a one always has Shielded nodes, Workload Identity, and nodes for whatever jobs ask for.
    """
    return _request(cluster, channel, {"autopilot": {"enabled": True}, "nodePools": [_pool({})]})


def _request(cluster: Cluster, channel: str, own: Mapping[str, Any]) -> dict[str, Any]:
    release = {} if channel == UNSPECIFIED else {"releaseChannel": {"channel": channel}}
    return {
        "cluster": {
            "name": cluster.name,
            "ipAllocationPolicy": {"createSubnetwork": False, "useIpAliases": True},
            "resourceLabels": dict(_LABELS),
            **release,
            **own,
        },
        "parent": cluster.parent,
    }


def _pool(config: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes that are there from the beginning."""
    return {
        "name": "default-pool",
        "initialNodeCount": 1,
        "config": {"oauthScopes": [*_SCOPES], "resourceLabels": dict(_LABELS), **config},
    }


def limits(quotas: Mapping[str, float]) -> dict[str, int]:
    """How much of everything a project may have in a region, by GKE's names of resources.

    Quotas of on-demand and of spot machines are counted together, and vCPUs of all kinds of
    machines: each quota still holds for itself.

    Args:
      quotas: the limits, by metric; see regions.Region.

    Raises:
      UsageError: no quota of vCPUs is left for a cluster.
    """

    def quota(metric: str) -> int:
        return sum(max(0, int(quotas.get(each, 0))) for each in (metric, f"PREEMPTIBLE_{metric}"))

    cpus = sum(
        max(0, int(limit))
        for metric, limit in quotas.items()
        if re.fullmatch(r"(?!COMMITTED_)(\w+_)?CPUS", metric)
    )
    if not cpus:
        raise UsageError(
            "the project has no quota of CPUs there",
            "Ask for one: https://console.cloud.google.com/iam-admin/quotas",
        )
    table = hardware.load()
    found = {gpu.compute: quota(f"NVIDIA_{gpu.name}_GPUS") for gpu in table.gpus.values()}
    for tpu, metric in _TPU_QUOTAS.items():
        found[table.tpus[tpu].gke] = quota(metric)
    accelerators = {name: found[name] for name in sorted(found) if found[name]}
    return {"cpu": cpus, "memory": _MEMORY * cpus, **accelerators}


# The TPUs whose quotas Compute Engine tells, in chips.
_TPU_QUOTAS = {"V4": "TPU_PODSLICE_V4", "V5E": "TPU_LITE_PODSLICE_V5"}


def limit(text: str) -> tuple[str, int]:
    """Reads a limit as a user writes it: "16xH100" -> ("nvidia-h100-80gb", 16).

    A type that isn't known is taken as GKE has it.

    Raises:
      UsageError: it is none, or GKE doesn't have the type.
    """
    match = _LIMIT.fullmatch(text)
    if not match:
        raise UsageError(
            f"'{text}' is no limit of accelerators", "It looks like 16xH100: number x type."
        )
    table = hardware.load()
    gpu = hardware.find(table.gpus, match["type"])
    tpu = hardware.find(table.tpus, match["type"])
    if tpu and not tpu.gke:
        raise UsageError(f"TPUs of type {tpu.name} are not on GKE")
    name = gpu.compute if gpu else tpu.gke if tpu else match["type"].lower().replace("_", "-")
    return name, int(match["count"])
