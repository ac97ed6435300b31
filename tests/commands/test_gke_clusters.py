"""`caliban cluster create`, `ls`, `delete` and `node_pool ls`, against Google's own schemas."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from caliban import launch
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, JobRequest, Submission
from caliban.platform import rest
from caliban.platform.gke import clusters
from caliban.platform.gke.clusters import Cluster
from tests import kubernetes_cluster
from tests.commands.conftest import Start, wait_for
from tests.conftest import USER, Inline
from tests.google_cloud import faults, real_cluster
from tests.google_cloud.client import private_key, write_key
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault
from tests.google_cloud.test_schema import capture
from tests.platform.test_gke_creation import with_addon

CLUSTER = Cluster("p1", "us-central1-a", "newcluster")
ZONAL = ("cluster", "create", "--cluster_name", "newcluster", "--zone", "us-central1-a")


@pytest.fixture(scope="module")
def secret() -> str:
    return private_key()


@pytest.fixture
def cloud(
    home: Path, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GoogleCloud]:
    """A cloud with the quotas of gcloud's captures, which the environment leads to."""
    with GoogleCloud() as started:
        started.compute.quotas["us-central1"] = {"CPUS": 128, "NVIDIA_L4_GPUS": 8}
        started.compute.zones["us-central1"] = "abcf"
        for name, value in started.environment().items():
            monkeypatch.setenv(name, value)
        key = write_key(started, tmp_path / "key.json", "robot@p1", secret)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", key)
        monkeypatch.setenv("PROJECT_ID", "p1")
        monkeypatch.setattr(clusters, "INTERVAL", 0.01)
        yield started


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What is typed when caliban asks."""

    def type_in(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return type_in


def recorded(target: str, name: str) -> None:
    """Writes a job into the history that was accepted by a cluster."""
    request = JobRequest(uuid.uuid4().hex, Experiment((), {}), "i", "tuning", 0)
    submission = Submission("kubernetes", target, {})
    with launch.open_history() as store:
        store.record(
            USER,
            "tuning",
            "",
            {"mode": "cpu", "directory": "/p"},
            [request],
            lambda _, each: (submission, Handle("kubernetes", target, name)),
        )


def paths(cloud: GoogleCloud) -> list[str]:
    return sorted(cloud.gke.clusters)


class TestCreate:
    def test_a_cluster_is_made_and_its_page_is_told(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        cloud.gke.takes = 0.5
        ended = inline(*ZONAL)
        assert (ended.returncode, ended.stdout) == (
            0,
            "created cluster newcluster in us-central1-a\n",
        )
        page = "https://console.cloud.google.com/kubernetes/clusters/details/us-central1-a/"
        assert f"{page}newcluster?project=p1" in ended.stderr
        assert "Project: p1 (from $PROJECT_ID)" in ended.stderr
        grows = "It may grow to 128 vCPUs, 8 x nvidia-l4, as your quotas in us-central1 allow."
        assert grows in ended.stderr
        assert re.search(r"^(configuring|deploying|healthchecking) \d/\d$", ended.stderr, re.M)
        (request,) = cloud.server.calls("clusters.create")
        assert request.body == with_addon(capture("gke-cluster-zonal"))

    @pytest.mark.parametrize(
        ("flags", "name"),
        [
            (["--zone", "us-central1-a"], "zonal"),
            (["--zone", "us-central1-a", "--single_zone"], "single-zone"),
            (["--region", "us-central1"], "regional"),
            (
                ["--region", "us-central1", "--autopilot", "--release_channel", "extended"],
                "autopilot",
            ),
        ],
    )
    def test_a_dry_run_prints_what_gcloud_would_send(
        self, cloud: GoogleCloud, inline: Inline, flags: list[str], name: str
    ) -> None:
        ended = inline("cluster", "create", "--cluster_name", "newcluster", "--dry_run", *flags)
        assert ended.returncode == 0, ended.stderr
        expected = capture(f"gke-cluster-{name}")
        assert json.loads(ended.stdout) == (
            expected if name == "autopilot" else with_addon(expected)
        )
        assert cloud.server.calls("clusters.create") == []

    def test_it_is_called_blueshift_and_is_in_your_region_unless_you_say_otherwise(
        self, cloud: GoogleCloud, inline: Inline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cloud.compute.quotas["us-east4"] = {"CPUS": 8}
        monkeypatch.setenv("REGION", "us-east4")
        ended = inline("cluster", "create")
        assert ended.returncode == 0, ended.stderr
        assert "Region: us-east4 (from $REGION)" in ended.stderr
        assert "Zone: us-east4-a (the first of us-east4)" in ended.stderr
        assert "It may grow to 8 vCPUs, no accelerators, as your quotas" in ended.stderr
        assert paths(cloud) == ["projects/p1/locations/us-east4-a/clusters/blueshift"]

    def test_an_autopilot_cluster_is_for_a_region(self, cloud: GoogleCloud, inline: Inline) -> None:
        ended = inline("cluster", "create", "--autopilot")
        assert ended.returncode == 0, ended.stderr
        assert paths(cloud) == ["projects/p1/locations/us-central1/clusters/blueshift"]
        assert cloud.server.calls("regions.get") == []

    def test_limits_may_be_said(self, cloud: GoogleCloud, inline: Inline) -> None:
        limits = ("--max_accelerator", "16xH100", "--max_accelerator", "2xL4")
        ended = inline(*ZONAL, "--dry_run", *limits)
        found = json.loads(ended.stdout)["cluster"]["autoscaling"]["resourceLimits"]
        assert [(each["resourceType"], each["maximum"]) for each in found] == [
            ("cpu", "128"),
            ("memory", "8192"),
            ("nvidia-l4", "2"),
            ("nvidia-h100-80gb", "16"),
        ]

    def test_a_channel_that_is_no_more_is_not_sent(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        ended = inline(*ZONAL, "--dry_run", "--release_channel", "UNSPECIFIED")
        assert "releaseChannel" not in json.loads(ended.stdout)["cluster"]
        assert "GKE takes REGULAR" in ended.stderr

    def test_it_asks_where_there_is_a_cluster_already(
        self, cloud: GoogleCloud, inline: Inline, answer: Callable[[str], None]
    ) -> None:
        assert inline(*ZONAL).returncode == 0
        second = ("cluster", "create", "--zone", "us-central1-b")
        answer("no\n")
        ended = inline(*second)
        assert ended.returncode == 0
        assert "p1 has 1 cluster: newcluster (us-central1-a). Make another one?" in ended.stderr
        assert "nothing was made" in ended.stderr
        answer("")
        ended = inline(*second)
        assert ended.returncode == 2
        assert "Pass --yes to make it without being asked" in ended.stderr
        assert len(cloud.gke.clusters) == 1
        answer("y\n")
        assert inline(*second).returncode == 0
        assert inline(*second[:3], "us-central1-c", "--yes").returncode == 0
        assert len(cloud.gke.clusters) == 3

    def test_a_cluster_of_that_name_is_said_to_be_there(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        assert inline(*ZONAL).returncode == 0
        ended = inline(*ZONAL, "--yes")
        assert ended.returncode == 1
        assert "there is a cluster newcluster in us-central1-a already" in ended.stderr
        # Somebody may have made it in this very moment.
        cloud.gke.clusters, kept = {}, cloud.gke.clusters
        cloud.faults.add("clusters.create", Fault(status=409))
        ended = inline(*ZONAL)
        cloud.gke.clusters = kept
        assert "there is a cluster newcluster in us-central1-a already" in ended.stderr

    def test_an_answer_that_is_lost_makes_no_second_cluster(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        cloud.gke.takes = 2
        cloud.faults.add("clusters.create", faults.first(1, faults.ANSWER_LOST))
        ended = inline(*ZONAL)
        assert (ended.returncode, len(cloud.gke.clusters)) == (0, 1)
        assert len(cloud.server.calls("clusters.create")) == 1

    def test_where_nobody_knows_whether_it_is_being_made_it_says_so(
        self, cloud: GoogleCloud, inline: Inline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rest, "_LOOKS", (0.0,))
        monkeypatch.setattr(rest, "_backoff", lambda attempt: 0.0)
        cloud.faults.add("clusters.create", faults.REQUEST_LOST)
        ended = inline(*ZONAL)
        assert (ended.returncode, cloud.gke.clusters) == (1, {})
        assert "It isn't known whether the cluster is being made" in ended.stderr

    def test_a_failure_is_told_in_googles_words_and_that_it_may_cost(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        cloud.gke.failure = "Not all instances running in IGM after 35m."
        ended = inline(*ZONAL)
        assert ended.returncode == 1
        assert "the creation of the cluster newcluster has failed: Not all inst" in ended.stderr
        assert "caliban cluster delete --project_id p1 --cluster_name newcluster" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_an_interruption_leaves_the_creation_going_on(
        self, cloud: GoogleCloud, start: Start
    ) -> None:
        cloud.gke.takes = 600
        child = start(*ZONAL)
        wait_for(lambda: bool(cloud.server.calls("operations.get")))
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=20)
        assert child.returncode == 130
        assert "The creation goes on without caliban, see https://console." in stderr
        assert [each["status"] for each in cloud.gke.clusters.values()] == ["PROVISIONING"]

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--zone", "us-central1"], "'us-central1' is a region: pass --region us-central1"),
            (["--region", "us-east1-b"], "'us-east1-b' is a zone: pass --zone us-east1-b"),
            (["--zone", "x/../y"], "expected a zone like us-central1-a, found 'x/../y'"),
            (["--zone", "us-central1-z"], "there is no zone 'us-central1-z'"),
            (["--region", "us-central9"], "there is no region 'us-central9'"),
            (["--region", "us-east1", "--zone", "us-east1-b"], "not allowed with argument"),
            (["--region", "us-central1", "--single_zone"], "exclude one another"),
            (["--autopilot", "--zone", "us-east1-b"], "--zone is not for Autopilot clusters"),
            (["--autopilot", "--max_accelerator", "8xL4"], "not for Autopilot clusters"),
            (["--cluster_name", "Blue"], "a cluster's name has up to 40 lowercase letters"),
            (["--release_channel", "FAST"], "invalid choice: 'FAST'"),
            (["--max_accelerator", "many"], "'many' is no limit of accelerators"),
            (["--project_id", "P 1"], "'P 1' can't be the id of a project"),
        ],
    )
    def test_what_can_not_be_is_refused_before_anything_is_sent(
        self, cloud: GoogleCloud, inline: Inline, flags: list[str], message: str
    ) -> None:
        ended = inline("cluster", "create", *flags)
        assert ended.returncode == 2
        assert message in ended.stderr
        assert cloud.server.calls("clusters.create") == []

    def test_a_service_that_is_not_enabled_is_told_with_its_command(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        cloud.faults.add("regions.get", faults.disabled("compute.googleapis.com", "p1"))
        ended = inline(*ZONAL)
        assert ended.returncode == 1
        assert "Run: gcloud services enable compute.googleapis.com --project p1" in ended.stderr


class TestLs:
    def test_clusters_are_listed(self, cloud: GoogleCloud, inline: Inline) -> None:
        assert inline(*ZONAL).returncode == 0
        assert inline("cluster", "create", "--autopilot", "--yes").returncode == 0
        ended = inline("cluster", "ls")
        assert ended.returncode == 0
        heading, pilot, standard = map(str.split, ended.stdout.splitlines())
        assert heading == ["NAME", "LOCATION", "VERSION", "NODES", "STATUS", "KIND"]
        assert pilot[:2] == ["blueshift", "us-central1"] and pilot[-1] == "Autopilot"
        version = "1.33.5-gke.1201000"
        assert standard == [
            *("newcluster", "us-central1-a", version, "1", "RUNNING", "Standard"),
        ]

    def test_one_location_is_enough(self, cloud: GoogleCloud, inline: Inline) -> None:
        assert inline(*ZONAL).returncode == 0
        assert inline("cluster", "create", "--autopilot", "--yes").returncode == 0
        ended = inline("cluster", "ls", "--zone", "us-central1-a", "--json")
        (found,) = json.loads(ended.stdout)
        assert found == {
            "name": "newcluster",
            "project": "p1",
            "location": "us-central1-a",
            "status": "RUNNING",
            "version": "1.33.5-gke.1201000",
            "nodes": 1,
            "autopilot": False,
            "problem": "",
            "console": "https://console.cloud.google.com/kubernetes/clusters/details/"
            "us-central1-a/newcluster?project=p1",
        }

    def test_a_project_without_clusters_is_told_how_to_make_one(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        ended = inline("cluster", "ls")
        assert (ended.returncode, ended.stdout) == (0, "")
        assert "no clusters found; caliban cluster create --project_id p1" in ended.stderr
        assert json.loads(inline("cluster", "ls", "--json").stdout) == []

    def test_what_is_wrong_is_told(self, cloud: GoogleCloud, inline: Inline) -> None:
        assert inline(*ZONAL).returncode == 0
        (made,) = cloud.gke.clusters.values()
        made["conditions"] = [{"message": "Out of IP addresses."}]
        cloud.gke.missing = ("us-west1-a",)
        ended = inline("cluster", "ls")
        assert "newcluster: Out of IP addresses." in ended.stderr
        assert "clusters may be missing: no answer from us-west1-a" in ended.stderr

    @pytest.mark.parametrize("fault", [faults.UNAVAILABLE, faults.TOO_MANY, faults.EXPIRED])
    def test_passing_errors_pass(self, cloud: GoogleCloud, inline: Inline, fault: Fault) -> None:
        cloud.faults.add("clusters.list", faults.first(1, fault))
        assert inline("cluster", "ls").returncode == 0

    @pytest.mark.parametrize(
        ("fault", "hint"),
        [
            (
                faults.disabled("container.googleapis.com", "p1"),
                "Run: gcloud services enable container.googleapis.com --project p1",
            ),
            (Fault(status=403), "--role roles/container.viewer"),
        ],
    )
    def test_why_google_refuses_is_told_with_the_command_that_mends_it(
        self, cloud: GoogleCloud, inline: Inline, fault: Fault, hint: str
    ) -> None:
        cloud.faults.add("clusters.list", fault)
        ended = inline("cluster", "ls")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert hint in ended.stderr

    def test_somebody_must_name_a_project(
        self, cloud: GoogleCloud, inline: Inline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PROJECT_ID")
        ended = inline("cluster", "ls")
        # The key belongs to one.
        assert "Project: p1 (from your credentials)" in ended.stderr
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
        ended = inline("cluster", "ls")
        assert ended.returncode == 2
        assert "no project of Google Cloud is named" in ended.stderr


class TestNodePools:
    def test_they_are_listed(self, cloud: GoogleCloud, inline: Inline) -> None:
        assert inline(*ZONAL).returncode == 0
        (made,) = cloud.gke.clusters.values()
        made["nodePools"].append(
            {
                "name": "nap-g2",
                "config": {
                    "machineType": "g2-standard-8",
                    "accelerators": [{"acceleratorType": "nvidia-l4", "acceleratorCount": "1"}],
                    "spot": True,
                },
                "autoscaling": {"enabled": True, "maxNodeCount": 9, "autoprovisioned": True},
                "locations": ["us-central1-f"],
                "version": "1.33.5-gke.1201000",
                "status": "RUNNING",
            }
        )
        ended = inline("cluster", "node_pool", "ls")
        assert "Cluster: p1/us-central1-a/newcluster" in ended.stderr
        lines = ended.stdout.splitlines()
        assert lines[1].split()[:4] == ["default-pool", "e2-standard-4", "-", "fixed"]
        assert "g2-standard-8 (spot)  1 x nvidia-l4  0-9 a zone, made by need" in lines[2]
        found = json.loads(inline("cluster", "node_pool", "ls", "--json").stdout)
        assert found[1] == {
            "cluster": "newcluster",
            "name": "nap-g2",
            "machine_type": "g2-standard-8",
            "accelerators": ["1 x nvidia-l4"],
            "spot": True,
            "autoscaling": {"min": 0, "max": 9, "per_zone": True},
            "autoprovisioned": True,
            "zones": ["us-central1-f"],
            "version": "1.33.5-gke.1201000",
            "status": "RUNNING",
        }
        assert found[0]["autoscaling"] is None

    def test_the_only_cluster_is_the_default_one(self, cloud: GoogleCloud, inline: Inline) -> None:
        ended = inline("cluster", "node_pool", "ls")
        assert ended.returncode == 2
        assert "there are no clusters of the project p1" in ended.stderr
        assert "caliban cluster create --project_id p1 --zone ZONE" in ended.stderr
        assert inline(*ZONAL).returncode == 0
        assert inline("cluster", "node_pool", "ls").returncode == 0
        assert inline("cluster", "create", "--autopilot", "--yes").returncode == 0
        ended = inline("cluster", "node_pool", "ls")
        assert ended.returncode == 2
        assert "blueshift (us-central1), newcluster (us-central1-a)" in ended.stderr
        assert "Say which: --cluster_name NAME" in ended.stderr
        named = inline("cluster", "node_pool", "ls", "--cluster_name", "blueshift")
        assert named.returncode == 0
        ended = inline("cluster", "node_pool", "ls", "--cluster_name", "other")
        assert ended.returncode == 2
        assert "there is no cluster 'other' of the project p1" in ended.stderr

    def test_two_clusters_of_one_name_are_told_apart_by_their_places(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        for zone in ("a", "b"):
            assert inline(*ZONAL[:-1], f"us-central1-{zone}", "--yes").returncode == 0
        ls = ("cluster", "node_pool", "ls", "--cluster_name", "newcluster")
        ended = inline(*ls)
        assert ended.returncode == 2
        assert "Say which: --zone ZONE or --region REGION" in ended.stderr
        assert inline(*ls, "--zone", "us-central1-b").returncode == 0


class TestDelete:
    def test_it_asks_before_it_deletes(
        self, cloud: GoogleCloud, inline: Inline, answer: Callable[[str], None]
    ) -> None:
        assert inline(*ZONAL).returncode == 0
        for said, code in (("n\n", 0), ("\n", 0), ("", 2)):
            answer(said)
            ended = inline("cluster", "delete")
            assert (ended.returncode, len(cloud.gke.clusters)) == (code, 1)
            question = "Are you sure you want to delete newcluster (us-central1-a, project p1)?"
            assert question in ended.stderr
        answer("yes\n")
        cloud.gke.takes = 0.1
        ended = inline("cluster", "delete")
        assert ended.stdout == "deleted cluster newcluster in us-central1-a\n"
        assert (ended.returncode, cloud.gke.clusters) == (0, {})

    def test_the_answer_that_is_lost_is_no_failure(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        assert inline(*ZONAL).returncode == 0
        cloud.gke.takes = 2
        cloud.faults.add("clusters.delete", faults.first(1, faults.ANSWER_LOST))
        ended = inline("cluster", "delete", "--yes")
        assert (ended.returncode, cloud.gke.clusters) == (0, {}), ended.stderr

    def test_a_deletion_that_is_under_way_is_waited_for(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        assert inline(*ZONAL).returncode == 0
        cloud.gke.takes = 1
        (made,) = cloud.gke.clusters.values()
        ended = inline("cluster", "delete", "--yes")
        assert made["status"] == "STOPPING" and ended.returncode == 0

    def test_what_the_history_has_there_is_named_where_the_cluster_can_not_be_asked(
        self, cloud: GoogleCloud, inline: Inline, answer: Callable[[str], None]
    ) -> None:
        assert inline(*ZONAL).returncode == 0
        recorded(f"gke:{CLUSTER}/default", "tuning-0123456789abcdef")
        recorded("gke:p1/us-central1-b/newcluster/default", "elsewhere-0123456789abcdef")
        answer("n\n")
        ended = inline("cluster", "delete")
        assert "newcluster can't be asked what runs there: " in ended.stderr
        heading, line = ended.stdout.splitlines()
        assert heading == "1 job has not ended:"
        assert line.startswith("    job 1 ") and "name: tuning-0123456789abcdef" in line

    def test_what_runs_there_is_named_as_the_cluster_knows_it(
        self,
        cloud: GoogleCloud,
        inline: Inline,
        answer: Callable[[str], None],
        cluster: kubernetes_cluster.Cluster,
    ) -> None:
        assert inline(*ZONAL).returncode == 0
        recorded(f"gke:{CLUSTER}/{cluster.namespace}", "tuning-0123456789abcdef")
        recorded(f"gke:{CLUSTER}/{cluster.namespace}", "has-ended-0123456789abcdea")
        answer("n\n")
        lent = real_cluster.lent(cloud, cluster, CLUSTER)
        jobs = real_cluster.idle_jobs(cluster, "tuning-0123456789abcdef", "somebody-elses")
        with lent, jobs:
            ended = inline("cluster", "delete")
            shown = json.loads(inline("status", "--json").stdout)
        assert "can't be asked" not in ended.stderr
        assert "tuning-0123456789abcdef" in ended.stdout
        assert f"Job somebody-elses of the namespace {cluster.namespace}\n" in ended.stdout
        assert "has-ended" not in ended.stdout
        # What it knows of jobs is recorded as long as it can be asked.
        assert [job["status"] for job in shown] == ["SUBMITTED", "STOPPED"]
        assert shown[1]["reason"] == "its Job was deleted"

    def test_what_had_not_ended_there_is_given_up(self, cloud: GoogleCloud, inline: Inline) -> None:
        assert inline(*ZONAL).returncode == 0
        recorded(f"gke:{CLUSTER}/default", "tuning-0123456789abcdef")
        recorded("gke:p1/us-central1-b/newcluster/default", "elsewhere-0123456789abcdef")
        cloud.gke.takes = 0.1
        ended = inline("cluster", "delete", "--yes")
        assert ended.returncode == 0, ended.stderr
        assert "1 job of yours had not ended: given up" in ended.stderr
        jobs = json.loads(inline("status", "--json").stdout)
        assert [(job["status"], job["reason"]) for job in jobs] == [
            ("STOPPED", "given up, how it ended is not known: its cluster was deleted"),
            ("SUBMITTED", ""),
        ]

    def test_a_cluster_that_is_busy_stays_and_google_says_why(
        self, cloud: GoogleCloud, inline: Inline
    ) -> None:
        assert inline(*ZONAL).returncode == 0
        (made,) = cloud.gke.clusters.values()
        made["status"] = "PROVISIONING"
        ended = inline("cluster", "delete", "--yes")
        assert ended.returncode == 1
        assert "Cluster is running incompatible operation" in ended.stderr
        assert len(cloud.gke.clusters) == 1
