"""Tracking servers of MLflow, and a project whose jobs may use them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import mlflow_server
from tests.history.conftest import postgresql, server  # noqa: F401 - fixtures
from tests.mlflow_server import Server
from tests.parts import do_without

# A job that logs nothing by itself, or by MLflow what the run has not got otherwise.
TRAIN = """
import argparse, json, os, time

parser = argparse.ArgumentParser()
parser.add_argument("--n", type=int)
parser.add_argument("--own", action="store_true")
parser.add_argument("--seconds", type=float, default=0)
arguments = parser.parse_args()
print("told", json.dumps({k: v for k, v in os.environ.items() if k.startswith("MLFLOW_")}))
if arguments.own:
    import mlflow

    with mlflow.start_run():
        mlflow.log_param("n", arguments.n)
        for step in range(3):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
            time.sleep(arguments.seconds / 3)
        mlflow.log_text("a note", "own/note.txt")
else:
    time.sleep(arguments.seconds)
print("caliban:", json.dumps({"accuracy": arguments.n / 100, "colour": "red"}))
raise SystemExit(3 if arguments.n == 3 else 0)
"""

# The number of the job that fails.
FAILING = 3


@pytest.fixture(scope="session")
def mlflow_program() -> str:
    """The program `mlflow`."""
    found = mlflow_server.program()
    if found is None:
        do_without("mlflow", "there is no mlflow on PATH, nor in .mlflow")
    return found


@pytest.fixture(scope="session")
def mlflow(mlflow_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A tracking server with SQLite, which all tests of the session use."""
    found = Server(mlflow_program, tmp_path_factory.mktemp("mlflow"))
    yield found
    found.kill()


@pytest.fixture
def with_postgresql(mlflow_program: str, postgresql: str, tmp_path: Path) -> Iterator[Server]:  # noqa: F811
    """A tracking server with PostgreSQL."""
    found = Server(mlflow_program, tmp_path, postgresql)
    with contextlib.ExitStack() as stack:
        stack.callback(found.kill)
        yield found


@pytest.fixture
def configured(project: Path) -> Callable[[str], Path]:
    """The project with its own use of MLflow, and a tracking server in its configuration."""

    def configure(url: str) -> Path:
        (project / "trainer" / "train.py").write_text(TRAIN)
        (project / "requirements.txt").write_text("mlflow-skinny\n")
        settings = {"default_mode": "cpu", "mlflow_config": {"tracking_uri": url}}
        (project / ".calibanconfig.json").write_text(json.dumps(settings))
        return project

    return configure
