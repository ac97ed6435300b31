"""The labels of jobs: what becomes of keys and values, and which label wins."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caliban.errors import UsageError
from caliban.model import labels
from caliban.model.experiment import Experiment, Value
from caliban.model.labels import Labels

STANDARD = {"job_name": "caliban_totoro", "gpu_enabled": "true", "tpu_enabled": "false"}
RESERVED = {"caliban_uid": "0123456789abcdef", "caliban_group": "totoro-xgroup"}


def of(
    *args: str, extra: dict[str, str] | None = None, params: dict[str, Value] | None = None
) -> Labels:
    """The labels of a job, with reserved and standard ones taken away where they are as usual."""
    experiment = Experiment(args, params or {})
    found = labels.of_job(
        RESERVED["caliban_uid"], "Totoro-xgroup", STANDARD, extra or {}, experiment
    )
    assert found.values.items() >= RESERVED.items()
    usual = {**STANDARD, **RESERVED}.items()
    return Labels(dict(found.values.items() - usual), found.notes)


class TestCleaning:
    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("learning_rate", "learning_rate"),
            ("learning.rate", "learning_rate"),
            ("Learning-Rate", "learning-rate"),
            ("--epochs", "epochs"),
            ("2nd", "k2nd"),
            ("_private", "k_private"),
            ("a b/c", "abc"),
            ("größe", "gre"),
            ("日本", ""),
            ("x" * 70, "x" * 63),
            ("9" * 70, "k" + "9" * 62),
        ],
    )
    def test_makes_keys_that_begin_with_a_letter(self, text: str, key: str) -> None:
        assert labels.key(text) == key

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("0.01", "0_01"),
            ("-0.5", "-0_5"),
            ("1e-3", "1e-3"),
            ("", ""),
            ("gs://Bucket/x", "gsbucketx"),
            ("[1, 2]", "12"),
            ("y" * 70, "y" * 63),
        ],
    )
    def test_keeps_of_values_what_it_can(self, text: str, value: str) -> None:
        assert labels.value(text) == value


class TestFlags:
    def test_become_labels_wherever_they_come_from(self) -> None:
        found = of("--epochs", "2", "--lr=0.1", "-v", "--debug", "data", params={"batch": 32})
        assert found == Labels(
            {"epochs": "2", "lr": "0_1", "v": "true", "debug": "data", "batch": "32"}
        )

    def test_without_a_value_are_true(self) -> None:
        assert of("--fast", "--epochs", "2").values == {"fast": "true", "epochs": "2"}
        assert of("--fast").values == {"fast": "true"}
        assert of(params={"fast": True, "slow": False}).values == {"fast": "true", "slow": "false"}

    def test_may_have_negative_numbers_as_values(self) -> None:
        assert of("--shift", "-1", "--scale", "-.5").values == {"shift": "-1", "scale": "-_5"}

    def test_count_once_with_the_value_that_wins(self) -> None:
        assert of("--lr", "1", "--lr", "2").values == {"lr": "2"}
        assert of("--lr", "1", params={"lr": 3}) == Labels({"lr": "3"})

    def test_that_become_one_label_are_reported(self) -> None:
        found = of(params={"a.b": 1, "a_b": 2})
        assert found == Labels({"a_b": "2"}, ("--a.b and --a_b are one label, 'a_b': --a_b wins",))

    def test_without_an_acceptable_letter_have_none(self) -> None:
        assert of("--日本", "1") == Labels({})

    def test_that_are_cut_are_reported(self) -> None:
        found = of("--text", "z" * 63, "--long", "a." * 40, params={"n" * 64: 1})
        assert found.values == {"text": "z" * 63, "long": ("a_" * 40)[:63], "n" * 63: "1"}
        assert found.notes == (
            "--long: its label is cut to 63 characters",
            f"--{'n' * 64}: its label is cut to 63 characters",
        )

    def test_are_not_cut_where_what_is_left_out_makes_them_fit(self) -> None:
        assert of("--text", "z " * 40).notes == ()

    def test_replace_standard_labels_but_never_what_jobs_are_found_by(self) -> None:
        assert of(params={"job_name": "mine"}).values == {"job_name": "mine"}
        assert of(params={"caliban_uid": "mine", "Caliban.Group": "mine"}) == Labels({})


class TestUsersLabels:
    @pytest.mark.parametrize("text", ["team=vision", "team:vision"])
    def test_are_written_in_two_ways(self, text: str) -> None:
        assert labels.parse(text) == ("team", "vision")

    def test_may_have_the_separator_in_their_value(self) -> None:
        assert labels.parse("a=b=c:d") == ("a", "b=c:d")
        assert labels.parse("a=") == ("a", "")

    @pytest.mark.parametrize("text", ["", "team", "=x", ":x"])
    def test_of_another_form_are_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="is not of the form key=value"):
            labels.parse(text)

    def test_with_a_key_that_cannot_be_are_refused(self) -> None:
        with pytest.raises(UsageError, match="no letter or digit that Google accepts"):
            labels.parse("日本=x")
        with pytest.raises(UsageError, match="'caliban_uid' is caliban's own"):
            labels.parse("caliban.uid=x")

    def test_win_over_standard_ones_and_lose_to_flags(self) -> None:
        assert of(extra={"job_name": "night"}).values == {"job_name": "night"}
        found = of(extra={"epochs": "9", "team": "Vision"}, params={"epochs": 2})
        assert found == Labels(
            {"epochs": "2", "team": "vision"},
            ("--label epochs and --epochs are one label, 'epochs': --epochs wins",),
        )


class TestLimits:
    def test_flags_that_there_is_no_room_for_are_counted(self) -> None:
        found = of(extra={"team": "x"}, params={f"p{number}": number for number in range(70)})
        assert len(found.values) == labels.MOST - len(STANDARD) - len(RESERVED)
        assert {"team", "p0", "p57"} <= set(found.values)
        assert found.notes == ("12 flags or labels are left out: a job can have 64 labels",)

    @given(
        st.lists(st.text(max_size=80), max_size=80),
        st.dictionaries(st.text(min_size=1, max_size=80), st.text(max_size=80), max_size=80),
    )
    def test_hold_whatever_the_flags(self, args: list[str], extra: dict[str, str]) -> None:
        found = labels.of_job("0f", "ä" * 99, STANDARD, extra, Experiment(tuple(args), {})).values
        assert len(found) <= 64
        assert all(re.fullmatch("[a-z][a-z0-9_-]{0,62}", key) for key in found)
        assert all(re.fullmatch("[a-z0-9_-]{0,63}", value) for value in found.values())
