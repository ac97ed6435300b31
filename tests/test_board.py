"""What is seen of jobs that run side by side, where stderr is a terminal and where it is none."""

from __future__ import annotations

import os
import tracemalloc

import pytest

from caliban import board, terminal
from caliban.board import Board


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Board:
    """A board of three jobs on a terminal of 40 x 10."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(Board, "_draws", property(lambda self: self.lost is None))
    monkeypatch.setattr(board, "_size", lambda: os.terminal_size((40, 10)))
    monkeypatch.setattr(board, "_PAUSE", 0.0)
    return Board(3)


def drawn(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that stand on the terminal after what was written last."""
    text = capsys.readouterr().err
    return text.rpartition("\033[J")[2].splitlines()


def test_a_job_that_waits_says_so_in_its_line_until_it_starts(
    shown: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    shown.begin(7, "--lr 0.1")
    shown.wait(8, "waiting for 1 GPU")
    shown.idle()
    assert drawn(capsys) == [
        "  job 7   0:00  --lr 0.1",
        "  job 8   0:00  waiting for 1 GPU",
        "0/3 jobs done, 1 running, 1 waiting",
    ]
    shown.begin(8, "--lr 0.2")
    shown.idle()
    assert "  job 8   0:00  --lr 0.2" in drawn(capsys)


def test_each_running_job_has_a_line_and_all_have_one(
    shown: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    shown.begin(7, "--lr 0.1")
    shown.begin(8, "--lr 0.2")
    shown.write(8, 1, b"epoch 1\nepoch 2\nepo")
    shown.idle()
    assert drawn(capsys) == [
        "  job 7   0:00  --lr 0.1",
        "  job 8   0:00  --lr 0.2  | epo",
        "0/3 jobs done, 2 running",
    ]
    shown.end(7, "SUCCEEDED in 0.1 s", "green", succeeded=True)
    shown.end(8, "FAILED (exit code 1) in 0.1 s", "red", succeeded=False)
    shown.idle()
    assert drawn(capsys) == [
        "job 7 SUCCEEDED in 0.1 s",
        "job 8 FAILED (exit code 1) in 0.1 s",
        "2/3 jobs done, 1 not well, 0:00 so far,",
    ]


def test_no_line_is_longer_than_the_terminal_however_wide_its_characters(
    shown: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    shown.begin(7, "--name " + "x" * 10)
    shown.write(7, 1, "中文".encode() * 30 + b"\n")
    shown.begin(8, "--name " + "é" * 100)
    shown.idle()
    lines = drawn(capsys)
    assert [terminal.width(line) for line in lines] == [39, 39, 24]
    assert lines[0].endswith("中")


def test_what_would_steer_the_terminal_is_left_out(
    shown: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    shown.begin(7, "")
    shown.write(7, 2, b"10%\r\033[2K\033[31m20%\033[0m\a\r")
    shown.idle()
    assert drawn(capsys)[0].endswith("| 20%")


def test_more_jobs_than_lines_are_counted(shown: Board, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(20):
        shown.begin(number, "")
    shown.idle()
    lines = drawn(capsys)
    assert len(lines) == 7
    assert lines[-2] == "  ... and 15 more"


def test_a_terminal_that_has_become_narrower_is_wiped_all_the_same(
    shown: Board, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown.begin(7, "x" * 100)
    shown.idle()
    monkeypatch.setattr(board, "_size", lambda: os.terminal_size((10, 10)))
    capsys.readouterr()
    shown.idle()
    # 39 columns have become four lines, and the sum of 24 three.
    assert capsys.readouterr().err.startswith("\r\033[7A\033[J")


def test_a_terminal_that_is_closed_is_noticed_and_ends_nothing(
    shown: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed() -> os.terminal_size:
        raise OSError(5, "Input/output error")

    shown.begin(7, "")
    monkeypatch.setattr(board, "_size", closed)
    shown.idle()
    assert shown.lost is not None
    shown.end(7, "SUCCEEDED", "green", succeeded=True)
    shown.close()


def test_without_a_terminal_there_are_notes_only(capsys: pytest.CaptureFixture[str]) -> None:
    plain = Board(2)
    plain.begin(7, "--lr 0.1")
    plain.write(7, 1, b"epoch 1\n")
    plain.idle()
    plain.end(7, "SUCCEEDED in 0.1 s", "green", succeeded=True)
    plain.close()
    assert capsys.readouterr() == (
        "",
        "job 7 started: --lr 0.1\njob 7 SUCCEEDED in 0.1 s\n",
    )


def test_when_it_is_verbose_every_line_is_there_after_its_jobs_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    verbose = Board(2, verbose=True)
    verbose.begin(7, "")
    verbose.begin(8, "")
    verbose.write(7, 1, b"a\nb")
    verbose.write(8, 1, b"c\n")
    verbose.write(7, 2, b"b\r\nd")
    verbose.end(7, "FAILED", "red", succeeded=False)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        *("job 7 started", "job 8 started", "[7] a", "[8] c", "[7] bb", "[7] d", "job 7 FAILED"),
    ]


def test_much_output_in_one_line_takes_little_memory() -> None:
    quiet = Board(1)
    quiet.begin(7, "")
    tracemalloc.start()
    for _ in range(500):
        quiet.write(7, 1, b"x" * (1 << 16))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 << 20
