"""Jobs in words."""

from __future__ import annotations

import datetime

import pytest

from caliban.model.job import Outcome, Status, duration

START = datetime.datetime(2026, 11, 21, 11, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (0.26, "0.3 s"),
        (59.2, "59.2 s"),
        (125.4, "2 min 5 s"),
        (11520, "3 h 12 min"),
        (-0.5, "0.0 s"),
        # Between times of whole seconds, nobody knows the tenths, or that it took no time at all.
        (0, "under 1 s"),
        (2, "2 s"),
        (59, "59 s"),
        (-1, "under 1 s"),
    ],
)
def test_a_time_span_is_as_exact_as_it_is_known(seconds: float, text: str) -> None:
    assert duration(datetime.timedelta(seconds=seconds)) == text


def test_a_job_of_a_moment_took_less_than_a_second() -> None:
    assert Outcome(Status.SUCCEEDED, 0, "", START, START).describe() == "SUCCEEDED in under 1 s"
