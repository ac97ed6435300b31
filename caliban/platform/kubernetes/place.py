"""Which cluster, and which namespace of it: a place as text, by which it is reached again."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass

from caliban.errors import UsageError

NAME = "kubernetes"

_GKE = "gke:"

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names
_NAMESPACE = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_TARGET = re.compile(
    rf"(?P<cluster>.+?)/(?P<namespace>{_NAMESPACE})(?: \((?P<kubeconfig>/.+)\))?", re.DOTALL
)


@dataclass(frozen=True)
class Place:
    """A namespace of a cluster.

    Attributes:
      cluster: the context of a kubeconfig, or "gke:PROJECT/LOCATION/NAME".
      namespace: where in the cluster.
      kubeconfig: absolute path of the file that has the context, or of several, as in $KUBECONFIG;
        "" for ~/.kube/config.

    Raises:
      UsageError: there is no such namespace, or the name of the context can't be read back.
    """

    cluster: str
    namespace: str = "default"
    kubeconfig: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(_NAMESPACE, self.namespace):
            raise UsageError(
                f"'{self.namespace}' can't be the name of a namespace",
                "It is made of up to 63 lowercase letters, digits and '-', as in 'team-vision'.",
            )
        match = _TARGET.fullmatch(self.target)
        if not match or match["cluster"] != self.cluster or bool(self.gke) != self._is_gke:
            raise UsageError(
                f"the cluster '{self.cluster}' has a name that caliban can't record",
                "Rename the context: kubectl config rename-context OLD NEW",
            )

    @classmethod
    def on_gke(cls, project: str, location: str, name: str, namespace: str = "default") -> Place:
        """A namespace of a GKE cluster.

        Args:
          project: id of the project that has it.
          location: its zone or region.
          name: of the cluster.
          namespace: where in it.
        """
        return cls(f"{_GKE}{project}/{location}/{name}", namespace)

    @classmethod
    def parse(cls, target: str) -> Place:
        """Reads a target, as the history has it.

        Raises:
          UsageError: it isn't one.
        """
        match = _TARGET.fullmatch(target)
        if not match:
            raise UsageError(f"'{target}' is no place of a cluster")
        return cls(match["cluster"], match["namespace"], match["kubeconfig"] or "")

    @property
    def target(self) -> str:
        """The place as text: "minikube/default", "gke:fish/us-east1/tank/default"."""
        found = f"{self.cluster}/{self.namespace}"
        return f"{found} ({self.kubeconfig})" if self.kubeconfig else found

    @property
    def gke(self) -> tuple[str, str, str] | None:
        """Project, location and name of a GKE cluster; None for the context of a kubeconfig."""
        parts = self.cluster.removeprefix(_GKE).split("/")
        if not self._is_gke or len(parts) != 3 or not all(parts) or self.kubeconfig:
            return None
        return parts[0], parts[1], parts[2]

    @property
    def on_google(self) -> tuple[str, str, str] | None:
        """The same, and also for contexts that are called as gcloud calls those of GKE."""
        kind, *rest = self.cluster.split("_")
        if kind == "gke" and len(rest) == 3:
            return rest[0], rest[1], rest[2]
        return self.gke

    @property
    def context(self) -> str:
        """The context of a kubeconfig; for a cluster of GKE as gcloud calls it."""
        return "_".join(("gke", *self.gke)) if self.gke else self.cluster

    @property
    def kubectl(self) -> str:
        """The beginning of a command line of kubectl that reaches the place."""
        words = ["kubectl"]
        if os.pathsep in self.kubeconfig:  # its flag takes one file only
            words = ["env", f"KUBECONFIG={self.kubeconfig}", "kubectl"]
        elif self.kubeconfig:
            words += ["--kubeconfig", self.kubeconfig]
        return shlex.join([*words, "--context", self.context])

    @property
    def _is_gke(self) -> bool:
        return self.cluster.startswith(_GKE)

    def __str__(self) -> str:
        return self.target
