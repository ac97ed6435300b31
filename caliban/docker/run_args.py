"""Arguments of `docker run`, read as far as it takes to tell options and their values apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# The options without a value, short and long (https://docs.docker.com/reference/cli/docker/container/run).
_SWITCHES = {
    "d": "--detach",
    "i": "--interactive",
    "P": "--publish-all",
    "q": "--quiet",
    "t": "--tty",
}
_LONG_SWITCHES = frozenset(
    (
        *_SWITCHES.values(),
        "--disable-content-trust",
        "--help",
        "--init",
        "--no-healthcheck",
        "--oom-kill-disable",
        "--privileged",
        "--read-only",
        "--rm",
        "--sig-proxy",
        "--use-api-socket",
    )
)

_NUMBER = re.compile(r"-\d")


@dataclass(frozen=True)
class Option:
    """An option, with the words that it consists of.

    Attributes:
      names: its long name; several for short switches that are written as one word; "" for a word
        that is neither an option nor the value of one.
      words: it and its value.
    """

    names: tuple[str, ...]
    words: tuple[str, ...]


def options(words: Sequence[str]) -> Iterator[Option]:
    """Goes through arguments of `docker run` option by option."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and len(word) > 2:
            names, has_value = _long(word)
        elif word.startswith("-") and len(word) > 1 and word != "--":
            names, has_value = _short(word)
        else:
            names, has_value = (("",), True)
        # What looks like an option is one: newer dockers have switches that are not known here.
        takes_next = not has_value and rest and _may_be_value(rest[0])
        yield Option(names, (word, rest.pop(0)) if takes_next else (word,))


def _long(word: str) -> tuple[tuple[str, ...], bool]:
    """The name of a long option, and whether its value, if it has one, is in the word."""
    name, equals, _ = word.partition("=")
    return (name,), bool(equals) or name in _LONG_SWITCHES


def _short(word: str) -> tuple[tuple[str, ...], bool]:
    """The same for switches of one letter, the last of which may be an option with a value."""
    names: list[str] = []
    for index, letter in enumerate(word[1:], 1):
        name = _SWITCHES.get(letter)
        names.append(name or f"-{letter}")
        if name is None:
            return tuple(names), index + 1 < len(word)
        if word[index + 1 : index + 2] == "=":
            break
    return tuple(names), True


def _may_be_value(word: str) -> bool:
    return not word.startswith("-") or word == "-" or bool(_NUMBER.match(word))
