"""Jobs of real containers as runs of a real tracking server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import wait_for
from tests.conftest import Caliban
from tests.mlflow_server import Run, Server
from tests.tracking.conftest import FAILING
from tests.workshop import Workshop, docker

pytestmark = pytest.mark.takes(25)

Configured = Callable[[str], Path]

NUMBER = 20

# Where nothing happens meanwhile, and where both kinds of jobs were seen in these numbers already.
SOME, FEW = 8, 4


def sweep(
    caliban: Caliban,
    project: Path,
    group: str,
    own: Sequence[bool] = (False,),
    number: int = NUMBER,
    seconds: float = 0,
) -> subprocess.CompletedProcess[str]:
    experiments = [{"n": n, "own": each, "seconds": seconds} for n in range(number) for each in own]
    (project / "experiments.json").write_text(json.dumps(experiments))
    sweeps = ("--experiment_config", "experiments.json", "--jobs", "4", "--xgroup", group)
    return caliban("run", *sweeps, "trainer.train", timeout=300)


def check(runs: Sequence[Run], own: bool = False, number: int = NUMBER) -> None:
    """All that a run of each job has to have."""
    assert sorted(int(run.params["n"]) for run in runs) == list(range(number))
    for run in runs:
        n = int(run.params["n"])
        assert run.state == ("FAILED" if n == FAILING else "FINISHED"), run.tags
        assert run.tags["caliban.outcome"] == ("FAILED" if n == FAILING else "SUCCEEDED")
        assert run.metrics["accuracy"] == pytest.approx(n / 100)
        assert run.name == f"caliban-{run.tags['caliban.uid']}"
        assert run.tags["mlflow.source.name"] == "trainer.train"
        assert run.tags["caliban.metric.colour"] == "red"
        assert run.is_timed
        assert ("loss" in run.metrics) == own


def told_of(log: bytes) -> dict[str, str]:
    """The variables of MLflow that a job has found, by what it has printed."""
    found: dict[str, str] = json.loads(log.partition(b"told ")[2].splitlines()[0])
    return found


def test_jobs_appear_as_one_run_each_whether_they_use_mlflow_or_not(
    workshop: Workshop, mlflow: Server, caliban: Caliban, configured: Configured, home: Path
) -> None:
    ended = sweep(caliban, configured(mlflow.url), "both", [False, True], SOME)
    assert ended.returncode == 1, ended.stderr  # one fails on purpose, in either way
    runs = mlflow.runs("both")
    assert len(runs) == 2 * SOME
    own = [run for run in runs if run.params["own"] == "True"]
    check([run for run in runs if run not in own], number=SOME)
    check(own, own=True, number=SOME)
    log = mlflow.file(own[0], "caliban/log.txt")
    assert b"caliban: {" in log
    told = told_of(log)
    # A relay on the loopback, which passes on to the server.
    assert told["MLFLOW_TRACKING_URI"].endswith(f"/{own[0].tags['caliban.uid']}")
    assert told["MLFLOW_EXPERIMENT_NAME"] == "both"
    assert told["MLFLOW_RUN_NAME"] == own[0].name
    assert told["MLFLOW_RUN_ID"] in (own[0].id, own[0].name)
    assert told["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert json.loads(told["MLFLOW_RUN_CONTEXT"])["caliban.uid"] == own[0].tags["caliban.uid"]
    provenance = json.loads(mlflow.file(own[0], "caliban/provenance.json"))
    assert provenance["image"]["id"] == own[0].tags["caliban.image"]
    assert "MLFLOW_RUN_ID" in provenance["variables"]
    logs = [mlflow.file(run, "caliban/log.txt").decode() for run in runs]
    assert all("MLFLOW_RUN_ID" in log for log in logs)
    assert not [log for log in logs if "View run" in log], "an address of the relay was printed"
    assert list(home.glob(".caliban/mlflow/*/*")) == []


@pytest.fixture(params=["mlflow", "with_postgresql"])
def either(request: pytest.FixtureRequest) -> Server:
    """A tracking server with SQLite, and one with PostgreSQL."""
    found: Server = request.getfixturevalue(request.param)
    return found


def test_a_server_that_is_killed_and_comes_back_has_every_job_once(
    workshop: Workshop, either: Server, caliban: Caliban, configured: Configured
) -> None:
    project = configured(either.url)
    over = threading.Event()

    def bounce() -> None:
        """Kills it when half of the jobs have runs that are complete."""
        while not over.wait(0.2) and either.number_ended("bounced") < NUMBER:
            pass
        either.kill()
        over.wait(4)
        either.start()

    bouncing = threading.Thread(target=bounce)
    bouncing.start()
    try:
        ended = sweep(caliban, project, "bounced", [False, True], seconds=0.5)
        is_halfway = not bouncing.is_alive()
    finally:
        over.set()
        bouncing.join()
        either.wait()
    assert ended.returncode == 1, ended.stderr
    assert is_halfway
    # What is left over is sent by `status`, as much at a time as it may take time for.
    wait_for(lambda: "MLflow" not in caliban("status", "--max_jobs", "1").stderr, 120)
    runs = either.runs("bounced")
    assert len(runs) == 2 * NUMBER
    own = [run for run in runs if run.params["own"] == "True"]
    check([run for run in runs if run not in own])
    check(own, own=True)
    told = {told_of(either.file(run, "caliban/log.txt"))["MLFLOW_RUN_ID"] for run in own}
    assert told & {run.id for run in own}, "no job has started while the server was there"
    assert told & {run.name for run in own}, "no job has started while it was away"
    for run in own:
        assert run.metrics["loss"] == pytest.approx(1 / 3)
        assert either.file(run, "own/note.txt") == b"a note"


def test_jobs_that_somebody_ends_have_the_state_of_that(
    workshop: Workshop, mlflow: Server, caliban: Caliban, configured: Configured, home: Path
) -> None:
    project = configured(mlflow.url)
    (project / "experiments.json").write_text(json.dumps({"n": [*range(6)], "seconds": 60}))
    assert caliban("build", "trainer.train", timeout=300).returncode == 0
    sweeps = ("--experiment_config", "experiments.json", "--jobs", "3", "--xgroup", "ended")
    command = [sys.executable, "-m", "caliban", "run", *sweeps, "trainer.train"]

    def rows() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(caliban("status", "--json").stdout)
        return found

    def reached(number: int, status: str) -> None:
        deadline = time.monotonic() + 120
        while sum(row["status"] == status for row in rows()) < number:
            assert time.monotonic() < deadline, rows()
            time.sleep(0.2)

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        reached(3, "RUNNING")
        time.sleep(1)  # until Python has started in them
        first, second, *_ = rows()
        assert caliban("stop", "--yes", str(first["job"])).returncode == 0
        docker("kill", f"caliban-{second['uid']}")
        reached(1, "FAILED")
        reached(3, "RUNNING")
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"not in MLflow" not in told, told
    states = {run.tags["caliban.job"]: run.state for run in mlflow.runs("ended")}
    kept = {row["job"]: row for row in rows()}
    assert len(states) in (5, 6)  # the last one never started, but may have got a run ahead
    for number, state in states.items():
        row = kept[int(number)]
        assert state == {"STOPPED": "KILLED", "FAILED": "FAILED"}[row["status"]]
    assert sorted(states.values()) == ["FAILED"] + ["KILLED"] * (len(states) - 1)
    assert list(home.glob(".caliban/mlflow/*/*")) == []


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
