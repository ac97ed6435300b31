"""Tests that a mistyped word is answered with what may have been meant."""

from __future__ import annotations

from caliban.model import suggestion


def test_the_nearest_comes_first_whatever_the_case() -> None:
    assert suggestion.near("Staus", ["stop", "status", "Start"]) == ["status"]
    assert suggestion.near("TUNIN", ["tuning-2", "Tuning"], most=3) == ["Tuning", "tuning-2"]


def test_what_is_like_nothing_gets_no_suggestion() -> None:
    assert suggestion.near("zzz", ["status"]) == []
    assert suggestion.question("zzz", ["status"]) == ""
    assert suggestion.question("", []) == ""


def test_several_that_come_near_are_named_in_one_question() -> None:
    assert suggestion.question("rate", ["rates", "rated"]) == "Did you mean rates or rated?"
