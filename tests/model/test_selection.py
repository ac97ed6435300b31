"""Which jobs are chosen, put together and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caliban.errors import UsageError
from caliban.model.experiment import Experiment
from caliban.model.job import Status
from caliban.model.selection import (
    Outline,
    Selection,
    Tally,
    causes,
    equal,
    flags,
    ordered,
    tallies,
)


def job(
    number: int,
    params: Mapping[str, Any] | None = None,
    args: tuple[str, ...] = (),
    status: Status = Status.SUCCEEDED,
    reason: str = "",
    cause: str = "",
    metrics: Mapping[str, Any] | None = None,
    spec: int = 1,
) -> Outline:
    experiment = Experiment(args, params or {})
    uid = f"u{number}"
    return Outline(number, uid, number, spec, experiment, status, reason, metrics or {}, cause)


def failed(number: int, cause: str = "", reason: str = "exit code 1", **more: Any) -> Outline:
    return job(number, status=Status.FAILED, reason=reason, cause=cause, **more)


def ids(jobs: list[Outline]) -> list[int]:
    return [each.id for each in jobs]


def chosen(jobs: list[Outline], *conditions: str, failed: bool = False) -> list[int]:
    return ids(Selection.parse(conditions, failed).choose(jobs, causes(jobs)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01, "0.01"),
        (0.01, "1e-2"),
        (10, "10.0"),
        ("0.01", "1e-2"),
        (True, "true"),
        (False, "False"),
        ("adam", "adam"),
        ([1, 2], "[1, 2]"),
        ([1, 2], "[1,2]"),
        ("nan", "nan"),
        (2**60, str(2**60)),
    ],
)
def test_a_value_is_what_was_typed(value: Any, text: str) -> None:
    assert equal(value, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01, "0.1"), (True, "1"), (1, "true"), ("adam", "Adam"), ([1], "[2]"), ([1], "["), ("", "0"),
     (2**60, str(2**60 + 1)), ("1_0", "10"), ("nan", "NaN")],
)  # fmt: skip
def test_other_values_are_not(value: Any, text: str) -> None:
    assert not equal(value, text)


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.text()))
def test_every_value_is_what_python_writes_for_it(value: Any) -> None:
    assert equal(value, str(value))


def test_flags_come_from_the_command_line_too_and_the_file_wins() -> None:
    args = ("data", "--epochs", "3", "--lr=0.1", "--fast", "--shift", "-1.5", "-v", "--seed", "1")
    assert flags(Experiment(args, {"seed": 2})) == {
        "epochs": "3",
        "lr": "0.1",
        "fast": True,
        "shift": "-1.5",
        "v": True,
        "seed": 2,
    }
    assert flags(Experiment(("--", "-"), {})) == {}
    assert flags(Experiment((), {})) == {}


def test_conditions_on_one_flag_are_alternatives_and_those_on_several_go_together() -> None:
    jobs = [job(n, {"lr": lr, "seed": n % 2}) for n, lr in enumerate((0.1, 0.01, 0.01, 1))]
    assert chosen(jobs, "lr=1e-2") == [1, 2]
    assert chosen(jobs, "lr=1e-2", "lr=0.1") == [0, 1, 2]
    assert chosen(jobs, "lr=1e-2", "seed=0") == [2]
    assert chosen(jobs) == [0, 1, 2, 3]


def test_status_is_a_condition_in_any_case_and_dashes_make_it_a_flag() -> None:
    jobs = [job(1, {"status": 3}), failed(2), job(3, status=Status.STOPPED)]
    assert chosen(jobs, "status=failed") == [2]
    assert chosen(jobs, "status=FAILED", "status=STOPPED") == [2, 3]
    assert chosen(jobs, "--status=3") == [1]
    assert chosen(jobs, failed=True) == [2]


def test_causes_are_numbered_by_size_and_then_by_their_first_job() -> None:
    jobs = [
        failed(1, "KeyError: 'x'"),
        failed(2, "loss is nan at step 3"),
        job(3, cause="loss is nan at step 4"),
        failed(4, "loss is nan at step 500"),
        failed(5, "epoch 3", reason="out of memory"),
        failed(6, "", reason="exit code 3"),
    ]
    found = [(each.number, each.example, each.jobs) for each in causes(reversed(jobs))]
    assert found == [
        (1, "loss is nan at step 3", (2, 4)),
        (2, "KeyError: 'x'", (1,)),
        (3, "out of memory", (5,)),
        (4, "exit code 3", (6,)),
    ]
    assert chosen(jobs, "cause=1") == [2, 4]
    assert chosen(jobs, "cause=2", "cause=3") == [1, 5]


def test_three_hundred_failures_read_as_three_causes() -> None:
    lines = ("CUDA out of memory: {} GiB", "no file /data/{}/x.csv", "KeyError: 'a'")
    jobs = [failed(n, lines[n % 3].format(n)) for n in range(300)]
    assert [len(each.jobs) for each in causes(jobs)] == [100, 100, 100]


@pytest.mark.parametrize(
    ("condition", "word"),
    [
        ("lr", "NAME=VALUE"),
        ("=3", "NAME=VALUE"),
        ("status=GONE", "no job has such a status"),
        ("cause=x", "numbered from 1"),
        ("cause=0", "numbered from 1"),
        ("cause=2", "there is 1 now"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(condition: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        chosen([failed(1, "KeyError")], condition)


def test_a_flag_that_no_job_has_is_refused_with_the_names_that_come_near() -> None:
    jobs = [job(1, {"learning_rate": 1, "seed": 2})]
    with pytest.raises(UsageError, match=r"no.* flag 'learning_rat'") as raised:
        Selection.parse(["learning_rat=1"]).check(jobs)
    assert raised.value.hint == "Did you mean learning_rate?"
    Selection.parse(["learning_rate=7", "status=FAILED"]).check(jobs)
    Selection.parse(["anything=7"]).check([])


def test_jobs_are_sorted_by_a_metric_the_largest_first_and_those_without_it_last() -> None:
    values: list[Any] = [0.5, None, 2, "inf", "diverged", -1, True]
    jobs = [job(n, metrics={} if v is None else {"acc": v}) for n, v in enumerate(values)]
    assert ids(ordered(jobs, "acc")) == [3, 2, 6, 0, 5, 4, 1]
    assert ids(ordered(jobs, "-acc")) == [5, 0, 6, 2, 3, 4, 1]


def test_jobs_with_the_same_value_stay_in_their_order() -> None:
    jobs = [job(n, metrics={"acc": 1}) for n in range(9)]
    assert ids(ordered(jobs, "acc")) == ids(ordered(jobs, "-acc")) == list(range(9))


def test_jobs_are_sorted_by_a_flag_where_no_metric_has_that_name() -> None:
    jobs = [job(1, {"lr": 0.1}), job(2, args=("--lr", "0.5")), job(3), job(4, {"lr": [1]})]
    assert ids(ordered(jobs, "lr")) == [2, 1, 3, 4]
    assert ordered([], "lr") == []


def test_a_metric_that_no_job_has_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no.* metric or flag 'acuracy'") as raised:
        ordered([job(1, metrics={"accuracy": 1})], "-acuracy")
    assert raised.value.hint == "Did you mean accuracy?"
    with pytest.raises(UsageError) as raised:
        ordered([job(1)], "accuracy")
    assert raised.value.hint == "None of them reported a metric."


def test_jobs_are_counted_by_image_and_status() -> None:
    jobs = [job(1), failed(2), job(3), job(4, spec=2)]
    assert tallies(jobs) == [
        Tally(1, Status.SUCCEEDED, 2, "u3"),
        Tally(1, Status.FAILED, 1, "u2"),
        Tally(2, Status.SUCCEEDED, 1, "u4"),
    ]
