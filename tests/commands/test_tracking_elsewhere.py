"""Runs of MLflow for jobs on Kubernetes and Vertex AI: told ahead, and completed from here."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import vertex
from tests.commands.kubernetes import Namespace
from tests.commands.test_cluster_on_kubernetes import SUBMIT
from tests.commands.vertex import cloud as cloud
from tests.commands.vertex import image as image
from tests.commands.vertex import pushed as pushed
from tests.conftest import Inline
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault
from tests.google_cloud.vertex import Pace, failure
from tests.mlflow_server import Run, Server
from tests.tracking.conftest import mlflow, mlflow_program  # noqa: F401 - fixtures
from tests.workshop import Workshop, docker

NAME = "mlflow.example.com"

# What a job finds, by the names of variables.
Told = dict[str, str]


@pytest.fixture
def named(mlflow: Server, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: F811
    """The address of the tracking server, by a name that doesn't say that it is here."""
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        return real("127.0.0.1" if host == NAME else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return mlflow.url.replace("127.0.0.1", NAME)


def configure(url: str) -> None:
    settings = {"mlflow_config": {"tracking_uri": url}}
    Path(".calibanconfig.json").write_text(json.dumps(settings))


class TestVertex:
    @pytest.fixture
    def submit(self, cloud: GoogleCloud, image: str, inline: Inline, project: Path) -> Any:
        cloud.vertex.pace = Pace(waits=1e9)

        def run(group: str, *more: str) -> subprocess.CompletedProcess[str]:
            given = ("--nogpu", "--image_tag", image, "--xgroup", group, *vertex.FAST, *more)
            sweep = ("--experiment_config", vertex.sweep(project, 3))
            return inline("cloud", *given, *sweep, "trainer.train")

        return run

    def told(self, cloud: GoogleCloud) -> list[Told]:
        pools = [each["jobSpec"]["workerPoolSpecs"][0] for each in vertex.created(cloud)]
        return [
            {each["name"]: each["value"] for each in pool["containerSpec"].get("env", ())}
            for pool in pools
        ]

    def test_jobs_are_told_of_runs_which_status_completes(
        self,
        cloud: GoogleCloud,
        submit: Callable[..., subprocess.CompletedProcess[str]],
        named: str,
        mlflow: Server,  # noqa: F811
        inline: Inline,
    ) -> None:
        configure(named)
        done = submit("night")
        assert done.returncode == 0, done.stderr
        runs = {run.id: run for run in mlflow.runs("night")}
        assert {run.state for run in runs.values()} == {"SCHEDULED"}
        told = self.told(cloud)
        assert {each["MLFLOW_RUN_ID"] for each in told} == {*runs}
        for each in told:
            assert each["MLFLOW_TRACKING_URI"] == named
            assert each["MLFLOW_EXPERIMENT_NAME"] == "night"
            assert each["MLFLOW_RUN_NAME"] == runs[each["MLFLOW_RUN_ID"]].name

        names = {job["name"].rpartition("/")[2]: job["name"] for job in cloud.vertex.jobs}
        rows = json.loads(inline("status", "--json").stdout)
        first, second, third = (names[row["name"]] for row in rows)
        for name in (first, second):
            cloud.vertex.set_state(name, "RUNNING")
        cloud.logs.write(first, 'caliban: {"accuracy": 0.5}')
        cloud.logs.write(second, "ValueError: not so")
        cloud.vertex.end(first, "SUCCEEDED")
        cloud.vertex.end(second, "FAILED", failure(3))
        inline("stop", "--yes", "3")
        cloud.vertex.end(third, "CANCELLED")
        cloud.faults.add("entries.list", Fault(status=403, message="not for you"))
        shown = inline("status")
        assert "2 jobs wait to be written to MLflow: their output is not here yet" in shown.stderr
        cloud.faults.clear()
        assert "MLflow" not in inline("status").stderr
        found = sorted(mlflow.runs("night"), key=lambda run: run.params["seed"])
        assert {run.id for run in found} == {*runs}
        assert [run.state for run in found] == ["FINISHED", "FAILED", "KILLED"]
        assert found[0].metrics == {"accuracy": 0.5}
        assert found[1].tags["caliban.cause"] == "ValueError: not so"
        assert "not so" in mlflow.file(found[1], "caliban/log.txt").decode()

    def test_a_server_that_is_away_holds_nothing_up(
        self,
        cloud: GoogleCloud,
        submit: Callable[..., subprocess.CompletedProcess[str]],
        inline: Inline,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        real = socket.getaddrinfo
        monkeypatch.setattr(
            *(socket, "getaddrinfo"),
            lambda host, *args, **more: real("127.0.0.1" if host == NAME else host, *args, **more),
        )
        configure(f"http://{NAME}:9")
        done = submit("night")
        assert done.returncode == 0, done.stderr
        [line] = [line for line in done.stderr.splitlines() if "MLflow" in line]
        assert "3 jobs are not told of a run of MLflow" in line
        for each in self.told(cloud):
            assert "MLFLOW_RUN_ID" not in each
            assert "caliban.uid" in json.loads(each["MLFLOW_RUN_CONTEXT"])
        for job in cloud.vertex.jobs:
            cloud.vertex.end(job["name"], "SUCCEEDED")
        assert "3 jobs wait to be written to MLflow" in inline("status").stderr

    def test_of_a_server_on_this_machine_jobs_are_not_told(
        self,
        cloud: GoogleCloud,
        submit: Callable[..., subprocess.CompletedProcess[str]],
        mlflow: Server,  # noqa: F811
        inline: Inline,
    ) -> None:
        configure(mlflow.url)
        done = submit("here")
        assert "the jobs are not told of it" in done.stderr
        assert [
            {name: value for name, value in each.items() if name.startswith("MLFLOW")}
            for each in self.told(cloud)
        ] == [{}, {}, {}]
        for job in cloud.vertex.jobs:
            cloud.vertex.end(job["name"], "SUCCEEDED")
        inline("status")
        assert [run.state for run in mlflow.runs("here")] == ["FINISHED"] * 3


# Passes connections of the pods' network on to a socket of this machine, so that nothing listens
# anywhere else.
FORWARD = """
import socket, threading

def pass_on(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)

server = socket.create_server(("", 5000))
while True:
    here, there = server.accept()[0], socket.socket(socket.AF_UNIX)
    there.connect("/way/socket")
    for pair in ((here, there), (there, here)):
        threading.Thread(target=pass_on, args=pair, daemon=True).start()
"""

TRAIN = """
import argparse, json, os

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
parser.add_argument("--own", action="store_true")
arguments = parser.parse_args()
if arguments.own:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # it races over the environment
    import mlflow

    told = os.environ["MLFLOW_RUN_ID"]  # which MLflow takes away
    with mlflow.start_run() as run:
        assert run.info.run_id == told
        mlflow.log_metric("loss", 0.25)
print("password", len(os.environ["MLFLOW_TRACKING_PASSWORD"]))
print("caliban:", json.dumps({"accuracy": arguments.seed / 10}))
raise SystemExit(3 if arguments.seed == 3 else 0)
"""


@contextlib.contextmanager
def forwarded(server: Server, image: str, folder: Path) -> Iterator[str]:
    """The tracking server as pods reach it; yields its address."""
    port = int(server.url.rpartition(":")[2])
    folder.chmod(0o755)

    def serve(here: socket.socket) -> None:
        with here, socket.create_connection(("127.0.0.1", port)) as there:

            def answer() -> None:
                with contextlib.suppress(OSError):
                    while data := there.recv(65536):
                        here.sendall(data)

            thread = threading.Thread(target=answer)
            thread.start()
            with contextlib.suppress(OSError):
                while data := here.recv(65536):
                    there.sendall(data)
            with contextlib.suppress(OSError):
                there.shutdown(socket.SHUT_RDWR)
            thread.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=serve, args=(way.accept()[0],)))
                threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.socket(socket.AF_UNIX) as way:
        way.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        way.listen()
        accepting = threading.Thread(target=accept)
        accepting.start()
        container = docker(
            *("run", "--detach", "--mount", f"type=bind,source={folder},target=/way"),
            *("--entrypoint", "python3", image, "-c", FORWARD),
        ).strip()
        try:
            path = "{{.NetworkSettings.IPAddress}}"
            address = docker("inspect", "--format", path, container).strip()
            yield f"http://{address}:5000"
        finally:
            docker("rm", "--force", container)
            way.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


