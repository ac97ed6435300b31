"""A Google Cloud on this machine that jobs are sent to, and a history that has recorded them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from caliban import dispatch, launch
from caliban.errors import CalibanError
from caliban.history.store import HistoryStore
from caliban.interrupt import Interruption
from caliban.launch import Launch
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, Job
from caliban.platform.base import RemoteBackend
from caliban.platform.rest import Session
from caliban.platform.vertex import VertexBackend
from caliban.platform.vertex_job import Options
from caliban.remote.backends import Backends
from caliban.remote.submit import Sent, Submitter, Unsent
from tests.conftest import USER
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.fixtures import cloud as cloud
from tests.google_cloud.fixtures import session as session
from tests.google_cloud.fixtures import time as time
from tests.history.recent import recent_jobs

REGION = "us-central1"


@pytest.fixture
def store() -> Iterator[HistoryStore]:
    with launch.open_history() as opened:
        yield opened


class Opened(Backends):
    """Backends of which one is open already."""

    def __init__(self, **backends: RemoteBackend) -> None:
        super().__init__({})
        self._opened.update(backends)


@pytest.fixture
def backend(cloud: GoogleCloud, session: Session, monkeypatch: pytest.MonkeyPatch) -> VertexBackend:
    """It takes as many jobs as there are: the quota has tests of its own."""
    monkeypatch.setattr(VertexBackend, "LATE", 0.0)  # as long as `cloud.logs.delay` is none
    return VertexBackend(session, cloud.environment(), per_minute=600_000)


@pytest.fixture
def backends(backend: VertexBackend) -> Backends:
    return Opened(vertex=backend)


def wanted(number: int, group: str = "night", region: str = REGION, **more: object) -> Launch:
    """A launch of so many jobs."""
    settings = Options("p1", region, "n1-highcpu-32").to_json()
    experiments = (Experiment((), {"lr": each}) for each in range(number))
    requests = list(launch.requests(experiments, "registry/train@sha256:12", group, settings))
    return Launch(USER, group, {"mode": "cpu"}, requests, **more)  # type: ignore[arg-type]


@dataclass
class Told:
    """What the submitter has told."""

    accepted_ones: list[tuple[int, Handle]] = field(default_factory=list)
    refused_ones: list[tuple[int, str]] = field(default_factory=list)
    stopped_ones: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def accepted(self, job: Unsent, handle: Handle) -> None:
        self.accepted_ones.append((job.id, handle))

    def refused(self, job: Unsent, error: CalibanError) -> None:
        self.refused_ones.append((job.id, error.message))

    def stopped(self, job: Unsent) -> None:
        self.stopped_ones.append(job.id)

    def note(self, text: str, colour: str = "") -> None:
        self.notes.append(text)

    def idle(self) -> None:
        """Nothing is drawn."""


def send(
    backends: Backends, store: HistoryStore, jobs: list[Unsent], told: Told | None = None
) -> Sent:
    """Sends recorded jobs to Vertex AI."""
    backend = backends.of("vertex")
    progress = told or Told()
    submitter = Submitter(backend, store, progress, Interruption(), backends.waits)
    return submitter.run(jobs)


def record(backends: Backends, store: HistoryStore, launched: Launch) -> list[Unsent]:
    """Records jobs; returns those to be sent."""
    return [*dispatch.record(backends.of("vertex"), store, launched).jobs]


def jobs_of(store: HistoryStore) -> list[Job]:
    return recent_jobs(store, USER)


def uids(cloud: GoogleCloud) -> list[str]:
    """The uids of the jobs that Google has."""
    return sorted(job["labels"]["caliban_uid"] for job in cloud.vertex.jobs)
