"""Clusters of GKE: listed, made once, deleted, whatever happens on the way."""

from __future__ import annotations

import pytest

from caliban.errors import CalibanError, RefusedError, UnknownOutcomeError, UsageError
from caliban.platform.gke import creation, regions
from caliban.platform.gke.clusters import GKE, Cluster
from caliban.platform.rest import Session
from tests.google_cloud import faults
from tests.google_cloud.client import FakeTime
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault

CLUSTER = Cluster("p1", "us-central1-a", "blueshift")
WISHES = creation.Wishes(CLUSTER, "REGULAR", ("us-central1-a",), {"cpu": 8, "memory": 64})


@pytest.fixture
def gke(cloud: GoogleCloud, session: Session) -> GKE:
    return GKE(session, cloud.environment())


def make(gke: GKE, cluster: Cluster = CLUSTER) -> list[str]:
    """Makes a cluster, and returns what was said meanwhile, each word once."""
    wishes = creation.Wishes(cluster, "REGULAR", (), WISHES.limits)
    operation = gke.create(cluster, creation.standard(wishes))
    return list(dict.fromkeys(gke.progress(cluster, operation)))


def test_a_cluster_is_named_after_its_places() -> None:
    assert str(CLUSTER) == "p1/us-central1-a/blueshift"
    assert CLUSTER.console == (
        "https://console.cloud.google.com/kubernetes/clusters/details/us-central1-a/blueshift"
        "?project=p1"
    )


def test_a_cluster_is_made_and_what_is_under_way_is_told(
    cloud: GoogleCloud, gke: GKE, time: FakeTime
) -> None:
    cloud.gke.takes = 26
    began = time.now
    said = make(gke)
    assert said[:3] == ["", "configuring 1/4", "configuring 2/4"]
    assert said[-1] == "healthchecking 2/3"
    assert time.now - began == 26
    ((found,), missing) = gke.clusters("p1")
    assert (found.cluster, found.status, found.nodes) == (CLUSTER, "RUNNING", 1)
    assert found.version.startswith("1.33.")
    assert not found.is_autopilot and not found.problem and not missing


@pytest.mark.parametrize(
    "fault",
    [
        faults.ANSWER_LOST,
        faults.REQUEST_LOST,
        faults.UNAVAILABLE,
        faults.ACCEPTED_BUT_UNAVAILABLE,
        faults.TOO_MANY,
        faults.EXPIRED,
    ],
)
@pytest.mark.parametrize("takes", [0, 300])
def test_a_cluster_is_made_once_whatever_happens(
    cloud: GoogleCloud, gke: GKE, fault: Fault, takes: float
) -> None:
    cloud.gke.takes = takes
    cloud.faults.add("clusters.create", faults.first(1, fault))
    make(gke)
    assert [each["status"] for each in cloud.gke.clusters.values()] == ["RUNNING"]
    accepted = [each for each in cloud.server.calls("clusters.create") if each.status != 409]
    assert len(accepted) == len(cloud.server.calls("clusters.create"))


def test_a_request_that_arrives_late_makes_no_second_cluster(cloud: GoogleCloud, gke: GKE) -> None:
    cloud.faults.add("clusters.create", faults.first(1, faults.ANSWER_LOST))
    # As if the request had been under way for so long.
    cloud.faults.add("clusters.get", faults.first(3, Fault(status=404)))
    make(gke)
    assert len(cloud.gke.clusters) == 1
    assert [each.status for each in cloud.server.calls("clusters.create")] == [0, 409]


def test_a_cluster_of_that_name_is_said_to_be_there(cloud: GoogleCloud, gke: GKE) -> None:
    make(gke)
    with pytest.raises(RefusedError, match="Already exists") as error:
        make(gke)
    assert error.value.status == 409


def test_a_failure_is_told_in_googles_words(cloud: GoogleCloud, gke: GKE) -> None:
    cloud.gke.failure = "Insufficient regional quota to satisfy request: resource CPUS"
    with pytest.raises(CalibanError, match="Insufficient regional quota to satisfy request"):
        make(gke)


def test_waiting_outlasts_some_errors(cloud: GoogleCloud, gke: GKE) -> None:
    cloud.gke.takes = 60
    cloud.faults.add("operations.get", faults.every(3, faults.UNAVAILABLE))
    cloud.faults.add("operations.get", faults.every(7, faults.TOO_MANY))
    make(gke)
    assert gke.cluster(CLUSTER)["status"] == "RUNNING"


def test_a_cluster_is_deleted(cloud: GoogleCloud, gke: GKE) -> None:
    make(gke)
    cloud.gke.takes = 60
    operation = gke.delete(CLUSTER)
    assert operation
    assert gke.cluster(CLUSTER)["status"] == "STOPPING"
    list(gke.progress(CLUSTER, operation))
    assert cloud.gke.clusters == {}
    assert gke.delete(CLUSTER) is None


@pytest.mark.parametrize("takes", [0, 60])
@pytest.mark.parametrize("fault", [faults.ANSWER_LOST, faults.ACCEPTED_BUT_UNAVAILABLE])
def test_a_deletion_that_was_accepted_is_not_asked_for_again(
    cloud: GoogleCloud, gke: GKE, fault: Fault, takes: float
) -> None:
    make(gke)
    cloud.gke.takes = takes
    cloud.faults.add("clusters.delete", faults.first(1, fault))
    operation = gke.delete(CLUSTER)
    if operation:
        list(gke.progress(CLUSTER, operation))
    assert cloud.gke.clusters == {}


