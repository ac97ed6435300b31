"""Ports for servers that can't take one that is free by themselves."""

from __future__ import annotations

import contextlib
import random
import socket

# Below those that the kernel gives to whoever asks for any, connections among them: until a server
# has started, nobody gets its port by chance.
_RANGE = range(20000, 30000)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    for port in random.SystemRandom().sample(_RANGE, 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("a hundred ports are taken")
