"""A real tracking server of MLflow for tests, which they may stop and start again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from tests.ports import free_port

# Where `scripts/prepare.sh mlflow` installs it: it has requirements of its own, and is large.
INSTALLED = Path(__file__).parents[1] / ".mlflow" / "bin"


def program() -> str | None:
    """The program `mlflow`; None if there is none."""
    return shutil.which("mlflow", path=f"{INSTALLED}{os.pathsep}{os.environ.get('PATH', '')}")


class Server:
    """A server on the loopback.

    Attributes:
      url: where it answers.
    """

    def __init__(self, executable: str, folder: Path, database: str = "") -> None:
        """Starts it.

        Args:
          executable: `mlflow`.
          folder: where it keeps its files.
          database: where it keeps all else; "" for SQLite.
        """
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "server.log"
        self._command = [
            *(executable, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ]
        self._environment = {
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": database or f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Tests reach it by several names, as users reach one behind a proxy.
            "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        self.wait()

    def start(self) -> None:
        """Starts it (again), and waits for nothing."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Waits until it answers."""
        assert self._process is not None
        deadline = time.monotonic() + 90
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.url}/health", timeout=2).ok:
                    return
            time.sleep(0.1)
        raise AssertionError(f"no tracking server: {self._log.read_text()[-3000:]}")

    def kill(self) -> None:
        """Ends it in the middle of whatever it does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def call(self, method: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Asks it something, by its REST API."""
        answer = requests.post(
            f"{self.url}/api/2.0/mlflow/{method}", json=dict(content), timeout=30
        )
        assert answer.ok, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def experiment(self, name: str) -> str:
        """The id of an experiment."""
        answer = requests.get(
            f"{self.url}/api/2.0/mlflow/experiments/get-by-name",
            params={"experiment_name": name},
            timeout=30,
        )
        assert answer.ok, answer.text
        return str(answer.json()["experiment"]["experiment_id"])

    def runs(self, experiment: str) -> list[Run]:
        """All runs of an experiment."""
        content = {"experiment_ids": [self.experiment(experiment)], "max_results": 1000}
        return [Run(each) for each in self.call("runs/search", content).get("runs", [])]

    def number_ended(self, experiment: str) -> int:
        """How many runs of an experiment are complete, which may not be there yet."""
        with contextlib.suppress(AssertionError, requests.RequestException):
            return sum(run.state != "RUNNING" for run in self.runs(experiment))
        return 0

    def file(self, run: Run, path: str) -> bytes:
        """A file of a run."""
        folder = run.artifacts.removeprefix("mlflow-artifacts:/")
        address = f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{folder}/{path}"
        answer = requests.get(address, timeout=30)
        assert answer.ok, answer.text
        return answer.content


class Run:
    """A run, as the server has it."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        info, data = found["info"], found.get("data", {})
        self.id = str(info["run_id"])
        self.name = str(info["run_name"])
        self.state = str(info["status"])
        self.artifacts = str(info["artifact_uri"])
        self.started = int(info["start_time"])
        self.is_timed = info.get("end_time", 0) >= info["start_time"] > 0
        self.params = {each["key"]: each["value"] for each in data.get("params", ())}
        self.metrics = {each["key"]: each["value"] for each in data.get("metrics", ())}
        self.tags = {each["key"]: each["value"] for each in data.get("tags", ())}
