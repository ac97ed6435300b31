"""The GKE clusters of a project: listed, looked at, made, deleted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from caliban.errors import CalibanError, RefusedError
from caliban.platform.rest import Session, endpoint, once

URL = "https://container.googleapis.com/"

# All locations, where one is named.
EVERYWHERE = "-"

_CONSOLE = "https://console.cloud.google.com/kubernetes/clusters/details"


@dataclass(frozen=True, order=True)
class Cluster:
    """A cluster by its names.

    Attributes:
      project: id of the project that it belongs to.
      location: zone or region of its control plane.
      name: its name there.
    """

    project: str
    location: str
    name: str

    def __str__(self) -> str:
        """As a place of jobs begins, without what says that it is one of GKE."""
        return f"{self.project}/{self.location}/{self.name}"

    @property
    def parent(self) -> str:
        """The place of it, as the API names it."""
        return f"projects/{self.project}/locations/{self.location}"

    @property
    def path(self) -> str:
        """It, as the API names it."""
        return f"{self.parent}/clusters/{self.name}"

    @property
    def console(self) -> str:
        """Its page in Google's console."""
        return f"{_CONSOLE}/{self.location}/{self.name}?project={self.project}"


@dataclass(frozen=True)
class Summary:
    """What a list says of a cluster.

    Attributes:
      cluster: which.
      status: as GKE has it: "RUNNING".
      version: of its control plane; "" while it is being made.
      nodes: how many there are now.
      is_autopilot: whether Google looks after its nodes.
      problem: what is wrong with it, in Google's words; "" if nothing is.
    """

    cluster: Cluster
    status: str
    version: str
    nodes: int
    is_autopilot: bool
    problem: str


@dataclass(frozen=True)
class NodePool:
    """Nodes of one kind.

    Attributes:
      name: its name in the cluster.
      machine: type of its machines.
      accelerators: of each machine, as in "2 x nvidia-l4".
      is_spot: whether Google may take its machines away.
      least: how few nodes it has, of all zones together or in each; None without autoscaling.
      most: how many it has at most; None without autoscaling.
      is_each_zone: whether the two are meant for each zone.
      zones: where its nodes are.
      version: of its nodes.
      status: as GKE has it.
      is_automatic: whether GKE has made it for jobs, and will delete it.
    """

    name: str
    machine: str
    accelerators: tuple[str, ...]
    is_spot: bool
    least: int | None
    most: int | None
    is_each_zone: bool
    zones: tuple[str, ...]
    version: str
    status: str
    is_automatic: bool


class GKE:
    """Asks container v1. What it raises tells a role, or the command, that a user lacks."""

    def __init__(self, session: Session, environment: Mapping[str, str]) -> None:
        """Takes who is asking.

        Args:
          session: to ask with.
          environment: variables, by which the API can be elsewhere; see rest.endpoint.
        """
        self.session = session
        self._base = endpoint("container", URL, environment) + "v1/"

    def clusters(
        self, project: str, location: str = EVERYWHERE
    ) -> tuple[list[Summary], tuple[str, ...]]:
        """The clusters of a project, by name, and the zones that don't answer just now.

        Raises:
          CalibanError: they can't be listed.
        """
        url = f"{self._base}projects/{project}/locations/{location}/clusters"
        with explained(project, "roles/container.viewer"):
            found = self.session.get(url)
        summaries = [_summary(project, each) for each in found.get("clusters", ())]
        summaries.sort(key=lambda each: (each.cluster.name, each.cluster.location))
        return summaries, tuple(found.get("missingZones", ()))

    def cluster(self, cluster: Cluster) -> dict[str, Any]:
        """All that the API says of a cluster.

        Raises:
          RefusedError: there is none, or the user may not see it.
          UnknownOutcomeError: Google can't be reached.
        """
        with explained(cluster.project, "roles/container.clusterViewer"):
            return self.session.get(self._base + cluster.path)

    def node_pools(self, cluster: Cluster) -> list[NodePool]:
        """The node pools of a cluster, by name.

        Raises:
          CalibanError: they can't be listed.
        """
        with explained(cluster.project, "roles/container.viewer"):
            found = self.session.get(f"{self._base}{cluster.path}/nodePools")
        return sorted(map(_node_pool, found.get("nodePools", ())), key=lambda each: each.name)

    def create(self, cluster: Cluster, body: Mapping[str, Any]) -> dict[str, Any]:
        """Begins to make a cluster, once, although answers get lost.

        Args:
          cluster: by the names that it shall have.
          body: what is sent, see creation.body.

        Returns:
          The operation that makes it.

        Raises:
          RefusedError: it isn't made: status 409, if there is one of that name.
          UnknownOutcomeError: nobody knows.
        """
        url = f"{self._base}{cluster.parent}/clusters"
        sent = 0

        def send() -> dict[str, Any]:
            nonlocal sent
            sent += 1
            try:
                return self.session.post(url, body)
            except RefusedError as error:
                # Of one that was sent before, and was on its way all that time.
                if error.status == 409 and sent > 1 and (found := find()):
                    return found
                raise

        def find() -> dict[str, Any] | None:
            return self._making(cluster)

        with explained(cluster.project, "roles/container.admin"):
            return once(send, find, self.session.clock)

    def delete(self, cluster: Cluster) -> dict[str, Any] | None:
        """Begins to delete a cluster; one that is being deleted already is left to that.

        Returns:
          The operation that deletes it; None if it is gone.

        Raises:
          RefusedError: it stays.
          UnknownOutcomeError: nobody knows.
        """
        with explained(cluster.project, "roles/container.admin"):
            try:
                return self.session.delete(self._base + cluster.path)
            except RefusedError as error:
                if error.status == 404:
                    return None
                # A request may have arrived of which nothing was heard, so that it was repeated.
                if error.status in (400, 409) and (found := self._deleting(cluster)):
                    return found
                raise

    def progress(self, cluster: Cluster, operation: Mapping[str, Any]) -> Iterator[str]:
        """Says what an operation is doing, again and again, until it is done.

        Args:
          cluster: that it is about.
          operation: see `create` and `delete`.

        Raises:
          CalibanError: it has failed, in Google's words.
        """
        url = f"{self._base}{cluster.parent}/operations/{operation['name']}"
        while operation.get("status") != "DONE":
            yield _said(operation)
            self.session.clock.sleep(INTERVAL)
            operation = self.session.get(url)
        # The second is what it was called before.
        error = operation.get("error", {}).get("message") or operation.get("statusMessage")
        if error:
            raise CalibanError(error)

    def _making(self, cluster: Cluster) -> dict[str, Any] | None:
        """The operation that makes, or has made, a cluster that is there; None if it isn't."""
        try:
            self.cluster(cluster)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise
        # There may be older ones, of a cluster that had this name before.
        made = self._operations(cluster, "CREATE_CLUSTER")
        return max(made, key=lambda each: str(each.get("startTime", "")), default=None)

    def _deleting(self, cluster: Cluster) -> dict[str, Any] | None:
        """The operation that is deleting a cluster; None for none."""
        found = self._operations(cluster, "DELETE_CLUSTER")
        return next((each for each in found if each.get("status") != "DONE"), None)

    def _operations(self, cluster: Cluster, kind: str) -> list[dict[str, Any]]:
        """The operations of a kind that are, or were, about clusters of this name."""
        found = self.session.get(f"{self._base}{cluster.parent}/operations")
        return [
            each
            for each in found.get("operations", ())
            if each.get("operationType") == kind
            # Before it, a link has the number of the project, and a zone in words of its own.
            and each.get("targetLink", "").endswith(f"/clusters/{cluster.name}")
        ]


