"""What runs of MLflow cost a sweep, while the tracking server is there and while it is not.

20 jobs of a fixed time, 4 at a time, in turn without tracking, with it, and with a server that is
killed halfway and started again: of a script that uses MLflow itself, and of one that doesn't. Each
job must have its run afterwards. Needs the server of `make mlflow`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measuring import Row, wall

JOBS = int(os.environ.get("CALIBAN_BENCH_TRACKED_JOBS", "20"))
SECONDS = float(os.environ.get("CALIBAN_BENCH_TRACKED_SECONDS", "8"))
ROUNDS = int(os.environ.get("CALIBAN_BENCH_ROUNDS", "3"))
WORKERS = 4

# By how much a sweep may be delayed, in percent.
BOUND = 2

# Ends after so many seconds from its container's start on, if nothing keeps it: so it is no matter
# how long Python takes to import MLflow on a busy machine.
SCRIPT = """
import argparse, json, os, time

until = time.time() + {seconds}
parser = argparse.ArgumentParser()
parser.add_argument("--seed")
parser.add_argument("--own", action="store_true")
arguments = parser.parse_args()
if arguments.own:
    import mlflow
if arguments.own and "MLFLOW_TRACKING_URI" in os.environ:
    with mlflow.start_run():
        step = 0
        while time.time() < until - 1:
            mlflow.log_metric("loss", 1.0, step=step)
            step += 1
            time.sleep(0.1)
        print("steps", step)
time.sleep(max(0, until - time.time()))
print("caliban:", json.dumps({{"late": time.time() - until}}))
"""

_PROGRAMS = Path(__file__).parents[1] / ".mlflow" / "bin"


def program() -> str | None:
    """The program `mlflow`; None if there is none."""
    return shutil.which("mlflow", path=f"{_PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}")


def tracking(folder: Path) -> Iterator[Row]:
    """Sweeps of jobs, each of which is a run."""
    executable = program()
    assert executable
    project = folder / "tracked"
    project.mkdir()
    (project / "train.py").write_text(SCRIPT.format(seconds=SECONDS))
    (project / "requirements.txt").write_text("mlflow-skinny\n")
    for name, own in (("plain", False), ("own", True)):
        (project / f"{name}.json").write_text(json.dumps({"seed": [*range(JOBS)], "own": own}))
    caliban = [sys.executable, "-m", "caliban"]
    with contextlib.chdir(project), _server(executable, folder) as server:
        subprocess.run([*caliban, "build", "--nogpu", "train.py"], capture_output=True, check=True)
        for name in ("plain", "own"):
            experiments = ("--experiment_config", f"{name}.json", "--jobs", str(WORKERS))
            sweep = [*caliban, "run", "--nogpu", *experiments]
            times: dict[str, list[float]] = {"without": [], "with": [], "killed": []}
            for number in range(ROUNDS):
                for kind, taken in times.items():
                    group = f"{kind}-{name}-{number}"
                    server.configure(kind != "without")
                    killing = threading.Thread(target=server.bounce)
                    if kind == "killed":
                        killing.start()
                    taken.append(wall([*sweep, "--xgroup", group, "train.py"]))
                    if kind == "killed":
                        killing.join()
                        server.wait()
                    _send_all(caliban)
                    if kind != "without":
                        found = server.runs(group)
                        assert found == JOBS, f"{found} runs have been made, and not {JOBS}"
            bare = statistics.median(times["without"])
            who = "that log themselves" if name == "own" else "that don't know of MLflow"
            for kind, what in (("with", "a server"), ("killed", "one that is killed halfway")):
                ours = statistics.median(times[kind])
                yield Row(f"{JOBS} jobs {who}, {what}", f"{ours:.2f} s",
                          f"without MLflow: {bare:.2f} s", (ours / bare - 1) * 100, BOUND,
                          "%")  # fmt: skip


def _send_all(caliban: Sequence[str]) -> None:
    """Has caliban send what it had no time for, which is no part of the sweep."""
    while "MLflow" in (
        subprocess.run([*caliban, "status"], capture_output=True, text=True, check=True).stderr
    ):
        time.sleep(1)


class _Server:
    """A tracking server that may be killed and started again."""

    def __init__(self, executable: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{self._port}"
        self._log = folder / "mlflow.log"
        self._command = [
            *(executable, "server", "--host", "127.0.0.1", "--port", str(self._port)),
            *("--workers", "1", "--artifacts-destination", str(folder / "artifacts")),
        ]
        self._environment = {
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self._url}/health"):
                return
            time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def bounce(self) -> None:
        """Kills it halfway through a sweep, and starts it again a job's time later."""
        time.sleep(SECONDS * JOBS / WORKERS / 2)
        self.kill()
        time.sleep(SECONDS)
        self.start()

    def configure(self, is_tracked: bool) -> None:
        """Has the jobs of the current directory tracked, or not."""
        settings = {"mlflow_config": {"tracking_uri": self._url}} if is_tracked else {}
        Path(".calibanconfig.json").write_text(json.dumps(settings))

    def runs(self, group: str) -> int:
        """How many have ended as they should, with all that is known of them."""
        found = self._ask(f"experiments/get-by-name?experiment_name={group}")
        content = {"experiment_ids": [found["experiment"]["experiment_id"]], "max_results": 1000}
        runs = self._ask("runs/search", json.dumps(content).encode())["runs"]
        return len(
            {
                param["value"]
                for run in runs
                if run["info"]["status"] == "FINISHED"
                and any(each["key"] == "late" for each in run["data"]["metrics"])
                for param in run["data"]["params"]
                if param["key"] == "seed"
            }
        )

    def _ask(self, method: str, content: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self._url}/api/2.0/mlflow/{method}", content, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


@contextlib.contextmanager
def _server(executable: str, folder: Path) -> Iterator[_Server]:
    server = _Server(executable, folder)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


def main() -> int:
    """Measures it alone."""
    with tempfile.TemporaryDirectory(prefix="caliban-bench-") as name:
        os.environ["HOME"] = name
        rows = []
        for row in tracking(Path(name)):
            print("  ".join(row.cells()), flush=True)
            rows.append(row)
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
