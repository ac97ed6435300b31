"""Sweeps that are hit at a random moment: in the end each experiment has run to success once.

CALIBAN_CHAOS_ROUNDS says how many, CALIBAN_CHAOS_SEED which; a round that fails names its seed.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Caliban
from tests.dockerd import Dockerd, gpu_tools

pytestmark = pytest.mark.takes(15)

ROUNDS = int(os.environ.get("CALIBAN_CHAOS_ROUNDS", "5"))
FIRST = int(os.environ.get("CALIBAN_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)

EXPERIMENTS = 40
DEVICES = [f"GPU-{number}{number}{number}{number}" for number in range(4)]

# The last thing that a job does is to say that it is done.
JOB = """
echo start >> "$CALIBAN_OUTPUT/runs"
echo "gets $NVIDIA_VISIBLE_DEVICES"
sleep 0.1
echo done >> "$CALIBAN_OUTPUT/runs"
"""

GROUP = "chaos"

# By the user or a stopping engine; 255 is the engine's own for a process that it has lost sight of.
KILLED = (125, 137, 143, 255)


def kill_caliban(child: subprocess.Popen[str], engine: Dockerd, dice: random.Random) -> None:
    child.kill()


def kill_a_container(child: subprocess.Popen[str], engine: Dockerd, dice: random.Random) -> None:
    if found := engine.docker("ps", "--quiet", "--filter", "label=caliban.uid").split():
        engine.docker("kill", dice.choice(found), check=False)  # it may end before that


def stop_the_engine(child: subprocess.Popen[str], engine: Dockerd, dice: random.Random) -> None:
    engine.stop(signal.SIGTERM)
    time.sleep(dice.uniform(0, 1))
    engine.start()


def kill_the_engine(child: subprocess.Popen[str], engine: Dockerd, dice: random.Random) -> None:
    engine.stop(signal.SIGKILL)
    time.sleep(dice.uniform(0, 1))
    engine.start()


def kill_both(child: subprocess.Popen[str], engine: Dockerd, dice: random.Random) -> None:
    engine.stop(signal.SIGKILL)
    child.kill()
    engine.start()


HITS: tuple[Callable[[subprocess.Popen[str], Dockerd, random.Random], None], ...] = (
    kill_caliban,
    kill_a_container,
    stop_the_engine,
    kill_the_engine,
    kill_both,
)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_whatever_is_hit_every_experiment_succeeds_once(
    caliban: Caliban,
    own_engine: Dockerd,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    seed = FIRST + number
    print(f"Again: CALIBAN_CHAOS_SEED={seed} CALIBAN_CHAOS_ROUNDS=1")  # shown if the test fails
    dice = random.Random(seed)
    gpus = [f"GPU {at}: Fake (UUID: {each})" for at, each in enumerate(DEVICES)]
    tools = gpu_tools(tmp_path, gpus)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    image = own_engine.image("small", {"usr/app/job.sh": JOB})
    (tmp_path / "job.sh").write_text(JOB)
    (tmp_path / "experiment.json").write_text(json.dumps({"n": list(range(EXPERIMENTS))}))
    first = (
        *("run", "--image_id", image, "--xgroup", GROUP, "--output", "out"),
        *("--gpus_per_job", "1", "--jobs", "4", "--docker_run_args=--network none"),
        *("--experiment_config", "experiment.json", "job.sh"),
    )
    story: list[str] = []
    command: tuple[str, ...] = first
    for attempt in range(8):
        began = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", "caliban", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            if attempt == 0 or (attempt == 1 and dice.random() < 0.4):
                hit = HITS[seed % len(HITS)] if attempt == 0 else dice.choice(HITS)
                at = dice.uniform(0.3, 5)
                time.sleep(at)
                hit(child, own_engine, dice)
                story.append(f"{hit.__name__} after {at:.2f} s")
            _, said = child.communicate(timeout=120)
        finally:
            child.kill()
        took = time.monotonic() - began
        story.append(f"{command[:2]} ended with {child.returncode} after {took:.1f} s:\n{said}")
        if child.returncode == 0 and attempt:
            break
        # One that was killed very early has not written the group down.
        is_recorded = "no experiment group" not in said and "has no jobs" not in said
        command = ("run", "--resume", GROUP, "--jobs", "4") if is_recorded else first
    told = f"seed {seed}\n" + "\n".join(story)
    assert child.returncode == 0, told

    answer = caliban("status", "--xgroup", GROUP, "--max_jobs", "0", "--json")
    assert answer.returncode == 0, told
    rows = json.loads(answer.stdout)
    good = Counter(row["params"]["n"] for row in rows if row["status"] == "SUCCEEDED")
    assert good == dict.fromkeys(range(EXPERIMENTS), 1), told
    assert {row["status"] for row in rows} <= {"SUCCEEDED", "FAILED", "STOPPED"}, told
    for row in rows:
        check_runs(row, told)
    assert own_engine.docker("ps", "--all", "--quiet") == "", told
    with closing(sqlite3.connect(home / ".caliban" / "caliban.db")) as database:
        assert database.execute("SELECT * FROM leases").fetchall() == [], told


def check_runs(row: Mapping[str, Any], told: str) -> None:
    """A job that has succeeded ran once, to its end; another one was killed before its end.

    What an engine has not written down when it is killed is lost: that a container has started, and
    even ended, in those milliseconds. That job is not known to have succeeded, and runs again.
    """
    runs = Path(row["output"] or "/", "runs")
    lines = runs.read_text().split() if runs.is_file() else []
    if row["status"] == "SUCCEEDED":
        assert lines == ["start", "done"], f"{row}: {lines}\n{told}"
        # A killed engine loses what a container prints while it is not there.
        is_killed = "kill_the_engine" in told or "kill_both" in told
        assert is_killed or "gets GPU-" in "".join(log_of(row)), f"{row}\n{told}"
    else:
        # In the moment between its last word and its end a job can still be killed.
        assert lines in ([], ["start"], ["start", "done"]), f"{row}: {lines}\n{told}"
        is_lost = "the engine" in row["reason"]
        assert not is_lost or "_the_engine" in told or "kill_both" in told
        is_killed = is_lost or row["exit_code"] in KILLED
        assert row["status"] == "STOPPED" or is_killed, f"{row}\n{told}"


def log_of(row: Mapping[str, Any]) -> list[str]:
    """The lines of a job's log."""
    content = Path(row["log"]).read_bytes()
    text = gzip.decompress(content) if row["log"].endswith(".gz") else content
    return text.decode().splitlines()
