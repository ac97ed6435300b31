"""What runs of MLflow delay a sweep, while the tracking server is there and while it is not.

Sweeps of 20 jobs, 4 at a time, of a script that uses MLflow itself and of one that doesn't: without
caliban's tracking, with a server, with one that is killed halfway and started again, and with one
that is never there. Jobs mostly sleep, so that it is known how long a sweep takes at best, and all
sweeps run beside one another, a few seconds apart: whatever else the machine does, it does it to
all of them. Each job must have its run afterwards. Needs the server of `make mlflow`.

The reference is the same sweep whose jobs have the host's network, as tracked ones do. Where the
script uses MLflow itself, it logs straight to the server that is there.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measuring import Row

sys.path.append(str(Path(__file__).parents[1]))  # where the tests are, whose server this is
from tests.mlflow_server import Server
from tests.mlflow_server import program as program

JOBS = int(os.environ.get("CALIBAN_BENCH_TRACKED_JOBS", "20"))
STEPS = int(os.environ.get("CALIBAN_BENCH_TRACKED_STEPS", "10"))
ROUNDS = int(os.environ.get("CALIBAN_BENCH_TRACKED_ROUNDS", "1"))
WORKERS = 4

# How long a job has until its first step, in seconds: so it is no matter how long Python takes to
# import MLflow on a busy machine. A step takes one second, and what MLflow takes.
START = 20

# How long a sweep takes in which nothing takes any time but the jobs' sleep, in seconds.
IDEAL = (START + STEPS) * JOBS / WORKERS

# By how much a sweep may be delayed, in percent.
BOUND = 2

# Nobody listens there.
NOWHERE = "http://127.0.0.1:9"

SCRIPT = """
import argparse, json, os, time

first = time.time() + {start}
parser = argparse.ArgumentParser()
parser.add_argument("--seed")
parser.add_argument("--own", action="store_true")
own = parser.parse_args().own
if own:
    import mlflow
late = max(0, time.time() - first)
time.sleep(max(0, first - time.time()))
if own:
    mlflow.start_run()
for step in range({steps}):
    if own:
        mlflow.log_metric("loss", 1.0, step=step)
    time.sleep(1)
if own:
    mlflow.end_run()
print("caliban:", json.dumps({{"late": late}}))
"""


@dataclass(frozen=True)
class Kind:
    """A tracking server, or none.

    Attributes:
      name: of it.
      what: it is, in words.
      url: of the server; "" if caliban keeps no runs.
      server: where each job must have its run afterwards; None if there is none.
      flags: of `docker run`, in words.
    """

    name: str
    what: str = ""
    url: str = ""
    server: Server | None = None
    flags: Sequence[str] = field(default=())


class _Sweeps:
    """A folder in which sweeps of one kind are started."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        self._folder = folder / kind.name
        self._folder.mkdir()
        # A home of its own: no launch looks after what another one has left over.
        (folder / f"home-{kind.name}").mkdir()
        self._environment = {**os.environ, "HOME": str(folder / f"home-{kind.name}")}
        settings = {"mlflow_config": {"tracking_uri": kind.url}} if kind.url else {}
        for name, content in {
            ".calibanconfig.json": json.dumps(settings),
            "train.py": SCRIPT.format(start=START, steps=STEPS),
            "requirements.txt": "mlflow-skinny\n",
            "plain.json": json.dumps({"seed": [*range(JOBS)]}),
            "own.json": json.dumps({"seed": [*range(JOBS)], "own": True}),
        }.items():
            (self._folder / name).write_text(content)
        self._caliban("build", "--nogpu", "train.py")

    def run(self, script: str, group: str, delay: float) -> float:
        """Starts a sweep after a while; returns how long it takes, in seconds."""
        time.sleep(delay)
        began = time.perf_counter()
        flags = ("--experiment_config", f"{script}.json", "--jobs", str(WORKERS), *self.kind.flags)
        self._caliban("run", "--nogpu", "--xgroup", group, *flags, "train.py")
        return time.perf_counter() - began

    def check(self, group: str) -> None:
        """Sees to it that each job of a group has a run with all that is known of it."""
        if self.kind.server is None:
            return
        # What there was no time for is no part of the sweep.
        while "MLflow" in self._caliban("status", "--max_jobs", "1"):
            time.sleep(1)
        found = {
            run.params["seed"]
            for run in self.kind.server.runs(group)
            if run.state == "FINISHED" and "late" in run.metrics
        }
        assert len(found) == JOBS, f"{len(found)} runs have been made, and not {JOBS}"

    def _caliban(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "caliban", *command],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr


def tracking(folder: Path) -> Iterator[Row]:
    """Sweeps of jobs, each of which is a run."""
    executable = program()
    assert executable
    with contextlib.ExitStack() as stack:
        servers = []
        for name in ("there", "bounced"):
            (folder / name).mkdir()
            servers.append(Server(executable, folder / name))
            stack.callback(servers[-1].kill)
        there, bounced = servers
        # Who logs straight to the server has to be told of it.
        by_hand = f"--network host --env MLFLOW_TRACKING_URI={there.url}"
        kinds = [
            Kind("reference", flags=("--docker_run_args", by_hand)),
            Kind("server", "a server", there.url, there),
            Kind("killed", "one that is killed halfway", bounced.url, bounced),
            Kind("nowhere", "one that is never there", NOWHERE),
        ]
        sweeps = [_Sweeps(kind, folder) for kind in kinds]
        delays: dict[tuple[str, str], list[float]] = {}
        taken: dict[tuple[str, str], list[float]] = {}
        for number in range(ROUNDS):
            times = _round(sweeps, number, bounced)
            for (name, script), seconds in times.items():
                bare = times["reference", script]
                taken.setdefault((name, script), []).append(seconds)
                delays.setdefault((name, script), []).append((seconds / bare - 1) * 100)
        for script, who in (("plain", "that don't know of MLflow"), ("own", "that log themselves")):
            bare = statistics.median(taken["reference", script])
            for kind in kinds[1:]:
                ours = statistics.median(taken[kind.name, script])
                yield Row(f"{JOBS} jobs {who}, {kind.what}", f"{ours:.1f} s",
                          f"untracked: {bare:.1f} s, at best: {IDEAL:.0f} s",
                          statistics.median(delays[kind.name, script]), BOUND, "%")  # fmt: skip


def _round(sweeps: Sequence[_Sweeps], number: int, bounced: Server) -> dict[tuple[str, str], float]:
    """How long each sweep takes, by kind and script, while all of them run."""
    order = [(each, script) for each in sweeps for script in ("plain", "own")]
    if number % 2:
        order.reverse()
    # As far apart as possible, again with each of their jobs.
    apart = (START + STEPS) / len(order)
    with concurrent.futures.ThreadPoolExecutor(len(order)) as pool:
        running = {
            (each.kind.name, script): pool.submit(
                each.run, script, f"{each.kind.name}-{script}-{number}", at * apart
            )
            for at, (each, script) in enumerate(order)
        }
        time.sleep((IDEAL + START + STEPS) / 2)  # halfway, for those in the middle
        bounced.kill()
        time.sleep(START + STEPS)
        bounced.start()
        times = {name: sweep.result() for name, sweep in running.items()}
    bounced.wait()
    for each, script in order:
        each.check(f"{each.kind.name}-{script}-{number}")
    return times


def main() -> int:
    """Measures it alone."""
    with tempfile.TemporaryDirectory(prefix="caliban-bench-") as name:
        rows = []
        print("load", *os.getloadavg(), flush=True)
        for row in tracking(Path(name)):
            print("  ".join(row.cells()), flush=True)
            rows.append(row)
        print("load", *os.getloadavg())
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
