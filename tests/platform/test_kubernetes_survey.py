"""When a cluster is asked why it makes no pods: not while it is at it."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from caliban.model.job import Status
from caliban.platform.kubernetes import survey
from caliban.platform.kubernetes.place import Place

PLACE = Place("tank", "team")


def ago(seconds: float) -> str:
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    return then.strftime("%Y-%m-%dT%H:%M:%SZ")


def job(number: int, age: float, **status: Any) -> dict[str, Any]:
    metadata = {"name": f"job-{number:016x}", "namespace": "team", "creationTimestamp": ago(age)}
    return {"metadata": metadata, "spec": {}, "status": status}


def pod(of: dict[str, Any], age: float) -> dict[str, Any]:
    name = of["metadata"]["name"]
    metadata = {
        "name": f"{name}-x",
        "namespace": "team",
        "labels": {"job-name": name},
        "creationTimestamp": ago(age),
    }
    return {
        "metadata": metadata,
        "spec": {"containers": [{"name": "caliban"}]},
        "status": {"phase": "Pending"},
    }


def event(of: dict[str, Any], reason: str, message: str) -> dict[str, Any]:
    about = {"name": of["metadata"]["name"]}
    return {"involvedObject": about, "reason": reason, "message": message}


class Lists:
    """A cluster that has these Jobs and pods, and events of each."""

    def __init__(self, jobs: list[dict[str, Any]], pods: list[dict[str, Any]]) -> None:
        self.asked: list[str] = []
        self._lists = {"jobs": jobs, "pods": pods}
        self._lists["events"] = [
            *(event(job, "FailedCreate", "exceeded something") for job in jobs),
            *(event(pod, "FailedMount", "no such volume") for pod in pods),
            *(event(pod, "FailedScheduling", "no node") for pod in pods),
            event({"metadata": {"name": "of-somebody-else"}}, "FailedMount", "nothing of ours"),
        ]

    def items(self, path: str, params: dict[str, str]) -> list[dict[str, Any]]:
        self.asked.append(path.rpartition("/")[2])
        return self._lists[self.asked[-1]]


def reasons(jobs: list[dict[str, Any]], pods: list[dict[str, Any]], lists: int) -> set[str]:
    """Why the jobs wait, after so many lists."""
    there: Any = Lists(jobs, pods)
    found = survey.outcomes(there, PLACE, [each["metadata"]["name"] for each in jobs])
    assert {outcome.status for outcome in found.values()} == {Status.SUBMITTED}
    assert there.asked == ["jobs", "pods", "events"][:lists]
    return {outcome.reason for outcome in found.values()}


def test_two_lists_suffice_for_hundreds_of_jobs_whose_pods_wait() -> None:
    jobs = [job(number, 600, startTime=ago(600)) for number in range(500)]
    assert reasons(jobs, [pod(each, 590) for each in jobs], 2) == {""}


def test_two_lists_suffice_while_the_cluster_makes_hundreds_of_pods() -> None:
    jobs = [job(number, 60) for number in range(500)]
    assert reasons(jobs, [pod(each, 60 - number / 5) for number, each in enumerate(jobs[:200])], 2)


def test_two_lists_suffice_for_a_job_that_is_new() -> None:
    assert reasons([job(1, 5, startTime=ago(5))], [], 2) == {""}


@pytest.mark.parametrize(
    ("age", "lists", "reason"),
    [(60, 3, "FailedMount: its volume can't be had: no such volume"), (5, 2, "")],
)
def test_a_pod_that_gets_no_volume_is_asked_about_after_a_while(
    age: float, lists: int, reason: str
) -> None:
    waits = job(1, age, startTime=ago(age))
    stuck = pod(waits, age)
    volume = {"name": "output", "persistentVolumeClaim": {"claimName": "results"}}
    stuck["spec"] |= {"nodeName": "node-1", "volumes": [volume]}
    assert reasons([waits], [stuck], lists) == {reason}


@pytest.mark.parametrize("status", [{"startTime": ago(50)}, {}])
def test_a_job_that_gets_no_pod_is_asked_about(status: dict[str, Any]) -> None:
    assert reasons([job(1, 60, **status)], [], 3) == {"FailedCreate: exceeded something"}


def test_a_job_that_the_cluster_got_to_is_asked_about_though_others_get_pods() -> None:
    refused, other = job(1, 60, startTime=ago(50)), job(2, 60, startTime=ago(5))
    assert "FailedCreate: exceeded something" in reasons([refused, other], [pod(other, 5)], 3)
