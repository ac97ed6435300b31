"""`caliban status` of groups in a history: filters, sorting, sums, and --watch."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pty
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from caliban.history.store import DEFAULT_URL, HistoryStore
from caliban.model.experiment import Experiment
from caliban.model.job import JobRequest, Outcome, Status, Submission
from caliban.model.report import Report
from tests.commands.conftest import Start
from tests.conftest import USER, Inline
from tests.parts import OpenScreen

NOW = datetime.datetime(2026, 11, 21, 3, 43, 41, tzinfo=datetime.UTC)
SPEC = {"mode": "cpu", "directory": "/p", "module": {"name": "trainer.train"}}

WATCH = f"{shlex.quote(sys.executable)} -m caliban status --watch --xgroup g"

Record = Callable[..., list[str]]


@pytest.fixture
def store(home: Path) -> Iterator[HistoryStore]:
    with HistoryStore.open(DEFAULT_URL) as opened:
        yield opened


@pytest.fixture
def record(store: HistoryStore) -> Record:
    """Writes down jobs of a group that have ended so; returns their uids."""
    made = 0

    def write(
        outcomes: Sequence[tuple[Any, ...]], group: str = "g", same: bool = False
    ) -> list[str]:
        nonlocal made
        requests = []
        for index, _ in enumerate(outcomes):
            params = {"seed": 0 if same else made, "lr": 0.1 * (index + 1)}
            requests.append(JobRequest(f"{made:016x}", Experiment((), params), "i", group, index))
            made += 1
        store.group(USER, group, NOW)
        store.record(
            USER, group, "", SPEC, requests, lambda *_: (Submission("caip", "p", {}), None)
        )
        uids = [each.uid for each in requests]
        ended, said = {}, {}
        for uid, (status, *rest) in zip(uids, outcomes, strict=True):
            reason = "exit code 1" if status is Status.FAILED else ""
            ended[uid] = Outcome(status, 0, reason, NOW, NOW)
            said[uid] = Report(*rest) if rest else Report({})
        store.settle(ended, reports=said)
        return uids

    return write


def good(accuracy: float) -> tuple[Any, ...]:
    return (Status.SUCCEEDED, {"accuracy": accuracy})


def bad(cause: str) -> tuple[Any, ...]:
    return (Status.FAILED, {}, cause)


def shown(inline: Inline, *flags: str) -> list[int]:
    """The numbers of the jobs, in the order in which they are shown."""
    done = inline("status", *flags)
    assert done.returncode == 0, done.stderr
    return [
        int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("    job ")
    ]


def test_jobs_are_chosen_by_flag_status_and_cause(inline: Inline, record: Record) -> None:
    record([good(0.9), bad("no gpu 1"), bad("KeyError: 'x'"), bad("no gpu 2")])
    group = ("--xgroup", "g")
    assert shown(inline, *group) == [1, 2, 3, 4]
    assert shown(inline, *group, "--where", "lr=1e-1") == [1]
    assert shown(inline, *group, "--failed") == [2, 3, 4]
    assert shown(inline, *group, "--where", "cause=1") == [2, 4]
    assert shown(inline, *group, "--where", "status=SUCCEEDED", "--where", "cause=1") == []
    text = inline("status", *group, "--where", "cause=2").stdout
    assert text.endswith("\n\n1 failed job, 1 cause:\n  cause 2: 1 job (3): KeyError: 'x'\n")


def test_the_first_jobs_are_those_with_the_largest_metric(inline: Inline, record: Record) -> None:
    record([good(0.5), bad("x"), good(0.9), good(0.7)])
    assert shown(inline, "--xgroup", "g", "--sort", "accuracy") == [3, 4, 1, 2]
    assert shown(inline, "--xgroup", "g", "--sort", "-accuracy") == [1, 4, 3, 2]
    assert shown(inline, "--sort=-accuracy") == [1, 4, 3, 2]
    wrong = inline("status", "--xgroup", "g", "--sort", "acuracy")
    assert wrong.returncode == 2
    assert "Did you mean accuracy?" in wrong.stderr


def test_filters_look_at_all_jobs_where_no_group_is_named(inline: Inline, record: Record) -> None:
    record([bad("x"), bad("y")], group="old")
    for number in range(3):
        record([good(0.1)] * 400, group=f"new {number}")
    assert shown(inline, "--failed") == [1, 2]
    assert shown(inline, "--failed", "--max_jobs", "1") == [2]
    assert shown(inline, "--where", "seed=700") == [701]
    refused = inline("status", "--where", "cause=1")
    assert refused.returncode == 2
    assert "--xgroup" in refused.stderr


def test_only_the_newest_job_of_an_experiment_has_a_cause(inline: Inline, record: Record) -> None:
    record([bad("was bad")], same=True)
    record([bad("is bad")], same=True)
    text = inline("status", "--xgroup", "g", "--max_jobs", "0").stdout
    assert "      cause: was bad\n" in text
    assert "      cause 1: is bad\n" in text
    assert text.endswith("1 failed job, 1 cause:\n  cause 1: 1 job (2): is bad\n")
    record([good(1)], same=True)
    assert "cause 1" not in inline("status", "--xgroup", "g", "--max_jobs", "0").stdout


def test_a_large_group_is_summed_up(inline: Inline, record: Record) -> None:
    failures = [bad(f"{('no gpu', 'disk full')[n % 3 == 0]} {n}") for n in range(30)]
    record([*failures, *(good(n / 100) for n in range(60)), (Status.STOPPED,)])
    done = inline("status", "--xgroup", "g")
    assert done.stdout.splitlines() == [
        "xgroup g:",
        "docker config 1: job_mode: CPU, build url: /p, extra dirs: None",
        "  91 experiments: 60 SUCCEEDED, 30 FAILED, 1 STOPPED",
        "",
        "30 failed jobs, 2 causes:",
        "  cause 1: 20 jobs (2, 3, 5, 6, 8, ...): no gpu 1",
        "  cause 2: 10 jobs (1, 4, 7, 10, 13, ...): disk full 0",
    ]
    assert "--max_jobs 1" in done.stderr
    assert "resubmit --xgroup g --where cause=1" in done.stderr
    assert len(shown(inline, "--xgroup", "g", "--max_jobs", "1")) == 91
    assert len(shown(inline, "--xgroup", "g", "--failed")) == 30
    assert shown(inline, "--xgroup", "g", "--sort", "accuracy") == list(range(90, 80, -1))
    filtered = inline("status", "--xgroup", "g", "--where", "status=SUCCEEDED").stdout
    assert "  60 experiments: 60 SUCCEEDED\n" in filtered
    assert len(json.loads(inline("status", "--xgroup", "g", "--json").stdout)) == 91


def test_json_is_a_list_also_of_no_jobs(inline: Inline, record: Record) -> None:
    assert json.loads(inline("status", "--json").stdout) == []
    record([good(0.5), bad("x")])
    rows = json.loads(inline("status", "--xgroup", "g", "--json").stdout)
    assert [row["metrics"] for row in rows] == [{"accuracy": 0.5}, {}]
    assert [(row["cause"], row["cause_number"]) for row in rows] == [("", None), ("x", 1)]


def test_json_is_ascii_whatever_a_job_was_given_or_has_printed(
    inline: Inline, record: Record, home: Path
) -> None:
    record([good(0.5)])
    with contextlib.closing(sqlite3.connect(home / ".caliban/caliban.db")) as database, database:
        database.execute("UPDATE jobs SET metrics = ?", ['{"\\ud800": "caf\\udce9"}'])
        database.execute("UPDATE experiments SET args = ?", ['["caf\\udce9", "caf\\u00e9"]'])
    command = [sys.executable, "-m", "caliban", "status", "--json"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.isascii()
    (row,) = json.loads(done.stdout)
    assert row["args"] == ["caf\udce9", "caf\u00e9"]
    assert row["metrics"] == {"\ud800": "caf\udce9"}
    plain = subprocess.run(command[:-1], capture_output=True, check=False)
    assert (plain.returncode, plain.stderr) == (0, b"")


def test_a_status_that_nobody_knows_hides_no_other_job(
    inline: Inline, record: Record, home: Path
) -> None:
    record([good(0.5), good(0.7)])
    with contextlib.closing(sqlite3.connect(home / ".caliban/caliban.db")) as database, database:
        database.execute("UPDATE jobs SET status = 'DREAMING' WHERE id = 1")
    for flags in ((), ("--xgroup", "g"), ("--xgroup", "g", "--sort", "accuracy")):
        rows = json.loads(inline("status", "--json", *flags).stdout)
        assert {row["job"]: row["status"] for row in rows} == {1: "UNKNOWN", 2: "SUCCEEDED"}


def test_numbers_of_any_length_are_understood(inline: Inline, record: Record) -> None:
    many = int("9" * 400)
    record([good(many), good(0.5)])
    assert shown(inline, "--xgroup", "g", "--sort", "accuracy") == [1, 2]
    done = inline("status", "--xgroup", "g", "--where", f"cause={'9' * 5000}")
    assert done.returncode == 2
    assert "causes are numbered from 1" in done.stderr
    assert inline("prune", "--logs", "--older_than", "999999w").returncode == 0


def test_a_terminal_without_a_size_is_taken_for_a_usual_one(inline: Inline, record: Record) -> None:
    record([good(0.5)] * 3)
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "caliban", "status", "--watch", "--xgroup", "g"]
    try:
        done = subprocess.run(command, stdout=slave, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    finally:
        os.close(slave)
        os.close(master)


def test_nothing_that_matches_is_no_error(inline: Inline, record: Record) -> None:
    record([good(0.5)])
    done = inline("status", "--xgroup", "g", "--failed")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "No jobs like that found in experiment group g.\n"


def test_watch_prints_each_change_where_there_is_no_terminal(
    start: Start, store: HistoryStore, record: Record
) -> None:
    first, second = record([(Status.RUNNING,), (Status.SUBMITTED,)])
    child = start("status", "--watch", "--xgroup", "g")
    assert child.stdout is not None
    for _ in range(6):
        child.stdout.readline()
    store.settle({first: Outcome(Status.SUCCEEDED, 0, "", NOW, NOW)})
    assert child.stdout.readline() == "\n"
    lines = [child.stdout.readline() for _ in range(6)]
    assert "SUCCEEDED" in lines[3] and "SUBMITTED" in lines[5]
    store.settle({second: Outcome(Status.FAILED, 1, "exit code 1", NOW, NOW)})
    rest = child.stdout.read()
    assert rest.count("xgroup g:") == 1
    assert child.wait(timeout=10) == 0


def test_a_watch_that_is_interrupted_ends_with_130(start: Start, record: Record) -> None:
    record([(Status.RUNNING,)])
    child = start("status", "--watch")
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=10) == 130
    assert child.stderr is not None
    assert child.stderr.read() == ""


def test_watch_redraws_a_terminal_and_leaves_the_last_state(
    screen: OpenScreen, store: HistoryStore, record: Record
) -> None:
    first, second = record([(Status.RUNNING,), (Status.RUNNING,)])
    terminal = screen()
    terminal.line(WATCH)
    terminal.shows("job 2 +RUNNING")
    store.settle({first: Outcome(Status.SUCCEEDED, 0, "", NOW, NOW)})
    terminal.shows("job 1 +SUCCEEDED")
    assert terminal.text().count("xgroup g:") == 1
    terminal.keys("C-c")
    terminal.shows("^host 130>")
    assert terminal.text().count("xgroup g:") == 1
    terminal.clear()
    store.settle({second: Outcome(Status.SUCCEEDED, 0, "", NOW, NOW)})
    terminal.line(WATCH)
    terminal.shows("^host 0>")
    assert len([line for line in terminal.text().splitlines() if " SUCCEEDED " in line]) == 2


def test_watch_shows_as_much_as_the_terminal_has_room_for(
    screen: OpenScreen, record: Record
) -> None:
    record([(Status.RUNNING,)] * 40)
    terminal = screen()
    terminal.line(WATCH)
    terminal.shows(r"^\.\.\. and \d+ more lines$")
    assert terminal.text().splitlines()[0] == "xgroup g:"
    terminal.keys("C-c")
    terminal.shows("^host 130>")
    assert "job 40 " in terminal.text()


@pytest.mark.parametrize("command", ["status --xgroup g", "status --watch --xgroup g"])
def test_lines_are_broken_between_words_where_the_terminal_ends(
    screen: OpenScreen, record: Record, command: str
) -> None:
    reports = {f"metric_{number}": number * 1000 for number in range(4)}
    record([(Status.SUCCEEDED, reports)])
    terminal = screen()
    terminal.resize(70, 30)
    terminal.clear()
    terminal.line(f"{shlex.quote(sys.executable)} -m caliban {command}")
    terminal.shows("metric_3")
    terminal.shows("^host 0>")
    shown = terminal.text()
    words = [*(f"{name}={value}" for name, value in reports.items()), "container: i", "in under"]
    assert [word for word in words if word not in shown] == []
    [at] = [n for n, line in enumerate(shown.splitlines()) if line.startswith("    job 1 ")]
    assert shown.splitlines()[at + 1].startswith("      ")


def test_a_watch_without_jobs_ends_at_once(inline: Inline) -> None:
    done = inline("status", "--watch")
    assert (done.returncode, done.stdout) == (0, "")
