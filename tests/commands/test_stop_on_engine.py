"""`caliban stop`, of jobs in real containers and of jobs elsewhere."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from caliban.board import Board
from caliban.docker.engine import Engine
from caliban.history.store import HistoryStore
from caliban.interrupt import Interruption
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, JobRequest, Outcome, Status, Submission
from caliban.platform.local import LocalBackend
from caliban.runner import Launched, Runner
from tests.commands.conftest import Start, wait_for
from tests.commands.test_run_on_engine import RUN, containers, jobs
from tests.conftest import USER, Caliban, Inline
from tests.typist import CTRL_C, CTRL_D, typing

REMARK = "requested job cancellation; all jobs have ended."
LINE = r"{}  +{} +LOCAL \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d container: [0-9a-f]{{12}}"


def sweep(start: Start, noise: Path, values: Mapping[str, Any], *flags: str) -> Any:
    """Starts a sweep into the group "g"."""
    (noise / "e.json").write_text(json.dumps(values))
    command = (*RUN, *flags, "--xgroup", "g", "--experiment_config", "e.json", "trainer.noise")
    return start(*command)


def statuses(caliban: Caliban) -> list[str]:
    return [row["status"] for row in jobs(caliban, "--xgroup", "g")]


def running(home: Path, number: int = 1) -> None:
    """Waits until so many jobs have printed something."""
    wait_for(lambda: sum(b"line" in f.read_bytes() for f in home.glob(".caliban/logs/*")) >= number)


def test_a_group_is_stopped_after_a_yes(
    caliban: Caliban, start: Start, noise: Path, engine: Engine, home: Path
) -> None:
    values = {"lines": [1, 2, 3, 4], "sleep": 60}
    child = sweep(start, noise, values, "--jobs", "2")
    running(home, 2)
    with typing("stop", "--xgroup", "g") as terminal:
        terminal.shows(r"do you wish to stop these 4 jobs\? \[yN\]: $")
        assert statuses(caliban) == ["RUNNING", "RUNNING", "SUBMITTED", "SUBMITTED"]
        terminal.press("y\n")
        assert terminal.ends() == 0
    states = ["RUNNING", "RUNNING", "SUBMITTED", "SUBMITTED"]
    lines = iter(terminal.text.splitlines())
    assert next(lines) == "the following jobs would be stopped:"
    for number, state in enumerate(states, 1):
        assert next(lines) == f"trainer.noise --lines {number} --sleep 60"
        assert re.fullmatch("    job " + LINE.format(number, state), next(lines))
    assert next(lines) == ""
    assert next(lines) == "do you wish to stop these 4 jobs? [yN]: y"
    assert next(lines) == ""
    for number, state in enumerate(states, 1):
        said = "asked to stop" if number < 3 else "stopped before it started"
        assert re.fullmatch(f"stopping job: {LINE.format(number, state)} - {said}", next(lines))
    for line, number in zip(sorted([next(lines), next(lines)]), (1, 2), strict=True):
        assert re.fullmatch(rf"job {number} STOPPED \(stopped\) in \d+\.\d s", line)
    assert list(lines) == ["", REMARK]

    _, notes = child.communicate(timeout=30)
    assert child.returncode == 1
    assert "job 1 STOPPED (stopped)" in notes
    assert "job 4 STOPPED (stopped before it started)" in notes
    assert "4 jobs: 4 STOPPED" in notes
    rows = jobs(caliban, "--xgroup", "g")
    assert [row["status"] for row in rows] == ["STOPPED"] * 4
    assert [row["started"] is None for row in rows] == [False, False, True, True]
    assert containers(engine, rows) == []
    assert caliban("stop").stderr == "no running jobs found\n"


def test_nothing_is_stopped_without_a_yes(
    caliban: Caliban, start: Start, noise: Path, home: Path
) -> None:
    child = sweep(start, noise, {"lines": 1, "sleep": 60})
    running(home)
    asked = r"do you wish to stop this job\? \[yN\]: $"
    for keys, code in (("n\n", 0), ("\n", 0), (CTRL_D, 2), (CTRL_C, 130)):
        with typing("stop") as terminal:
            terminal.shows(asked)
            terminal.press(keys)
            assert terminal.ends() == code
            assert "stopping job" not in terminal.text
    nobody = caliban("stop", "1")
    assert nobody.returncode == 2
    assert nobody.stdout.startswith("the following jobs would be stopped:\n")
    assert nobody.stderr.endswith(
        "Pass --yes to stop them without being asked; nothing was stopped.\n"
    )
    assert caliban("stop", "1", stdin="n\n").returncode == 0
    dry = caliban("stop", "--dry_run")
    assert (dry.returncode, dry.stderr) == (0, "nothing was stopped\n")
    assert "    job 1 " in dry.stdout
    other = caliban("stop", "--yes", env={"LOGNAME": "other", "USER": "other"})
    assert (other.returncode, other.stderr) == (0, "no running jobs found\n")
    assert caliban("stop", "--yes", "1", env={"LOGNAME": "other"}).returncode == 2
    assert child.poll() is None and statuses(caliban) == ["RUNNING"]

    both = caliban("stop", "--xgroup", "g", "1")
    assert both.returncode == 2
    assert caliban("stop", "--xgroup", "", "--yes").returncode == 2
    unknown = caliban("stop", "--yes", "1", "77")
    assert unknown.returncode == 2 and "has no job 77" in unknown.stderr
    assert statuses(caliban) == ["RUNNING"]
    assert caliban("stop", "1", stdin="y\n").returncode == 0
    assert statuses(caliban) == ["STOPPED"]
    ended = caliban("stop", "1")
    assert ended.stderr.startswith("job 1 has ended: STOPPED (stopped) in ")
    assert ended.returncode == 0


def test_a_job_that_takes_leave_in_order_has_stopped_and_not_succeeded(
    caliban: Caliban, start: Start, noise: Path, home: Path
) -> None:
    child = sweep(start, noise, {"farewell": 1, "lines": 1, "sleep": 60})
    running(home)
    stopped = caliban("stop", "--yes")
    assert stopped.returncode == 0, stopped.stderr
    child.communicate(timeout=20)
    assert child.returncode == 1
    [row] = jobs(caliban)
    assert (row["status"], row["exit_code"], row["reason"]) == ("STOPPED", 0, "stopped")
    assert caliban("logs", "1").stdout == "line 0\nsaved\n"


def test_a_job_is_stopped_while_its_container_is_being_made(
    caliban: Caliban, start: Start, noise: Path, engine: Engine
) -> None:
    child = sweep(start, noise, {"sleep": 60})
    wait_for(lambda: bool(jobs(caliban)))
    stopped = caliban("stop", "--yes")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    child.communicate(timeout=20)
    assert statuses(caliban) == ["STOPPED"]
    assert containers(engine, jobs(caliban)) == []


def test_what_a_killed_caliban_has_left_is_stopped(
    caliban: Caliban, start: Start, noise: Path, engine: Engine, home: Path
) -> None:
    child = sweep(start, noise, {"lines": [2, 3], "sleep": 60})
    running(home)
    child.kill()
    child.communicate()
    stopped = caliban("stop", "--yes")
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.endswith("requested job cancellation; the job has ended.\n")
    rows = jobs(caliban)
    assert [row["reason"] for row in rows] == ["stopped", "never started: caliban ended before it"]
    assert [row["status"] for row in rows] == ["STOPPED"] * 2
    assert caliban("logs", "1").stdout == "line 0\nline 1\n"
    assert containers(engine, rows) == []


def test_a_job_that_ignores_sigterm_and_a_caliban_that_is_halted(
    caliban: Caliban, start: Start, noise: Path, engine: Engine, home: Path
) -> None:
    child = sweep(start, noise, {"deaf": 1, "lines": 1, "sleep": 60})
    running(home)
    child.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        stopped = caliban("stop", "--yes")
        assert 9 < time.monotonic() - began < 25
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        assert "job 1 has ended; its caliban is halted, and has not recorded it" in stopped.stdout
    finally:
        child.send_signal(signal.SIGCONT)
    _, notes = child.communicate(timeout=20)
    assert "job 1 STOPPED (stopped)" in notes
    assert containers(engine, jobs(caliban)) == []


class NoGpus:
    """Every GPU is somebody else's, for good."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def take(self, uid: str) -> None:
        return None

    def wait(self, uid: str) -> str:
        self.asked.set()
        return "waiting for 1 GPU (held by job 99)"

    def give_back(self, uid: str) -> None: ...

    def keep(self, uid: str) -> None: ...


