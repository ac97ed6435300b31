"""Runs of MLflow of jobs that `caliban replay` runs again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import mlflow_server
from tests.conftest import Caliban
from tests.workshop import Workshop

TRAIN = """
import json, os

print("told", sorted(name for name in os.environ if name.startswith("MLFLOW")))
print("caliban:", json.dumps({"accuracy": 0.5}))
"""


def test_replayed_jobs_have_runs_and_are_told_nothing_of_the_server(
    project: Path,
    tmp_path: Path,
    workshop: Workshop,
    caliban: Caliban,
    mlflow: mlflow_server.Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (project / "trainer" / "train.py").write_text(TRAIN)
    done = caliban("run", "--nogpu", "--xgroup", "tries", "trainer.train")
    assert done.returncode == 0, done.stderr
    done = caliban("export", "tries", "-o", str(tmp_path / "tries.tar"))
    assert done.returncode == 0, done.stderr

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    settings = {"mlflow_config": {"tracking_uri": mlflow.url}}
    (elsewhere / ".calibanconfig.json").write_text(json.dumps(settings))
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a password")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    done = caliban("replay", str(tmp_path / "tries.tar"), "--xgroup", "replayed")
    assert done.returncode == 0, done.stderr
    (run,) = mlflow.runs("replayed")
    assert (run.state, run.metrics["accuracy"]) == ("FINISHED", 0.5)
    assert caliban("logs", "2").stdout.splitlines()[0] == "told []"
