"""Experiments: which flags each job of a sweep gets.

An experiment config is a dict, or a list of dicts and of such lists to any depth. Each dict stands
for the cartesian product of its values. A value that is a list is swept over; a compound key
"[a,b]" sweeps several flags together, over rows of values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, product

from caliban.errors import UsageError

Value = str | int | float | bool | list["Value"]

_NAME = r"[^\s,\[\]]+"
_KEY = re.compile(rf"{_NAME}|\[\s*{_NAME}(?:\s*,\s*{_NAME})*\s*\]")

# Characters that no operating system passes to a process: NUL, and halves of surrogate pairs.
_UNPASSABLE = re.compile("[\0\ud800-\udfff]")

_MOST_PROBLEMS = 20
_DEEPEST_LIST = 32
_LONGEST_INT_BITS = 14_000  # Python writes ints of up to 4300 digits in decimal, a little more.

_WANTED = "expected a string, a number, true, false, or a list of these"


@dataclass(frozen=True)
class Experiment:
    """One set of flags for the user's code.

    Attributes:
      args: passed to every job of the sweep as they are, before the flags.
      params: flag name without dashes -> value, in the order of the experiment file.
    """

    args: tuple[str, ...]
    params: Mapping[str, Value]

    def flags(self) -> list[str]:
        """The arguments that the user's code gets.

        True becomes `--key`, False nothing, any other value `--key` and `str(value)`, which for a
        list is how Python writes it.
        """
        flags = list(self.args)
        for key, value in self.params.items():
            if value is True:
                flags.append(f"--{key}")
            elif value is not False:
                flags += (f"--{key}", str(value))
        return flags


def validate(config: object, source: str = "the experiment config") -> None:
    """Checks that a config means at least one experiment, and that no flag is set twice.

    Args:
      config: what was read from an experiment file.
      source: name of that file, which the message starts with.

    Raises:
      UsageError: names every problem (the first 20) with its place, for example `[2] "epochs"`,
        what was found there, and what is expected.
    """
    problems = list(islice(_problems(config), _MOST_PROBLEMS + 1))
    if not problems:
        return
    if len(problems) == 1:
        raise UsageError(f"{source}: {problems[0]}")
    if len(problems) > _MOST_PROBLEMS:
        problems[-1] = "... and more"
    raise UsageError("\n  ".join([f"{source}: several problems:", *problems]))


def count(config: object) -> int:
    """How many experiments `expand` yields, without making them. The config must be valid."""
    return sum(math.prod(map(len, axes(sweep).values())) for sweep in dicts(config))


def expand(config: object) -> Iterator[dict[str, Value]]:
    """Yields the parameters of every experiment; the last key varies fastest.

    Args:
      config: a valid config: see `validate`.

    Yields:
      flag name -> value, in the file's order, a compound key's names at the key's place.
    """
    for sweep in dicts(config):
        yield from expand_dict(sweep)


def expand_dict(sweep: Mapping[str, Value]) -> Iterator[dict[str, Value]]:
    """Yields the parameters of every experiment of one dict."""
    has_compound_keys = any(map(_is_compound, sweep))
    for values in product(*axes(sweep).values()):
        params = dict(zip(sweep, values, strict=True))
        yield unpack(params) if has_compound_keys else params


def dicts(config: object) -> Iterator[dict[str, Value]]:
    """Yields the dicts of a valid config, out of whatever lists they are in."""
    stack = [config]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
        elif isinstance(item, list):
            stack.extend(reversed(item))


def axes(sweep: Mapping[str, Value]) -> dict[str, list[Value]]:
    """The axes of one dict's cartesian product: the values that each key takes in turn.

    The values of a compound key are its rows.
    """
    return {
        key: _rows(value) if _is_compound(key) else value if isinstance(value, list) else [value]
        for key, value in sweep.items()
    }


def unpack(params: Mapping[str, Value]) -> dict[str, Value]:
    """Replaces every compound key and its row of values by the flags that they set."""
    unpacked: dict[str, Value] = {}
    for key, value in params.items():
        if _is_compound(key) and isinstance(value, list):
            unpacked.update(zip(_names(key), value, strict=True))
        else:
            unpacked[key] = value
    return unpacked


def _is_compound(key: str) -> bool:
    return key.startswith("[")


@lru_cache
def _names(key: str) -> tuple[str, ...]:
    """The flags that a well-formed key sets."""
    return tuple(map(str.strip, key[1:-1].split(","))) if _is_compound(key) else (key,)


def _rows(value: Value) -> list[Value]:
    """A compound key's rows; a single row may be written without the list around it."""
    assert isinstance(value, list)
    return value if isinstance(value[0], list) else [value]


