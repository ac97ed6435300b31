"""The schemas of Google's APIs, and what does not fit them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.google_cloud.discovery import methods
from tests.google_cloud.schema import Schemas, parameter

CAPTURES = Path(__file__).parent / "captures"


def schemas(api: str, version: str) -> Schemas:
    return methods(api, version)[0].schemas


def capture(name: str) -> dict[str, Any]:
    """The body of a request that gcloud has sent."""
    found: dict[str, Any] = json.loads((CAPTURES / f"{name}.json").read_text())["body"]
    return found


def job_violations(**changes: object) -> dict[str, str]:
    """What is wrong with gcloud's job after changes to the first pool, by field."""
    body = copy.deepcopy(capture("vertex-custom-job-l4-spot"))
    body["jobSpec"]["workerPoolSpecs"][0].update(changes)
    found = schemas("aiplatform", "v1").request("GoogleCloudAiplatformV1CustomJob", body)
    prefix = "jobSpec.workerPoolSpecs[0]."
    return {each.field.removeprefix(prefix): each.description for each in found}


def test_what_gcloud_sends_fits() -> None:
    assert job_violations() == {}
    for file in CAPTURES.glob("gke-*.json"):
        body = capture(file.stem)
        assert schemas("container", "v1").request("CreateClusterRequest", body) == []


def test_what_caliban_0_4_sent_to_make_a_cluster_does_not() -> None:
    body = {
        "cluster": {
            "name": "blueshift",
            "zone": "us-central1-a",
            "enable_tpu": "true",
            "ipAllocationPolicy": {"useIpAliases": "true"},
            "autoscaling": {
                "enableNodeAutoprovisioning": "true",
                "autoprovisioningNodePoolDefaults": {
                    "oauthScopes": ["https://www.googleapis.com/auth/cloud-platform"]
                },
                "resourceLimits": [{"resourceType": "cpu", "maximum": "72"}],
            },
            "nodePools": [
                {
                    "name": "default-pool",
                    "initialNodeCount": "3",
                    "config": {
                        "oauthScopes": ["https://www.googleapis.com/auth/devstorage.read_only"]
                    },
                }
            ],
        },
        "parent": "projects/p/locations/us-central1-a",
    }
    found = schemas("container", "v1").request("CreateClusterRequest", body)
    assert {each.field for each in found} == {
        "cluster.zone",
        "cluster.enable_tpu",
        "cluster.ipAllocationPolicy.useIpAliases",
        "cluster.autoscaling.enableNodeAutoprovisioning",
        "cluster.nodePools[0].initialNodeCount",
    }


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"replicas": "1"}, "replicas", 'Unknown name "replicas": Cannot find field.'),
        ({"replicaCount": 1}, "replicaCount", "expected int64, found 1"),
        ({"replicaCount": "one"}, "replicaCount", "expected int64, found 'one'"),
        ({"replicaCount": str(2**63)}, "replicaCount", f"expected int64, found '{2**63}'"),
        ({"replicaCount": None}, "replicaCount", "expected int64, found None"),
        ({"diskSpec": {"bootDiskSizeGb": "200"}}, "diskSpec.bootDiskSizeGb", "found '200'"),
        ({"diskSpec": {"bootDiskSizeGb": True}}, "diskSpec.bootDiskSizeGb", "found True"),
        ({"diskSpec": {"bootDiskSizeGb": 2**31}}, "diskSpec.bootDiskSizeGb", "expected int32"),
        ({"diskSpec": "pd-ssd"}, "diskSpec", "expected an object, found 'pd-ssd'"),
        ({"containerSpec": {"args": "--lr"}}, "containerSpec.args", "expected a list"),
        ({"containerSpec": {"args": [0.1]}}, "containerSpec.args[0]", "expected string, found 0.1"),
        ({"machineSpec": {"acceleratorType": "L4"}}, "machineSpec.acceleratorType", "found 'L4'"),
        (
            {"machineSpec": {"acceleratorType": "NVIDIA_TESLA_K80"}},
            "machineSpec.acceleratorType",
            "NVIDIA_TESLA_K80 is deprecated",
        ),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, object], field: str, problem: str) -> None:
    found = job_violations(**changes)
    assert list(found) == [field]
    assert problem in found[field]


def test_fields_that_only_answers_have_are_refused_in_requests() -> None:
    found = schemas("aiplatform", "v1")
    body = {"displayName": "x", "state": "JOB_STATE_RUNNING", "name": "n"}
    name = "GoogleCloudAiplatformV1CustomJob"
    assert {each.field for each in found.request(name, body)} == {"state", "name"}
    assert found.response(name, body) == []


def test_labels_map_strings_to_strings() -> None:
    found = schemas("aiplatform", "v1")
    body = {"displayName": "x", "labels": {"a": "b", "epochs": 2}}
    (wrong,) = found.request("GoogleCloudAiplatformV1CustomJob", body)
    assert (wrong.field, wrong.description) == ("labels.epochs", "expected string, found 2")


@pytest.mark.parametrize(
    ("timeout", "fits"), [("3600s", True), ("1.5s", True), ("3600", False), ("1h", False)]
)
def test_durations_are_seconds(timeout: str, fits: bool) -> None:
    body = {"timeout": timeout}
    found = schemas("aiplatform", "v1").request("GoogleCloudAiplatformV1Scheduling", body)
    assert (found == []) == fits


def test_parameters_of_a_query_are_checked_as_text() -> None:
    assert parameter({"type": "integer", "format": "int32"}, "100") == ""
    assert parameter({"type": "integer", "format": "int32"}, "many") != ""
    assert parameter({"type": "boolean"}, "true") == ""
    assert parameter({"type": "boolean"}, "True") != ""
