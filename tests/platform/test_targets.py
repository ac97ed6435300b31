"""Places are asked for their jobs at the same time, and each answers for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from caliban.errors import CalibanError
from caliban.model.job import Handle, Outcome, Status
from caliban.platform import targets

HERE, THERE = Handle("vertex", "here", "1"), Handle("vertex", "there", "2")


def test_a_place_that_cannot_be_asked_says_why_and_leaves_the_others_as_they_are() -> None:
    def ask(target: str, ids: Sequence[str]) -> Mapping[str, Outcome]:
        if target == "there":
            raise CalibanError("there refuses", "log in")
        return dict.fromkeys(ids, Outcome(Status.RUNNING))

    found = targets.outcomes([HERE, THERE], ask, 10)
    assert found[HERE] == Outcome(Status.RUNNING)
    refused = found[THERE]
    assert (refused.status, refused.reason) == (Status.UNKNOWN, "there refuses")
    assert refused.hint == "log in"


def test_a_mistake_of_the_program_is_not_taken_for_silence() -> None:
    def ask(target: str, ids: Sequence[str]) -> Mapping[str, Outcome]:
        raise KeyError(target)

    with pytest.raises(KeyError):
        targets.outcomes([HERE, THERE], ask, 10)
