"""`caliban run` in real containers: what a job sees, prints and leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caliban.docker.engine import Engine
from tests.commands.conftest import Start, kept_output, wait_for
from tests.conftest import Caliban

RUN = ("run", "--nogpu")

Write = Callable[[Any], str]


def jobs(caliban: Caliban, *flags: str) -> list[dict[str, Any]]:
    """What the history says."""
    answer = caliban("status", "--json", "--max_jobs", "0", *flags)
    assert answer.returncode == 0, answer.stderr
    rows: list[dict[str, Any]] = json.loads(answer.stdout)
    return rows


def containers(engine: Engine, rows: list[dict[str, Any]]) -> list[Any]:
    """The containers of jobs that the engine still has."""
    filters = {"label": "caliban.uid"}
    uids = {row["uid"] for row in rows}
    found = engine.client.containers(all=True, filters=filters)
    return [each for each in found if each["Labels"]["caliban.uid"] in uids]


def test_a_sweep_runs_every_experiment_in_order_and_leaves_no_container(
    caliban: Caliban, experiments: Write, engine: Engine
) -> None:
    name = experiments({"say": ["one", "two words"], "complain": "hm"})
    done = caliban(*RUN, "--experiment_config", name, "trainer.job", "--", "--first", "1")
    assert done.returncode == 0, done.stderr
    expected = ["argument --first", "argument 1", "one", "argument --first", "argument 1"]
    assert done.stdout.splitlines() == [*expected, "two words"]
    assert done.stderr.splitlines().count("hm") == 2
    rows = jobs(caliban)
    assert [row["status"] for row in rows] == ["SUCCEEDED", "SUCCEEDED"]
    assert [row["params"]["say"] for row in rows] == ["one", "two words"]
    assert all(row["args"] == ["--first", "1"] for row in rows)
    assert all(row["started"] and row["finished"] for row in rows)
    assert containers(engine, rows) == []


def test_a_failing_job_does_not_stop_the_others_and_the_summary_names_it(
    caliban: Caliban, experiments: Write, home: Path
) -> None:
    name = experiments([{"say": "a"}, {"complain": "too bad", "exit": 7}, {"say": "b"}])
    done = caliban(*RUN, "--experiment_config", name, "--xgroup", "mixed", "trainer.job")
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["a", "b"]
    summary = done.stderr[done.stderr.index("3 jobs:") :]
    assert "2 SUCCEEDED" in summary
    assert "1 FAILED" in summary
    assert "--complain 'too bad' --exit 7" in summary
    assert "\n  cause: too bad\n" in summary
    assert "caliban status --xgroup mixed" in summary
    assert "'caliban resubmit --xgroup mixed' runs again what failed." in summary
    rows = jobs(caliban)
    assert [row["exit_code"] for row in rows] == [0, 7, 0]
    assert f"its output: caliban logs {rows[1]['job']}" in summary
    assert caliban("logs", str(rows[1]["job"])).stdout == "too bad\n"
    assert kept_output(home)[rows[1]["uid"]] == "too bad\n"
    modes = {log.stat().st_mode & 0o777 for log in home.glob(".caliban/logs/*")}
    assert modes == {0o600}


def test_one_command_shows_what_several_failed_jobs_have_printed(
    caliban: Caliban, experiments: Write
) -> None:
    name = experiments({"complain": "too bad", "exit": [7, 8]})
    done = caliban(*RUN, "--experiment_config", name, "--xgroup", "bad", "trainer.job")
    assert done.returncode == 1
    assert "its output:" not in done.stderr
    assert "'caliban logs --xgroup bad --failed' shows what those have printed." in done.stderr
    assert caliban("logs", "--xgroup", "bad", "--failed").stdout == "too bad\ntoo bad\n"


@pytest.mark.parametrize(
    ("flags", "run_args", "exit_code", "reason"),
    [
        (["--die", "9"], "", 137, "signal 9 (SIGKILL)"),
        (["--eat", "64"], "--memory 24m", 137, "out of memory"),
        (["--say", "x"], "--entrypoint /no/such/program", 127, "command not found"),
        (["--say", "x"], "--no-such-flag", 125, "docker run failed: unknown flag"),
    ],
)
def test_the_reason_of_a_failure_is_recorded(
    caliban: Caliban,
    sweep: Path,
    flags: list[str],
    run_args: str,
    exit_code: int,
    reason: str,
) -> None:
    done = caliban(*RUN, f"--docker_run_args={run_args}", "trainer.job", "--", *flags)
    assert done.returncode == 1
    [row] = jobs(caliban)
    assert (row["status"], row["exit_code"]) == ("FAILED", exit_code)
    assert reason in row["reason"]
    assert row["reason"] in caliban("status").stdout


def test_help_and_dashes_after_the_separator_reach_the_code_unchanged(
    caliban: Caliban, sweep: Path
) -> None:
    done = caliban(*RUN, "trainer.job", "--", "--help", "--", "-x", "--caliban_config", "")
    assert done.stdout.splitlines() == [
        "the help of the job itself",
        "argument --",
        "argument -x",
        "argument --caliban_config",
        "argument ",
    ]


def test_output_arrives_while_the_job_runs_and_frames_come_one_by_one(
    start: Start, sweep: Path
) -> None:
    child = start(*RUN, "trainer.job", "--", "--frames", "5", "--sleep", "20")
    assert child.stderr is not None
    seen = ""
    while "frame 4" not in seen:
        seen += os.read(child.stderr.fileno(), 4096).decode()
    assert child.poll() is None
    child.terminate()
    assert child.wait(timeout=30) == 130


def test_docker_run_args_are_split_as_a_shell_splits(
    caliban: Caliban, sweep: Path, tmp_path: Path
) -> None:
    (tmp_path / "the data").mkdir()
    (tmp_path / "the data" / "x").write_text("")
    done = caliban(
        *RUN,
        "--docker_run_args",
        f"--env 'A=two words' -v '{tmp_path}/the data:/data:ro' --env B",
        "trainer.job",
        *("--", "--env", "A", "--env", "B", "--env", "PYTHONUNBUFFERED"),
        env={"B": "from outside"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["two words", "from outside", "1"]


def test_a_secret_among_docker_run_args_reaches_the_job_and_nothing_else(
    caliban: Caliban, sweep: Path, home: Path
) -> None:
    flags = (
        "--env API_KEY=hush-1 -ie MY_TOKEN=hush-2 --env=PASSPHRASE=hush-3 "
        "-e DATABASE_URL=postgresql://me:hush-4@host/db"
    )
    asked = ("API_KEY", "MY_TOKEN", "PASSPHRASE", "DATABASE_URL")
    words = [word for name in asked for word in ("--env", name)]
    done = caliban(*RUN, "--docker_run_args", flags, "trainer.job", "--", *words)
    url = "postgresql://me:hush-4@host/db"
    assert done.stdout.split() == ["hush-1", "hush-2", "hush-3", url], done.stderr
    assert "hush" not in done.stderr
    dry = caliban(*RUN, "--dry_run", "--docker_run_args", flags, "trainer.job")
    assert "hush" not in dry.stdout + dry.stderr
    kept = b"".join(path.read_bytes() for path in home.glob(".caliban/caliban.db*"))
    assert b"API_KEY" in kept
    assert b"hush" not in kept


@pytest.mark.parametrize("run_args", ["--help", "busybox echo hello", "--init -- x"])
def test_words_that_are_no_options_are_refused_among_docker_run_args(
    caliban: Caliban, sweep: Path, run_args: str
) -> None:
    done = caliban(*RUN, f"--docker_run_args={run_args}", "trainer.job")
    assert done.returncode == 2
    assert run_args in done.stderr
    assert jobs(caliban) == []


def test_output_that_cannot_be_written_ends_the_run_and_says_so(
    sweep: Path, caliban: Caliban
) -> None:
    command = [sys.executable, "-m", "caliban", *RUN, "trainer.job", "--", "--say", "x"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command, "--sleep", "20"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("caliban: error: the disk is full")
    [row] = jobs(caliban)
    assert (row["status"], row["reason"]) == ("STOPPED", "its output could not be written")


def test_an_image_is_run_as_it_is_with_image_id(caliban: Caliban, sweep: Path) -> None:
    built = caliban("build", "--nogpu", "trainer.job").stdout.strip()
    (sweep / "trainer" / "job.py").write_text("print('changed since')\n")
    done = caliban(*RUN, "--image_id", built, "trainer.job", "--", "--say", "as it was")
    assert done.stdout == "as it was\n", done.stderr
    assert [row["image"] for row in jobs(caliban)] == [built]
    missing = caliban(*RUN, "--image_id", "no-such-image", "trainer.job")
    assert missing.returncode == 2
    assert "no-such-image" in missing.stderr


def test_experiments_are_read_from_standard_input(caliban: Caliban, sweep: Path) -> None:
    done = caliban(*RUN, "--experiment_config", "stdin", "trainer.job", stdin='{"say": ["x", "y"]}')
    assert done.stdout.split() == ["x", "y"]


def test_a_run_that_asks_for_its_container_to_be_removed_has_an_outcome(
    caliban: Caliban, sweep: Path
) -> None:
    done = caliban(*RUN, "--docker_run_args=--rm", "trainer.job", "--", "--exit", "4")
    assert done.returncode == 1
    assert [(row["status"], row["exit_code"]) for row in jobs(caliban)] == [("FAILED", 4)]


def test_an_experiment_that_has_succeeded_is_not_run_again_in_its_group(
    caliban: Caliban, experiments: Write
) -> None:
    launch = (*RUN, "--xgroup", "again", "--experiment_config")
    first = caliban(*launch, experiments({"say": ["a", "b"], "exit": 0}), "trainer.job")
    assert first.returncode == 0, first.stderr
    more = caliban(*launch, experiments({"say": ["a", "b", "c"], "exit": 0}), "trainer.job")
    assert (more.returncode, more.stdout) == (0, "c\n")
    assert "Skipped: 2 experiments succeeded before with this image (--rerun)" in more.stderr
    assert "Experiment group again: 1 job\n" in more.stderr
    none = caliban(*launch, "experiment.json", "trainer.job")
    assert (none.returncode, none.stdout) == (0, "")
    assert "Experiment group again: nothing to run" in none.stderr
    assert len(jobs(caliban, "--xgroup", "again")) == 3


def test_rerun_adds_a_job_to_an_experiment_that_has_succeeded(
    caliban: Caliban, sweep: Path
) -> None:
    for flags in ([], ["--rerun"]):
        done = caliban(*RUN, *flags, "--xgroup", "again", "trainer.job", "--", "--say", "hi")
        assert done.stdout == "hi\n"
    rows = jobs(caliban, "--xgroup", "again")
    assert len(rows) == 2
    assert len({row["experiment"] for row in rows}) == 1
    latest = caliban("status", "--xgroup", "again", "--json")
    assert [row["job"] for row in json.loads(latest.stdout)] == [rows[1]["job"]]


def test_what_failed_is_run_again_and_what_the_code_has_changed_for_too(
    caliban: Caliban, experiments: Write, sweep: Path
) -> None:
    name = experiments({"say": ["a", "b"]})
    (sweep / "trainer" / "job.py").write_text(
        "import sys\nprint(sys.argv[2])\nsys.exit(sys.argv[2] == 'b')\n"
    )
    launch = (*RUN, "--xgroup", "again", "--experiment_config", name, "trainer.job")
    assert [caliban(*launch).stdout for _ in range(2)] == ["a\nb\n", "b\n"]
    (sweep / "trainer" / "job.py").write_text("import sys\nprint(sys.argv[2])\n")
    assert caliban(*launch).stdout == "a\nb\n"


def test_resume_runs_what_has_not_succeeded_with_the_image_and_the_flags_that_it_had(
    caliban: Caliban, experiments: Write, sweep: Path, engine: Engine
) -> None:
    flag = sweep / "shared"
    flag.mkdir()
    (sweep / "trainer" / "job.py").write_text(
        "import os, sys\nprint(*sys.argv[1:], os.environ['LEVEL'])\n"
        "sys.exit('b' in sys.argv and not os.path.exists('/shared/mended'))\n"
    )
    name = experiments({"say": ["a", "b"]})
    run_args = f"--docker_run_args=--env LEVEL=3 -v '{flag}:/shared'"
    launch = (*RUN, run_args, "--xgroup", "again", "--experiment_config", name)
    assert caliban(*launch, "trainer.job", "--", "--first").returncode == 1
    (sweep / "trainer" / "job.py").write_text("print('changed since')\n")
    (flag / "mended").touch()
    listed = caliban("run", "--resume", "again", "--dry_run")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.splitlines()[0] == "trainer.job --first --say b"
    assert listed.stderr == "1 job; nothing was run or recorded.\n"
    assert len(jobs(caliban)) == 2
    done = caliban("run", "--resume", "again")
    assert (done.returncode, done.stdout) == (0, "--first --say b 3\n"), done.stderr
    rows = jobs(caliban, "--xgroup", "again")
    assert [row["status"] for row in rows] == ["SUCCEEDED", "FAILED", "SUCCEEDED"]
    assert len({row["image"] for row in rows}) == 1
    nothing = caliban("run", "--resume", "again")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "every experiment has succeeded" in nothing.stderr
    assert containers(engine, rows) == []


def test_what_resume_cannot_do_is_a_mistake_of_use(caliban: Caliban, sweep: Path) -> None:
    assert caliban(*RUN, "--xgroup", "again", "trainer.job", "--", "--exit", "1").returncode == 1
    for flags, expected in (
        (["--resume", "agin"], "no experiment group 'agin'\nDid you mean again?"),
        (["--resume", "again", "trainer.job"], "no module is named\ncaliban run --resume again"),
        ([], "no module is named\n"),
    ):
        done = caliban("run", *flags)
        assert (done.returncode, done.stdout) == (2, "")
        assert expected in done.stderr
    assert len(jobs(caliban)) == 1


def test_resume_asks_for_a_secret_that_it_does_not_have(caliban: Caliban, sweep: Path) -> None:
    secret = "--docker_run_args=--env API_KEY=hush"
    words = ("--env", "API_KEY", "--exit", "1")
    caliban(*RUN, secret, "--xgroup", "again", "trainer.job", "--", *words)
    without = caliban("run", "--resume", "again")
    assert without.returncode == 2
    assert "job 1 was given API_KEY" in without.stderr
    assert "export API_KEY=" in without.stderr
    again = caliban("run", "--resume", "again", env={"API_KEY": "hush-2"})
    assert (again.returncode, again.stdout) == (1, "hush-2\n")


def test_jobs_run_side_by_side_and_each_line_says_whose_it_is(
    caliban: Caliban, start: Start, experiments: Write, engine: Engine, home: Path
) -> None:
    name = experiments({"say": ["a", "b", "c", "d"], "pause": True})
    child = start(*RUN, "--jobs", "4", "--verbose", "--experiment_config", name, "trainer.job")
    # None ends before all have begun.
    wait_for(lambda: sorted(kept_output(home).values()) == ["a\n", "b\n", "c\n", "d\n"], 120)
    for row in jobs(caliban):
        engine.client.kill(f"caliban-{row['uid']}", "SIGUSR1")
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 0, stderr
    rows = jobs(caliban)
    lines = stderr.splitlines()
    for row in rows:
        assert f"[{row['job']}] {row['params']['say']}" in lines
        assert f"job {row['job']} started: --say {row['params']['say']} --pause" in lines
    spans = [(row["started"], row["finished"]) for row in rows]
    assert max(started for started, _ in spans) < min(finished for _, finished in spans)
    assert lines[-1] == "4 jobs: 4 SUCCEEDED"
    assert containers(engine, rows) == []


def test_several_at_a_time_say_little_and_keep_what_they_print(
    caliban: Caliban, experiments: Write, home: Path
) -> None:
    name = experiments([{"say": "a"}, {"complain": "hm", "exit": 3}, {"say": "c"}])
    done = caliban(*RUN, "--jobs", "2", "--experiment_config", name, "trainer.job")
    assert (done.returncode, done.stdout) == (1, "")
    assert "hm" not in done.stderr.splitlines()
    rows = jobs(caliban)
    assert [row["exit_code"] for row in rows] == [0, 3, 0]
    printed = kept_output(home)
    assert [printed[row["uid"]] for row in rows] == ["a\n", "hm\n", "c\n"]


def test_a_reader_that_goes_away_ends_the_run_in_order(
    caliban: Caliban, experiments: Write, engine: Engine
) -> None:
    name = experiments({"say": ["a", "b", "c"], "sleep": 1})
    pipeline = (
        f"{sys.executable} -m caliban run --nogpu --experiment_config {name} trainer.job "
        "-- --say hello | head -n 1"
    )
    done = subprocess.run(pipeline, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "hello\n"
    assert "Traceback" not in done.stderr
    rows = jobs(caliban)
    assert [row["status"] for row in rows][1:] == ["STOPPED", "STOPPED"]
    assert "could not be written" in rows[0]["reason"] + rows[1]["reason"]
    assert containers(engine, rows) == []


def test_without_an_engine_there_is_one_line_and_a_hint(caliban: Caliban, sweep: Path) -> None:
    done = caliban(*RUN, "trainer.job", env={"DOCKER_HOST": "unix:///no/such/socket"})
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error == "caliban: error: no Docker engine answers at unix:///no/such/socket"
    assert hint.startswith("Start Docker")
    assert jobs(caliban) == []