class TestKubernetes:
    def test_a_cluster_that_knows_no_sidecars_is_told_before_anything_is_built(
        self, own_namespace: Namespace, project: Path, inline: Inline
    ) -> None:
        status, version = own_namespace.ask("GET", "/version")
        assert status == 200
        if (int(version["major"]), int(version["minor"].rstrip("+"))) >= (1, 29):
            pytest.skip("this cluster knows them")
        settings = {"project": "p", "region": "r", "db": "d", "user": "u"}
        Path(".calibanconfig.json").write_text(json.dumps({"mlflow_config": settings}))
        done = inline(*SUBMIT, "trainer.train")
        assert done.returncode == 2
        assert "takes Kubernetes 1.29 or newer" in done.stderr
        assert own_namespace.jobs() == []

    def test_jobs_go_on_with_their_runs_and_status_completes_them(
        self,
        own_namespace: Namespace,
        workshop: Workshop,
        mlflow: Server,  # noqa: F811
        project: Path,
        tmp_path_factory: pytest.TempPathFactory,
        inline: Inline,
        home: Path,
    ) -> None:
        (project / "trainer" / "train.py").write_text(TRAIN)
        (project / "requirements.txt").write_text("mlflow-skinny\n")
        (project / "e.json").write_text(json.dumps({"seed": [1, 3], "own": [False, True]}))
        secret = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "hunter2hunter2"}
        body = {"metadata": {"name": "tracker"}, "stringData": secret}
        assert own_namespace.ask("POST", own_namespace.path("secrets"), body)[0] == 201
        folder = tmp_path_factory.mktemp("way")
        with forwarded(mlflow, workshop.base("plain"), folder) as url:
            configure(url)
            flags = ("--env_secret", "tracker", "--xgroup", "pods", "--experiment_config", "e.json")
            done = inline(*SUBMIT, *flags, "trainer.train")
            assert done.returncode == 0, done.stderr
            own_namespace.wait(4)
            deadline = time.monotonic() + 60
            while "MLflow" in (shown := inline("status", "--xgroup", "pods")).stderr:
                assert time.monotonic() < deadline, shown.stderr  # on a busy machine, logs are late
        runs = mlflow.runs("pods")
        assert len(runs) == 4
        for run in runs:
            self.check(run)
            assert b"password 14" in mlflow.file(run, "caliban/log.txt")
        for file in home.rglob("*"):
            assert not file.is_file() or b"hunter2" not in file.read_bytes(), file

    def check(self, run: Run) -> None:
        has_failed = run.params["seed"] == "3"
        assert run.state == ("FAILED" if has_failed else "FINISHED")
        assert run.metrics["accuracy"] == int(run.params["seed"]) / 10
        assert run.metrics.get("loss") == (0.25 if run.params["own"] == "True" else None)
        assert run.tags["caliban.platform"] == "kubernetes"
