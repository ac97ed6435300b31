"""Metrics and causes, in whatever pieces a job's output comes."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caliban.model.report import Metrics, cause, kind

OUTPUT = (
    b"epoch 1\n"
    b'caliban: {"loss": 2.5, "epoch": 1}\n'
    b'not at the start: caliban: {"loss": 0}\n'
    b"caliban: {broken\n"
    b"caliban: [1]\n"
    b"caliban: {}\n"
    b'caliban: {"loss": 0.5, "note": "good", "ok": true, "list": [1], "none": null}\r\n'
    b"\xff\xfe not text\n"
    b'caliban: {"epoch": 2}'
)
EXPECTED = {"loss": 0.5, "epoch": 2, "note": "good", "ok": True}


def values(*pieces: bytes) -> dict[str, float | int | str | bool]:
    metrics = Metrics()
    for piece in pieces:
        metrics.feed(piece)
    metrics.end()
    return metrics.values


def test_the_last_value_of_each_metric_counts() -> None:
    assert values(OUTPUT) == EXPECTED
    assert list(values(OUTPUT)) == ["loss", "epoch", "note", "ok"]


@pytest.mark.parametrize("size", range(1, 40))
def test_the_pieces_make_no_difference(size: int) -> None:
    assert values(*(OUTPUT[at : at + size] for at in range(0, len(OUTPUT), size))) == EXPECTED


@given(
    st.lists(
        st.sampled_from(
            [b"caliban: {", b'"a": 1', b'"a": 2}', b"}", b"\n", b"x", b"caliban", b"\r"]
        )
    )
)
def test_nothing_depends_on_where_the_output_is_cut(words: list[bytes]) -> None:
    assert values(*words) == values(b"".join(words))


@pytest.mark.parametrize(
    ("before", "is_seen"),
    [
        (b"\r 50%|#####     | 5/10", True),
        (b"\r 40%|####\r 50%|#####     | 5/10 [00:01<00:01]", True),
        (b"\r           \r", True),
        (b"training: 9%\rtraining: 10%", True),
        (b"no bar ", False),
        (b"\r 50%\n12 ", False),
        (b"a line of Windows\r\nno bar ", False),
    ],
)
def test_a_progress_bar_without_an_end_hides_no_metric(before: bytes, is_seen: bool) -> None:
    output = before + b'caliban: {"a": 1}\nmore\n'
    expected = {"a": 1} if is_seen else {}
    assert values(output) == expected
    assert values(*(output[at : at + 1] for at in range(len(output)))) == expected


def test_a_bar_that_is_drawn_without_end_costs_no_time() -> None:
    metrics = Metrics()
    for number in range(100_000):
        metrics.feed(b"\r%d/100000" % number)
    metrics.feed(b'caliban: {"a": 1}\n')
    assert metrics.values == {"a": 1}


def test_a_metric_is_seen_when_its_line_ends() -> None:
    metrics = Metrics()
    assert not metrics.feed(b'caliban: {"a": 1}')
    assert metrics.feed(b"\n")
    assert not metrics.feed(b"more\n")


def test_what_no_database_or_terminal_takes_is_replaced() -> None:
    line = b'caliban: {"a\\u0000": "x\\ud800y\\u0000", "smile": "\\ud83d\\ude00"}\n'
    assert values(line) == {
        "a\N{REPLACEMENT CHARACTER}": "x\N{REPLACEMENT CHARACTER}y\N{REPLACEMENT CHARACTER}",
        "smile": "\N{GRINNING FACE}",
    }
    assert (
        cause(["Error: \0 and \udcff"])
        == "Error: \N{REPLACEMENT CHARACTER} and \N{REPLACEMENT CHARACTER}"
    )


def test_json_has_no_numbers_for_these() -> None:
    assert values(b'caliban: {"a": NaN, "b": -Infinity}\n') == {"a": "nan", "b": "-inf"}


def test_a_line_without_an_end_costs_no_memory() -> None:
    metrics = Metrics()
    tracemalloc.start()
    metrics.feed(b'caliban: {"a": "')
    for _ in range(200):
        metrics.feed(b"x" * 100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    metrics.feed(b'"}\ncaliban: {"b": 1}\n')
    assert metrics.values == {"b": 1}


def test_a_job_cannot_report_without_end() -> None:
    lines = "".join(f'caliban: {{"m{number}": 1}}\n' for number in range(5000))
    assert len(values(lines.encode())) == 1000


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Traceback (most recent call last):", "ValueError: no"], "ValueError: no"),
        (["ValueError: no", "", "  ", "-----", "^^^"], "ValueError: no"),
        (["Killed", 'caliban: {"a": 1}'], "Killed"),
        (["10%|# |\r100%|##|\rKeyError: 'x'"], "KeyError: 'x'"),
        (["\x1b[31mRuntimeError: red\x1b[0m\n"], "RuntimeError: red"),
        (
            [
                "FATAL Flags parsing error: flag --lr=x: could not convert string to float: 'x'",
                "Pass --helpshort or --helpfull to see help on flags.",
            ],
            "FATAL Flags parsing error: flag --lr=x: could not convert string to float: 'x'",
        ),
        ([], ""),
        (["x" * 1000], "x" * 200),
    ],
)
def test_the_cause_is_the_last_line_that_says_something(lines: list[str], expected: str) -> None:
    assert cause(lines) == expected


TRACEBACK = ["Traceback (most recent call last):", '  File "train.py", line 3, in <module>']


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([*TRACEBACK, "ValueError: no", "epoch 7", "loss 0.5"], "ValueError: no"),
        (
            ["epochTraceback (most recent call last):", *TRACEBACK[1:], "KeyError: 1", " 7"],
            "KeyError: 1",
        ),
        ([*TRACEBACK, 'ValueError: nocaliban: {"loss": 1}', ""], "ValueError: no"),
        (
            [*TRACEBACK, "epoch 7", "torch.cuda.OutOfMemoryError: no", "x"],
            "torch.cuda.OutOfMemoryError: no",
        ),
        (
            [*TRACEBACK, "KeyError: 1", "", *TRACEBACK, "AssertionError", "epoch 7"],
            "AssertionError",
        ),
        ([*TRACEBACK, "ValueError: two lines", "the second"], "ValueError: two lines"),
        ([*TRACEBACK, "ValueError: first"] + ["went on"] * 4 + ["no disk"], "no disk"),
        ([*TRACEBACK, "ValueError: first", *TRACEBACK], 'File "train.py", line 3, in <module>'),
    ],
)
def test_the_cause_is_the_exception_also_if_what_was_printed_before_comes_after_it(
    lines: list[str], expected: str
) -> None:
    assert cause(lines) == expected


@pytest.mark.parametrize(
    "same",
    [
        ("CUDA out of memory: 12.50 GiB of 16", "CUDA out of memory: 3 GiB of 80"),
        ("loss is nan at step 100", "loss is nan at step 31_000"),
        ("no file /data/a/1.csv", "no file /data/b/2.csv"),
        ("object at 0x7f3a", "object at 0xdeadbeef"),
        ("lr -1e-3 is bad", "lr 0.5 is bad"),
    ],
)
def test_causes_that_differ_in_numbers_only_are_of_one_kind(same: tuple[str, str]) -> None:
    assert kind(same[0]) == kind(same[1])


def test_causes_that_differ_in_words_are_not() -> None:
    assert kind("ValueError: a") != kind("ValueError: b")
