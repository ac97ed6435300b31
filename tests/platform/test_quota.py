"""The token bucket: how many requests pass, and when."""

from __future__ import annotations

import threading
import time

import pytest

from caliban.platform.quota import Clock, TokenBucket
from tests.google_cloud.client import FakeTime


def passed(bucket: TokenBucket, time: FakeTime, number: int) -> list[float]:
    """When so many requests have passed, in seconds from now."""
    start = time.now
    times = []
    for _ in range(number):
        bucket.take()
        times.append(time.now - start)
    return times


def test_requests_pass_at_a_steady_rate(time: FakeTime) -> None:
    bucket = TokenBucket(60, time.clock)
    assert passed(bucket, time, 4) == pytest.approx([0, 1, 2, 3])


def test_500_at_60_a_minute_take_8_minutes_and_20_seconds(time: FakeTime) -> None:
    bucket = TokenBucket(60, time.clock)
    assert bucket.seconds(500) == pytest.approx(500, abs=1)
    assert passed(bucket, time, 500)[-1] == pytest.approx(499)


@pytest.mark.parametrize("per_minute", [60, 600])
def test_what_nobody_takes_is_made_up_for_but_no_more_than_ten_seconds(
    time: FakeTime, per_minute: int
) -> None:
    bucket = TokenBucket(per_minute, time.clock)
    bucket.take()
    time.sleep(100)
    kept, each = per_minute // 6, 60 / per_minute
    assert passed(bucket, time, kept + 2) == pytest.approx([0] * kept + [each, 2 * each])


def test_a_slow_one_keeps_a_token_for_as_long_as_it_takes(time: FakeTime) -> None:
    bucket = TokenBucket(2, time.clock)
    time.sleep(1000)
    assert passed(bucket, time, 2) == pytest.approx([0, 30])


def test_no_minute_has_many_more_than_are_allowed(time: FakeTime) -> None:
    bucket = TokenBucket(60, time.clock)
    times: list[float] = []
    for pause in (0, 30, 7, 0, 90):
        time.sleep(pause)
        start = time.now
        times += [start + each for each in passed(bucket, time, 40)]
    assert all(sum(t <= each < t + 60 for each in times) <= 71 for t in times)


def test_a_pause_holds_everybody_up(time: FakeTime) -> None:
    bucket = TokenBucket(60, time.clock)
    bucket.take()
    bucket.pause(30)
    bucket.pause(5)
    assert bucket.seconds(1) == pytest.approx(31)
    assert passed(bucket, time, 1) == pytest.approx([30])


def test_a_token_that_is_given_back_is_used_again(time: FakeTime) -> None:
    bucket = TokenBucket(60, time.clock)
    bucket.take()
    bucket.give_back()
    assert passed(bucket, time, 2) == pytest.approx([0, 1])


def test_who_comes_first_is_served_first() -> None:
    bucket = TokenBucket(600, Clock())
    bucket.take()
    served: list[int] = []

    def work(number: int) -> None:
        bucket.take()
        served.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert served == list(range(8))


def test_threads_share_it() -> None:
    began = Clock().now()
    bucket = TokenBucket(6000, Clock())
    taken: list[float] = []

    def work() -> None:
        for _ in range(10):
            bucket.take()
            taken.append(Clock().now())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 40
    # The first has a token from the beginning.
    assert max(taken) - began >= (40 - 1) / 100
