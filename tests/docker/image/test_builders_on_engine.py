"""Whoever builds an image, it holds the same; and it costs what it must, and no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from caliban.docker.engine import Engine
from caliban.docker.image.builder import Builder, detect
from tests.conftest import Caliban
from tests.docker.conftest import EVERYTHING, Built, inspect, listing, variables_for
from tests.workshop import Workshop

pytestmark = pytest.mark.takes(60)


@pytest.fixture
def other(
    engine: Engine, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Builder:
    """Chooses the builder that caliban wouldn't choose here."""
    chosen = detect(engine)
    builder = next(each for each in Builder if each is not chosen)
    for name, value in variables_for(builder, engine, tmp_path).items():
        monkeypatch.setenv(name, value)
    return builder


def test_an_image_is_the_same_whoever_builds_it(
    everything: Built,
    other: Builder,
    workshop: Workshop,
    caliban: Caliban,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", workshop.base("twin"))
    built = caliban(*EVERYTHING, cwd=everything.project, timeout=300)
    assert built.returncode == 0, built.stderr
    assert bool(re.search(r"^#\d+ ", built.stderr, re.MULTILINE)) == (other is Builder.BUILDKIT)
    image = built.stdout.strip()
    assert image != everything.image
    assert listing(image, "/") == listing(everything.image, "/")
    ours, theirs = inspect(image), inspect(everything.image)
    for key in ("Env", "Entrypoint", "Cmd", "User", "WorkingDir"):
        assert (ours["Config"][key] or None) == (theirs["Config"][key] or None), key
    assert "does not have an extra named `missing`" in built.stderr
