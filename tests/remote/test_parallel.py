"""Several questions at a time: none is lost, and neither is an error."""

from __future__ import annotations

import threading

import pytest

from caliban.remote.parallel import for_each


def test_each_thing_is_done_once() -> None:
    done: list[int] = []
    for_each(range(100), done.append, 10)
    assert sorted(done) == list(range(100))


def test_what_hangs_is_not_waited_for() -> None:
    forever = threading.Event()

    def hang(_: int) -> None:
        forever.wait()

    for_each([1], hang, 0.05)
    forever.set()


def test_a_mistake_of_the_program_is_raised_where_it_was_asked_for() -> None:
    def divide(number: int) -> None:
        1 / number

    with pytest.raises(ZeroDivisionError):
        for_each([1, 0, 2], divide, 10)
