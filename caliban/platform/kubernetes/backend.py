"""Jobs on Kubernetes, each a Job of batch/v1."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from caliban.errors import CalibanError, RefusedError, UsageError
from caliban.model.job import Handle, JobRequest, Outcome, Submission
from caliban.model.labels import UID
from caliban.platform import targets
from caliban.platform.base import Links, Particulars, RemoteBackend
from caliban.platform.kubernetes import (
    hardware,
    identity,
    labels,
    manifest,
    needs,
    outcome,
    particulars,
    survey,
)
from caliban.platform.kubernetes.place import NAME, Place
from caliban.platform.quota import Clock

if TYPE_CHECKING:
    from caliban.platform.kubernetes.connection import Connection

# Seconds after which a cluster that doesn't answer is left out.
_PATIENCE = 20.0

# Lists of objects without anything but their names and labels.
_NAMES_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"

# Since when clusters know podFailurePolicy, and sidecars, without being told to.
_FAILURE_POLICY = (1, 26)
_SIDECARS = (1, 29)


@dataclass(frozen=True)
class Server:
    """What a cluster is.

    Attributes:
      version: of Kubernetes: (1, 33).
      gke: whether it is one of GKE.
    """

    version: tuple[int, int]
    gke: bool

    @property
    def failure_policy(self) -> bool:
        """Whether it knows podFailurePolicy."""
        return self.version >= _FAILURE_POLICY

    @property
    def sidecars(self) -> bool:
        """Whether containers beside a job may go on until that has ended."""
        return self.version >= _SIDECARS


class KubernetesBackend(RemoteBackend):
    """The Backend of Kubernetes. A target is a Place, an id the name of a Job."""

    GONE: ClassVar[str] = "its Job was deleted"
    KEEPS_LOGS: ClassVar[bool] = False

    def __init__(
        self,
        environment: Mapping[str, str],
        cloud_key: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
          environment: variables, by which Google's credentials are found.
          cloud_key: a key of Google's, see google.access.
          clock: to wait by.
        """
        self._environment = environment
        self._cloud_key = cloud_key
        self._clock = clock or Clock()
        self._connections: dict[str, Connection] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self._identities: dict[str, Mapping[str, str]] = {}

    def close(self) -> None:
        """Closes what is idle of its connections."""
        for each in self._connections.values():
            each.close()

    def plan(self, request: JobRequest) -> Submission:
        """See manifest.plan; with what tells the cluster from others, once that is located."""
        found = manifest.plan(request)
        if known := self._identities.get(found.target):
            found = replace(found, payload={**found.payload, "cluster": dict(known)})
        return found

    def particulars(self, submission: Submission) -> Particulars:
        """See particulars.of."""
        return particulars.of(submission)

    def with_variables(self, submission: Submission, variables: Mapping[str, str]) -> Submission:
        """See manifest.with_variables."""
        return manifest.with_variables(submission, variables)

    def locate(self, target: str) -> None:
        """Finds out which cluster a context of a kubeconfig leads to, if that can be told now."""
        # On GKE the name is all of it: a new cluster of the same name has none of the old jobs.
        if not Place.parse(target).gke:
            with contextlib.suppress(CalibanError):
                self._identity(target)

    def _identity(self, target: str) -> Mapping[str, str]:
        if target not in self._identities:
            self._identities[target] = identity.find(self._connection(target))
        return self._identities[target]

    def misplaced(self, submission: Submission) -> str:
        """Why a job is not where its context leads to: see identity.difference."""
        target = submission.target
        if not (before := submission.payload.get("cluster")):
            return ""
        return identity.difference(Place.parse(target).cluster, before, self._identity(target))

    def seconds(self, target: str, count: int) -> float:
        """No time: a cluster says it itself when it is too much."""
        return 0.0

    def server(self, target: str) -> Server:
        """What a cluster is.

        Raises:
          CalibanError: it can't be asked.
        """
        found = self.get(target, "/version")
        digits = [
            int("".join(filter(str.isdigit, str(found.get(key, "")))) or 0)
            for key in ("major", "minor")
        ]
        is_gke = "-gke." in str(found.get("gitVersion", "")) or bool(Place.parse(target).gke)
        return Server((digits[0], digits[1]), is_gke)

    def check_namespace(self, target: str) -> None:
        """See needs.check_namespace."""
        needs.check_namespace(self._connection(target), Place.parse(target))

    def gpu_products(self, target: str, kind: str) -> tuple[str, ...]:
        """The products of a cluster's nodes that are GPUs of a type, see hardware.matching.

        Args:
          target: the place.
          kind: the type, as users write it: "V100".

        Returns:
          Nothing if that can't be told: no node has such a label, or the user may not see nodes.

        Raises:
          UsageError: nodes have such labels, and none is of this type.
          CalibanError: the cluster can't be asked.
        """
        try:
            nodes = self.items(target, "/api/v1/nodes", {"labelSelector": hardware.PRODUCT})
        except RefusedError as error:
            if error.status != 403:
                raise
            return ()
        products = {each["metadata"]["labels"][hardware.PRODUCT] for each in nodes}
        found = hardware.matching(kind, products)
        if products and not found:
            raise UsageError(
                f"the cluster {Place.parse(target).cluster} has no GPUs of type {kind}",
                f"Its nodes have: {', '.join(sorted(products))}.",
            )
        return found

    def check(self, submission: Submission, count: int = 1) -> list[str]:
        """Has the cluster go through all that it does to make a job, but for making it.

        Args:
          submission: what `plan` returned.
          count: how many jobs like it there are.

        Returns:
          See `check_needs`.

        Raises:
          UsageError: see `check_needs`; or the namespace isn't there.
          RefusedError: it would not be made; the message says why.
          CalibanError: the cluster can't be asked.
        """
        connection, path = self._jobs(submission.target)
        try:
            connection.create(path, submission.payload["body"], {"dryRun": "All"})
        except RefusedError as error:
            if error.status == 404:
                self.check_namespace(submission.target)
            raise
        return self.check_needs(submission, count)

    def check_needs(self, submission: Submission, count: int = 1) -> list[str]:
        """See needs.check."""
        place = Place.parse(submission.target)
        connection = self._connection(submission.target)
        return needs.check(connection, place, submission.payload["body"], count)

    def submit(self, submission: Submission, is_new: bool = False) -> Handle:
        """Makes a Job. A cluster takes a name once, so it is one Job, however often it is called.

        Args:
          submission: what `plan` returned.
          is_new: makes no difference.

        Raises:
          RefusedError: there is no such Job now.
          UnknownOutcomeError: nobody knows. Submitting again finds out.
          CalibanError: the cluster can't be reached.
        """
        body = submission.payload["body"]
        name = body["metadata"]["name"]
        connection, path = self._jobs(submission.target)
        try:
            connection.create(path, body)
        except RefusedError as error:
            if error.reason != "AlreadyExists":
                raise
            there = connection.get(f"{path}/{name}")["metadata"].get("labels", {})
            if there.get(UID) != body["metadata"]["labels"][UID]:
                raise
        return Handle(NAME, submission.target, name)

    def find(self, target: str, group: str) -> dict[str, Handle]:
        """The jobs of a group that there are, by uid: to go on with one that was interrupted.

        Raises:
          CalibanError: the cluster can't be asked.
        """
        connection, path = self._jobs(target)
        found = connection.items(path, {"labelSelector": labels.of_group(group)}, _NAMES_ONLY)
        return {
            job["metadata"]["labels"][UID]: Handle(NAME, target, job["metadata"]["name"])
            for job in found
            if UID in job["metadata"]["labels"]
        }

    def status(self, handles: Sequence[Handle]) -> dict[Handle, Outcome]:
        """Asks each cluster for its jobs, all at the same time, in two lists each.

        The jobs of a cluster that can't be asked just now are UNKNOWN; the reason says why.
        """

        def ask(target: str, names: Sequence[str]) -> dict[str, Outcome]:
            return survey.outcomes(self._connection(target), Place.parse(target), names)

        return targets.outcomes(handles, ask, _PATIENCE)

    def stop(self, handle: Handle) -> None:
        """Deletes a Job, whose process gets SIGTERM, and SIGKILL later; one that is gone, is gone.

        Raises:
          CalibanError: the cluster can't be asked, or the user may not.
        """
        connection, path = self._jobs(handle.target)
        try:
            connection.delete(f"{path}/{handle.id}", {"propagationPolicy": "Background"})
        except RefusedError as error:
            if error.status != 404 or error.reason != "NotFound":
                raise

    def logs(
        self, handle: Handle, follow: bool = False, tail: int | None = None
    ) -> Iterator[bytes]:
        """What a job has printed in its last try, line by line; see logs.Log.

        Raises:
          RefusedError: the log is gone, or the user may not read it.
          CalibanError: the cluster can't be asked.
        """
        from caliban.platform.kubernetes.logs import Log

        place = Place.parse(handle.target)
        log = Log(self._connection(handle.target), place.namespace, handle.id, self._clock)
        yield from log.follow(tail) if follow else log.read(tail)

    def links(self, handle: Handle) -> Links:
        """The page of a job on GKE, and the command of kubectl that shows its log."""
        place = Place.parse(handle.target)
        command = f"{place.kubectl} --namespace {place.namespace} logs --follow job/{handle.id}"
        page = ""
        if place.on_google:
            project, location, cluster = place.on_google
            page = (
                f"https://console.cloud.google.com/kubernetes/job/{location}/{cluster}/"
                f"{place.namespace}/{handle.id}?project={project}"
            )
        return Links(page, command)

    def get(
        self, target: str, path: str, params: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Reads something of a cluster: "/api/v1/nodes/NAME".

        Raises:
          CalibanError: it can't be had.
        """
        return self._connection(target).get(path, params)

    def items(
        self, target: str, path: str, params: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Reads a list of a cluster, all pages of it.

        Raises:
          CalibanError: it can't be had.
        """
        return self._connection(target).items(path, params)

    def jobs(self, target: str, selector: str = labels.OURS) -> list[dict[str, Any]]:
        """The Jobs of a place that a selector selects.

        Raises:
          CalibanError: they can't be listed.
        """
        return survey.jobs(self._connection(target), Place.parse(target), selector)

    def pods(self, target: str, selector: str = labels.OURS) -> list[dict[str, Any]]:
        """The pods of a place that a selector selects.

        Raises:
          CalibanError: they can't be listed.
        """
        return survey.pods(self._connection(target), Place.parse(target), selector)

    def events(
        self,
        target: str,
        jobs: Sequence[Mapping[str, Any]],
        pods: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> dict[str, list[outcome.Event]]:
        """See survey.events."""
        return survey.events(self._connection(target), Place.parse(target), jobs, pods)

    def _connection(self, target: str) -> Connection:
        """The connection to the cluster of a place.

        Raises:
          CalibanError: nobody knows how to reach it.
        """
        from caliban.platform.kubernetes.connection import Connection

        with self._lock:
            lock = self._locks[target]
        with lock:
            if target not in self._connections:
                place = Place.parse(target)
                self._connections[target] = Connection(
                    place, self._environment, self._cloud_key, self._clock
                )
            return self._connections[target]

    def _jobs(self, target: str) -> tuple[Connection, str]:
        """The Jobs of a place: how to reach them, and where they are."""
        namespace = Place.parse(target).namespace
        return self._connection(target), f"/apis/batch/v1/namespaces/{namespace}/jobs"
