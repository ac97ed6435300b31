"""`caliban logs` of jobs in real containers."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caliban.docker.engine import Engine
from caliban.joblog import JobLog
from tests.commands.conftest import Start, wait_for
from tests.commands.noise import BYTES
from tests.commands.test_run_on_engine import RUN, containers, jobs
from tests.conftest import Caliban
from tests.typist import CTRL_C, typing
from tests.workshop import docker

MODULE = ("trainer.noise", "--")
LINES = [f"line {number}" for number in range(12)]

pytestmark = pytest.mark.usefixtures("noise")


def run_unseen(*args: str) -> None:
    """Runs a job whose output nobody needs here."""
    nowhere = subprocess.DEVNULL
    command = [sys.executable, "-m", "caliban", *RUN, *MODULE, *args]
    subprocess.run(command, stdout=nowhere, stderr=nowhere, check=True, timeout=60)


def rest(follower: subprocess.Popen[str]) -> tuple[list[str], str]:
    """What it prints from now on, and its notes."""
    assert follower.stdout and follower.stderr
    lines = follower.stdout.read().splitlines()
    notes = follower.stderr.read()
    assert follower.wait(10) == 0, notes
    return lines, notes


def logs(*args: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """What `caliban logs` prints, in bytes."""
    command = [sys.executable, "-m", "caliban", "logs", *args]
    return subprocess.run(command, capture_output=True, timeout=60, check=False, **options)


def has_printed(home: Path, text: str) -> Callable[[], bool]:
    """Whether some running job has."""
    return lambda: any(text in log.read_text() for log in home.glob(".caliban/logs/*.log"))


def go_on(caliban: Caliban, engine: Engine) -> None:
    """Ends the --pause of the only job."""
    (container,) = containers(engine, jobs(caliban))
    docker("kill", "--signal", "USR1", container["Id"])


def test_the_log_of_a_job_is_byte_for_byte_what_it_has_printed() -> None:
    run_unseen("--bytes", "1")
    shown = logs("1")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, BYTES, b"")
    assert logs("--tail", "1", "1").stdout == b"three"
    assert logs("--tail", "2", "1").stdout == BYTES.partition(b"\n")[2]
    assert logs("--tail", "0", "1").stdout == b""
    followed = logs("--follow", "1")
    assert (followed.returncode, followed.stdout, followed.stderr) == (0, BYTES, b"")


def test_several_logs_have_headings_and_followed_ones_numbers(
    caliban: Caliban, noise: Path
) -> None:
    (noise / "e.json").write_text(json.dumps({"lines": 1, "exit": [0, 3, 4]}))
    caliban(*RUN, "--xgroup", "g", "--experiment_config", "e.json", "trainer.noise")
    shown = logs("--xgroup", "g")
    assert shown.stdout == b"line 0\n" * 3
    assert shown.stderr.decode().splitlines() == [
        "job 1 --lines 1 --exit 0",
        "job 2 --lines 1 --exit 3",
        "job 3 --lines 1 --exit 4",
    ]
    assert logs("--xgroup", "g", "--failed").stderr.decode().splitlines() == [
        "job 2 --lines 1 --exit 3",
        "job 3 --lines 1 --exit 4",
    ]
    assert logs("3", "1", "3").stderr.startswith(b"job 3 ")
    assert logs("1", "--failed").stderr == b"None of these jobs has failed.\n"
    followed = logs("-f", "--xgroup", "g")
    assert followed.stdout == b"[1] line 0\n[2] line 0\n[3] line 0\n"
    unknown = logs("3", "7", "8")
    assert unknown.returncode == 2
    assert b"has no job 7" in unknown.stderr and b"has no job 8" in unknown.stderr
    assert logs("--xgroup", "nothing").returncode == 2
    others = logs("1", env={**os.environ, "LOGNAME": "other", "USER": "other"})
    assert (others.returncode, others.stdout) == (2, b"")


def test_why_there_is_no_log(caliban: Caliban, start: Start, noise: Path, home: Path) -> None:
    (noise / "e.json").write_text(json.dumps({"sleep": [0, 0.1, 60, 0.2]}))
    child = start(*RUN, "--experiment_config", "e.json", "trainer.noise")
    wait_for(lambda: [row["status"] for row in jobs(caliban)][2:3] == ["RUNNING"])
    quiet = logs("1", "3", "4")
    assert quiet.returncode == 0
    assert b"job 1: it has printed nothing\n" in quiet.stderr
    assert b"job 3: it has printed nothing yet\n" in quiet.stderr
    assert b"job 4: it has not started yet\n" in quiet.stderr
    (home / ".caliban" / "logs" / f"{jobs(caliban)[1]['uid']}.log.gz").unlink()
    assert logs("2").stderr == b"job 2: its log has been removed\n"
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert logs("4").stderr == b"job 4: it was never started (not started)\n"


def test_a_running_job_is_followed_as_it_prints(
    caliban: Caliban, start: Start, engine: Engine, home: Path
) -> None:
    child = start(*RUN, *MODULE, "--lines", "3", "--pause", "1", "--lines", "9")
    wait_for(has_printed(home, "line 0"))
    follower = start("logs", "-f", "1")
    assert follower.stdout
    assert select.select([follower.stdout], [], [], 10)[0]
    assert follower.stdout.readline() == "line 0\n"
    assert child.poll() is None
    shown = logs("1", "--tail", "1")
    assert shown.stdout.startswith(b"line ") and shown.stdout.count(b"\n") == 1
    go_on(caliban, engine)
    lines, notes = rest(follower)
    assert lines == [*LINES[1:3], *LINES[:9]]
    assert notes.startswith("job 1 SUCCEEDED in ")


def test_control_c_ends_the_following_and_not_the_job(
    caliban: Caliban, start: Start, engine: Engine, home: Path
) -> None:
    child = start(*RUN, *MODULE, "--lines", "3", "--pause", "1", "--lines", "9")
    wait_for(has_printed(home, "line 0"))
    with typing("logs", "-f", "1") as terminal:
        terminal.shows("line 1")
        terminal.press(CTRL_C)
        assert terminal.ends() == 130
        assert "Traceback" not in terminal.text
    assert child.poll() is None
    with subprocess.Popen(
        f"{sys.executable} -m caliban logs -f 1 | head -n 1",
        shell=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout and reader.stdout.readline() == "line 0\n"
        go_on(caliban, engine)
        assert reader.communicate(timeout=30) == ("", "")
    child.communicate(timeout=30)
    assert child.returncode == 0


def test_a_job_whose_caliban_was_killed_is_shown_by_the_engine(
    caliban: Caliban, start: Start, engine: Engine, home: Path
) -> None:
    child = start(*RUN, *MODULE, "--lines", "6", "--pause", "1", "--lines", "6")
    wait_for(has_printed(home, "line 1"))
    before = start("logs", "-f", "1")
    assert before.stdout and before.stdout.readline() == "line 0\n"
    child.kill()
    child.communicate()
    last = time.monotonic()
    seen = 0
    while time.monotonic() - last < 10 and seen < 5:  # nobody writes the file any more
        seen = len(logs("1").stdout.splitlines())
    assert seen >= 5
    assert logs("1", "--tail", "2").stdout.count(b"\n") == 2
    after = start("logs", "-f", "1")
    assert after.stdout and after.stdout.readline() == "line 0\n"
    go_on(caliban, engine)
    lines, notes = rest(before)
    assert lines == [*LINES[1:6], *LINES[:6]]
    assert "job 1 SUCCEEDED" in notes
    assert rest(after)[0] == lines
    assert containers(engine, jobs(caliban)) == []
    assert logs("1").stdout.decode().splitlines() == [LINES[0], *lines]


def test_a_killed_calibans_job_is_followed_as_fast_as_the_engine_speaks_and_byte_for_byte(
    caliban: Caliban, start: Start, engine: Engine, home: Path
) -> None:
    args = ("--bytes", "1", "--pause", "1", "--many", "20000")
    child = start(*RUN, *MODULE, *args, errors="replace")
    log = home / ".caliban" / "logs"
    wait_for(lambda: any(file.read_bytes() == BYTES for file in log.glob("*.log")))
    with subprocess.Popen(
        [sys.executable, "-m", "caliban", "logs", "-f", "1"], stdout=subprocess.PIPE
    ) as follower:
        assert follower.stdout
        assert follower.stdout.read(len(BYTES)) == BYTES
        child.kill()
        child.communicate()
        output = follower.stdout
        go_on(caliban, engine)
        wait_for(lambda: bool(select.select([output], [], [], 0)[0]))
        began = time.monotonic()
        rest = follower.stdout.read()
        assert rest == b"".join(b"line %d\n" % number for number in range(20000))
        assert time.monotonic() - began < 30
    assert follower.returncode == 0


def peak(*args: str) -> tuple[int, int]:
    """How many bytes `caliban` prints, and how much memory it takes for that, in KiB."""
    command = [sys.executable, "-m", "caliban", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout
        size = 0
        while piece := child.stdout.read(1 << 20):
            size += len(piece)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return size, usage.ru_maxrss


def test_a_large_log_takes_no_more_memory_than_a_small_one(caliban: Caliban) -> None:
    run_unseen("--lines", "1")
    run_unseen("--sleep", "0")
    piece = b"".join(b"%07d some output of a job\n" % number for number in range(1 << 15))
    # An engine takes half a minute for as much.
    with JobLog(jobs(caliban)[1]["uid"]) as log:
        for _ in range(220):
            log.write(piece)
    small, least = peak("logs", "1")
    assert small == len("line 0\n")
    for flags, lines in (
        ((), 220 << 15),
        (("--follow",), 220 << 15),
        (("--tail", "3000000"), 3_000_000),
        (("--tail", "5"), 5),
    ):
        size, most = peak("logs", "2", *flags)
        assert size == lines * len(b"0000000 some output of a job\n")
        assert most - least < 8 << 10, f"{flags}: {most} KiB, and {least} for a small one"