def test_jobs_that_wait_for_gpus_are_stopped_without_them(capsys: Any) -> None:
    elsewhere("local", "here", Status.SUBMITTED)
    elsewhere("local", "here", Status.SUBMITTED)
    with HistoryStore.open() as store, Interruption() as interruption:
        waiting = [
            Launched(
                job.id,
                JobRequest(job.uid, job.experiment, job.image, job.group, 0),
                job.submission,
                Handle("local", "here", "x"),
            )
            for job in store.open_jobs(USER)
        ]
        uids = [job.request.uid for job in waiting]
        backend: Any = None
        gpus = NoGpus()
        runner = Runner(backend, store, Board(2), interruption, gpus)

        def stop() -> None:
            gpus.asked.wait(60)
            store.cancel(uids, datetime.now(UTC))

        thread = threading.Thread(target=stop)
        thread.start()
        ended = runner.run(waiting, 2)
        thread.join()
    assert [job.outcome.reason for job in ended] == ["stopped before it started"] * 2
    said = capsys.readouterr().err
    assert "job 2 STOPPED (stopped before it started)" in said
    assert said.count(": waiting for 1 GPU (held by job 99)\n") == 1


def elsewhere(platform: str, target: str, status: Status) -> None:
    """Records a job that is not in this engine."""
    handle = Handle(platform, target, "x")
    request = JobRequest(os.urandom(8).hex(), Experiment((), {}), "sha256:12", "g", 0)
    submission = Submission(platform, target, {})
    with HistoryStore.open() as store:
        owner = "other-machine/1/2"
        spec = {"mode": "cpu"}
        store.record(USER, "g", owner, spec, [request], lambda *_: (submission, handle))
        if status is Status.RUNNING:
            store.settle({request.uid: Outcome(status)})


