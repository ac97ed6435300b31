"""Builds by the engine's own API end as builds by a program would, however they end."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import IO

import pytest

from caliban import process, terminal
from caliban.docker.engine import Engine
from caliban.docker.image import api, order, progress
from caliban.docker.image.builder import Builder
from caliban.docker.image.dockerfile import Section
from caliban.docker.image.order import Order
from caliban.errors import INTERRUPTED, BuildError, UsageError
from tests.commands.conftest import wait_for
from tests.dockerd import Dockerd

LONG = """
import sys
from caliban.docker.engine import Engine
from caliban.docker.image import order
from caliban.docker.image.builder import Builder
from caliban.docker.image.dockerfile import Section
from caliban.docker.image.order import Order
from caliban.main import guarded

section = Section("Wait", ("FROM small:1", "RUN echo begun; exec sleep 60.125"))
wanted = Order(Builder[sys.argv[1]], [section], [])
sys.exit(guarded("caliban", lambda: order.carry_out(wanted, Engine())))
"""


def build(builder: Builder, *steps: str) -> str:
    section = Section("Try", ("FROM small:1", *steps))
    return order.carry_out(Order(builder, [section], [], labels={"a": 'b "c"'}), Engine())


@pytest.fixture
def small(own_engine: Dockerd) -> Dockerd:
    """An engine with a base image."""
    own_engine.image("small:1", {})
    return own_engine


@pytest.mark.parametrize("builder", Builder, ids=lambda builder: builder.name)
def test_an_image_is_told_by_its_id_and_has_its_labels(builder: Builder, small: Dockerd) -> None:
    image = build(builder, "ENV X=1")
    assert small.docker("inspect", "--format", "{{.Config.Labels.a}}", image) == 'b "c"\n'


@pytest.mark.parametrize("builder", Builder, ids=lambda builder: builder.name)
def test_a_step_that_fails_is_told_with_its_output(
    builder: Builder, small: Dockerd, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BuildError, match="could not be built: it is broken"):
        build(builder, "RUN echo seen; echo it is broken; exit 3")
    assert "seen" in capfd.readouterr().err


@pytest.mark.parametrize("builder", Builder, ids=lambda builder: builder.name)
def test_what_is_no_dockerfile_is_told(builder: Builder, small: Dockerd) -> None:
    with pytest.raises(BuildError, match=r"(?i)unknown instruction: NONSENSE"):
        build(builder, "NONSENSE")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda x: x.name)
@pytest.mark.parametrize("builder", Builder, ids=lambda builder: builder.name)
def test_one_interrupt_ends_a_build_and_the_step_that_runs(
    builder: Builder, number: signal.Signals, small: Dockerd
) -> None:
    command = [sys.executable, "-c", LONG, builder.name]
    with process.start(command, merge_stderr=True) as child:
        assert child.stdout is not None
        assert any(line.rstrip().endswith(b"begun") for line in child.stdout)
        wait_for(lambda: sleeps() == 1)
        child.send_signal(number)
        assert b"interrupted" in child.stdout.read()
        assert child.wait() == INTERRUPTED
    wait_for(lambda: sleeps() == 0)
    wait_for(lambda: small.docker("ps", "--all", "--quiet") == "")


def sleeps() -> int:
    """How many processes there are of the step that waits."""
    found = 0
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            found += file.read_bytes().startswith(b"sleep\x0060.125")
    return found


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(UsageError("cannot read a.txt"), UsageError), (PermissionError(13, "denied"), BuildError)],
    ids=lambda value: type(value).__name__,
)
def test_half_a_context_is_not_built(
    raised: Exception, expected: type[Exception], small: Dockerd
) -> None:
    def send(stream: IO[bytes]) -> None:
        stream.write(b"FROM small:1\n")
        raise raised

    engine = Engine()
    with (
        pytest.raises(expected, match=r"cannot (be )?read"),
        api.running(engine, {"version": "2", "t": "half:1"}, send) as running,
    ):
        assert progress.show(running)[0] == 1
    assert engine.image_id("half:1") is None


def test_a_build_goes_on_although_an_image_on_its_base_vanishes(
    small: Dockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    sibling = small.docker("build", "--quiet", "-", stdin=b"FROM small:1\nENV X=0\n").strip()
    put_back = small.lose(sibling)
    notes: list[str] = []

    def note(text: str) -> None:
        if text.startswith("Once more"):
            notes.append(text)
            put_back()

    monkeypatch.setattr(terminal, "note", note)
    assert build(Builder.LEGACY, "ENV X=1")
    assert notes == ["Once more: an image on the same base was removed at that moment."]


def test_an_engine_that_goes_away_is_told_of(small: Dockerd) -> None:
    command = [sys.executable, "-c", LONG, Builder.BUILDKIT.name]
    with process.start(command, merge_stderr=True) as child:
        assert child.stdout is not None
        assert any(line.rstrip().endswith(b"begun") for line in child.stdout)
        small.stop(signal.SIGKILL)
        assert b"could not be built: the engine stopped answering" in child.stdout.read()
        assert child.wait() == 1
    small.start()
