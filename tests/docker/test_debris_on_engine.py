"""What takes space in an engine, asked by several at one moment."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

from caliban.docker import debris
from caliban.docker.engine import Engine
from tests.dockerd import Dockerd

ASKERS = 8


def test_an_engine_that_answers_one_at_a_time_answers_all(own_engine: Dockerd) -> None:
    own_engine.image("small", {})
    barrier = threading.Barrier(ASKERS)

    def ask(_: int) -> debris.Debris:
        asker = Engine()
        with contextlib.closing(asker.client):
            asker.client.ping()
            barrier.wait()
            return debris.find(asker)

    with ThreadPoolExecutor(ASKERS) as pool:
        assert len([*pool.map(ask, range(ASKERS))]) == ASKERS