def _problems(config: object) -> Iterator[str]:
    stack = [("", config)]
    while stack:
        place, item = stack.pop()
        if isinstance(item, dict):
            for key, problem in _dict_problems(item):
                yield _at(f"{place} {_found(key)}".lstrip(), problem)
        elif isinstance(item, list) and item:
            stack += [(f"{place}[{index}]", item[index]) for index in reversed(range(len(item)))]
        else:
            problem = f"found {_found(item)}, expected a dict of flags, or a list of such dicts"
            yield _at(place, problem)


def _dict_problems(sweep: Mapping[object, object]) -> Iterator[tuple[object, str]]:
    """Yields keys and what is wrong with them or with their values."""
    wrong_keys = _keys_problems(tuple(sweep))
    yield from wrong_keys.items()
    for key, value in sweep.items():
        if isinstance(key, str) and key not in wrong_keys:
            if _is_compound(key):
                for problem in _rows_problems(_names(key), value):
                    yield key, problem
            elif isinstance(value, list):
                for problem in _list_problems(value):
                    yield key, problem
            elif problem := _value_problem(value):
                yield key, problem


@lru_cache  # The dicts of a list mostly have the same keys.
def _keys_problems(keys: tuple[object, ...]) -> dict[object, str]:
    """What is wrong with the keys of one dict."""
    problems: dict[object, str] = {}
    setters: dict[str, str] = {}
    for key in keys:
        if problem := _key_problem(key):
            problems[key] = problem
        elif isinstance(key, str):
            for name in _names(key):
                if name in setters:
                    other = "twice" if setters[name] == key else f"as {_found(setters[name])} does"
                    problems[key] = (
                        f"sets the flag --{name} {other}, expected every flag to be set once"
                    )
                setters[name] = key
    return problems


def _key_problem(key: object) -> str:
    """What is wrong with a key by itself; empty if nothing is."""
    if not isinstance(key, str):
        return "a key that is not a string; put it in quotes"
    if not key:
        return "an empty key; expected the name of a flag"
    if not _KEY.fullmatch(key):
        return (
            "not a key; expected a flag's name without spaces, commas and brackets, "
            'or several in a compound key, as in "[a,b]"'
        )
    if _UNPASSABLE.search(key):
        return "a key with a character that cannot be part of a flag"
    for name in _names(key):
        if name.startswith("-"):
            return f"found {_found(name)}, expected a name without dashes: they are added for you"
    return ""


def _list_problems(values: Sequence[object]) -> Iterator[str]:
    """What is wrong with a plain key's values."""
    if not values:
        yield "found an empty list, expected at least one value"
    for index, value in enumerate(values):
        if problem := _value_problem(value):
            yield _at(f"[{index}]", problem)


def _rows_problems(names: Sequence[str], value: object) -> Iterator[str]:
    """What is wrong with a compound key's value."""
    wanted = f"expected rows of {_counted(len(names))}, for {', '.join(names)}"
    if not isinstance(value, list) or not value:
        yield f"found {_found(value)}, {wanted}"
        return
    is_row = [isinstance(row, list) for row in value]
    if all(is_row):
        rows = [(f"[{index}]", row) for index, row in enumerate(value)]
    elif any(is_row):
        index = is_row.index(False)
        yield f"[{index}]: found {_found(value[index])} among rows, {wanted}"
        return
    else:
        rows = [("", value)]
    for place, row in rows:
        if len(row) != len(names):
            yield _at(place, f"found {_counted(len(row))}, {wanted}")
        for column, each in enumerate(row):
            if problem := _value_problem(each):
                yield _at(f"{place}[{column}]", problem)


def _value_problem(value: object, depth: int = 0) -> str:
    """What is wrong with one value of a flag; empty if nothing is."""
    if isinstance(value, str):
        if _UNPASSABLE.search(value):
            return f"found {_found(value)}, with a character that cannot be part of an argument"
    elif isinstance(value, int):
        if value.bit_length() > _LONGEST_INT_BITS:
            return "found an int too long to be written in decimal, expected at most 4200 digits"
    elif isinstance(value, float):
        if not math.isfinite(value):
            return f"found {value}, expected a finite number"
    elif isinstance(value, list):
        if depth == _DEEPEST_LIST:
            return f"found more than {_DEEPEST_LIST} lists within one another"
        for index, each in enumerate(value):
            if problem := _value_problem(each, depth + 1):
                return _at(f"[{index}]", problem)
    else:
        return f"found {_found(value)}, {_WANTED}"
    return ""


def _at(place: str, problem: str) -> str:
    """Puts a place before a problem, which may itself start with a place within that one."""
    return place + problem if not place or problem.startswith("[") else f"{place}: {problem}"


def _counted(values: int) -> str:
    return "1 value" if values == 1 else f"{values} values"


def _found(value: object) -> str:
    """Names a value in a message, in the file's own terms."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a dict"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        text = value if len(value) <= 40 else f"{value[:37]}..."
        return f'"{text}"' if text.isprintable() else ascii(text)
    if isinstance(value, int | float):
        return str(value)
    return f"a value of type {type(value).__name__}"