def test_a_cluster_that_is_busy_stays(cloud: GoogleCloud, gke: GKE) -> None:
    make(gke)
    operation = gke.delete(CLUSTER)
    assert operation
    list(gke.progress(CLUSTER, operation))
    # There was one of that name, whose deletion is over.
    cloud.gke.takes = 60
    gke.create(CLUSTER, creation.standard(WISHES))
    with pytest.raises(RefusedError, match="incompatible operation"):
        gke.delete(CLUSTER)


def test_clusters_are_listed_by_location(cloud: GoogleCloud, gke: GKE) -> None:
    east = Cluster("p1", "us-east1", "alpha")
    for each in (CLUSTER, east):
        make(gke, each)
    make(gke, Cluster("p2", "us-east1", "beta"))
    assert [each.cluster for each in gke.clusters("p1")[0]] == [east, CLUSTER]
    assert [each.cluster for each in gke.clusters("p1", "us-east1")[0]] == [east]
    cloud.gke.missing = ("us-west1-a",)
    assert gke.clusters("p1")[1] == ("us-west1-a",)


def test_what_is_wrong_with_a_cluster_is_in_googles_words(cloud: GoogleCloud, gke: GKE) -> None:
    make(gke)
    cloud.gke.clusters[CLUSTER.path]["conditions"] = [
        {"canonicalCode": "RESOURCE_EXHAUSTED", "message": "Out of IP addresses."}
    ]
    assert gke.clusters("p1")[0][0].problem == "Out of IP addresses."


def test_node_pools_say_what_they_are_made_of(cloud: GoogleCloud, gke: GKE) -> None:
    make(gke)
    cloud.gke.clusters[CLUSTER.path]["nodePools"] += [
        {
            "name": "nap-g2-standard-8-gpu1",
            "config": {
                "machineType": "g2-standard-8",
                "accelerators": [{"acceleratorType": "nvidia-l4", "acceleratorCount": "1"}],
                "spot": True,
            },
            "autoscaling": {"enabled": True, "maxNodeCount": 1000, "autoprovisioned": True},
            "locations": ["us-central1-a", "us-central1-b"],
            "version": "1.33.5-gke.1201000",
            "status": "RUNNING",
        },
        {
            "name": "mine",
            "config": {"machineType": "n2-standard-8"},
            "autoscaling": {"enabled": True, "totalMinNodeCount": 1, "totalMaxNodeCount": 4},
            "status": "RUNNING",
        },
    ]
    default, mine, made = gke.node_pools(CLUSTER)
    assert (default.name, default.machine, default.most) == ("default-pool", "e2-standard-4", None)
    assert (made.accelerators, made.is_spot, made.is_automatic) == (("1 x nvidia-l4",), True, True)
    assert (made.least, made.most, made.is_each_zone) == (0, 1000, True)
    assert made.zones == ("us-central1-a", "us-central1-b")
    assert (mine.least, mine.most, mine.is_each_zone) == (1, 4, False)


def test_a_region_has_zones_and_quotas(cloud: GoogleCloud, session: Session) -> None:
    cloud.compute.quotas["us-central1"] = {"CPUS": 72, "NVIDIA_L4_GPUS": 8}
    cloud.compute.zones["us-central1"] = "fab"
    found = regions.ask(session, "p1", "us-central1", cloud.environment())
    assert found.zones == ("us-central1-a", "us-central1-b", "us-central1-f")
    assert found.quotas == {"CPUS": 72, "NVIDIA_L4_GPUS": 8}
    with pytest.raises(UsageError, match="there is no region 'us-central9'"):
        regions.ask(session, "p1", "us-central9", cloud.environment())


def test_a_service_that_is_not_enabled_is_told_with_the_command_that_enables_it(
    cloud: GoogleCloud, gke: GKE, session: Session
) -> None:
    for service, method in (("container", "clusters.list"), ("compute", "regions.get")):
        cloud.faults.add(method, faults.disabled(f"{service}.googleapis.com", "p1"))
        with pytest.raises(RefusedError) as error:
            if service == "container":
                gke.clusters("p1")
            else:
                regions.ask(session, "p1", "us-central1", cloud.environment())
        enable = f"gcloud services enable {service}.googleapis.com --project p1"
        assert enable in error.value.hint


def test_who_may_not_is_told_the_role_that_may(cloud: GoogleCloud, gke: GKE) -> None:
    cloud.faults.add("clusters.create", Fault(status=403))
    with pytest.raises(RefusedError) as error:
        make(gke)
    assert "gcloud projects add-iam-policy-binding p1" in error.value.hint
    assert "--role roles/container.admin" in error.value.hint


def test_a_google_that_never_answers_is_given_up(cloud: GoogleCloud, gke: GKE) -> None:
    cloud.faults.add("clusters.create", faults.REQUEST_LOST)
    with pytest.raises(UnknownOutcomeError, match="no answer"):
        make(gke)
    assert cloud.gke.clusters == {}
