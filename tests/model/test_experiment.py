"""Experiment configs: what they stand for, and what is refused."""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given

from caliban.errors import UsageError
from caliban.model import experiment
from caliban.model.experiment import Experiment
from tests.experiment_configs import CONFIGS, WRONG_ENTRIES


def flags(config: object) -> list[str]:
    experiment.validate(config)
    return [" ".join(Experiment((), params).flags()) for params in experiment.expand(config)]


def problems(config: object) -> str:
    with pytest.raises(UsageError) as caught:
        experiment.validate(config, "exp.json")
    assert caught.value.exit_code == 2
    return caught.value.message


def test_lists_are_swept_over_and_the_last_key_varies_fastest() -> None:
    config = {
        "epochs": [2, 3],
        "batch_size": [64, 128],
        "constant_arg": "something",
        "important_toggle": [True, False],
    }
    assert flags(config) == [
        "--epochs 2 --batch_size 64 --constant_arg something --important_toggle",
        "--epochs 2 --batch_size 64 --constant_arg something",
        "--epochs 2 --batch_size 128 --constant_arg something --important_toggle",
        "--epochs 2 --batch_size 128 --constant_arg something",
        "--epochs 3 --batch_size 64 --constant_arg something --important_toggle",
        "--epochs 3 --batch_size 64 --constant_arg something",
        "--epochs 3 --batch_size 128 --constant_arg something --important_toggle",
        "--epochs 3 --batch_size 128 --constant_arg something",
    ]


def test_every_dict_of_a_list_is_expanded_by_itself_however_deep_it_lies() -> None:
    config = [
        {"epochs": [1, 2, 3, 4], "batch_size": [64, 128], "toggle": [True, False]},
        [[{"epochs": [9, 10], "batch_size": [512, 1024]}], {"epochs": 1000}],
    ]
    assert experiment.count(config) == 16 + 4 + 1
    assert flags(config)[16:] == [
        "--epochs 9 --batch_size 512",
        "--epochs 9 --batch_size 1024",
        "--epochs 10 --batch_size 512",
        "--epochs 10 --batch_size 1024",
        "--epochs 1000",
    ]


def test_an_empty_dict_is_one_experiment_without_flags() -> None:
    assert flags({}) == [""]
    assert flags([{}, {}]) == ["", ""]


def test_the_values_of_a_compound_key_vary_together_at_the_keys_place() -> None:
    config = {"x": 0, "[a, b]": [["a1", "b1"], ["a2", "b2"]], "y": [1, 2]}
    assert flags(config) == [
        "--x 0 --a a1 --b b1 --y 1",
        "--x 0 --a a1 --b b1 --y 2",
        "--x 0 --a a2 --b b2 --y 1",
        "--x 0 --a a2 --b b2 --y 2",
    ]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"[a,b]": [1, 2]}, ["--a 1 --b 2"]),
        ({"[a]": [1]}, ["--a 1"]),
        ({"[a]": [[1], [2]]}, ["--a 1", "--a 2"]),
        ({"[ a , b ]": [[True, False]]}, ["--a"]),
        ({"[a,b]": [["x", [1, 2]]]}, ["--a x --b [1, 2]"]),
    ],
)
def test_a_compound_key_takes_rows_or_a_single_row(
    config: Mapping[str, Any], expected: list[str]
) -> None:
    assert flags(config) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, ["--k"]),
        (False, []),
        (0, ["--k", "0"]),
        (1, ["--k", "1"]),
        (-1, ["--k", "-1"]),
        (0.001, ["--k", "0.001"]),
        (1e10, ["--k", "10000000000.0"]),
        ("", ["--k", ""]),
        ("two words", ["--k", "two words"]),
        ([1, "a", [True]], ["--k", "[1, 'a', [True]]"]),
        ([], ["--k", "[]"]),
    ],
)
def test_a_value_becomes_a_flag(value: Any, expected: list[str]) -> None:
    assert Experiment((), {"k": value}).flags() == expected


def test_arguments_come_before_flags_as_they_are() -> None:
    assert Experiment(("--key", "v", "--"), {"a": 1}).flags() == ["--key", "v", "--", "--a", "1"]


def test_a_list_within_a_list_is_one_value() -> None:
    assert flags({"layers": [[], [64], [64, 32]]}) == [
        "--layers []",
        "--layers [64]",
        "--layers [64, 32]",
    ]


def test_a_sweep_too_large_to_list_is_counted_and_started_at_once() -> None:
    config = {f"k{index}": list(range(1000)) for index in range(100)}
    experiment.validate(config)
    assert experiment.count(config) == 1000**100
    first, second = itertools.islice(experiment.expand(config), 2)
    assert first == dict.fromkeys(config, 0)
    assert second == {**first, "k99": 1}


