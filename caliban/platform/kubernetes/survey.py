"""What became of the jobs of a place: by a list of its Jobs, and one of their pods."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caliban.errors import RefusedError
from caliban.model.job import Outcome
from caliban.platform.kubernetes import labels, manifest, outcome, waiting
from caliban.platform.kubernetes.place import Place

if TYPE_CHECKING:
    from caliban.platform.kubernetes.connection import Connection

# How many jobs are asked for by their uids; more are found among all that there are.
_FEW = 1000

# What a proxy between here and a cluster answers that takes no address so long.
_TOO_LONG = (400, 414, 431)

# The event of a Job for which no pod could be made.
_NO_POD = "FailedCreate"

# Seconds that a job without a pod, or that one without a volume, is left alone: it takes the
# cluster a moment to make one.
_POD_COMES = datetime.timedelta(seconds=30)


def outcomes(connection: Connection, place: Place, names: Sequence[str]) -> dict[str, Outcome]:
    """What became of jobs; those that there aren't are missing.

    Args:
      connection: to the cluster.
      place: whose namespace they are in.
      names: of the jobs.

    Raises:
      CalibanError: the cluster can't be asked.
    """
    selector = labels.OURS
    if len(names) <= _FEW:
        selector = labels.of_jobs([manifest.uid_of(name) for name in names])
    wanted = set(names)
    # The Jobs first: what is said of the pods of one that has ended doesn't change any more.
    try:
        found = jobs(connection, place, selector)
    except RefusedError as error:
        if error.status not in _TOO_LONG:
            raise
        selector = labels.OURS
        found = jobs(connection, place, selector)
    found = [job for job in found if job["metadata"]["name"] in wanted]
    of_job: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for pod in pods(connection, place, selector):
        of_job[pod["metadata"]["labels"].get("job-name", "")].append(pod)
    told = events(connection, place, found, of_job)
    return {
        (name := job["metadata"]["name"]): outcome.outcome(job, of_job[name], told.get(name, ()))
        for job in found
    }


def jobs(connection: Connection, place: Place, selector: str) -> list[dict[str, Any]]:
    """The Jobs of a place that a selector selects.

    Raises:
      CalibanError: they can't be listed.
    """
    path = f"/apis/batch/v1/namespaces/{place.namespace}/jobs"
    return connection.items(path, {"labelSelector": selector})


def pods(connection: Connection, place: Place, selector: str) -> list[dict[str, Any]]:
    """The pods of a place that a selector selects.

    Raises:
      CalibanError: they can't be listed.
    """
    path = f"/api/v1/namespaces/{place.namespace}/pods"
    return connection.items(path, {"labelSelector": selector})


def events(
    connection: Connection,
    place: Place,
    jobs: Sequence[Mapping[str, Any]],
    pods: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, list[outcome.Event]]:
    """Why Jobs have no pod, or those no volume; events are asked for only if there are such Jobs.

    Args:
      connection: to the cluster.
      place: where they are.
      jobs: Jobs.
      pods: theirs, by the name of the Job.

    Returns:
      The events that tell why, by the name of the Job; the newest last.

    Raises:
      UnknownOutcomeError: the cluster doesn't answer.
    """
    now = datetime.datetime.now(datetime.UTC)
    stuck = {
        pod["metadata"]["name"]: name
        for name, each in pods.items()
        for pod in each
        if _created(pod) < now - _POD_COMES and outcome.waits_for_volume(pod)
    }
    if stuck:
        query = {"fieldSelector": "type=Warning"}
    elif _lack_pods(jobs, pods, now):
        query = {"fieldSelector": f"involvedObject.kind=Job,reason={_NO_POD}"}
    else:
        return {}
    try:
        path = f"/api/v1/namespaces/{place.namespace}/events"
        listed = connection.items(path, query)
    except RefusedError:
        return {}  # without the right to see them, there is no reason to be shown
    found: dict[str, list[outcome.Event]] = defaultdict(list)
    for event in sorted(listed, key=lambda each: each.get("lastTimestamp") or ""):
        about, reason = event["involvedObject"].get("name", ""), event.get("reason", "")
        name = about if reason == _NO_POD else stuck.get(about)
        if name and reason in (_NO_POD, *waiting.OF_VOLUMES):
            found[name].append((reason, str(event.get("message", ""))))
    return found


def _lack_pods(
    jobs: Sequence[Mapping[str, Any]],
    pods: Mapping[str, Sequence[Mapping[str, Any]]],
    now: datetime.datetime,
) -> bool:
    """Whether there are Jobs that the cluster has not made a pod for, though it had its time.

    It may take a minute for hundreds of them: those have nothing the matter with them.
    """
    waiting = [
        job
        for job in jobs
        if outcome.waits_for_pod(job, pods.get(job["metadata"]["name"], ()))
        and _created(job) < now - _POD_COMES
    ]
    # Clusters before 1.24 don't say that they have got to a Job if they could not make its pod.
    is_busy = any(_created(pod) > now - _POD_COMES for each in pods.values() for pod in each)
    return any(job.get("status", {}).get("startTime") or not is_busy for job in waiting)


def _created(thing: Mapping[str, Any]) -> datetime.datetime:
    return datetime.datetime.fromisoformat(thing["metadata"]["creationTimestamp"])
