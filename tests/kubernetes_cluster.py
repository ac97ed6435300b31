"""A Kubernetes cluster to test against: a namespace of the session's own in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from caliban.errors import CalibanError, RefusedError
from caliban.platform.kubernetes import kubeconfig
from caliban.platform.kubernetes.connection import Connection
from caliban.platform.quota import Clock

VARIABLE = "CALIBAN_TEST_KUBECONFIG"

# What a cluster fetches that doesn't run from the images of this machine's engine.
_PYTHON = "docker.io/library/python:3.12-slim"


# Found before any test has a folder of its own for temporary files.
_NODES = Path(tempfile.gettempdir(), "caliban-tests-nodes.lock")

_HOSTNAME = {"key": "kubernetes.io/hostname", "operator": "Exists"}


class NoClusterError(Exception):
    """There is no cluster; the text says why."""


class Cluster:
    """A cluster whose administrator the tests are.

    Attributes:
      kubeconfig: its file, whose current context leads there.
      namespace: of the session's own.
      place: that namespace, as a place.
      connection: to the cluster.
      image: one with Python 3 that its nodes have, or can fetch.
    """

    def __init__(self, file: str | None, image: str | None) -> None:
        """Makes the namespace.

        Args:
          file: the kubeconfig; None without one.
          image: the base image of this machine's engine, if it has one.

        Raises:
          NoClusterError: there is no cluster.
        """
        if not file:
            raise NoClusterError(f"${VARIABLE} names no cluster's kubeconfig")
        self.kubeconfig = Path(file)
        self.namespace = f"caliban-{uuid.uuid4().hex[:8]}"
        try:
            self.place = kubeconfig.place("", file, self.namespace, {})
            self.connection = Connection(self.place, os.environ, None, Clock())
            self._path = f"/api/v1/namespaces/{self.namespace}"
            body = {"metadata": {"name": self.namespace}}
            self.connection.create("/api/v1/namespaces", body)
        except CalibanError as error:
            raise NoClusterError(error.message) from None
        # Nodes with Docker run from the images of this machine, as far as anybody can tell.
        nodes = self.connection.items("/api/v1/nodes")
        runtime = nodes[0]["status"]["nodeInfo"]["containerRuntimeVersion"]
        self.image = image if image and runtime.startswith("docker://") else _PYTHON
        self._wait_for_account()

    @property
    def target(self) -> str:
        """The namespace as the target of jobs."""
        return self.place.target

    @property
    def node(self) -> str:
        """The name of the first node."""
        name: str = self.connection.items("/api/v1/nodes")[0]["metadata"]["name"]
        return name

    def create(self, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Makes an object of the core API in the namespace: `kind` is "secrets", for one."""
        return self.connection.create(f"{self._path}/{kind}", body)

    @property
    def has_local_files(self) -> bool:
        """Whether the nodes may use folders of this machine."""
        return self.image != _PYTHON

    def patch(self, path: str, body: Mapping[str, Any]) -> None:
        """Changes an object, anywhere: `body` is a merge patch."""
        import json

        configuration = self.connection._configuration
        settings: Any = configuration.auth_settings()
        answer = self.connection._http.request(
            "PATCH",
            f"{configuration.host}{path}",
            body=json.dumps(body).encode(),
            headers={
                "Content-Type": "application/merge-patch+json",
                **{each["key"]: each["value"] for each in settings.values()},
            },
        )
        assert answer.status == 200, answer.data

    def close(self) -> None:
        """Deletes the namespace and all that is in it; the cluster does so on its own."""
        self.connection.delete(self._path, {"gracePeriodSeconds": "0"})
        self.connection.close()

    def _wait_for_account(self) -> None:
        """Waits for the service account without which no pod is made."""
        deadline = time.monotonic() + 180
        while True:
            try:
                self.connection.get(f"{self._path}/serviceaccounts/default")
                return
            except RefusedError:
                assert time.monotonic() < deadline, "the namespace gets no service account"
                time.sleep(0.1)


@contextlib.contextmanager
def lock_nodes(alone: bool = False) -> Iterator[None]:
    """Waits until no other test changes what the nodes have, and keeps it so; also a decorator.

    They are the same for the tests of all processes: while one test gives them GPUs, jobs of others
    run that are to wait for some.

    Args:
      alone: whether this test is the one that changes them.
    """
    with _NODES.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def claimed(folder: Path, namespace: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A volume that is a folder of the nodes, and the claim of a namespace that gets it.

    Args:
      folder: of the nodes.
      namespace: the claim's, and the name of the volume.
      name: of the claim.
    """
    shape: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    anywhere = {"nodeSelectorTerms": [{"matchExpressions": [_HOSTNAME]}]}
    volume = {
        **shape,
        "capacity": {"storage": "1Gi"},
        "claimRef": {"namespace": namespace, "name": name},
        "local": {"path": str(folder)},
        "nodeAffinity": {"required": anywhere},
    }
    claim = {**shape, "volumeName": namespace, "resources": {"requests": {"storage": "1Gi"}}}
    return (
        {"metadata": {"name": namespace}, "spec": volume},
        {"metadata": {"name": name}, "spec": claim},
    )
