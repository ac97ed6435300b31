"""Jobs of real containers as runs of a real tracking server."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import Caliban
from tests.mlflow_server import Run, Server
from tests.tracking.conftest import FAILING
from tests.workshop import Workshop

Configured = Callable[[str], Path]

NUMBER = 20

# Where each job takes longer, or both kinds of them were seen in these numbers already.
FEW = 4


def sweep(
    caliban: Caliban,
    project: Path,
    group: str,
    own: Sequence[bool] = (False,),
    number: int = NUMBER,
    seconds: float = 0,
) -> subprocess.CompletedProcess[str]:
    experiments = [{"n": list(range(number)), "own": each, "seconds": seconds} for each in own]
    (project / "experiments.json").write_text(json.dumps(experiments))
    sweeps = ("--experiment_config", "experiments.json", "--jobs", "4", "--xgroup", group)
    return caliban("run", *sweeps, "trainer.train", timeout=300)


def check(runs: Sequence[Run], own: bool = False, number: int = NUMBER) -> None:
    """All that a run of each job has to have."""
    assert sorted(int(run.params["n"]) for run in runs) == list(range(number))
    for run in runs:
        n = int(run.params["n"])
        assert run.state == ("FAILED" if n == FAILING else "FINISHED")
        assert run.tags["caliban.outcome"] == ("FAILED" if n == FAILING else "SUCCEEDED")
        assert run.metrics["accuracy"] == pytest.approx(n / 100)
        assert run.name == f"caliban-{run.tags['caliban.uid']}"
        assert run.tags["mlflow.source.name"] == "trainer.train"
        assert run.tags["caliban.metric.colour"] == "red"
        assert run.is_timed
        assert ("loss" in run.metrics) == own


def test_jobs_appear_as_one_run_each_whether_they_use_mlflow_or_not(
    workshop: Workshop, mlflow: Server, caliban: Caliban, configured: Configured, home: Path
) -> None:
    ended = sweep(caliban, configured(mlflow.url), "both", [False, True])
    assert ended.returncode == 1, ended.stderr  # one fails on purpose, in either way
    runs = mlflow.runs("both")
    assert len(runs) == 2 * NUMBER
    own = [run for run in runs if run.params["own"] == "True"]
    check([run for run in runs if run not in own])
    check(own, own=True)
    log = mlflow.file(own[0], "caliban/log.txt").decode()
    assert "caliban: {" in log
    told = json.loads(log.partition("told ")[2].splitlines()[0])
    assert told["MLFLOW_TRACKING_URI"] == mlflow.url
    assert told["MLFLOW_EXPERIMENT_NAME"] == "both"
    assert told["MLFLOW_RUN_NAME"] == own[0].name
    assert told.get("MLFLOW_RUN_ID", own[0].id) == own[0].id
    assert json.loads(told["MLFLOW_RUN_CONTEXT"])["caliban.uid"] == own[0].tags["caliban.uid"]
    provenance = json.loads(mlflow.file(own[0], "caliban/provenance.json"))
    assert provenance["image"]["id"] == own[0].tags["caliban.image"]
    assert "MLFLOW_RUN_ID" in provenance["variables"]
    logs = [mlflow.file(run, "caliban/log.txt").decode() for run in runs]
    assert sum("MLFLOW_RUN_ID" in log for log in logs) > NUMBER
    assert list(home.glob(".caliban/mlflow/*/*")) == []


def test_the_same_with_postgresql(
    workshop: Workshop, with_postgresql: Server, caliban: Caliban, configured: Configured
) -> None:
    ended = sweep(caliban, configured(with_postgresql.url), "both", [False, True], FEW)
    assert ended.returncode == 1, ended.stderr
    runs = with_postgresql.runs("both")
    own = [run for run in runs if run.params["own"] == "True"]
    check([run for run in runs if run not in own], number=FEW)
    check(own, own=True, number=FEW)


def test_a_server_that_is_killed_and_comes_back_has_every_job_once(
    workshop: Workshop, mlflow: Server, caliban: Caliban, configured: Configured
) -> None:
    project = configured(mlflow.url)

    def bounce() -> None:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not started.is_file():
            time.sleep(0.05)
        time.sleep(3)
        mlflow.kill()
        time.sleep(3)
        mlflow.start()

    started = project / "started"
    bouncing = threading.Thread(target=bounce)
    bouncing.start()
    try:
        # The image is there, or is built: the time counts from the first job on.
        assert caliban("build", "trainer.train", timeout=300).returncode == 0
        started.touch()
        ended = sweep(caliban, project, "bounced", seconds=2)
    finally:
        bouncing.join()
        mlflow.wait()
    assert ended.returncode == 1, ended.stderr
    told = caliban("status", "--max_jobs", "1")
    assert "MLflow" not in told.stderr
    check(mlflow.runs("bounced"))


def test_a_server_that_is_away_is_told_later_and_costs_the_jobs_nothing(
    workshop: Workshop, mlflow: Server, caliban: Caliban, configured: Configured
) -> None:
    project = configured(mlflow.url)
    mlflow.kill()
    try:
        ended = sweep(caliban, project, "away", number=FEW)
        assert "4 jobs are not in MLflow yet: the tracking server" in ended.stderr
        still = caliban("status", "--max_jobs", "1")
        assert "4 jobs wait to be written to MLflow" in still.stderr
    finally:
        mlflow.start()
        mlflow.wait()
    assert "MLflow" not in caliban("status", "--max_jobs", "1").stderr
    check(mlflow.runs("away"), number=FEW)


def test_a_database_needs_no_server_of_the_users(
    workshop: Workshop,
    mlflow_program: str,
    caliban: Caliban,
    configured: Configured,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PATH", str(Path(mlflow_program).parent), prepend=":")
    project = configured("sqlite:///runs/mlflow.db")
    # The server is not there yet when the first jobs start: they are told of no run, and make one.
    ended = sweep(caliban, project, "filed", [True, False], FEW)
    assert ended.returncode == 1, ended.stderr
    assert "not in MLflow" not in ended.stderr
    again = Server(mlflow_program, tmp_path, f"sqlite:///{project}/runs/mlflow.db")
    try:
        runs = again.runs("filed")
        own = [run for run in runs if run.params["own"] == "True"]
        check([run for run in runs if run not in own], number=FEW)
        check(own, own=True, number=FEW)
    finally:
        again.kill()
    assert (project / "runs" / "mlartifacts").is_dir()


def test_no_password_is_left_anywhere(
    workshop: Workshop,
    mlflow: Server,
    caliban: Caliban,
    configured: Configured,
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2hunter2")
    project = configured(mlflow.url)
    (project / "trainer" / "train.py").write_text(
        "import os, time; time.sleep(2); print(len(os.environ['MLFLOW_TRACKING_PASSWORD']))"
    )
    assert caliban("build", "trainer.train", timeout=300).returncode == 0
    seen: list[str] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.05):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    if b"hunter2hunter2" in file.read_bytes():
                        seen.append(str(file))
                except OSError:
                    pass

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        ended = caliban("run", "--xgroup", "secret", "trainer.train", timeout=120)
    finally:
        is_over.set()
        watching.join()
    assert ended.returncode == 0, ended.stderr
    assert "14" in caliban("logs", "1").stdout
    assert seen == []
    for file in home.rglob("*"):
        if file.is_file():
            assert b"hunter2hunter2" not in file.read_bytes(), file
    image = json.loads(caliban("show", "1", "--json").stdout)
    assert "hunter2hunter2" not in json.dumps(image)
    assert "hunter2hunter2" not in ended.stdout + ended.stderr
    [run] = mlflow.runs("secret")
    assert "hunter2hunter2" not in json.dumps([run.params, run.tags])
    assert b"hunter2hunter2" not in mlflow.file(run, "caliban/provenance.json")
    tag = run.tags["caliban.image"]
    history = subprocess.run(
        ["docker", "history", "--no-trunc", tag], capture_output=True, text=True, check=True
    )
    inspected = subprocess.run(
        ["docker", "image", "inspect", tag], capture_output=True, text=True, check=True
    )
    assert "hunter2hunter2" not in history.stdout + inspected.stdout
