"""Jobs as runs of MLflow, and what jobs elsewhere are told of theirs."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from caliban.model.experiment import Experiment
from caliban.model.job import Job, JobRequest, Outcome, Status, Submission
from caliban.model.provenance import Provenance, Repository, Source
from caliban.model.report import Report
from caliban.model.tracking import number_text, run_of
from caliban.platform import vertex_job
from caliban.platform.kubernetes import manifest
from caliban.platform.kubernetes.options import Options

START = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
JOB = Job(
    id=7,
    uid="0123456789abcdef",
    user="tester",
    group="night",
    experiment_id=1,
    experiment=Experiment(("--verbose",), {"rate": 0.1, "layers": [1, 2], "fast": True}),
    container_spec_id=1,
    container_spec={"module": {"name": "trainer.train"}},
    submission=Submission("local", "here", {}),
    handle=None,
    image="sha256:1",
    outcome=Outcome(Status.SUCCEEDED, 0, "", START, START + datetime.timedelta(seconds=2)),
    owner="",
    created=START,
    report=Report({"loss": 0.5, "steps": 3, "good": True, "note": "x", "worst": "nan"}),
)


def test_a_job_that_succeeded_is_finished_with_all_that_is_known_of_it() -> None:
    source = Source("sha256:2", repository=Repository("c0ffee"))
    run = run_of(JOB, Provenance("1.0", source=source))
    assert run.params == {"rate": "0.1", "layers": "[1, 2]", "fast": "True"}
    worst = run.metrics["worst"]
    assert run.metrics == {"loss": 0.5, "steps": 3.0, "good": 1.0, "worst": worst}
    assert math.isnan(worst)
    assert run.finished is not None and run.started is not None
    assert (run.state, run.finished - run.started) == ("FINISHED", 2000)
    assert run.tags == {
        "caliban.job": "7",
        "caliban.uid": JOB.uid,
        "caliban.group": "night",
        "caliban.user": "tester",
        "caliban.platform": "local",
        "caliban.image": "sha256:1",
        "caliban.flags": "--verbose --rate 0.1 --layers '[1, 2]' --fast",
        "caliban.outcome": "SUCCEEDED",
        "caliban.code": "sha256:2",
        "caliban.metric.note": "x",
        "mlflow.user": "tester",
        "mlflow.source.name": "trainer.train",
        "mlflow.source.git.commit": "c0ffee",
    }


@pytest.mark.parametrize(
    ("status", "state"), [(Status.FAILED, "FAILED"), (Status.STOPPED, "KILLED")]
)
def test_others_are_failed_or_killed_and_say_why(status: Status, state: str) -> None:
    job = replace(JOB, outcome=Outcome(status, 3, "exit code 3"), report=Report({}, "Boom"))
    run = run_of(job, None)
    assert (run.state, run.started, run.finished, run.provenance) == (state, None, None, None)
    assert (run.tags["caliban.reason"], run.tags["caliban.cause"]) == ("exit code 3", "Boom")


def test_names_and_texts_are_as_mlflow_takes_them() -> None:
    experiment = Experiment((), {"a:b*": "x" * 9000, "n" * 300: 1})
    run = run_of(replace(JOB, experiment=experiment, report=Report({"é": 10**400})), None)
    assert {name: len(value) for name, value in run.params.items()} == {"a_b_": 6000, "n" * 250: 1}
    assert len(run.tags["caliban.metric._"]) == 401
    assert run.metrics == {}


def test_numbers_that_json_lacks_have_names() -> None:
    found = [number_text(float(text)) for text in ("1.5", "nan", "inf", "-inf")]
    assert found == [1.5, "NaN", "Infinity", "-Infinity"]


def request(settings: dict[str, Any]) -> JobRequest:
    return JobRequest("0123456789abcdef", Experiment((), {}), "image", "night", 0, settings)


VARIABLES = (("MLFLOW_TRACKING_URI", "http://a"), ("MLFLOW_EXPERIMENT_NAME", "night"))


def test_jobs_elsewhere_find_the_name_of_their_run() -> None:
    cluster = Options("kubernetes:c/ns", environment=VARIABLES).to_json()
    body = manifest.plan(request(cluster)).payload["body"]
    variables = body["spec"]["template"]["spec"]["containers"][0]["env"]
    options = vertex_job.Options("p", "r", "m", environment=VARIABLES).to_json()
    body = vertex_job.plan(request(options)).payload["body"]
    there = body["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["env"]
    for found in (variables, there):
        named = {each["name"]: each["value"] for each in found}
        assert named.items() >= dict(VARIABLES).items()
        assert named["MLFLOW_RUN_NAME"] == "caliban-0123456789abcdef"
        assert json.loads(named["MLFLOW_RUN_CONTEXT"])["caliban.uid"] == "0123456789abcdef"


def test_a_job_on_kubernetes_has_the_proxy_of_cloud_sql_beside_it() -> None:
    settings = Options("kubernetes:c/ns", cloud_sql="p:r:d").to_json()
    pod = manifest.plan(request(settings)).payload["body"]["spec"]["template"]["spec"]
    [proxy] = pod["initContainers"]
    assert proxy["restartPolicy"] == "Always"  # so that it goes on beside the job
    assert proxy["args"][-1] == "p:r:d"
    # The job must not ask before it is ready.
    probe = proxy["startupProbe"]["httpGet"]
    assert probe["path"] == "/startup"
    assert str(probe["port"]) == proxy["args"][proxy["args"].index("--http-port") + 1]
    assert "env" not in proxy
