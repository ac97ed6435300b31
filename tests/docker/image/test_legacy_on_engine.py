"""The steps that caliban takes itself, where the builder can't lend them a folder."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from caliban import process
from caliban.errors import INTERRUPTED
from tests.dockerd import Dockerd

LONG = """
import sys
from caliban import terminal
from caliban.docker.engine import Engine
from caliban.docker.image import legacy
from caliban.docker.image.dockerfile import Section
from caliban.main import guarded

run = "RUN --mount=type=cache,id=steps,target=/lent,sharing=locked echo begun; exec sleep 60"
step, view = Section("Wait", (run,)), terminal.Steps()
sys.exit(guarded("caliban", lambda: legacy._step(Engine(), "small:1", step, (), "key", view)))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda x: x.name)
def test_one_interrupt_ends_a_step_and_its_container(
    own_engine: Dockerd, number: signal.Signals
) -> None:
    own_engine.image("small:1", {})
    # Older clients wait for the container to heed what they pass on.
    path = os.environ["PATH"]
    found = filter(None, (shutil.which("docker", path=place) for place in path.split(":")))
    for client in {Path(each).resolve() for each in found}:
        variables = {"PATH": f"{client.parent}:{path}"}
        with process.start(
            [sys.executable, "-c", LONG], environment=variables, merge_stderr=True
        ) as child:
            assert child.stdout is not None
            assert any(b"begun" in line for line in child.stdout)
            began = time.monotonic()
            child.send_signal(number)
            assert b"interrupted" in child.stdout.read()
            assert child.wait() == INTERRUPTED
        assert time.monotonic() - began < 10, client
        assert own_engine.docker("ps", "--all", "--quiet") == ""
