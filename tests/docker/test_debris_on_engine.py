"""What takes space in an engine, asked by several at one moment."""

from __future__ import annotations

import contextlib
import datetime
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


def test_an_image_is_as_young_as_its_name_though_all_its_steps_are_old(own_engine: Dockerd) -> None:
    own_engine.image("small", {})
    fingerprint = "0123456789abcdef"
    text = f"FROM small\nLABEL caliban=1 caliban.fingerprint={fingerprint}\n"
    made = own_engine.docker("build", "--quiet", "-", stdin=text.encode()).strip()
    own_engine.docker("tag", made, f"caliban:cpu-{fingerprint}")
    engine = Engine()
    with contextlib.closing(engine.client):
        (found,) = (each for each in debris.find(engine).images if each.id == made)
        details = engine.image(made)
    assert details is not None
    built = datetime.datetime.fromisoformat(details["Created"])
    assert found.created > built
    assert found.created == datetime.datetime.fromisoformat(details["Metadata"]["LastTagTime"])
