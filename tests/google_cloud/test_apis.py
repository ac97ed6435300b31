"""The APIs: their state, and the rules that no schema has."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import time
from typing import Any

import pytest

from tests.google_cloud import faults
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.conftest import Ask, Clock
from tests.google_cloud.test_schema import capture
from tests.google_cloud.test_server import JOB, JOBS
from tests.google_cloud.vertex import Pace, Running, failure


def changed(**changes: object) -> dict[str, Any]:
    """gcloud's job with changes, by path: jobSpec__network for one; None takes a field away."""
    body = copy.deepcopy(capture("vertex-custom-job-l4-spot"))
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner: Any = body
        for parent in parents:
            inner = inner[int(parent[1:])] if parent[1:].isdigit() else inner[parent]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    return body


class TestVertex:
    def test_takes_what_gcloud_sends(self, cloud: GoogleCloud, ask: Ask) -> None:
        status, job = ask("POST", JOBS, capture("vertex-custom-job-l4-spot"), alt="json")
        assert (status, job["state"]) == (200, "JOB_STATE_PENDING")
        assert job["name"].startswith("projects/p1/locations/us-central1/customJobs/")
        assert ask("GET", f"aiplatform/v1/{job['name']}")[1]["displayName"] == "cal_job_1"

    @pytest.mark.parametrize(
        "changes",
        [
            {"displayName": None},
            {"displayName": "x" * 129},
            {"labels": {"Epochs": "2"}},
            {"labels": {"lr": "0.1"}},
            {"labels": {"x" * 64: ""}},
            {"labels": {f"k{n}": "" for n in range(65)}},
            {"jobSpec__workerPoolSpecs": []},
            {"jobSpec__workerPoolSpecs___0__replicaCount": "2"},
            {"jobSpec__workerPoolSpecs___0__machineSpec__machineType": None},
            {"jobSpec__workerPoolSpecs___0__machineSpec__acceleratorCount": None},
            {"jobSpec__workerPoolSpecs___0__containerSpec__imageUri": None},
            {"jobSpec__workerPoolSpecs___0__containerSpec__env": [{"name": "A"}] * 101},
            {"jobSpec__workerPoolSpecs___0__containerSpec__env": [{"name": "1A", "value": ""}]},
            {"jobSpec__workerPoolSpecs___0__diskSpec__bootDiskSizeGb": 10},
            {"jobSpec__baseOutputDirectory__outputUriPrefix": "/tmp/out"},
            {"jobSpec__serviceAccount": "me"},
            {"jobSpec__network": "default"},
        ],
    )
    def test_refuses_what_google_refuses(
        self, cloud: GoogleCloud, ask: Ask, changes: dict[str, object]
    ) -> None:
        status, answer = ask("POST", JOBS, changed(**changes))
        assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
        assert cloud.vertex.jobs == []

    def test_jobs_go_on_by_the_clock(self, cloud: GoogleCloud, ask: Ask, clock: Clock) -> None:
        cloud.vertex.pace = Pace(waits=60, runs=600)
        job = f"aiplatform/v1/{ask('POST', JOBS, JOB)[1]['name']}"
        states = []
        for seconds in (0, 59, 1, 599, 1):
            clock.now += seconds
            states.append(ask("GET", job)[1]["state"].removeprefix("JOB_STATE_"))
        assert states == ["PENDING", "PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
        found = ask("GET", job)[1]
        assert found["startTime"] < found["endTime"]

    def test_jobs_are_listed_in_pages_the_newest_first(self, cloud: GoogleCloud, ask: Ask) -> None:
        for number in range(5):
            ask("POST", JOBS, {**JOB, "displayName": f"j{number}"})
        ask("POST", JOBS.replace("us-central1", "us-east1"), {**JOB, "displayName": "other"})
        names, token = [], ""
        while True:
            _, answer = ask("GET", JOBS, pageSize=2, pageToken=token)
            names.append([each["displayName"] for each in answer["customJobs"]])
            if not (token := answer.get("nextPageToken", "")):
                break
        assert names == [["j4", "j3"], ["j2", "j1"], ["j0"]]
        assert ask("GET", JOBS, pageToken="p-1")[0] == 400

    def test_no_page_is_longer_than_googles(self, cloud: GoogleCloud, ask: Ask) -> None:
        for _ in range(101):
            ask("POST", JOBS, JOB)
        assert len(ask("GET", JOBS, pageSize=1000)[1]["customJobs"]) == 100

    def test_jobs_are_filtered_and_masked(self, cloud: GoogleCloud, ask: Ask) -> None:
        for uid in ("a1", "b2"):
            ask("POST", JOBS, {**JOB, "labels": {"caliban_uid": uid}})
        cloud.vertex.end(cloud.vertex.jobs[0]["name"], "FAILED", failure(7))
        query = {"filter": "labels.caliban_uid=b2", "readMask": "name,state"}
        (found,) = ask("GET", JOBS, **query)[1]["customJobs"]
        assert found == {
            "name": cloud.vertex.jobs[1]["name"],
            "state": "JOB_STATE_RUNNING",
        }
        (failed,) = ask("GET", JOBS, filter='state="JOB_STATE_FAILED"')[1]["customJobs"]
        assert "non-zero status of 7" in failed["error"]["message"]
        assert ask("GET", JOBS, filter="uid=b2")[0] == 400

    def test_jobs_are_cancelled_until_they_end(self, cloud: GoogleCloud, ask: Ask) -> None:
        job = f"aiplatform/v1/{ask('POST', JOBS, JOB)[1]['name']}"
        assert ask("DELETE", job)[0] == 400
        assert ask("POST", f"{job}:cancel", {}) == (200, {})
        assert ask("GET", job)[1]["state"] == "JOB_STATE_CANCELLED"
        status, answer = ask("POST", f"{job}:cancel", {})
        assert (status, answer["error"]["status"]) == (400, "FAILED_PRECONDITION")
        assert ask("DELETE", job)[1]["done"]
        assert ask("GET", job)[0] == 404

    def test_a_quota_is_kept(self, cloud: GoogleCloud, ask: Ask, clock: Clock) -> None:
        cloud.vertex.quota = faults.Quota(2, clock)
        assert [ask("POST", JOBS, JOB)[0] for _ in range(3)] == [200, 200, 429]
        assert ask("POST", JOBS.replace("us-central1", "us-east1"), JOB)[0] == 200
        clock.now += 30
        assert ask("POST", JOBS, JOB)[0] == 200

    def test_a_program_runs_jobs_and_what_it_prints_is_logged(
        self, cloud: GoogleCloud, ask: Ask
    ) -> None:
        def run(job: Running) -> int:
            job.write(f"running {job.container['imageUri']}", False)
            job.write("oh no", True)
            return 3

        cloud.vertex.run = run
        name = ask("POST", JOBS, JOB)[1]["name"]
        self._wait(ask, name, "JOB_STATE_FAILED")
        number = name.rpartition("/")[2]
        body = {
            "resourceNames": ["projects/p1"],
            "filter": f'resource.type="ml_job" resource.labels.job_id="{number}"',
        }
        entries = ask("POST", "logging/v2/entries:list", body)[1]["entries"]
        assert [(each["severity"], each["jsonPayload"]["message"]) for each in entries] == [
            ("INFO", "running us-docker.pkg.dev/p1/r/i"),
            ("ERROR", "oh no"),
        ]

    def test_a_program_is_told_that_its_job_is_cancelled(
        self, cloud: GoogleCloud, ask: Ask
    ) -> None:
        cloud.vertex.run = lambda job: 0 if job.cancelled.wait(10) else 1
        name = ask("POST", JOBS, JOB)[1]["name"]
        ask("POST", f"aiplatform/v1/{name}:cancel", {})
        self._wait(ask, name, "JOB_STATE_CANCELLED")

    def _wait(self, ask: Ask, name: str, state: str) -> None:
        for _ in range(200):
            if ask("GET", f"aiplatform/v1/{name}")[1]["state"] == state:
                return
            time.sleep(0.02)
        raise AssertionError(f"{name} never became {state}")


class TestLogs:
    NAME = "projects/p1/locations/us-central1/customJobs/17"

    def lines(self, ask: Ask, **body: object) -> list[str]:
        wanted = {"resourceNames": ["projects/p1"], **body}
        answer = ask("POST", "logging/v2/entries:list", wanted)[1]
        return [each["jsonPayload"]["message"] for each in answer.get("entries", [])]

    def test_are_in_the_order_that_is_asked_for(
        self, cloud: GoogleCloud, ask: Ask, clock: Clock
    ) -> None:
        for line in ("one", "two", "three"):
            cloud.logs.write(self.NAME, line)
            clock.now += 1
        assert self.lines(ask) == ["one", "two", "three"]
        assert self.lines(ask, orderBy="timestamp desc", pageSize=2) == ["three", "two"]
        assert self.lines(ask, filter='resource.labels.job_id="18"') == []

    def test_come_late(self, cloud: GoogleCloud, ask: Ask, clock: Clock) -> None:
        cloud.logs.delay = 5
        cloud.logs.write(self.NAME, "late")
        assert self.lines(ask) == []
        clock.now += 5
        assert self.lines(ask) == ["late"]

    def test_of_nobody_are_refused(self, ask: Ask) -> None:
        assert ask("POST", "logging/v2/entries:list", {"filter": ""})[0] == 400
        body = {"resourceNames": ["projects/p1"], "pageSize": "5"}
        assert ask("POST", "logging/v2/entries:list", body)[0] == 400


class TestArtifacts:
    PARENT = "artifactregistry/v1/projects/p1/locations/us-central1"

    def test_repositories_are_made_once(self, cloud: GoogleCloud, ask: Ask) -> None:
        cloud.artifacts.slow = 1
        path = f"{self.PARENT}/repositories"
        _, operation = ask("POST", path, {"format": "DOCKER"}, repositoryId="caliban")
        assert "done" not in operation
        assert ask("GET", f"artifactregistry/v1/{operation['name']}")[1]["done"]
        assert ask("GET", f"{path}/caliban")[1]["format"] == "DOCKER"
        assert ask("POST", path, {"format": "DOCKER"}, repositoryId="caliban")[0] == 409
        assert len(ask("GET", path)[1]["repositories"]) == 1

    def test_repositories_without_a_format_or_a_name_are_refused(self, ask: Ask) -> None:
        path = f"{self.PARENT}/repositories"
        assert ask("POST", path, {}, repositoryId="caliban")[0] == 400
        assert ask("POST", path, {"format": "DOCKER"}, repositoryId="Caliban_")[0] == 400
        assert ask("GET", f"{path}/none")[0] == 404


class TestGKE:
    PARENT = "container/v1/projects/p1/locations/us-central1"

    @pytest.mark.parametrize("name", ["regional", "zonal", "single-zone", "autopilot"])
    def test_takes_whatever_gcloud_sends(self, ask: Ask, name: str) -> None:
        body = capture(f"gke-cluster-{name}")
        status, answer = ask("POST", f"container/v1/{body['parent']}/clusters", body)
        assert status == 200, answer

    def test_makes_a_cluster_by_the_clock(self, cloud: GoogleCloud, ask: Ask, clock: Clock) -> None:
        cloud.gke.takes = 300
        body = capture("gke-cluster-standard-autoprovisioning")
        operation = ask("POST", f"{self.PARENT}/clusters", body)[1]
        cluster, waits = f"{self.PARENT}/clusters/cal-nap", operation["name"]
        assert ask("GET", cluster)[1]["status"] == "PROVISIONING"
        clock.now += 300
        assert ask("GET", f"{self.PARENT}/operations/{waits}")[1]["status"] == "DONE"
        assert ask("GET", cluster)[1]["status"] == "RUNNING"
        assert ask("POST", f"{self.PARENT}/clusters", body)[0] == 409
        everywhere = "container/v1/projects/p1/locations/-/clusters"
        assert len(ask("GET", everywhere)[1]["clusters"]) == 1
        assert ask("GET", f"{cluster}/nodePools")[1]["nodePools"][0]["name"] == "default-pool"

    def test_clusters_go_when_they_are_deleted(self, cloud: GoogleCloud, ask: Ask) -> None:
        ask("POST", f"{self.PARENT}/clusters", capture("gke-cluster-autopilot"))
        cluster = f"{self.PARENT}/clusters/newcluster"
        assert ask("DELETE", cluster)[0] == 200
        assert ask("GET", cluster)[0] == 404

    def test_operations_fail_when_a_test_wants_it(self, cloud: GoogleCloud, ask: Ask) -> None:
        cloud.gke.failure = "Insufficient quota to satisfy the request."
        body = capture("gke-cluster-autopilot")
        name = ask("POST", f"{self.PARENT}/clusters", body)[1]["name"]
        operation = ask("GET", f"{self.PARENT}/operations/{name}")[1]
        assert operation["status"] == "DONE"
        assert operation["error"]["message"] == cloud.gke.failure
        assert ask("GET", f"{self.PARENT}/clusters/newcluster")[1]["status"] == "ERROR"

    @pytest.mark.parametrize(
        "cluster",
        [
            {"name": "Cal"},
            {"name": "c"},
            {"name": "c", "autopilot": {"enabled": True}, "nodePools": []},
            {"name": "c", "autopilot": {"enabled": True}, "nodePools": [{}], "autoscaling": {}},
            {
                "name": "c",
                "nodePools": [{"name": "p"}],
                "workloadIdentityConfig": {"workloadPool": "p2.svc.id.goog"},
            },
            {
                "name": "c",
                "nodePools": [{"name": "p"}],
                "autoscaling": {"autoprovisioningLocations": ["us-east1-b"]},
            },
            {"name": "c", "nodePools": [{"name": "p"}], "resourceLabels": {"A": ""}},
            {
                "name": "c",
                "nodePools": [{"name": "p"}],
                "autoscaling": {"enableNodeAutoprovisioning": True},
            },
        ],
    )
    def test_refuses_what_google_refuses(self, ask: Ask, cluster: dict[str, object]) -> None:
        assert ask("POST", f"{self.PARENT}/clusters", {"cluster": cluster})[0] == 400


def test_compute_lists_what_there_is_by_zone(cloud: GoogleCloud, ask: Ask) -> None:
    cloud.compute.machines = {
        "us-central1-a": {"n1-standard-8": None, "g2-standard-8": ("nvidia-l4", 1)},
        "us-west1-b": {"n1-standard-8": None},
    }
    found, token = [], ""
    while True:
        path = "compute/projects/p1/aggregated/machineTypes"
        _, answer = ask("GET", path, maxResults=2, pageToken=token)
        for of in answer["items"].values():
            found += [(each["name"], each["zone"]) for each in of.get("machineTypes", [])]
        if not (token := answer.get("nextPageToken", "")):
            break
    assert found == [
        ("n1-standard-8", "us-central1-a"),
        ("g2-standard-8", "us-central1-a"),
        ("n1-standard-8", "us-west1-b"),
    ]


def gcloud(cloud: GoogleCloud, *args: str) -> str:
    """Runs gcloud, the one client of these tests that nobody here has written."""
    if not shutil.which("gcloud"):
        pytest.skip("gcloud is not installed")
    settings = {
        "CLOUDSDK_AUTH_ACCESS_TOKEN": cloud.tokens.new(),
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
    }
    ended = subprocess.run(
        ["gcloud", *args, "--project=p1"],
        env={**os.environ, **cloud.environment(), **settings},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_gcloud_itself_submits_a_job(cloud: GoogleCloud) -> None:
    pool = "machine-type=g2-standard-8,accelerator-type=NVIDIA_L4,replica-count=1"
    said = gcloud(
        cloud,
        *("ai", "custom-jobs", "create", "--display-name=x", "--labels=job_name=x"),
        *("--region=us-central1", "--format=json"),
        f"--worker-pool-spec={pool},container-image-uri=us-docker.pkg.dev/p1/r/i",
    )
    (job,) = cloud.vertex.jobs
    assert json.loads(said)["name"] == job["name"]


def test_gcloud_itself_lists_clusters_as_the_control_plane_has_them(
    cloud: GoogleCloud, ask: Ask
) -> None:
    body = capture("gke-cluster-zonal")
    ask("POST", f"container/v1/{body['parent']}/clusters", body)
    (found,) = json.loads(gcloud(cloud, "container", "clusters", "list", "--format=json"))
    assert (found["name"], found["location"]) == ("newcluster", "us-central1-a")
