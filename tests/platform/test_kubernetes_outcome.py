"""What became of jobs, by what Kubernetes says of Jobs and pods, also today's, in its own words."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import pytest

from caliban.model.job import Outcome, Status
from caliban.platform.kubernetes import waiting
from caliban.platform.kubernetes.outcome import (
    newest,
    of_pod,
    outcome,
    waits_for_pod,
    waits_for_volume,
    worker,
)

START, END = "2026-11-21T10:00:00Z", "2026-11-21T10:00:05Z"
STARTED = datetime.datetime(2026, 11, 21, 10, tzinfo=datetime.UTC)
ENDED = datetime.datetime(2026, 11, 21, 10, 0, 5, tzinfo=datetime.UTC)


def job(*conditions: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    listed = [{"status": "True", "lastTransitionTime": END, **each} for each in conditions]
    return {
        "metadata": {"name": "j", "labels": {}},
        "spec": {"template": {"spec": {}}, **spec},
        "status": {"startTime": START, "conditions": listed},
    }


def pod(
    phase: str = "Running",
    state: Mapping[str, Any] | None = None,
    name: str = "p",
    spec: Mapping[str, Any] | None = None,
    **status: Any,
) -> dict[str, Any]:
    statuses = [{"name": "caliban", "image": "image:1", "state": state}] if state else []
    return {
        "metadata": {"name": name, "creationTimestamp": START},
        "spec": {"containers": [{"name": "caliban"}], **(spec or {})},
        "status": {"phase": phase, "containerStatuses": statuses, **status},
    }


def exited(code: int, **more: str) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "startedAt": START, "finishedAt": END, **more}}


PREEMPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
FAILED = {"type": "Failed", "reason": "BackoffLimitExceeded", "message": "has reached the limit"}


def failed(*args: Any, **status: Any) -> Outcome:
    """The outcome of a job that has failed with such a pod."""
    return outcome(job(FAILED), [pod("Failed", *args, **status)])


class TestAJobThatHasEnded:
    def test_has_succeeded_in_the_time_of_its_container(self) -> None:
        found = outcome(job({"type": "Complete"}), [pod("Succeeded", exited(0))])
        assert found == Outcome(Status.SUCCEEDED, 0, "", STARTED, ENDED)

    def test_has_succeeded_though_its_pod_is_gone(self) -> None:
        found = outcome(job({"type": "Complete"}), [])
        assert found == Outcome(Status.SUCCEEDED, 0, "", STARTED, ENDED)

    @pytest.mark.parametrize(
        ("state", "code", "reason"),
        [
            (exited(7, reason="Error"), 7, "exit code 7"),
            (exited(137, reason="OOMKilled"), 137, "out of memory"),
            (exited(139), 139, "signal 11 (SIGSEGV)"),
            (
                exited(128, reason="StartError", message='runc: x: exec: "no": not found: unknown'),
                128,
                'exit code 128: exec: "no": not found',
            ),
        ],
    )
    def test_has_failed_in_words(self, state: dict[str, Any], code: int, reason: str) -> None:
        assert failed(state) == Outcome(Status.FAILED, code, reason, STARTED, ENDED)

    def test_has_an_exit_code_though_its_pod_is_gone(self) -> None:
        said = "Container caliban for pod d/j-x failed with exit code 7 matching FailJob rule at 1"
        found = outcome(job({"type": "Failed", "reason": "PodFailurePolicy", "message": said}), [])
        assert (found.exit_code, found.reason) == (7, "exit code 7")

    def test_has_run_out_of_time(self) -> None:
        found = failed(exited(143), reason="DeadlineExceeded", message="Pod was active too long")
        assert (found.exit_code, found.reason) == (143, "it ran longer than its time limit")
        condition = {"type": "Failed", "reason": "DeadlineExceeded"}
        found = outcome(job(condition, activeDeadlineSeconds=60), [])
        assert found.reason == "it ran longer than its time limit of 60 s"

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (
                {"reason": "Evicted", "message": "The node was low on resource: memory. "},
                "evicted by its node: The node was low on resource: memory",
            ),
            (
                {"conditions": [PREEMPTED]},
                "a job that matters more took its place",
            ),
            (
                {"reason": "UnexpectedAdmissionError", "message": "no GPU after all"},
                "UnexpectedAdmissionError: no GPU after all",
            ),
        ],
    )
    def test_was_ended_by_others(self, status: dict[str, Any], reason: str) -> None:
        assert failed(None, **status).reason == reason

    def test_says_what_the_cluster_says_if_that_is_all(self) -> None:
        found = outcome(job(FAILED), [])
        assert found.reason == "BackoffLimitExceeded: has reached the limit"


class TestAnOpenJob:
    def test_runs_since_its_container_does(self) -> None:
        found = outcome(job(), [pod("Running", {"running": {"startedAt": START}})])
        assert found == Outcome(Status.RUNNING, started=STARTED)

    @pytest.mark.parametrize(
        ("ready", "reason"),
        [
            ({"status": "False"}, "its node doesn't answer"),
            ({"status": "False", "reason": "ContainersNotReady"}, ""),
            ({"status": "True"}, ""),
        ],
    )
    def test_may_run_on_a_node_that_is_out_of_sight(
        self, ready: dict[str, Any], reason: str
    ) -> None:
        running = {"running": {"startedAt": START}}
        found = outcome(job(), [pod("Running", running, conditions=[{"type": "Ready", **ready}])])
        assert found == Outcome(Status.RUNNING, reason=reason, started=STARTED)

    def test_is_not_over_before_the_cluster_says_so(self) -> None:
        for ended in (pod("Succeeded", exited(0)), pod("Failed", exited(3))):
            assert outcome(job(), [ended]) == Outcome(Status.RUNNING, started=STARTED)
        rule = {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}}
        spec = {"podFailurePolicy": {"rules": [rule]}, "backoffLimit": 3}
        found = outcome(job(**spec), [pod("Failed", exited(3))])
        assert found.status is Status.RUNNING

    def test_is_started_again(self) -> None:
        again = Outcome(Status.SUBMITTED, reason="is started again after: exit code 3")
        failed = pod("Failed", exited(3))
        assert outcome(job(backoffLimit=1), [failed]) == again
        assert outcome(job(backoffLimit=1), [failed, failed]).status is Status.RUNNING

    def test_is_judged_by_its_own_container_though_the_cluster_puts_others_before_it(self) -> None:
        found = pod(
            "Failed", exited(3), spec={"containers": [{"name": "proxy"}, {"name": "caliban"}]}
        )
        found["status"]["containerStatuses"].insert(0, {"name": "proxy", "state": exited(0)})
        found["metadata"]["annotations"] = {"kubectl.kubernetes.io/default-container": "caliban"}
        assert outcome(job(FAILED), [found]).exit_code == 3
        found["metadata"]["annotations"] = {"kubectl.kubernetes.io/default-container": "gone"}
        assert worker(found) == "proxy"

    def test_is_judged_by_its_newest_pod(self) -> None:
        old, new = pod("Failed", exited(3), name="z"), pod("Pending", name="a")
        new["metadata"]["creationTimestamp"] = END
        assert newest([new, old]) is newest([old, new]) is new
        new["metadata"]["deletionTimestamp"] = END
        assert newest([new, old]) is old
        assert newest([]) is None

    def test_waits_for_kueue(self) -> None:
        queued = job(suspend=True)
        queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team"
        assert outcome(queued, []).reason == "Suspended: waits in the queue 'team'"
        assert not waits_for_pod(queued, [])

    def test_waits_for_quota(self) -> None:
        said = (
            'Error creating: pods "j-x" is forbidden: exceeded quota: team, requested: '
            "requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=4, limited: 4"
        )
        found = outcome(job(), [], [("FailedCreate", said)])
        assert waits_for_pod(job(), [])
        assert found.status is Status.SUBMITTED
        assert found.reason.startswith(
            "FailedCreate: the quota 'team' of the namespace is used up (requested: requests.nvidia"
        )

    def test_waits_for_the_volume_that_it_writes_to(self) -> None:
        claim = {"name": "output", "persistentVolumeClaim": {"claimName": "results"}}
        creating = {"waiting": {"reason": "ContainerCreating"}}
        waits = pod("Pending", creating, spec={"nodeName": "node-1", "volumes": [claim]})
        assert waits_for_volume(waits)
        found = outcome(job(), [waits], [("FailedAttachVolume", "Multi-Attach error\nfor it")])
        said = "FailedAttachVolume: its volume can't be had: Multi-Attach error for it"
        assert found == Outcome(Status.SUBMITTED, reason=said)
        # One that waits for something else says that, and others wait for no claim.
        assert not waits_for_volume(pod("Pending", creating, spec={"nodeName": "node-1"}))
        assert not waits_for_volume(pod("Pending", spec={"volumes": [claim]}))
        pulls = {"waiting": {"reason": "ErrImagePull"}}
        other = pod("Pending", pulls, spec={"nodeName": "node-1", "volumes": [claim]})
        assert not waits_for_volume(other)
        assert outcome(job(), [other], [("FailedMount", "x")]).reason.startswith("ErrImagePull")

    def test_has_nothing_to_say_at_first(self) -> None:
        assert outcome(job(), []) == Outcome(Status.SUBMITTED)
        assert outcome(job(), [pod("Pending")]) == Outcome(Status.SUBMITTED)


class TestAPod:
    def test_at_its_time_limit_has_begun_and_says_which_limit(self) -> None:
        # The kubelet has not seen its container end.
        found = pod(
            "Failed",
            {"running": {"startedAt": START}},
            spec={"activeDeadlineSeconds": 5},
            reason="DeadlineExceeded",
        )
        assert of_pod(found) == Outcome(
            Status.FAILED, None, "it ran longer than its time limit of 5 s"
        )
        ended = outcome(job(FAILED), [found])
        assert (ended.started, ended.finished) == (STARTED, ENDED)


def unschedulable(message: str, **spec: Any) -> str:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
    }
    return waiting.of_pod(pod("Pending", spec=spec, conditions=[condition]))


def asking(**limits: str) -> list[dict[str, Any]]:
    named = {key.replace("__", "/").replace("_", "."): text for key, text in limits.items()}
    return [{"name": "caliban", "resources": {"limits": named}}]


class TestWhyAJobWaits:
    def test_for_gpus_that_no_node_has(self) -> None:
        found = unschedulable(
            "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
            containers=asking(nvidia_com__gpu="8"),
        )
        assert found == (
            "Unschedulable: no node has 8 GPUs free; ask for less, or wait if the cluster adds "
            "nodes by itself"
        )

    def test_for_several_reasons_in_the_words_of_today(self) -> None:
        found = unschedulable(
            "0/3 nodes are available: 1 node(s) had untolerated taint {a: b}, 2 Insufficient "
            "cpu, 2 Insufficient memory. preemption: 0/3 nodes are available: 1 Preemption is "
            "not helpful for scheduling, 2 No preemption victims found for incoming pod.",
            containers=asking(cpu="31", memory="1T"),
        )
        assert found.startswith(
            "Unschedulable: 1 of 3 nodes had untolerated taint {a: b}, 2 of 3 nodes don't have "
            "31 CPUs free, 2 of 3 nodes don't have 1T memory free; "
        )
        assert "reemption" not in found

    def test_for_a_kind_of_node(self) -> None:
        found = unschedulable(
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            nodeSelector={"cloud.google.com/gke-accelerator": "nvidia-l4"},
        )
        assert "all nodes didn't match" not in found
        assert "no node is of the wanted kind (cloud.google.com/gke-accelerator=nvidia-l4)" in found

    def test_for_a_node_with_fewer_pods(self) -> None:
        found = unschedulable("0/1 nodes are available: 1 Too many pods.")
        assert found.startswith("Unschedulable: no node has room for another pod; ")
        found = unschedulable("0/2 nodes are available: 1 Insufficient cpu, 1 Too many pods.")
        assert "1 of 2 nodes have no room for another pod" in found

    @pytest.mark.parametrize(
        "said",
        [
            '0/1 nodes are available: 1 persistentvolumeclaim "results" not found.',
            '0/3 nodes are available: persistentvolumeclaim "results" not found. preemption: 0/3 '
            "nodes are available: 3 Preemption is not helpful for scheduling.",
            'persistentvolumeclaim "results" not found',
        ],
    )
    def test_for_a_claim_that_is_gone(self, said: str) -> None:
        found = "Unschedulable: its PersistentVolumeClaim 'results' is not there"
        assert unschedulable(said) == found

    def test_for_the_volume_of_its_claim(self) -> None:
        found = unschedulable(
            "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. "
            "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
        )
        assert found.startswith("Unschedulable: its PersistentVolumeClaim has no volume yet: ")

    def test_in_the_words_of_the_cluster_where_those_are_new(self) -> None:
        assert unschedulable("something else") == "Unschedulable: something else"

    @pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
    def test_for_its_image(self, reason: str) -> None:
        state = {"waiting": {"reason": reason, "message": "not\n found"}}
        found = of_pod(pod("Pending", state))
        assert found == Outcome(
            Status.SUBMITTED, reason=f"{reason}: the node can't fetch the image image:1 (not found)"
        )

    def test_for_a_secret_with_the_command_that_makes_it(self) -> None:
        message = 'secret "wandb" not found'
        state = {"waiting": {"reason": "CreateContainerConfigError", "message": message}}
        waits = pod("Pending", state)
        waits["metadata"]["namespace"] = "vision"
        found = waiting.of_pod(waits)
        assert "kubectl --namespace vision create secret generic wandb" in found

    def test_not_while_it_is_about_to_start(self) -> None:
        assert waiting.of_pod(pod("Pending", {"waiting": {"reason": "ContainerCreating"}})) == ""
