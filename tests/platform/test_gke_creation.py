"""What is sent to make a cluster: the same as gcloud sends for the same wishes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from caliban.errors import UsageError
from caliban.model import hardware
from caliban.platform.gke import creation
from caliban.platform.gke.clusters import Cluster
from caliban.platform.gke.creation import Wishes
from tests.google_cloud.test_schema import capture, schemas

ZONES = tuple(f"us-central1-{zone}" for zone in "abcf")
QUOTAS = {"CPUS": 128.0, "NVIDIA_L4_GPUS": 8.0}


def sent(location: str, zones: tuple[str, ...], channel: str = "REGULAR") -> dict[str, Any]:
    cluster = Cluster("p1", location, "newcluster")
    return creation.standard(Wishes(cluster, channel, zones, creation.limits(QUOTAS)))


def with_addon(request: dict[str, Any]) -> dict[str, Any]:
    """A request of gcloud's with the driver of buckets, which it was not asked for."""
    found = copy.deepcopy(request)
    found["cluster"]["addonsConfig"] = {"gcsFuseCsiDriverConfig": {"enabled": True}}
    return found


@pytest.mark.parametrize(
    ("name", "location", "zones"),
    [
        ("regional", "us-central1", ZONES),
        ("zonal", "us-central1-a", ZONES),
        ("single-zone", "us-central1-a", ZONES[:1]),
    ],
)
def test_gcloud_sends_the_same_for_a_standard_cluster(
    name: str, location: str, zones: tuple[str, ...]
) -> None:
    assert sent(location, zones) == with_addon(capture(f"gke-cluster-{name}"))


def test_gcloud_sends_the_same_for_an_autopilot_cluster() -> None:
    cluster = Cluster("p1", "us-central1", "newcluster")
    assert creation.autopilot(cluster, "EXTENDED") == capture("gke-cluster-autopilot")


def test_what_differs_from_the_shortest_command_of_gcloud_is_what_caliban_promises() -> None:
    expected = with_addon(capture("gke-cluster-standard-autoprovisioning"))
    cluster = expected["cluster"]
    # Nodes for jobs in any zone of the region: gcloud's are in those of the first nodes only.
    cluster["autoscaling"]["autoprovisioningLocations"] = [*ZONES]
    # Shielded nodes, which are GKE's default today, are said.
    cluster["shieldedNodes"] = {"enabled": True}
    limits = {"cpu": 128, "memory": 1024, "nvidia-l4": 8}
    wanted = Wishes(Cluster("p1", "us-central1", "cal-nap"), "REGULAR", ZONES, limits)
    assert creation.standard(wanted) == expected


@pytest.mark.parametrize("channel", creation.CHANNELS)
def test_every_channel_fits_the_schema(channel: str) -> None:
    body = sent("us-central1-a", ZONES, channel)
    assert schemas("container", "v1").request("CreateClusterRequest", body) == []
    # gcloud still sends UNSPECIFIED, which the API has deprecated, when no channel is wanted.
    expected = None if channel == creation.UNSPECIFIED else {"channel": channel}
    assert body["cluster"].get("releaseChannel") == expected


def test_limits_come_from_the_quotas() -> None:
    quotas = {
        "CPUS": 72.0,
        "N2_CPUS": 24.0,
        "PREEMPTIBLE_CPUS": 4.0,
        "COMMITTED_CPUS": 1000.0,
        "COMMITTED_NVIDIA_T4_GPUS": 100.0,
        "CPUS_ALL_REGIONS": 500.0,
        "NVIDIA_A100_80GB_GPUS": 2.0,
        "NVIDIA_K80_GPUS": 8.0,
        "NVIDIA_P4_GPUS": 0.0,
        "NVIDIA_T4_GPUS": 4.0,
        "NVIDIA_T4_VWS_GPUS": 9.0,
        "PREEMPTIBLE_NVIDIA_T4_GPUS": 16.0,
        "PREEMPTIBLE_NVIDIA_H100_GPUS": 8.0,
        "PREEMPTIBLE_TPU_LITE_PODSLICE_V5": 32.0,
        "TPU_PODSLICE_V4": 4.0,
        "SSD_TOTAL_GB": 500.0,
    }
    assert creation.limits(quotas) == {
        "cpu": 100,
        "memory": 6400,
        "nvidia-a100-80gb": 2,
        "nvidia-h100-80gb": 8,
        "nvidia-tesla-t4": 20,
        "tpu-v4-podslice": 4,
        "tpu-v5-lite-podslice": 32,
    }


def test_no_machine_has_more_memory_than_the_limit_allows_for_its_vcpus() -> None:
    # m1-ultramem, the largest of the table, has 24 GB for each.
    assert creation.limits({"CPUS": 1.0})["memory"] == 64


@pytest.mark.parametrize("quotas", [{}, {"CPUS": 0.0}, {"NVIDIA_L4_GPUS": 8.0}])
def test_a_project_without_cpus_is_told(quotas: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="no quota of CPUs"):
        creation.limits(quotas)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("16xH100", ("nvidia-h100-80gb", 16)),
        ("8xa100-80gb", ("nvidia-a100-80gb", 8)),
        ("4xNVIDIA_TESLA_T4", ("nvidia-tesla-t4", 4)),
        ("32xV5E", ("tpu-v5-lite-podslice", 32)),
        ("0xL4", ("nvidia-l4", 0)),
        ("8xnvidia-x9000", ("nvidia-x9000", 8)),
    ],
)
def test_limits_are_named_as_gpus_are_elsewhere(text: str, limit: tuple[str, int]) -> None:
    assert creation.limit(text) == limit


@pytest.mark.parametrize("text", ["", "H100", "8", "x", "8x", "-1xL4", "8 x L4", "8xL4,T4"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no limit of accelerators"):
        creation.limit(text)


def test_tpus_without_a_name_on_gke_have_no_limit() -> None:
    assert hardware.load().tpus["V2"].gke == ""
    with pytest.raises(UsageError, match="V2 are not on GKE"):
        creation.limit("8xV2")
