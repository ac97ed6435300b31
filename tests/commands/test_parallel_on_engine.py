"""`caliban run --jobs N`: what is seen of it, and what ends it, with real containers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import Start, kept_output, wait_for
from tests.conftest import Caliban
from tests.dockerd import Dockerd
from tests.parts import OpenScreen

JOB = """
case "$2" in
  sleep) trap 'echo bye; exit 3' TERM; echo "sleeps $4"; sleep 60 & wait;;
  stubborn) trap 'echo no' TERM; echo "stubborn $4"; while true; do sleep 0.2; done;;
  much) yes "$(printf "%04000d" 7)" | head -c "$4";;
  quick) echo "first $4"; echo "second $4" >&2;;
esac
"""

Words = Callable[..., list[str]]


@pytest.fixture
def words(own_engine: Dockerd, tmp_path: Path) -> Words:
    """A command line for caliban that runs the script with --do WHAT --n N for each N."""
    image = own_engine.image("small", {"usr/app/job.sh": JOB})
    (tmp_path / "job.sh").write_text(JOB)

    def command(what: str, numbers: list[int], *flags: str) -> list[str]:
        (tmp_path / "experiment.json").write_text(json.dumps({"do": what, "n": numbers}))
        return [
            *("run", "--nogpu", "--image_id", image, "--xgroup", "group", *flags),
            *("--docker_run_args=--network none", "--experiment_config", "experiment.json"),
            "job.sh",
        ]

    return command


def status(caliban: Caliban) -> list[dict[str, Any]]:
    answer = caliban("status", "--xgroup", "group", "--max_jobs", "0", "--json")
    rows: list[dict[str, Any]] = json.loads(answer.stdout)
    return rows


def running(engine: Dockerd) -> int:
    return len(engine.docker("ps", "--quiet").split())


def printed(home: Path, text: str) -> Callable[[], bool]:
    """Whether each of four jobs has printed a text."""
    return lambda: sum(text in output for output in kept_output(home).values()) == 4


def caliban_in(words: list[str]) -> str:
    return " ".join(f"'{word}'" for word in [sys.executable, "-m", "caliban", *words])


def test_four_run_at_a_time_and_a_pipe_gets_a_line_for_each_start_and_end(
    caliban: Caliban, words: Words, own_engine: Dockerd
) -> None:
    answer = caliban(*words("quick", list(range(8)), "--jobs", "4"))
    assert (answer.returncode, answer.stdout) == (0, ""), answer.stderr
    lines = answer.stderr.splitlines()
    assert sum(" started: --do quick" in line for line in lines) == 8
    assert sum("SUCCEEDED in" in line for line in lines) == 8
    assert "first" not in answer.stderr
    assert "\033" not in answer.stderr


def test_verbose_shows_each_line_after_the_number_of_its_job(
    caliban: Caliban, words: Words
) -> None:
    answer = caliban(*words("quick", [5, 6], "--jobs", "2", "--verbose"))
    lines = answer.stderr.splitlines()
    for number, job in ((5, 1), (6, 2)):
        assert f"[{job}] first {number}" in lines
        assert f"[{job}] second {number}" in lines


def test_a_terminal_has_a_line_for_each_and_none_is_left_behind(
    screen: OpenScreen, words: Words, own_engine: Dockerd
) -> None:
    terminal = screen()
    terminal.line(caliban_in(words("sleep", [1, 2, 3, 4, 5], "--jobs", "4")))
    terminal.shows(r"^  job 4 +0:\d\d  --do sleep --n 4  \| sleeps 4$")
    terminal.shows("^0/5 jobs done, 4 running$")
    terminal.resize(40, 24)
    terminal.shows(r"^  job 4 +0:\d\d  --do sleep --n 4  \| sle$")
    terminal.resize(80, 24)
    terminal.shows(r"^  job 4 +0:\d\d  --do sleep --n 4  \| sleeps 4$")
    terminal.keys("C-c")
    terminal.shows("^host 130>$")
    text = terminal.text()
    assert text.count("STOPPED (interrupted)") == 4
    assert "jobs done" not in text
    assert "5 jobs: 5 STOPPED" in text
    assert running(own_engine) == 0
    assert own_engine.docker("ps", "--all", "--quiet") == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_four_in_order(
    start: Start,
    caliban: Caliban,
    words: Words,
    own_engine: Dockerd,
    home: Path,
    number: signal.Signals,
) -> None:
    child = start(*words("sleep", list(range(6)), "--jobs", "4", "--verbose"))
    wait_for(printed(home, "sleeps"))
    child.send_signal(number)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130, said
    assert said.count("] bye") == 4
    assert Counter(row["status"] for row in status(caliban)) == {"STOPPED": 6}
    reasons = Counter(row["reason"] for row in status(caliban))
    assert reasons == {"interrupted": 4, "not started": 2}
    assert own_engine.docker("ps", "--all", "--quiet") == ""


def test_an_early_interrupt_reaches_containers_that_are_only_just_being_made(
    start: Start, caliban: Caliban, words: Words, own_engine: Dockerd
) -> None:
    child = start(*words("sleep", list(range(4)), "--jobs", "4"))
    wait_for(lambda: any(row["status"] == "RUNNING" for row in status_or_none(caliban)))
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130, said
    assert Counter(row["status"] for row in status(caliban)) == {"STOPPED": 4}
    assert own_engine.docker("ps", "--all", "--quiet") == ""


def status_or_none(caliban: Caliban) -> list[dict[str, Any]]:
    with contextlib.suppress(json.JSONDecodeError):
        return status(caliban)
    return []


def test_a_second_interrupt_kills_what_will_not_end(
    start: Start, caliban: Caliban, words: Words, own_engine: Dockerd, home: Path
) -> None:
    child = start(*words("stubborn", list(range(4)), "--jobs", "4", "--verbose"))
    wait_for(printed(home, "stubborn"))
    child.send_signal(signal.SIGINT)
    wait_for(printed(home, "\nno\n"))
    assert running(own_engine) == 4
    child.send_signal(signal.SIGINT)
    began = time.monotonic()
    child.communicate(timeout=30)
    assert child.returncode == 130
    assert time.monotonic() - began < 6
    assert Counter(row["status"] for row in status(caliban)) == {"STOPPED": 4}
    assert own_engine.docker("ps", "--all", "--quiet") == ""


def test_a_terminal_that_is_closed_ends_its_jobs(
    screen: OpenScreen, caliban: Caliban, words: Words, own_engine: Dockerd
) -> None:
    terminal = screen()
    terminal.line(caliban_in(words("sleep", [1, 2, 3, 4], "--jobs", "4")))
    terminal.shows("^0/4 jobs done, 4 running$")
    terminal.close()
    wait_for(lambda: {row["status"] for row in status(caliban)} == {"STOPPED"})
    wait_for(lambda: own_engine.docker("ps", "--all", "--quiet") == "")


def test_300_mb_of_output_are_kept_and_take_no_memory(
    caliban: Caliban, words: Words, tmp_path: Path
) -> None:
    size = 300 * 10**6
    command = [sys.executable, "-m", "caliban", *words("much", [size], "--jobs", "2")]
    probe = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]);"
        "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, *command], capture_output=True, text=True, check=True
    )
    code, kilobytes = map(int, done.stdout.split())
    assert code == 0, done.stderr
    # Of caliban or `docker run`, whichever has more; caliban alone takes some 60 MB.
    assert kilobytes < 130_000
    [row] = status(caliban)
    unpacked = subprocess.run(["gzip", "-cd", row["log"]], capture_output=True, check=True).stdout
    assert len(unpacked) == size


def test_an_engine_that_is_restarted_meanwhile_costs_no_outcome(
    start: Start, caliban: Caliban, words: Words, own_engine: Dockerd
) -> None:
    child = start(*words("sleep", list(range(4)), "--jobs", "4"))
    wait_for(lambda: running(own_engine) == 4)
    own_engine.stop()
    time.sleep(1)
    own_engine.start()
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1
    rows = status(caliban)
    assert {row["status"] for row in rows} == {"FAILED"}, said
    assert {row["exit_code"] for row in rows} <= {3, 137, 143}
    assert own_engine.docker("ps", "--all", "--quiet") == ""


def test_an_engine_that_stays_away_leaves_the_jobs_to_those_who_go_on(
    start: Start, caliban: Caliban, words: Words, own_engine: Dockerd
) -> None:
    child = start(*words("sleep", list(range(4)), "--jobs", "2"))
    wait_for(lambda: running(own_engine) == 2)
    own_engine.stop()
    assert child.stderr
    assert any("waiting for it" in line for line in child.stderr)
    child.send_signal(signal.SIGINT)  # whose patience is short
    said = child.stderr.read()
    assert child.wait(60) == 1
    assert "error: " in said
    away = caliban("status", "--xgroup", "group")
    assert away.returncode == 1
    own_engine.start()
    rows = status(caliban)
    assert {row["status"] for row in rows} == {"FAILED", "STOPPED"}
    assert own_engine.docker("ps", "--all", "--quiet") == ""


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of a few MB."""
    folder.mkdir(parents=True, mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root may mount a small disk")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk: {done.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_the_rest_of_the_log_and_not_the_job(
    caliban: Caliban, words: Words, home: Path
) -> None:
    with small_disk(home / ".caliban" / "logs", "1m"):
        answer = caliban(*words("much", [5_000_000], "--jobs", "2"))
        assert answer.returncode == 0, answer.stderr
        assert "the output is not kept any more" in answer.stderr
        assert "No space left on device" in answer.stderr
        assert [row["status"] for row in status(caliban)] == ["SUCCEEDED"]
        shown = caliban("logs", "1")
        assert 500_000 < len(shown.stdout) < 1_000_000
        assert "job 1: the rest of its output could not be kept" in shown.stderr


def test_what_became_of_a_job_has_room_on_the_disk_that_its_log_has_filled(
    caliban: Caliban, words: Words, home: Path
) -> None:
    with small_disk(home / ".caliban", "20m") as disk:
        answer = caliban(*words("much", [30_000_000], "--jobs", "2"))
        assert answer.returncode == 0, answer.stderr
        assert [row["status"] for row in status(caliban)] == ["SUCCEEDED"]
        # Now something else takes the last byte.
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
            while ballast.write(bytes(4096)):
                pass
        assert os.statvfs(disk).f_bavail == 0
        stopped = caliban("stop", "--yes")
        assert (stopped.returncode, stopped.stderr) == (0, "no running jobs found\n")
        pruned = caliban("prune", "--logs", "--yes")
        assert pruned.returncode == 0, pruned.stderr
        assert "Removed 1 log, " in pruned.stderr
        assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > 10_000_000
