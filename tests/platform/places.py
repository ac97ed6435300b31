"""Where jobs run: an engine, a cluster, a cloud, as real as can be, behind one interface."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Protocol

from caliban import process
from caliban.docker.containers import Containers
from caliban.docker.engine import Engine
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, JobRequest, Submission
from caliban.platform import local, vertex_job
from caliban.platform.base import Backend, RemoteBackend
from caliban.platform.kubernetes.backend import KubernetesBackend
from caliban.platform.kubernetes.options import Options as KubernetesOptions
from caliban.platform.local import LocalBackend
from caliban.platform.quota import Clock
from caliban.platform.rest import Session
from caliban.platform.vertex import VertexBackend
from tests.google_cloud.client import credentials
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.containers import Containers as Machines
from tests.google_cloud.vertex import ENDED
from tests.kubernetes_cluster import Cluster, claimed
from tests.parts import do_without
from tests.workshop import docker


class Place(Protocol):
    """A backend, and what a test needs besides.

    Attributes:
      backend: of the platform.
      name: of the platform.
      target: where on the platform.
    """

    @property
    def backend(self) -> Backend: ...

    name: str
    target: str

    def request(self, code: str, *args: str, group: str = "") -> JobRequest:
        """A job that runs some Python, in a group of its own unless one is named."""

    def outputs(self, folder: Path) -> str:
        """Has what jobs write kept in a folder, and returns its address as --output has it."""

    def submit(self, submission: Submission) -> Handle:
        """Submits a job, as those do it who launch some."""

    def stop(self, handle: Handle) -> None:
        """Asks a job to end."""

    def lose(self, handle: Handle) -> None:
        """Deletes a job, as somebody does who knows nothing of caliban."""

    def close(self) -> None:
        """Ends and deletes all jobs."""


def _request(settings: dict[str, Any], image: str, args: tuple[str, ...], group: str) -> JobRequest:
    uid = uuid.uuid4().hex[:16]
    return JobRequest(uid, Experiment(args, {}), image, group or f"group-{uid}", 0, settings)


def _command(code: str) -> tuple[str, ...]:
    return ("python3", "-u", "-c", code)


class Here:
    """The engine of this machine."""

    name = "local"

    def __init__(self, engine: Engine, image: str) -> None:
        self.backend = LocalBackend(Containers(engine), engine.host)
        self.target = self.backend.target
        self._image = image
        self._handles: set[Handle] = set()
        self._threads: list[threading.Thread] = []
        self._children: list[process.Child] = []

    def request(self, code: str, *args: str, group: str = "") -> JobRequest:
        settings = local.Options(command=_command(code)).to_json()
        return _request(settings, self._image, args, group)

    def outputs(self, folder: Path) -> str:
        return str(folder)

    def submit(self, submission: Submission) -> Handle:
        if submission.output:
            Path(submission.output).mkdir(parents=True)
        handle = self.backend.submit(submission)
        self._handles.add(handle)

        def follow() -> None:
            self.backend.follow(handle, lambda stream, data: None, lambda: None)

        self._threads.append(threading.Thread(target=follow))
        self._threads[-1].start()
        # `docker run` is on its own from here on.
        deadline = time.monotonic() + 30
        while not self.backend.status([handle]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return handle

    def stop(self, handle: Handle) -> None:
        self._children.append(self.backend.stop(handle))

    def lose(self, handle: Handle) -> None:
        docker("rm", "--force", handle.id)

    def close(self) -> None:
        for child in self._children:
            process.close(child)
        for handle in self._handles:
            docker("rm", "--force", handle.id, check=False)
        for thread in self._threads:
            thread.join()


class OnKubernetes:
    """A namespace of a cluster."""

    name = "kubernetes"

    def __init__(self, cluster: Cluster) -> None:
        self.backend = KubernetesBackend(os.environ)
        self.target = cluster.target
        self._image = cluster.image
        self._cluster = cluster
        self._handles: set[Handle] = set()
        self._volume = ""

    def request(self, code: str, *args: str, group: str = "") -> JobRequest:
        command = _command(code)
        options = KubernetesOptions(self.target, command=command, failure_policy=False, grace=2)
        return _request(options.to_json(), self._image, args, group)

    def outputs(self, folder: Path) -> str:
        if not self._cluster.has_local_files:
            do_without("kubernetes", "the cluster's nodes don't have this machine's folders")
        volume, claim = claimed(folder, self._cluster.namespace, "results")
        self._volume = f"/api/v1/persistentvolumes/{self._cluster.namespace}"
        self._cluster.connection.create("/api/v1/persistentvolumes", volume)
        self._cluster.create("persistentvolumeclaims", claim)
        return "pvc:results"

    def submit(self, submission: Submission) -> Handle:
        handle = self.backend.submit(submission)
        self._handles.add(handle)
        return handle

    def stop(self, handle: Handle) -> None:
        self.backend.stop(handle)

    def lose(self, handle: Handle) -> None:
        self.backend.stop(handle)

    def close(self) -> None:
        for handle in self._handles:
            self.backend.stop(handle)
        if self._volume:
            claim = f"/api/v1/namespaces/{self._cluster.namespace}/persistentvolumeclaims/results"
            for path in (claim, self._volume):
                self._cluster.connection.delete(path, {})


class OnVertex:
    """A region of a stand-in for Vertex AI, which runs containers on the engine of this machine."""

    name = "vertex"
    target = "p1/us-central1"

    # How many times as fast Google's clocks go.
    _SPEED = 20

    def __init__(self, engine: Engine, image: str) -> None:
        self._engine = engine
        self._image = image
        self._stack = contextlib.ExitStack()
        self.cloud = self._stack.enter_context(GoogleCloud())
        self._machines = Machines()
        self.cloud.vertex.run = self._machines
        speed = self._SPEED
        clock = Clock(lambda: time.monotonic() * speed, lambda wait: time.sleep(wait / speed))
        session = Session(credentials(self.cloud), clock)
        self._stack.callback(session.close)
        self.backend = VertexBackend(session, self.cloud.environment())

    def request(self, code: str, *args: str, group: str = "") -> JobRequest:
        options = vertex_job.Options("p1", "us-central1", "n1-highcpu-32", command=_command(code))
        return _request(options.to_json(), self._image, args, group)

    def outputs(self, folder: Path) -> str:
        self._machines.buckets = folder
        return "gs://my-bucket/runs"

    def submit(self, submission: Submission) -> Handle:
        return self.backend.submit(submission)

    def stop(self, handle: Handle) -> None:
        self.backend.stop(handle)

    def lose(self, handle: Handle) -> None:
        (name,) = (job["name"] for job in self.cloud.vertex.jobs if job["name"].endswith(handle.id))
        self.cloud.vertex.forget(name)

    def close(self) -> None:
        for job in self.cloud.vertex._jobs.values():
            job.cancelled.set()
        deadline = time.monotonic() + 30
        while any(job["state"] not in ENDED for job in self.cloud.vertex.jobs):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self._stack.close()


def remote(place: Place) -> RemoteBackend:
    """The backend of a place that is not here."""
    backend: Any = place.backend
    found: RemoteBackend = backend
    return found
