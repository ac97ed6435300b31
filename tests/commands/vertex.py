"""A Google Cloud on this machine that `caliban` finds in the environment, and a project for it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caliban.platform.vertex import VertexBackend
from tests.google_cloud import client
from tests.google_cloud.cloud import GoogleCloud
from tests.registry import Registry

ROBOT = "robot@p1.iam.gserviceaccount.com"

# 100 a second: the quota has tests of its own.
FAST = ("--per_minute", "6000")


@contextlib.contextmanager
def started(home: Path, patch: pytest.MonkeyPatch) -> Iterator[GoogleCloud]:
    """A cloud where the user of `home` has a service account's key."""
    with GoogleCloud() as cloud:
        for name, value in cloud.environment().items():
            patch.setenv(name, value)
        file = client.write_key(cloud, home / "key.json", ROBOT, client.private_key())
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
        patch.setenv("PROJECT_ID", "p1")
        patch.setattr(VertexBackend, "LATE", 0.0)  # as long as `cloud.logs.delay` is none
        yield cloud


@pytest.fixture
def cloud(project: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleCloud]:
    """A cloud, and a project to send jobs of."""
    with started(home, monkeypatch) as found:
        yield found


@pytest.fixture(scope="module")
def pushed() -> Iterator[str]:
    """An image in a registry, which is never run."""
    with contextlib.closing(Registry()) as registry:
        registry.put("team/image:v1", {}, {})
        yield f"{registry.host}/team/image:v1"


@pytest.fixture
def image(pushed: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An image that is given to jobs; there is no engine, and none is needed."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    return pushed


def sweep(folder: Path, number: int) -> str:
    """An experiment file with so many jobs; returns its name."""
    (folder / "sweep.json").write_text(json.dumps({"seed": list(range(number))}))
    return "sweep.json"


def created(cloud: GoogleCloud) -> list[dict[str, Any]]:
    """The requests that made jobs."""
    return [each.body for each in cloud.server.calls("customJobs.create") if each.status == 200]
