"""Options of `docker run`, their values, and what is neither."""

from __future__ import annotations

import shlex

import pytest

from caliban.commands import container_choice
from caliban.docker.run_args import options
from caliban.errors import UsageError


def names(text: str) -> list[tuple[str, ...]]:
    return [option.names for option in options(shlex.split(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--env A=1 --init -v a:b", [("--env",), ("--init",), ("-v",)]),
        ("-itd", [("--interactive", "--tty", "--detach")]),
        ("-d=true", [("--detach",)]),
        ("-dm 1g", [("--detach", "-m")]),
        ("-eA=1 -p8:8", [("-e",), ("-p",)]),
        ("-ie A=1", [("--interactive", "-e")]),
        ("-h foo", [("-h",)]),
        ("-e A=1 busybox", [("-e",), ("",)]),
        ("--init busybox", [("--init",), ("",)]),
        ("--memory-swap -1 --rm=1", [("--memory-swap",), ("--rm",)]),
        ("--some-new-switch --env A", [("--some-new-switch",), ("--env",)]),
        ("", []),
    ],
)
def test_options_are_told_apart(text: str, expected: list[tuple[str, ...]]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    "text",
    ["-d", "-d=true", "-dm 1g", "-itd", "--detach", "--detach=true", "--name x", "--restart=no"],
)
def test_what_is_calibans_affair_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must not hold"):
        container_choice.split(text)


@pytest.mark.parametrize("text", ["busybox", "-e A=1 busybox", "--init sh", "--help", "-- x"])
def test_what_is_no_option_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is neither"):
        container_choice.split(text)


@pytest.mark.parametrize("text", ["--rm", "--rm=1", "--rm=t", "--rm=TRUE", "--rm=false"])
def test_removal_stays_with_caliban(text: str) -> None:
    assert container_choice.split(f"-e A {text} -h foo") == ("-e", "A", "-h", "foo")
