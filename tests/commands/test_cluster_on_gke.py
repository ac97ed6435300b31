"""`caliban cluster job submit` on GKE: Google stands in for itself, the cluster is a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from caliban.platform.gke.clusters import Cluster
from tests import kubernetes_cluster
from tests.conftest import Inline
from tests.docker_registry import DockerRegistry
from tests.google_cloud import real_cluster
from tests.google_cloud.client import private_key, write_key
from tests.google_cloud.cloud import GoogleCloud

TANK = Cluster("fish", "us-central1-a", "tank")

# What the nodes of the real cluster have, which are not Google's.
SUBMIT = (
    *("cluster", "job", "submit", "--nogpu", "--min_cpu", "100", "--min_mem", "64"),
    *("--nonpreemptible", "--xgroup", "g"),
)


@pytest.fixture
def cloud(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleCloud]:
    """A cloud that the environment leads to, with a user of its project."""
    with GoogleCloud() as started:
        for name, value in started.environment().items():
            monkeypatch.setenv(name, value)
        key = write_key(started, tmp_path / "key.json", "robot@fish", private_key())
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", key)
        monkeypatch.setenv("PROJECT_ID", "fish")
        yield started


def test_the_only_cluster_of_the_project_gets_the_jobs(
    cloud: GoogleCloud,
    cluster: kubernetes_cluster.Cluster,
    docker_registry: DockerRegistry,
    sweep: Path,
    inline: Inline,
) -> None:
    where = ("--namespace", cluster.namespace, "--image_registry", f"{docker_registry.host}/team")
    with real_cluster.lent(cloud, cluster, TANK, role="edit"):
        ended = inline(*SUBMIT, *where, "trainer.job", "--", "--say", "hello")
        assert ended.returncode == 0, ended.stderr
        assert f"Cluster: gke:fish/us-central1-a/tank/{cluster.namespace}\n" in ended.stderr
        page = "https://console.cloud.google.com/kubernetes/job/us-central1-a/tank/"
        assert page in ended.stdout
        assert inline("logs", "1", "--follow").stdout == "hello\n"
        shown = inline("status", "--xgroup", "g")
        assert "SUCCEEDED" in shown.stdout
        listed = inline("cluster", "job", "ls", "--namespace", cluster.namespace, "--xgroup", "g")
        assert "SUCCEEDED" in listed.stdout


def test_who_may_only_look_is_told_before_the_build(
    cloud: GoogleCloud, cluster: kubernetes_cluster.Cluster, sweep: Path, inline: Inline
) -> None:
    with real_cluster.lent(cloud, cluster, TANK):
        ended = inline(*SUBMIT, "--namespace", cluster.namespace, "trainer.job")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "cannot create resource" in ended.stderr and "Build" not in ended.stderr


def test_a_bucket_needs_a_driver_which_is_told_to_who_may_see_that(
    cloud: GoogleCloud, cluster: kubernetes_cluster.Cluster, sweep: Path, inline: Inline
) -> None:
    given = ("--namespace", cluster.namespace, "--output", "gs://my-bucket/runs", "trainer.job")
    with real_cluster.lent(cloud, cluster, TANK, role="cluster-admin"):
        ended = inline(*SUBMIT, *given)
    assert ended.returncode == 2 and "Build" not in ended.stderr
    assert "the cluster gke:fish/us-central1-a/tank has no driver of buckets" in ended.stderr
    assert "gcloud container clusters update tank --project fish" in ended.stderr
    with real_cluster.lent(cloud, cluster, TANK, role="edit"):
        ended = inline(*SUBMIT, "--image_tag", cluster.image, *given)
    assert ended.returncode == 0, ended.stderr
    assert "You may not see whether the driver of buckets" in ended.stderr


def test_a_project_without_clusters_is_told_how_one_is_made(
    cloud: GoogleCloud, sweep: Path, inline: Inline
) -> None:
    ended = inline(*SUBMIT, "trainer.job")
    assert ended.returncode == 2
    assert "there are no clusters of the project fish" in ended.stderr
    assert "caliban cluster create" in ended.stderr
