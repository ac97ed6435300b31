"""Jobs of Kubernetes: what is sent to make one."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caliban.errors import UsageError
from caliban.model.experiment import Experiment
from caliban.model.image import HOME
from caliban.model.job import JobRequest
from caliban.platform.kubernetes import hardware, labels
from caliban.platform.kubernetes.manifest import CONTAINER, job_name, labels_of, plan, uid_of
from caliban.platform.kubernetes.options import Options

UID = "0123456789abcdef"
IMAGE = "registry.example/train@sha256:" + "0" * 64
PLAIN = Options("minikube/team")

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
LABEL = re.compile("([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
KEY = re.compile(
    r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)


def request(options: Options = PLAIN, **changes: Any) -> JobRequest:
    plain = JobRequest(
        uid=UID,
        experiment=Experiment((), {}),
        image=IMAGE,
        group="night",
        index=0,
        settings=options.to_json(),
    )
    return dataclasses.replace(plain, **changes)


def body(options: Options = PLAIN, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = plan(request(options, **changes)).payload["body"]
    return found


def pod(options: Options = PLAIN, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = body(options, **changes)["spec"]["template"]["spec"]
    return found


def container(options: Options = PLAIN, **changes: Any) -> dict[str, Any]:
    (found,) = pod(options, **changes)["containers"]
    assert isinstance(found, dict)
    return found


def of(**changes: Any) -> Options:
    return dataclasses.replace(PLAIN, **changes)


class TestTheJob:
    def test_is_one_of_batch_v1_in_the_namespace_of_its_place(self) -> None:
        found = body()
        assert (found["apiVersion"], found["kind"]) == ("batch/v1", "Job")
        assert found["metadata"]["name"] == f"caliban-{UID}"
        assert found["metadata"]["namespace"] == "team"
        assert plan(request()).target == "minikube/team"
        assert json.loads(json.dumps(plan(request()).payload)) == plan(request()).payload

    def test_is_named_after_its_name_and_uid(self) -> None:
        assert job_name("My Job_1", UID) == f"my-job-1-{UID}"
        assert job_name("", UID) == f"caliban-{UID}"
        assert len(job_name("x" * 99, UID)) == 63

    @given(st.text())
    def test_has_a_name_that_kubernetes_takes_and_the_uid_is_read_from(self, stem: str) -> None:
        name = job_name(stem, UID)
        assert re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)
        assert uid_of(name) == UID

    def test_starts_what_the_image_starts_with_the_flags_of_the_experiment(self) -> None:
        experiment = Experiment(("--epochs", "2"), {"lr": 0.1})
        found = container(experiment=experiment)
        assert found["image"] == IMAGE
        assert found["args"] == ["--epochs", "2", "--lr", "0.1"]
        assert "command" not in found
        assert "args" not in container()

    def test_has_a_command_for_images_of_other_people(self) -> None:
        assert container(of(command=("python", "-m", "a")))["command"] == ["python", "-m", "a"]

    def test_leaves_nothing_for_kubernetes_to_expand(self) -> None:
        options = of(environment=(("A", "$(HOME) $$ $"),), command=("echo", "$(A)"))
        found = container(options, experiment=Experiment(("$(HOME)",), {}))
        assert found["args"] == ["$$(HOME)"]
        assert found["command"] == ["echo", "$$(A)"]
        assert {"name": "A", "value": "$$(HOME) $$$$ $$"} in found["env"]

    def test_finds_secrets_by_name_alone(self) -> None:
        found = container(of(env_secrets=("wandb", "hub")))
        assert found["envFrom"] == [
            {"secretRef": {"name": "wandb"}},
            {"secretRef": {"name": "hub"}},
        ]

    def test_has_the_labels_of_its_group_its_flags_and_its_user(self) -> None:
        experiment = Experiment(("--epochs", "2"), {"lr": 0.1, "note": "a b"})
        options = of(labels=(("team", "vision"), ("lr", "x"), ("example.com/cost", "7")))
        found = body(options, experiment=experiment)
        expected = {
            "caliban_uid": UID,
            "caliban_group": "night",
            "app.kubernetes.io/managed-by": "caliban",
            "job_name": "caliban",
            "gpu_enabled": "false",
            "tpu_enabled": "false",
            "epochs": "2",
            "lr": "0.1",
            "note": "a_b",
            "team": "vision",
            "example.com/cost": "7",
        }
        assert found["metadata"]["labels"] == expected
        assert found["spec"]["template"]["metadata"]["labels"] == expected
        flags = json.loads(found["metadata"]["annotations"]["caliban/flags"])
        assert flags == ["--epochs", "2", "--lr", "0.1", "--note", "a b"]
        assert len(labels_of(request(options, experiment=experiment)).notes) == 1

    def test_is_not_retried_after_a_bug_but_after_being_driven_away(self) -> None:
        spec = body()["spec"]
        assert spec["podFailurePolicy"]["rules"] == [
            {
                "action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            },
            {
                "action": "FailJob",
                "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": [0]},
            },
        ]
        assert spec["backoffLimit"] == 3
        assert pod()["restartPolicy"] == "Never"

    def test_is_retried_as_often_as_the_user_says(self) -> None:
        spec = body(of(max_retries=2))["spec"]
        assert spec["backoffLimit"] == 2
        assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["Ignore"]

    def test_is_not_retried_after_its_time_is_up(self) -> None:
        found = body(of(timeout=60))["spec"]
        assert found["backoffLimit"] == 0
        assert found["template"]["spec"]["activeDeadlineSeconds"] == 60
        assert "activeDeadlineSeconds" not in found

    def test_asks_older_clusters_for_nothing_that_they_do_not_know(self) -> None:
        spec = body(of(failure_policy=False))["spec"]
        assert spec.keys() == {"backoffLimit", "template"}
        assert spec["backoffLimit"] == 0

    def test_waits_in_a_queue(self) -> None:
        found = body(of(queue="team-queue"))
        assert found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-queue"
        assert found["spec"]["suspend"] is True

    def test_has_the_other_wishes(self) -> None:
        found = of(ttl=3600, service_account="trainer", pull_policy="Always", pull_secrets=("hub",))
        assert body(found)["spec"]["ttlSecondsAfterFinished"] == 3600
        assert pod(found)["serviceAccountName"] == "trainer"
        assert "automountServiceAccountToken" not in pod(found)
        assert pod(found)["imagePullSecrets"] == [{"name": "hub"}]
        assert container(found)["imagePullPolicy"] == "Always"
        assert pod()["automountServiceAccountToken"] is False


class TestWhoAJobIs:
    def test_is_nobody_with_powers(self) -> None:
        context = pod()["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 1000
        assert container()["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }

    def test_has_a_home_a_name_and_room_in_memory(self) -> None:
        mounts = {each["mountPath"]: each for each in container()["volumeMounts"]}
        assert mounts.keys() == {"/dev/shm", HOME, "/etc/passwd", "/etc/group"}
        notes = body()["spec"]["template"]["metadata"]["annotations"]
        assert f":1000:1000:caliban:{HOME}:" in notes["caliban/passwd"]
        assert {"name": "HOME", "value": HOME} in container()["env"]

    def test_keeps_the_home_of_images_that_have_one(self) -> None:
        mounts = [each["mountPath"] for each in container(of(own_home=True))["volumeMounts"]]
        assert HOME not in mounts
        assert "/etc/passwd" in mounts

    def test_can_be_root(self) -> None:
        options = of(root=True)
        assert pod(options)["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
        assert "securityContext" not in container(options)
        assert [each["mountPath"] for each in container(options)["volumeMounts"]] == ["/dev/shm"]
        assert "annotations" in body(options)["spec"]["template"]["metadata"]


class TestHardware:
    def test_is_requested_as_documented(self) -> None:
        options = of(cpu=1500, memory=7000)
        assert container(options)["resources"] == {"requests": {"cpu": "1500m", "memory": "7000M"}}
        assert "resources" not in container()

    def test_of_gke_is_chosen_by_its_labels(self) -> None:
        options = of(gke=True, gpus=2, gpu_type="nvidia-l4", spot=True)
        assert container(options)["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
        assert pod(options)["nodeSelector"] == {
            "cloud.google.com/gke-accelerator": "nvidia-l4",
            "cloud.google.com/gke-gpu-driver-version": "default",
            "cloud.google.com/gke-spot": "true",
        }
        assert pod(options)["tolerations"] == [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            {
                "key": "cloud.google.com/gke-spot",
                "operator": "Equal",
                "value": "true",
                "effect": "NoSchedule",
            },
        ]

    def test_of_gke_can_be_tpus(self) -> None:
        options = of(gke=True, tpus=8, tpu_type="tpu-v5-lite-podslice", topology="2x4")
        assert container(options)["resources"] == {"limits": {"google.com/tpu": "8"}}
        assert pod(options)["nodeSelector"] == {
            "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
            "cloud.google.com/gke-tpu-topology": "2x4",
        }

    def test_elsewhere_is_chosen_by_its_products_if_those_are_known(self) -> None:
        found = pod(of(gpus=1, gpu_type="nvidia-tesla-t4", gpu_products=("Tesla-T4",)))
        assert "nodeSelector" not in found
        required = found["affinity"]["nodeAffinity"]
        (term,) = required["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert term["matchExpressions"] == [
            {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["Tesla-T4"]}
        ]
        assert "affinity" not in pod(of(gpus=1))

    @pytest.mark.parametrize(
        ("kind", "matching"),
        [
            ("V100", ["Tesla-V100-SXM2-16GB"]),
            ("T4", ["Tesla-T4"]),
            ("A100", ["NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-SXM4-80GB"]),
            ("A100_80GB", ["NVIDIA-A100-SXM4-80GB"]),
            ("H100", ["NVIDIA-H100-80GB-HBM3"]),
            ("L4", ["NVIDIA-L4"]),
            ("P4", []),
        ],
    )
    def test_has_products_that_are_of_a_type(self, kind: str, matching: list[str]) -> None:
        products = [
            "NVIDIA-A100-SXM4-40GB",
            "NVIDIA-A100-SXM4-80GB",
            "NVIDIA-H100-80GB-HBM3",
            "NVIDIA-L4",
            "NVIDIA-L40S",
            "Tesla-P40",
            "Tesla-T4",
            "Tesla-V100-SXM2-16GB",
        ]
        assert list(hardware.matching(kind, products)) == matching

    @pytest.mark.parametrize("options", [{"spot": True}, {"tpus": 4}])
    def test_of_gke_is_nowhere_else(self, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="only clusters of GKE"):
            of(**options)


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [
            PLAIN,
            of(gke=True, gpus=1, gpu_type="nvidia-l4", spot=True, labels=(("a", "b"),)),
            of(environment=(("A", "1"),), env_secrets=("s",), command=("sh", "-c")),
            of(manifest={"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}}),
        ],
    )
    def test_go_through_json_and_back(self, options: Options) -> None:
        assert Options.from_json(json.loads(json.dumps(options.to_json()))) == options

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"cpu": -1}, "cpu can't be -1"),
            ({"memory": 9, "memory_limit": 8}, "need 9 MB and be ended at 8 MB"),
            ({"env_secrets": ("My_Key",)}, "'My_Key' can't be the name of a Secret"),
            ({"queue": "a b"}, "'a b' can't be the name of a queue"),
            ({"service_account": "X"}, "'X' can't be the name of a service account"),
            ({"service_account": "x@y"}, "'x@y' is an account of Google's"),
            ({"pull_policy": "Sometimes"}, "'Sometimes'"),
            ({"environment": (("A=B", "1"),)}, "'A=B'"),
        ],
    )
    def test_that_cannot_be_are_refused(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(UsageError, match=re.escape(said)):
            of(**changes)


class TestLabels:
    @given(st.text(max_size=99), st.text(max_size=99))
    def test_are_ones_that_kubernetes_takes(self, key: str, value: str) -> None:
        found = labels.key(key)
        assert not found or KEY.fullmatch(found)
        assert LABEL.fullmatch(labels.value(value))
        assert LABEL.fullmatch(labels.group(value))

    @given(st.text(min_size=1, max_size=99), st.text(min_size=1, max_size=99))
    def test_of_different_groups_differ(self, one: str, other: str) -> None:
        assert (labels.group(one) == labels.group(other)) == (one == other)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("0.01", "0.01"),
            ("Adam", "Adam"),
            ("-1e-3", "minus1e-3"),
            ("a b/c", "a_b_c"),
            ("--x--", "x"),
            ("", ""),
        ],
    )
    def test_stay_as_they_are_where_they_can(self, text: str, value: str) -> None:
        assert labels.value(text) == value

    def test_leave_those_of_kubernetes_alone(self) -> None:
        assert labels.key("job-name") == "job_name"
        assert labels.key("controller-uid") == "controller_uid"

    def test_of_the_user_cannot_take_caliban_s_place(self) -> None:
        options = of(labels=(("app.kubernetes.io/managed-by", "me"), ("caliban_uid", "x")))
        found = body(options)["metadata"]["labels"]
        assert found["app.kubernetes.io/managed-by"] == "caliban"
        assert found["caliban_uid"] == UID


class TestAManifestOfTheUser:
    MANIFEST: dict[str, Any] = {  # noqa: RUF012 - never changed
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "old",
            "generateName": "old-",
            "resourceVersion": "7",
            "labels": {"mine": "1", "controller-uid": "x", "job-name": "old"},
        },
        "spec": {
            "parallelism": 2,
            "selector": {"matchLabels": {"controller-uid": "x"}},
            "template": {
                "metadata": {"labels": {"batch.kubernetes.io/job-name": "old"}},
                "spec": {
                    "restartPolicy": "OnFailure",
                    "containers": [{"name": "main", "image": "theirs:1", "args": ["$(X)"]}],
                },
            },
        },
        "status": {"active": 1},
    }

    def test_is_sent_with_a_name_and_labels_of_its_own(self) -> None:
        options = of(name="old", manifest=self.MANIFEST)
        found = body(options, image="", experiment=Experiment(("$(X)", "--a"), {}))
        marks = {
            "caliban_uid": UID,
            "caliban_group": "night",
            "app.kubernetes.io/managed-by": "caliban",
        }
        assert found["metadata"] == {
            "name": f"old-{UID}",
            "namespace": "team",
            "labels": {"mine": "1", **marks},
            "annotations": {"caliban/group": "night"},
        }
        assert found["spec"].keys() == {"parallelism", "template"}
        template = found["spec"]["template"]
        assert template["metadata"]["labels"] == marks
        worker = {"kubectl.kubernetes.io/default-container": "main"}
        assert template["metadata"]["annotations"] == {"caliban/group": "night", **worker}
        (main,) = found["spec"]["template"]["spec"]["containers"]
        assert main == {"name": "main", "image": "theirs:1", "args": ["$(X)", "--a"]}
        assert "status" not in found

    def test_is_left_as_it_was(self) -> None:
        before = json.dumps(self.MANIFEST)
        body(of(manifest=self.MANIFEST), image="other:2")
        assert json.dumps(self.MANIFEST) == before