# Seconds between two looks at an operation, which takes minutes.
INTERVAL = 2.0


@contextlib.contextmanager
def explained(project: str, role: str) -> Iterator[None]:
    """Says how to get the right to do something, where Google only says that it is missing.

    Args:
      project: where.
      role: that has this right.
    """
    try:
        yield
    except RefusedError as error:
        if error.status != 403 or "gcloud services enable" in error.hint:
            raise
        raise RefusedError(
            error.message,
            f"Somebody who may can run: gcloud projects add-iam-policy-binding {project} "
            f"--member user:YOUR_ACCOUNT --role {role}",
            error.status,
            error.reason,
        ) from None


def _summary(project: str, found: Mapping[str, Any]) -> Summary:
    return Summary(
        Cluster(project, found.get("location", ""), found.get("name", "")),
        found.get("status", "STATUS_UNSPECIFIED"),
        found.get("currentMasterVersion", ""),
        found.get("currentNodeCount", 0),
        found.get("autopilot", {}).get("enabled", False),
        problem(found),
    )


def problem(found: Mapping[str, Any]) -> str:
    """What is wrong with a cluster, in Google's words; "" if nothing is."""
    messages = [each.get("message", "") for each in found.get("conditions", ())]
    return "; ".join(filter(None, messages)) or found.get("statusMessage", "")


def _node_pool(found: Mapping[str, Any]) -> NodePool:
    config = found.get("config", {})
    scaling = found.get("autoscaling", {})
    # The API leaves out what is 0. Limits of all zones together exclude those of each.
    total = "totalMaxNodeCount" in scaling
    least = scaling.get("totalMinNodeCount" if total else "minNodeCount", 0)
    most = scaling.get("totalMaxNodeCount" if total else "maxNodeCount", 0)
    return NodePool(
        found.get("name", ""),
        config.get("machineType", ""),
        tuple(
            f"{each.get('acceleratorCount', '1')} x {each.get('acceleratorType', '')}"
            for each in config.get("accelerators", ())
        ),
        config.get("spot", False) or config.get("preemptible", False),
        least if scaling.get("enabled") else None,
        most if scaling.get("enabled") else None,
        not total,
        tuple(found.get("locations", ())),
        found.get("version", ""),
        found.get("status", "STATUS_UNSPECIFIED"),
        scaling.get("autoprovisioned", False),
    )


def _said(operation: Mapping[str, Any]) -> str:
    """How far an operation is: "deploying 2/3", or what it says itself."""
    metrics = {
        each.get("name", ""): int(each["intValue"])
        for each in operation.get("progress", {}).get("metrics", ())
        if "intValue" in each
    }
    for name, total in metrics.items():
        stage = name.removesuffix("_TOTAL")
        if stage != name and (done := metrics.get(stage, 0)) < total:
            return f"{stage.removeprefix('CLUSTER_').lower()} {done}/{total}"
    return str(operation.get("detail", ""))
