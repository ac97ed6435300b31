"""`--gpus_per_job`: each container has its own GPUs, whatever terminal it was started from."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import Start, wait_for
from tests.conftest import Caliban
from tests.dockerd import Dockerd, gpu_tools

DEVICES = ["GPU-aaaa", "GPU-bbbb", "MIG-cccc", "MIG-dddd"]

LISTED = [
    "GPU 0: NVIDIA A100 (UUID: GPU-aaaa)",
    "GPU 1: NVIDIA A100 (UUID: GPU-bbbb)",
    "GPU 2: NVIDIA A100 (UUID: GPU-whole)",
    "  MIG 3g.20gb     Device  0: (UUID: MIG-cccc)",
    "  MIG 3g.20gb     Device  1: (UUID: MIG-dddd)",
]

# Its arguments are --n N --seconds S, or only the former: then it ends when `let_go` says so.
JOB = """
began=$(date +%s.%N)
echo "$began" > "$CALIBAN_OUTPUT/began"
if [ "$4" ]; then sleep "$4"; else until [ -e "$CALIBAN_OUTPUT/go" ]; do sleep 0.1; done; fi
echo "$NVIDIA_VISIBLE_DEVICES $began $(date +%s.%N)" > "$CALIBAN_OUTPUT/times"
"""


@dataclass(frozen=True)
class Use:
    """What a job has said of itself: its devices, and when it had them, in seconds."""

    devices: tuple[str, ...]
    began: float
    ended: float


@pytest.fixture
def command(
    own_engine: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Words for `caliban` that run so many jobs into DIRECTORY, on a machine with DEVICES."""
    monkeypatch.setenv("PATH", f"{gpu_tools(tmp_path, LISTED)}:{os.environ['PATH']}")
    image = own_engine.image("small", {"usr/app/job.sh": JOB})
    (tmp_path / "job.sh").write_text(JOB)

    def words(directory: str, jobs: int, *flags: str, seconds: float | None = 0.2) -> list[str]:
        config = tmp_path / f"{directory}.json"
        duration = {} if seconds is None else {"seconds": seconds}
        config.write_text(json.dumps({"n": list(range(jobs)), **duration}))
        return [
            *("run", "--image_id", image, "--output", directory, "--xgroup", directory, *flags),
            *("--docker_run_args=--network none", "--experiment_config", str(config), "job.sh"),
        ]

    return words


def begun(directory: Path) -> list[Path]:
    """What the jobs that have begun so far have written about that."""
    return list(directory.glob("*/*/began"))


def let_go(directory: Path) -> None:
    """Lets the jobs end that have begun so far."""
    for path in begun(directory):
        path.with_name("go").touch()


def uses(directory: Path) -> list[Use]:
    found = [path.read_text().split() for path in directory.glob("*/*/times")]
    return [Use(tuple(each.split(",")), float(at), float(to)) for each, at, to in found]


def by_device(found: list[Use]) -> Mapping[str, list[Use]]:
    """The uses of each device, in their order."""
    each: dict[str, list[Use]] = defaultdict(list)
    for use in sorted(found, key=lambda use: use.began):
        for device in use.devices:
            each[device].append(use)
    return each


def leases(home: Path) -> list[Any]:
    with closing(sqlite3.connect(home / ".caliban" / "caliban.db")) as database:
        return database.execute("SELECT device, uid FROM leases").fetchall()


def test_of_four_terminals_no_two_have_one_device_and_none_idles(
    start: Start, command: Callable[..., list[str]], tmp_path: Path, home: Path
) -> None:
    flags = ("--gpus_per_job", "1", "--jobs", "4")
    children = [start(*command(f"terminal-{number}", 25, *flags)) for number in range(4)]
    for child in children:
        _, said = child.communicate(timeout=300)
        assert child.returncode == 0, said
    found = [use for number in range(4) for use in uses(tmp_path / f"terminal-{number}")]
    assert len(found) == 100
    assert {len(use.devices) for use in found} == {1}
    of_device = by_device(found)
    assert set(of_device) == set(DEVICES)
    began = sorted(use.began for use in found)
    for device, each in of_device.items():
        gaps = [(before.ended, after.began) for before, after in pairwise(each)]
        assert all(end < start for end, start in gaps), f"{device} was given to two at once"
        # A gap is the end of a container and the start of another one, for which a busy machine
        # takes its time. Meanwhile each of the other three gets about one job.
        gaps.append((each[-1].ended, began[-1]))
        others = [sum(end < at < start for at in began) for end, start in gaps]
        assert max(others) < 9, f"{device} idled while others got so many jobs: {others}"
        assert len(each) >= 10, f"{device} had only {len(each)} of the jobs"
    assert leases(home) == []


