"""`caliban run` when something ends it, or when several run at once: nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caliban.docker.engine import Engine
from tests.commands.conftest import Start, kept_output, wait_for
from tests.commands.test_run_on_engine import RUN, Write, containers, jobs
from tests.conftest import Caliban


def output_of_running_job(home: Path) -> Callable[[str], bool]:
    """Whether some job's log holds a text by now."""
    return lambda text: any(text in printed for printed in kept_output(home).values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_container_and_records_it(
    caliban: Caliban,
    start: Start,
    experiments: Write,
    engine: Engine,
    home: Path,
    number: signal.Signals,
) -> None:
    name = experiments(
        [{"say": "quick"}, {"tidy": True, "say": "slow", "sleep": 60}, {"say": "no"}]
    )
    child = start(*RUN, "--experiment_config", name, "trainer.job")
    said = output_of_running_job(home)
    wait_for(lambda: said("slow"))
    before = time.monotonic()
    child.send_signal(number)
    stdout, stderr = child.communicate(timeout=30)
    assert child.returncode == 130, stderr
    assert time.monotonic() - before < 8, "the job was not given SIGTERM"
    assert stdout.splitlines() == ["quick", "slow", "terminated in order"]
    rows = jobs(caliban)
    assert [row["status"] for row in rows] == ["SUCCEEDED", "STOPPED", "STOPPED"]
    assert [row["reason"] for row in rows] == ["", "interrupted", "not started"]
    assert containers(engine, rows) == []


def test_a_second_interrupt_kills_a_job_that_will_not_end(
    caliban: Caliban, start: Start, sweep: Path, engine: Engine, home: Path
) -> None:
    (sweep / "trainer" / "stubborn.py").write_text(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))\n"
        "print('here', flush=True)\n"
        "while True: time.sleep(1)\n"
    )
    child = start(*RUN, "trainer.stubborn")
    said = output_of_running_job(home)
    wait_for(lambda: said("here"))
    child.send_signal(signal.SIGINT)
    wait_for(lambda: said("no"))
    before = time.monotonic()
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode == 130
    assert time.monotonic() - before < 5
    rows = jobs(caliban)
    assert [(row["status"], row["exit_code"]) for row in rows] == [("STOPPED", 137)]
    assert containers(engine, rows) == []


def test_after_kill_9_every_finished_job_is_recorded_and_status_settles_the_running_one(
    caliban: Caliban, start: Start, experiments: Write, engine: Engine, home: Path
) -> None:
    name = experiments([{"say": f"job {i}", "pause": i == 3} for i in range(20)])
    child = start(*RUN, "--experiment_config", name, "trainer.job")
    said = output_of_running_job(home)
    wait_for(lambda: said("job 3"))
    child.kill()
    child.communicate()

    rows = jobs(caliban)
    assert len(rows) == 20
    assert [row["status"] for row in rows[:3]] == ["SUCCEEDED"] * 3
    assert rows[3]["status"] == "RUNNING"
    assert {row["status"] for row in rows[4:]} == {"STOPPED"}
    assert all("never started" in row["reason"] for row in rows[4:])

    (container,) = containers(engine, rows)
    engine.client.kill(container["Id"], "SIGUSR1")
    wait_for(lambda: jobs(caliban)[3]["status"] != "RUNNING")
    settled = jobs(caliban)[3]
    assert (settled["status"], settled["exit_code"]) == ("SUCCEEDED", 0)
    assert kept_output(home)[settled["uid"]] == "job 3\n"
    assert containers(engine, rows) == []


def test_status_settles_a_job_whose_container_was_killed_meanwhile(
    caliban: Caliban, start: Start, sweep: Path, engine: Engine, home: Path
) -> None:
    child = start(*RUN, "trainer.job", "--", "--say", "here", "--sleep", "60")
    said = output_of_running_job(home)
    wait_for(lambda: said("here"))
    child.kill()
    child.communicate()
    [row] = jobs(caliban)
    engine.client.kill(f"caliban-{row['uid']}")
    [row] = jobs(caliban)
    assert (row["status"], row["reason"]) == ("FAILED", "signal 9 (SIGKILL)")


def test_status_shows_the_last_known_state_when_the_engine_is_out_of_reach(
    caliban: Caliban, start: Start, sweep: Path, home: Path
) -> None:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    door = home / "docker.sock"
    door.symlink_to(host.removeprefix("unix://"))
    through = {"DOCKER_HOST": f"unix://{door}"}
    child = start(
        *RUN,
        "trainer.job",
        *("--", "--say", "here", "--sleep", "60"),
        env={**os.environ, **through},
    )
    said = output_of_running_job(home)
    wait_for(lambda: said("here"))
    try:
        door.unlink()
        answer = caliban("status", env=through)
        assert answer.returncode == 1
        assert "RUNNING" in answer.stdout
        assert f"no Docker engine answers at {through['DOCKER_HOST']}" in answer.stderr
    finally:
        door.symlink_to(host.removeprefix("unix://"))
        child.terminate()
        child.communicate(timeout=30)


def test_eight_runs_at_once_in_one_directory_record_all_their_outcomes(
    caliban: Caliban, start: Start, experiments: Write, sweep: Path, engine: Engine
) -> None:
    name = experiments({"exit": [0, 1], "say": [1, 2, 3, 4, 5]})
    before = sorted(sweep.rglob("*"))
    command = (*RUN, "--docker_run_args=--network none", "--experiment_config", name, "trainer.job")
    children = [start(*command) for _ in range(8)]
    for child in children:
        _, stderr = child.communicate(timeout=240)
        assert child.returncode == 1, stderr
        assert "error" not in stderr
    rows: list[dict[str, Any]] = jobs(caliban)
    assert Counter(row["status"] for row in rows) == {"SUCCEEDED": 40, "FAILED": 40}
    assert len({row["xgroup"] for row in rows}) == 8
    assert sorted(sweep.rglob("*")) == before
    assert containers(engine, rows) == []
