"""A Google Cloud for tests: all its APIs on one server of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.google_cloud.artifacts import Artifacts
from tests.google_cloud.compute import Compute
from tests.google_cloud.faults import Faults
from tests.google_cloud.gke import GKE
from tests.google_cloud.logs import Logs
from tests.google_cloud.server import Server
from tests.google_cloud.tokens import Tokens
from tests.google_cloud.vertex import Vertex


class GoogleCloud:
    """The APIs, each with its state.

    Attributes:
      tokens: who has access.
      vertex, artifacts, logs, gke, compute: what there is.
      server: what was asked so far.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.tokens = Tokens()
        self.logs = Logs(clock)
        self.vertex = Vertex(clock, self.logs)
        self.artifacts = Artifacts()
        self.gke = GKE(clock)
        self.compute = Compute()
        self.server = Server(self.tokens)
        self.server.serve("aiplatform", "v1", self.vertex.handlers)
        self.server.serve("artifactregistry", "v1", self.artifacts.handlers)
        self.server.serve("logging", "v2", self.logs.handlers)
        self.server.serve("container", "v1", self.gke.handlers)
        self.server.serve("compute", "v1", self.compute.handlers)

    @property
    def faults(self) -> Faults:
        """What goes wrong."""
        return self.server.faults

    def environment(self) -> dict[str, str]:
        """The variables that make gcloud, and caliban, ask this one instead of Google."""
        return {
            f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api.upper()}": self.server.url(api)
            for api in ("aiplatform", "artifactregistry", "logging", "container", "compute")
        }

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.stop()
        assert self.server.bugs == []