def test_what_runs_elsewhere_is_named_and_stays(inline: Inline) -> None:
    here = LocalBackend(None, "").machine  # type: ignore[arg-type]
    elsewhere("caip", "projects/p", Status.RUNNING)
    elsewhere("local", "other-machine unix:///var/run/docker.sock", Status.RUNNING)
    elsewhere("local", f"{here} ssh://gpu", Status.RUNNING)
    told = inline("stop", "--yes")
    assert told.returncode == 1
    assert told.stdout == ""
    assert told.stderr.splitlines() == [
        "no running jobs found",
        "warning: job 1 can't be stopped from here: it was submitted to CAIP",
        "warning: job 2 can't be stopped from here: it runs on other-machine",
        "warning: job 3 can't be stopped from here: it runs in another engine of this machine "
        "(DOCKER_HOST=ssh://gpu)",
    ]
    # Whoever is to start one that waits asks the history before.
    elsewhere("local", "other-machine unix:///var/run/docker.sock", Status.SUBMITTED)
    told = inline("stop", "4", "--yes")
    assert told.returncode == 0
    assert " - stopped before it started\n" in told.stdout


def test_what_ran_on_a_machine_that_is_gone_can_be_given_up(inline: Inline) -> None:
    elsewhere("local", "other-machine unix:///var/run/docker.sock", Status.RUNNING)
    given_up = inline("stop", "--give_up", "--yes", "1")
    assert given_up.returncode == 0, given_up.stderr
    said = "job 1 STOPPED (given up, how it ended is not known: it runs on other-machine)\n"
    assert given_up.stdout.endswith(said)
    assert inline("stop", "--yes").stderr == "no running jobs found\n"


def test_without_an_engine_no_running_job_is_taken_for_stopped(
    caliban: Caliban, start: Start, noise: Path, home: Path
) -> None:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    door = home / "docker.sock"
    door.symlink_to(host)
    env = {"DOCKER_HOST": f"unix://{door}"}
    (noise / "e.json").write_text(json.dumps({"lines": [1, 2], "sleep": 60}))
    command = (*RUN, "--xgroup", "g", "--experiment_config", "e.json", "trainer.noise")
    child = start(*command, env={**os.environ, **env})
    running(home)
    door.unlink()
    told = caliban("stop", "--yes", env=env)
    door.symlink_to(host)
    assert told.returncode == 1
    assert f"could not be reached: no Docker engine answers at unix://{door}" in told.stdout
    assert "stopped before it started" in told.stdout
    remark = "requested job cancellation; 1 job of 2 could not be reached."
    assert told.stdout.splitlines()[-1] == remark
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert statuses(caliban) == ["STOPPED", "STOPPED"]
