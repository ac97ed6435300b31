"""Custom jobs: what is sent to make one, held to gcloud and to the API; what their states mean."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caliban.errors import UsageError
from caliban.model import hardware
from caliban.model.experiment import Experiment, Value
from caliban.model.job import JobRequest, Outcome, Status
from caliban.model.resources import GPUSpec, Machine, TPUSpec, choose
from caliban.platform.vertex_job import Options, labels_of, outcome, plan
from tests.google_cloud.discovery import document, methods
from tests.google_cloud.test_schema import capture
from tests.google_cloud.vertex import failure, violations

DIGEST = "sha256:" + "0" * 64
IMAGE = f"us-central1-docker.pkg.dev/p1/caliban/train@{DIGEST}"


def request(options: Options, **changes: Any) -> JobRequest:
    plain = JobRequest(
        uid="0123456789abcdef",
        experiment=Experiment((), {}),
        image=IMAGE,
        group="night",
        index=0,
        settings=options.to_json(),
    )
    return dataclasses.replace(plain, **changes)


def body(options: Options, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = plan(request(options, **changes)).payload["body"]
    return found


def pool(options: Options, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = body(options, **changes)["jobSpec"]["workerPoolSpecs"][0]
    return found


PLAIN = Options("p1", "us-central1", "n1-highcpu-32")


class TestThePlan:
    def test_is_what_gcloud_sends_for_the_same_wishes(self) -> None:
        machine = choose("us-central1", GPUSpec(1, "L4"), machine="g2-standard-8")
        options = dataclasses.replace(
            Options.on(machine, "p1"),
            name="cal_job",
            labels=(("job_name", "x"),),
            environment=(("CALIBAN_JOB", "1"),),
            spot=True,
            timeout=3600,
            service_account="sa@p1.iam.gserviceaccount.com",
            boot_disk_gb=200,
        )
        experiment = Experiment((), {"lr": 0.1})
        found = body(options, experiment=experiment, output="gs://b/out")
        expected = capture("vertex-custom-job-l4-spot")
        # Caliban adds labels, by which it finds jobs again, and says where the output goes.
        assert found["labels"].items() > expected["labels"].items()
        assert set(found["labels"]) - set(expected["labels"]) == {
            *("caliban_uid", "caliban_group", "tpu_enabled", "lr"),
        }
        found["labels"] = expected["labels"]
        variables = found["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["env"]
        assert variables.pop() == {"name": "CALIBAN_OUTPUT", "value": "/gcs/b/out"}
        assert found == expected

    def test_of_several_machines_is_what_gcloud_sends_too(self) -> None:
        options = dataclasses.replace(
            Options.on(choose("us-central1", GPUSpec(2, "T4")), "p1"),
            name="n",
            command=("python", "-m", "trainer.train"),
            replicas=4,
            service_account="sa@p1.iam.gserviceaccount.com",
            network="projects/12345/global/networks/default",
        )
        image = "us-docker.pkg.dev/p1/r/i"
        found = body(options, experiment=Experiment((), {"lr": 0.1}), image=image)
        expected = capture("vertex-custom-job-t4-workers")
        assert (found["displayName"], found["jobSpec"]) == (
            expected["displayName"],
            expected["jobSpec"],
        )

    def test_of_a_plain_job_has_nothing_that_is_not_needed(self) -> None:
        assert body(PLAIN) == {
            "displayName": "caliban_1",
            "labels": {
                "job_name": "caliban",
                "gpu_enabled": "false",
                "tpu_enabled": "false",
                "caliban_uid": "0123456789abcdef",
                "caliban_group": "night",
            },
            "jobSpec": {
                "workerPoolSpecs": [
                    {
                        "machineSpec": {"machineType": "n1-highcpu-32"},
                        "containerSpec": {"imageUri": IMAGE},
                        "replicaCount": "1",
                    }
                ]
            },
        }

    def test_says_where_it_goes_and_how_it_was_made(self) -> None:
        found = plan(request(PLAIN))
        assert (found.platform, found.target) == ("vertex", "p1/us-central1")
        assert Options.from_json(found.payload["settings"]) == PLAIN
        assert json.loads(json.dumps(found.payload)) == found.payload

    def test_has_the_arguments_of_the_job(self) -> None:
        experiment = Experiment(("--epochs", "2"), {"lr": 0.1, "debug": True})
        found = pool(
            dataclasses.replace(PLAIN, command=("python", "-m", "trainer.train")),
            experiment=experiment,
        )["containerSpec"]
        assert found["command"] == ["python", "-m", "trainer.train"]
        assert found["args"] == ["--epochs", "2", "--lr", "0.1", "--debug"]

    def test_has_tpus_with_their_topology(self) -> None:
        v3 = Options.on(choose("us-central1", tpu=TPUSpec(8, "V3")), "p1")
        assert pool(v3)["machineSpec"] == {
            "machineType": "cloud-tpu",
            "acceleratorType": "TPU_V3",
            "acceleratorCount": 8,
        }
        v6e = Options.on(choose("us-central1", tpu=TPUSpec(4, "V6E")), "p1")
        assert pool(v6e)["machineSpec"] == {
            "machineType": "ct6e-standard-4t",
            "tpuTopology": "2x2",
        }
        for options in (v3, v6e):
            found = body(options)["labels"]
            assert (found["gpu_enabled"], found["tpu_enabled"]) == ("false", "true")

    def test_has_several_machines_in_two_pools(self) -> None:
        options = dataclasses.replace(PLAIN, replicas=4)
        first, others = body(options)["jobSpec"]["workerPoolSpecs"]
        assert (first.pop("replicaCount"), others.pop("replicaCount")) == ("1", "3")
        assert first == others

    def test_leaves_the_type_of_other_disks_to_google(self) -> None:
        machine = Machine("a3-ultragpu-8g", "us-central1", GPUSpec(8, "H200"))
        options = dataclasses.replace(Options.on(machine, "p1"), boot_disk_gb=500)
        assert pool(options)["diskSpec"] == {"bootDiskSizeGb": 500}

    def test_has_a_name_that_fits(self) -> None:
        found = body(dataclasses.replace(PLAIN, name="x" * 200), index=999)["displayName"]
        assert len(found) == 128
        assert found.endswith("x_1000")

    def test_of_a_forced_machine_is_what_the_user_says(self) -> None:
        gpu = GPUSpec.parse("3xNVIDIA_X900", force=True)
        machine = Machine("x9-highgpu-3g", "mars-north1", gpu, force=True)
        assert pool(Options.on(machine, "p1"))["machineSpec"] == {
            "machineType": "x9-highgpu-3g",
            "acceleratorType": "NVIDIA_X900",
            "acceleratorCount": 3,
        }

    def test_tells_of_labels_that_lose(self) -> None:
        options = dataclasses.replace(PLAIN, labels=(("lr", "9"),))
        found = labels_of(request(options, experiment=Experiment((), {"lr": 1})))
        assert found.values["lr"] == "1"
        assert len(found.notes) == 1


class TestOptions:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"replicas": 0}, "0 replicas are none"),
            ({"timeout": -1}, "a job can't end after -1 seconds"),
            ({"boot_disk_gb": 10}, "a boot disk can't have 10 GB"),
            ({"service_account": "me"}, "'me' is not a service account"),
            ({"network": "default"}, "'default' is not the full name of a network"),
            (
                {"environment": tuple((f"V{n}", "") for n in range(100))},
                "100 environment variables are too many for Vertex AI",
            ),
        ],
    )
    def test_that_cannot_be_are_refused(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError) as error:
            dataclasses.replace(PLAIN, **changes)
        assert error.value.message == message

    def test_go_through_json(self) -> None:
        options = dataclasses.replace(
            PLAIN,
            labels=(("team", "x"),),
            environment=(("A", "1"),),
            command=("python", "x.py"),
            spot=True,
        )
        text = json.dumps(options.to_json())
        assert Options.from_json(json.loads(text)) == options
        assert json.loads(json.dumps(PLAIN.to_json())) == {
            "project": "p1",
            "region": "us-central1",
            "machine": "n1-highcpu-32",
        }


def machines() -> list[Machine]:
    """Every machine with everything it can have, each in one region."""
    known = hardware.load()
    found = [Machine(name, "europe-west4") for name in known.plain_machines]
    for gpu in known.gpus.values():
        region = next((r for r in gpu.regions if r in known.regions), "us-central1")
        for count in gpu.counts:
            spec = GPUSpec(count, gpu.name)
            found += [Machine(m, region, spec) for m in known.machines_of(gpu, count)]
    for tpu in known.trainable_tpus:
        found += [choose(tpu.regions[0], tpu=TPUSpec(n, tpu.name)) for n in tpu.counts]
    return found


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=70)
NAMES = st.from_regex(r"[a-zA-Z_.][\w.-]{0,70}", fullmatch=True)
VALUES = st.one_of(TEXT, st.integers(), st.booleans(), st.floats(allow_nan=False))
PAIRS = st.dictionaries(NAMES, TEXT, max_size=5).map(lambda found: tuple(found.items()))
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(min_size=1, max_size=200),
        "labels": PAIRS,
        "environment": st.dictionaries(
            st.from_regex(r"[A-Z_][A-Z0-9_]{0,20}", fullmatch=True), TEXT, max_size=5
        ).map(lambda found: tuple(found.items())),
        "command": st.just(("python", "-m", "trainer.train")),
        "replicas": st.integers(1, 100),
        "spot": st.booleans(),
        "timeout": st.integers(0, 10**6),
        "service_account": st.just("sa@p1.iam.gserviceaccount.com"),
        "network": st.just("projects/12345/global/networks/default"),
        "boot_disk_gb": st.sampled_from([0, 100, 2000, 64_000]),
    },
)


# What is drawn is plain: no code of caliban's own runs meanwhile, which may differ another time.
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    machine=st.sampled_from(machines()),
    changes=CHANGES,
    args=st.lists(TEXT, max_size=6),
    params=st.dictionaries(NAMES, VALUES, max_size=8),
    output=st.sampled_from(["", "gs://bucket/out", "gs://b"]),
    index=st.integers(0, 10_000),
    group=TEXT,
)
def test_every_combination_of_flags_makes_a_body_that_the_api_takes(
    machine: Machine,
    changes: dict[str, Any],
    args: list[str],
    params: dict[str, Value],
    output: str,
    index: int,
    group: str,
) -> None:
    options = dataclasses.replace(Options.on(machine, "p1"), **changes)
    experiment = Experiment(tuple(args), params)
    found = body(options, experiment=experiment, output=output, index=index, group=group)
    schemas = methods("aiplatform", "v1")[0].schemas
    assert schemas.request("GoogleCloudAiplatformV1CustomJob", found) == []
    assert list(violations(found)) == []
    assert found["jobSpec"]["workerPoolSpecs"][0]["containerSpec"].get("args", []) == (
        experiment.flags()
    )


class TestOutcomes:
    @pytest.mark.parametrize(
        ("state", "status"),
        [
            ("QUEUED", Status.SUBMITTED),
            ("PENDING", Status.SUBMITTED),
            ("RUNNING", Status.RUNNING),
            ("CANCELLING", Status.RUNNING),
            ("SUCCEEDED", Status.SUCCEEDED),
            ("FAILED", Status.FAILED),
            ("CANCELLED", Status.STOPPED),
            ("EXPIRED", Status.FAILED),
            ("PARTIALLY_SUCCEEDED", Status.FAILED),
            ("UNSPECIFIED", Status.UNKNOWN),
        ],
    )
    def test_follow_the_state(self, state: str, status: Status) -> None:
        assert outcome({"state": f"JOB_STATE_{state}"}).status is status

    def test_are_known_for_every_state_of_the_api(self) -> None:
        schema = document("aiplatform", "v1")["schemas"]["GoogleCloudAiplatformV1CustomJob"]
        for state in schema["properties"]["state"]["enum"]:
            known = outcome({"state": state}).status is not Status.UNKNOWN
            assert known == (state != "JOB_STATE_UNSPECIFIED")

    def test_are_not_guessed_for_a_state_that_the_api_has_not_yet(self) -> None:
        found = outcome({"state": "JOB_STATE_HIBERNATING"})
        assert found.status is Status.UNKNOWN
        assert "HIBERNATING" in found.reason

    def test_have_times(self) -> None:
        found = outcome(
            {
                "state": "JOB_STATE_SUCCEEDED",
                "startTime": "2026-11-21T09:00:00Z",
                "endTime": "2026-11-21T09:02:05.123456789Z",
            }
        )
        assert found.describe() == "SUCCEEDED in 2 min 5 s"
        assert found.exit_code == 0
        assert found.started == datetime.datetime(2026, 11, 21, 9, tzinfo=datetime.UTC)

    @pytest.mark.parametrize(
        ("state", "message", "expected"),
        [
            ("FAILED", failure(7), Outcome(Status.FAILED, 7, "exit code 7")),
            (
                "FAILED",
                "Replica workerpool0-0 ran out-of-memory and exited with a non-zero status of 137.",
                Outcome(Status.FAILED, 137, "out of memory"),
            ),
            (
                "FAILED",
                "The following quotas are exceeded: L4GPUs\nMore.",
                Outcome(
                    Status.FAILED,
                    None,
                    "The following quotas are exceeded: L4GPUs",
                ),
            ),
            ("FAILED", "", Outcome(Status.FAILED, None, "no reason given")),
            ("FAILED", "\033]0;no\x07", Outcome(Status.FAILED, None, "]0;no")),
            (
                "FAILED",
                "non-zero status of 99999999999999999999",
                Outcome(Status.FAILED, None, "non-zero status of 99999999999999999999"),
            ),
            ("EXPIRED", "", Outcome(Status.FAILED, None, "expired")),
        ],
    )
    def test_of_failures_say_why(self, state: str, message: str, expected: Outcome) -> None:
        job: Mapping[str, Any] = {"state": f"JOB_STATE_{state}", "error": {"message": message}}
        assert outcome(job) == expected