@given(CONFIGS)
def test_any_valid_config_expands_to_as_many_experiments_as_counted(config: Any) -> None:
    experiment.validate(config)
    experiments = list(experiment.expand(config))
    assert len(experiments) == experiment.count(config) > 0
    for each in experiments:
        assert all("[" not in key for key in each)
        assert all(isinstance(flag, str) for flag in Experiment((), each).flags())


@given(CONFIGS)
def test_the_order_is_that_of_nested_loops_over_the_keys(config: Any) -> None:
    def loops(entries: list[tuple[str, Any]]) -> list[dict[str, Any]]:
        if not entries:
            return [{}]
        (key, value), *rest = entries
        if key.startswith("["):
            names = [name.strip() for name in key.strip("[]").split(",")]
            rows = value if isinstance(value[0], list) else [value]
        else:
            names = [key]
            rows = [[each] for each in (value if isinstance(value, list) else [value])]
        return [
            {**dict(zip(names, row, strict=True)), **inner} for row in rows for inner in loops(rest)
        ]

    def flat(item: Any) -> list[dict[str, Any]]:
        return [item] if isinstance(item, dict) else [each for one in item for each in flat(one)]

    wanted = [list(each.items()) for one in flat(config) for each in loops(list(one.items()))]
    assert [list(each.items()) for each in experiment.expand(config)] == wanted


@pytest.mark.parametrize("entry", WRONG_ENTRIES, ids=ascii)
def test_a_wrong_entry_is_refused_by_its_key_wherever_its_dict_is(entry: dict[str, Any]) -> None:
    experiment.validate({"x": 1})
    assert problems({"x": 1, **entry}).startswith("exp.json: ")
    assert "[1][0] " in problems([{"x": 1}, [{"x": 1, **entry}]])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "found an empty list, expected a dict of flags, or a list of such dicts"),
        (None, "found null, expected a dict of flags, or a list of such dicts"),
        ("x", 'found "x", expected a dict of flags, or a list of such dicts'),
        ([{}, [1]], "[1][0]: found 1, expected a dict of flags, or a list of such dicts"),
        ([{}, []], "[1]: found an empty list, expected a dict of flags, or a list of such dicts"),
        ({"a": []}, '"a": found an empty list, expected at least one value'),
        (
            [{}, {"a": None}],
            '[1] "a": found null, expected a string, a number, true, false, or a list of these',
        ),
        (
            {"a": [1, [2, {}]]},
            '"a"[1][1]: found a dict, expected a string, a number, true, false, or a list of these',
        ),
        (
            {"a": datetime.date(2001, 1, 1)},
            '"a": found a value of type date, expected a string, a number, true, false, '
            "or a list of these",
        ),
        ({"a": math.inf}, '"a": found inf, expected a finite number'),
        (
            {"--lr": 1},
            '"--lr": found "--lr", expected a name without dashes: they are added for you',
        ),
        (
            {"[a,b]": [[1, 2], [3]]},
            '"[a,b]"[1]: found 1 value, expected rows of 2 values, for a, b',
        ),
        ({"[a,b]": 5}, '"[a,b]": found 5, expected rows of 2 values, for a, b'),
        (
            {"[a,b]": [1, [2, 3]]},
            '"[a,b]"[0]: found 1 among rows, expected rows of 2 values, for a, b',
        ),
        (
            {"a": 1, "[a,b]": [1, 2]},
            '"[a,b]": sets the flag --a as "a" does, expected every flag to be set once',
        ),
        (
            {"[a,a]": [1, 2]},
            '"[a,a]": sets the flag --a twice, expected every flag to be set once',
        ),
    ],
)
def test_the_message_names_the_place_what_is_there_and_what_should_be(
    config: object, message: str
) -> None:
    assert problems(config) == f"exp.json: {message}"


def test_all_problems_are_told_together() -> None:
    message = problems([{"a": None, "b c": 1}, {"--d": 1, "e": []}])
    assert [line.split(": ")[0] for line in message.splitlines()] == [
        "exp.json",
        '  [0] "b c"',
        '  [0] "a"',
        '  [1] "--d"',
        '  [1] "e"',
    ]


def test_of_very_many_problems_the_first_twenty_are_told() -> None:
    lines = problems([None] * 1000).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[-1].strip() == "... and more"


def test_what_cannot_be_written_out_is_refused() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    assert "lists within one another" in problems({"a": [deep]})
    assert "too long" in problems({"a": 16**5000})
    assert problems({1: 1}) == "exp.json: 1: a key that is not a string; put it in quotes"


def test_a_config_may_be_nested_more_deeply_than_python_can_recurse() -> None:
    config: Any = {"a": [1, 2]}
    for _ in range(5000):
        config = [config]
    assert flags(config) == ["--a 1", "--a 2"]
