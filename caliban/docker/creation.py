"""A `docker run` in two steps: so it is known, at any time, whether there is a container."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from caliban import process

# How often something that waits looks up, in seconds.
_TICK = 0.2

# How long an interruption waits for a container that is being made, in seconds.
_MAKING = 20.0

# What `docker run` shares with `docker start`, and not with `docker create`.
_START_FLAGS = ("--detach-keys", "--sig-proxy")


def in_two_steps(command: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """Splits a `docker run` into the `docker create` and the `docker start` of its container."""
    create, start = ["docker", "create"], ["docker", "start", "--attach", "--interactive"]
    words = iter(command[2:])
    for word in words:
        flag, equals, _ = word.partition("=")
        if flag not in _START_FLAGS:
            create.append(word)
        elif flag == "--detach-keys" and not equals:
            start += [word, next(words, "")]
        else:
            start.append(word)
    return create, [*start, name]


def make(
    create: Sequence[str], environment: Mapping[str, str], wants_end: Callable[[], bool]
) -> tuple[int, bytes]:
    """Runs a `docker create`; returns its exit code, and what it said on stderr."""
    patience = round(_MAKING / _TICK)
    # In a session of its own, out of reach of ^C: it would go, and the engine would go on.
    with process.start(create, environment=environment) as child:
        while not process.ended(child, _TICK) and patience:
            patience -= wants_end()
        ended = child.poll() is not None
        said = child.stderr.read().strip() if ended and child.stderr else b""
    return child.returncode, said
