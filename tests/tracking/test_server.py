"""The runs of jobs on a real tracking server, whatever is there already."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from caliban.model import tracking
from caliban.model.tracking import Run
from caliban.tracking.server import AwayError, RefusedError, Server
from tests import mlflow_server

PLAIN = Run({"n": "1"}, {"loss": 0.5}, {"caliban.job": "7"}, "FINISHED", 1000, 2000, {"a": 1})


@pytest.fixture
def client(mlflow: mlflow_server.Server) -> Iterator[Server]:
    found = Server(mlflow.url, {})
    yield found
    found.close()


@pytest.fixture
def name() -> str:
    return f"experiment-{uuid.uuid4().hex}"


def record(client: Server, name: str, run: Run = PLAIN, known: str = "") -> str:
    return client.record(name, "0123", known, run, io.BytesIO(b"printed"))


def test_a_job_gets_one_run_however_often_it_is_written_down(
    client: Server, mlflow: mlflow_server.Server, name: str
) -> None:
    for _ in range(3):
        assert record(client, name) == ""
    [run] = mlflow.runs(name)
    assert (run.params, run.metrics, run.state) == ({"n": "1"}, {"loss": 0.5}, "FINISHED")
    assert run.name == tracking.run_name("0123")
    assert mlflow.file(run, "caliban/log.txt") == b"printed"


def test_a_run_that_was_made_before_is_completed(
    client: Server, mlflow: mlflow_server.Server, name: str
) -> None:
    made = str(client.create(name, "0123")["info"]["run_id"])
    record(client, name, known=made)
    assert [run.id for run in mlflow.runs(name)] == [made]


def test_of_two_runs_that_one_stays_that_the_job_has_made(
    client: Server, mlflow: mlflow_server.Server, name: str
) -> None:
    client.create(name, "0123")
    client.create(name, "0123")
    tags = [{"key": tracking.UID, "value": "0123"}]
    content = {"experiment_id": mlflow.experiment(name), "run_name": "x", "tags": tags}
    own = mlflow.call("runs/create", content)["run"]["info"]["run_id"]
    record(client, name)
    assert [run.id for run in mlflow.runs(name)] == [own]


def test_what_the_job_has_logged_itself_is_left_as_it_is(
    client: Server, mlflow: mlflow_server.Server, name: str
) -> None:
    made = str(client.create(name, "0123")["info"]["run_id"])
    mlflow.call("runs/log-parameter", {"run_id": made, "key": "n", "value": "one"})
    mlflow.call("runs/log-metric", {"run_id": made, "key": "loss", "value": 9, "timestamp": 1})
    record(client, name, known=made)
    [run] = mlflow.runs(name)
    assert (run.params, run.metrics) == ({"n": "one"}, {"loss": 9})


def test_a_run_that_somebody_has_deleted_is_made_anew(
    client: Server, mlflow: mlflow_server.Server, name: str
) -> None:
    made = str(client.create(name, "0123")["info"]["run_id"])
    mlflow.call("runs/delete", {"run_id": made})
    record(client, name, known=made)
    [run] = mlflow.runs(name)
    assert run.id != made


def test_hundreds_of_parameters_and_all_kinds_of_numbers_arrive(
    client: Server, mlflow: mlflow_server.Server, name: str
) -> None:
    params = {f"p{number}": "x" * 6000 for number in range(250)}
    metrics = {f"m{number}": float(number) for number in range(700)}
    metrics |= {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
    record(client, name, replace(PLAIN, params=params, metrics=metrics))
    [run] = mlflow.runs(name)
    assert len(run.params) == 250
    assert len(run.metrics) == 703
    assert (run.metrics["nan"], run.metrics["m699"]) == ("NaN", 699)


def test_a_server_that_is_not_there_is_away(mlflow: mlflow_server.Server) -> None:
    with pytest.raises(AwayError, match="doesn't answer"):
        Server("http://127.0.0.1:9", {}).create("g", "0123")


def test_a_web_server_of_another_kind_is_said_to_be_none(mlflow: mlflow_server.Server) -> None:
    client = Server(f"{mlflow.url}/static-files", {})
    with pytest.raises(RefusedError, match="static-files"):
        client.create("g", "0123")
    client.close()
