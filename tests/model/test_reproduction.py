"""Whether two runs of an experiment came to the same."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from caliban.errors import UsageError
from caliban.model.job import Status
from caliban.model.report import Metric
from caliban.model.reproduction import Result, Tolerance, Verdict, compare, differences

Metrics = Mapping[str, Metric]

GOOD = Result(Status.SUCCEEDED, 0, {"loss": 0.5})
BAD = Result(Status.FAILED, 3, {})


def verdict(before: Metrics, after: Metrics, *tolerances: str) -> Verdict:
    return compare(succeeded(before), succeeded(after), Tolerance.parse(tolerances))


def succeeded(metrics: Metrics) -> Result:
    return Result(Status.SUCCEEDED, 0, metrics)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (GOOD, GOOD, Verdict.SAME),
        (BAD, BAD, Verdict.SAME),
        (GOOD, BAD, Verdict.FAILED),
        (GOOD, None, Verdict.FAILED),
        (BAD, None, Verdict.FAILED),
        (GOOD, Result(Status.STOPPED, None, {"loss": 0.5}), Verdict.FAILED),
        (GOOD, Result(Status.RUNNING, None, {"loss": 0.5}), Verdict.OPEN),
        (BAD, GOOD, Verdict.DIFFERS),
        (BAD, Result(Status.FAILED, 4, {}), Verdict.DIFFERS),
        (Result(Status.STOPPED, None, {}), Result(Status.STOPPED, None, {}), Verdict.DIFFERS),
    ],
)
def test_state_and_exit_code_count(before: Result, after: Result | None, expected: Verdict) -> None:
    assert compare(before, after, Tolerance()) is expected


@pytest.mark.parametrize(
    ("before", "after", "tolerances", "is_same"),
    [
        (0.1, 0.1, (), True),
        (0.1, 0.10000000000000002, (), False),
        (0.1, 0.10000000000000002, ("1e-15",), True),
        (100, 101, ("0.01",), True),
        (100, 102, ("0.01",), False),
        (100, 102, ("0.01", "m=0.02"), True),
        (100, 102, ("0.02", "m=0.01"), False),
        (100, 102, ("0.02", "n=0"), True),
        (-1.0, 1.0, ("0.5",), False),
        (0, 0.0, (), True),
        (0.0, 1e-300, ("0.5",), False),
        (True, 1, ("0.5",), False),
        (True, True, (), True),
        ("nan", "nan", (), True),
        ("nan", 1.0, ("0.5",), False),
        ("a", "b", ("m=inf",), True),
        (1.0, 99.0, ("m=inf",), True),
        (True, False, ("m=inf",), True),
        (10**400, 1, ("m=inf",), True),
        (10**400, 10**400, ("0.5",), True),
        (10**400, 10**399, ("0.5",), False),
    ],
)
def test_metrics_count_within_their_tolerance(
    before: Metric, after: Metric, tolerances: tuple[str, ...], is_same: bool
) -> None:
    expected = Verdict.SAME if is_same else Verdict.DIFFERS
    assert verdict({"m": before}, {"m": after}, *tolerances) is expected


def test_a_metric_that_is_missing_or_new_is_a_difference() -> None:
    assert verdict({"a": 1}, {}) is Verdict.DIFFERS
    assert verdict({}, {"a": 1}, "0.5") is Verdict.DIFFERS
    assert verdict({"a": 1}, {}, "a=inf") is Verdict.SAME
    before, after = succeeded({"b": 1, "a": 1}), succeeded({"c": 1, "a": 1})
    assert differences(before, after, Tolerance()) == ["b", "c"]


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "loss=", "loss=x", "=1", "loss=-1"])
def test_what_is_no_tolerance_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a number from 0 on"):
        Tolerance.parse([text])
