"""`caliban show` and `caliban diff`, of jobs that a history has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from caliban.history.store import HistoryStore
from caliban.model.provenance import Repository, Source
from tests.conftest import Caliban, Inline
from tests.report import sweeps


@pytest.fixture
def store(home: Path) -> HistoryStore:
    with HistoryStore.open() as found:
        sweeps.record(found, "sweep", 20)
        return found


def accuracy(number: int) -> object:
    with HistoryStore.open() as store:
        return store.job("tester", number).report.metrics["accuracy"]


def with_repository(number: int, repository: Repository) -> None:
    source = Source("sha256:5f", {"train.py": "666 aa"}, repository)
    with HistoryStore.open() as store:
        uid = store.job("tester", number).uid
        store.provenances.keep([uid], replace(sweeps.PROVENANCE, source=source))


def test_show_says_what_exactly_ran(store: HistoryStore, inline: Inline) -> None:
    done = inline("show", "1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "job 1 of sweep: SUCCEEDED in 1 min 14 s"
    assert lines[1].startswith("command trainer.train --epochs 20 --learning_rate 0.03 ")
    for line in (
        *("metrics", f"accuracy {accuracy(1)}", "code", "image", "launched", "machine"),
        "commit 9c0ffee9c0ffee9c0ffee9c0ffee9c0ffee9c0ff on main",
        "origin https://example.com/me/digits.git",
        "changes changed trainer/train.py",
        "packages Python 3.11, numpy 2.1.0, scipy 1.14",
        "by tester with caliban 1.0",
        "command caliban run --experiment_config sweep.json --nogpu trainer.train -- --epochs 20",
        "cpu 32 x AMD EPYC 7B13",
        "memory 128.0 GiB",
    ):
        assert line in lines, line


def test_the_values_of_a_section_stand_below_one_another(
    store: HistoryStore, inline: Inline
) -> None:
    lines = inline("show", "1").stdout.splitlines()
    values = [line for line in lines if line.startswith("  ") and not line.startswith("   ")]
    assert {line[12:14] for line in values} == {"  "}


def test_show_json_has_the_whole_record(store: HistoryStore, inline: Inline) -> None:
    found = json.loads(inline("show", "--json", "1").stdout)
    assert found["job"] == 1
    assert found["params"]["learning_rate"] == 0.03
    assert found["provenance"] == json.loads(json.dumps(sweeps.PROVENANCE.to_json()))


def test_show_diff_is_what_git_apply_takes(store: HistoryStore, caliban: Caliban) -> None:
    diff = "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-a\n+\udcff\x0cb\r\n"
    with_repository(1, Repository(commit="c", changed={"train.py": ".M"}, diff=diff))
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "caliban", "show", "--diff", "1"], capture_output=True, check=True
    )
    assert done.stdout == diff.encode(errors="surrogateescape")


def test_show_lock_is_the_requirements_file(store: HistoryStore, inline: Inline) -> None:
    assert inline("show", "--lock", "1").stdout == sweeps.LOCK


def test_where_there_is_no_diff_show_diff_says_so(store: HistoryStore, inline: Inline) -> None:
    with_repository(1, Repository(commit="c"))
    done = inline("show", "--diff", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "job 1: no diff is recorded\n"


def test_why_a_diff_is_missing_is_told(store: HistoryStore, inline: Inline) -> None:
    with_repository(1, Repository("c", "main", changed={".env": ".M"}, note="the diff is left out"))
    assert "the diff is left out" in inline("show", "1").stdout


def test_a_job_without_a_record_is_shown_as_far_as_it_is_known(home: Path, inline: Inline) -> None:
    with HistoryStore.open() as store:
        sweeps.record(store, "sweep", 1)
        with store._database.writing() as connection:
            connection.exec_driver_sql("UPDATE jobs SET provenance = NULL")
    done = inline("show", "1")
    assert done.returncode == 0
    assert "What exactly it ran is not recorded" in done.stdout
    assert json.loads(inline("show", "--json", "1").stdout)["provenance"] is None


def test_what_would_move_the_cursor_is_not_printed(home: Path, inline: Inline) -> None:
    with HistoryStore.open() as store:
        sweeps.record(store, "sweep", 60, hostile=True)
    strange = "b\x1b[2J"
    changed = {"\x1b]0;x\x07": "??"}
    with_repository(
        1, Repository(strange, strange, strange, strange, changed, "", "\x1b", {"a\x07": strange})
    )
    for number in range(1, 61):
        shown = inline("show", str(number)).stdout + inline("diff", "2", str(number)).stdout
        assert "\x1b" not in shown
        assert "\x07" not in shown


def test_a_job_that_does_not_exist_is_named(home: Path, inline: Inline) -> None:
    done = inline("show", "7")
    assert done.returncode == 2
    assert "tester has no job 7" in done.stderr


def test_diff_says_what_differs_by_section(store: HistoryStore, inline: Inline) -> None:
    done = inline("diff", "1", "2")
    assert (done.returncode, done.stderr) == (1, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "job 1 -> job 2"
    assert "learning_rate 0.03 -> 0.0003" in lines
    assert f"accuracy {accuracy(1)} -> {accuracy(2)}" in lines
    assert "code" not in lines


def test_diff_of_jobs_that_are_alike_prints_nothing(store: HistoryStore, inline: Inline) -> None:
    done = inline("diff", "3", "3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_diff_names_the_files_that_differ(store: HistoryStore, inline: Inline) -> None:
    with_repository(1, Repository("c0ffee" * 6 + "c0ff"))
    done = inline("diff", "2", "1")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[lines.index("code") + 1 :][:3] == [
        "commit 9c0ffee9c0ff -> c0ffeec0ffee",
        "trainer/train.py removed",
        "train.py added",
    ]


def test_diff_json_has_the_differences_by_section(store: HistoryStore, inline: Inline) -> None:
    found = json.loads(inline("diff", "--json", "1", "2").stdout)
    assert found["jobs"] == [1, 2]
    first = found["differences"]["parameters"][0]
    assert first == {"name": "learning_rate", "before": 0.03, "after": 0.0003}
    again = json.loads(inline("diff", "--json", "1", "1").stdout)
    assert again == {"jobs": [1, 1], "differences": {}}


def test_diff_of_a_job_that_does_not_exist_is_trouble(store: HistoryStore, inline: Inline) -> None:
    assert inline("diff", "1", "700").returncode == 2