def test_the_devices_of_a_killed_terminal_come_back_with_the_end_of_its_containers(
    start: Start, command: Callable[..., list[str]], caliban: Caliban, tmp_path: Path, home: Path
) -> None:
    flags = ("--gpus_per_job", "2", "--jobs", "2")
    killed = start(*command("killed", 2, *flags, seconds=None))
    wait_for(lambda: len(begun(tmp_path / "killed")) == 2)
    killed.kill()
    killed.communicate()
    assert len(leases(home)) == 4
    other = start(*command("other", 2, "--gpus_per_job", "1", "--jobs", "2"))
    assert other.stderr
    said = ""
    while ": waiting for 1 GPU" not in said and (line := other.stderr.readline()):
        said += line
    let_go(tmp_path / "killed")
    said += other.stderr.read()
    assert other.wait(60) == 0, said
    assert said.count(": waiting for 1 GPU (held by jobs 1, 2)\n") == 1
    first, second = uses(tmp_path / "killed"), uses(tmp_path / "other")
    assert {device for use in first for device in use.devices} == set(DEVICES)
    assert len(second) == 2
    for use in second:
        assert use.began > min(each.ended for each in first if set(each.devices) & {*use.devices})
    # Its outcomes are settled, and nobody holds anything.
    assert caliban("run", "--resume", "killed").returncode == 0
    assert leases(home) == []


def test_those_who_go_on_with_a_killed_sweep_keep_its_devices(
    start: Start, command: Callable[..., list[str]], tmp_path: Path, home: Path, caliban: Caliban
) -> None:
    killed = start(*command("sweep", 6, "--gpus_per_job", "2", "--jobs", "2", seconds=2))
    wait_for(lambda: len(begun(tmp_path / "sweep")) == 2)
    killed.kill()
    killed.communicate()
    # Without saying so again, each job gets two.
    answer = caliban("run", "--resume", "sweep", "--jobs", "auto")
    assert answer.returncode == 0, answer.stderr
    found = uses(tmp_path / "sweep")
    assert len(found) == 6
    assert {len(use.devices) for use in found} == {2}
    for each in by_device(found).values():
        assert all(before.ended < after.began for before, after in pairwise(each))
    assert leases(home) == []


def test_auto_runs_a_job_for_each_share_of_the_gpus(
    start: Start, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    child = start(*command("auto", 4, "--gpus_per_job", "2", "--jobs", "auto", seconds=None))
    wait_for(lambda: len(begun(tmp_path / "auto")) == 2)
    let_go(tmp_path / "auto")
    wait_for(lambda: len(begun(tmp_path / "auto")) == 4)
    let_go(tmp_path / "auto")
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    found = sorted(uses(tmp_path / "auto"), key=lambda use: use.began)
    assert found[1].began < found[0].ended, "two run at a time"
    assert found[2].began > min(use.ended for use in found[:2]), "and not three"


def test_what_cannot_be_given_is_said_before_anything_is_recorded(
    caliban: Caliban, command: Callable[..., list[str]], home: Path
) -> None:
    many = caliban(*command("many", 2, "--gpus_per_job", "5"))
    assert (many.returncode, many.stdout) == (1, "")
    assert "a job is to have 5 GPUs, but this machine has 4" in many.stderr
    without = caliban(*command("without", 2, "--nogpu", "--gpus_per_job", "1"))
    assert (without.returncode, without.stdout) == (2, "")
    assert "--gpus_per_job gives GPUs to jobs, and --nogpu takes them away" in without.stderr
    assert "SUBMITTED" not in caliban("status").stdout
    with closing(sqlite3.connect(home / ".caliban" / "caliban.db")) as database:
        assert database.execute("SELECT name FROM experiment_groups").fetchall() == []
    dry = caliban(*command("without", 2, "--nogpu", "--gpus_per_job", "1", "--dry_run"))
    assert dry.returncode == 2
    words = command("both", 2, "--gpus_per_job", "1", "--dry_run")
    both = caliban(*[word.replace("--network none", "--gpus all") for word in words])
    assert both.returncode == 2
    assert "both say which GPUs a job gets" in both.stderr
