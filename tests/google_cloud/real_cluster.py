"""A Kubernetes cluster that the cloud gives out as one of GKE's."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from caliban.model.labels import UID
from caliban.platform.gke import clusters
from tests import kubernetes_cluster
from tests.google_cloud.cloud import GoogleCloud

_ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


@contextlib.contextmanager
def lent(
    cloud: GoogleCloud,
    cluster: kubernetes_cluster.Cluster,
    name: clusters.Cluster,
    role: str = "view",
) -> Iterator[None]:
    """Lets the cloud tell the way to a cluster, and give out tokens that the cluster accepts.

    They are those of a service account that may look at nearly everything, and change nothing.

    Args:
      cloud: that has the cluster for a while.
      cluster: which.
      name: that it has there.
      role: what the service account may do everywhere; with "edit", also change things.
    """
    configuration: Any = cluster.connection._configuration
    certificate = configuration.ca_cert_data or Path(configuration.ssl_ca_cert).read_text()
    found = cloud.gke.clusters.setdefault(
        name.path, {"name": name.name, "location": name.location, "status": "RUNNING"}
    )
    found["endpoint"] = urlsplit(configuration.host).netloc
    found["masterAuth"] = {"clusterCaCertificate": base64.b64encode(certificate.encode()).decode()}
    account = {"kind": "ServiceAccount", "name": "default", "namespace": cluster.namespace}
    binding = {
        "metadata": {"name": cluster.namespace},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": role,
        },
        "subjects": [account],
    }
    cluster.connection.create(_ROLES, binding)
    try:
        _wait_for_rights(cluster)
        cloud.tokens.given = _token(cluster)
        yield
    finally:
        cloud.tokens.given = ""
        cluster.connection.delete(f"{_ROLES}/{cluster.namespace}", {})


def _wait_for_rights(cluster: kubernetes_cluster.Cluster) -> None:
    """Waits until the server that has made the binding has heard of it."""
    review = {
        "user": f"system:serviceaccount:{cluster.namespace}:default",
        "resourceAttributes": {"verb": "list", "resource": "pods"},
    }
    deadline = time.monotonic() + 30
    while not cluster.connection.create(_REVIEWS, {"spec": review})["status"]["allowed"]:
        assert time.monotonic() < deadline, "the service account gets no rights"
        time.sleep(0.05)


def _token(cluster: kubernetes_cluster.Cluster) -> str:
    """A token of the namespace's service account."""
    path = f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts/default/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token: str = cluster.connection.create(path, body)["status"]["token"]
    return token


@contextlib.contextmanager
def idle_jobs(cluster: kubernetes_cluster.Cluster, *names: str) -> Iterator[None]:
    """Jobs that wait for a node that never comes, for as long as the block takes.

    Those whose name ends with a uid have the label by which it is found.
    """
    path = f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs"
    pod = {
        "restartPolicy": "Never",
        "nodeSelector": {"caliban.test/none": "none"},
        "containers": [{"name": "main", "image": cluster.image}],
    }
    for name in names:
        metadata = {"name": name, "labels": {UID: name.rpartition("-")[2]}}
        cluster.connection.create(path, {"metadata": metadata, "spec": {"template": {"spec": pod}}})
    try:
        yield
    finally:
        for name in names:
            cluster.connection.delete(f"{path}/{name}", {"propagationPolicy": "Background"})
