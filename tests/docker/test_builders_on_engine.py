"""Whoever builds an image, it holds the same; and it costs what it must, and no more."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from caliban.docker import build as builds
from caliban.docker.build import Builder
from caliban.docker.engine import Engine
from tests.conftest import Caliban
from tests.docker.conftest import EVERYTHING, Built, inspect, listing
from tests.workshop import Workshop

NO_BUILDKIT = "no `docker` on PATH can use BuildKit: none has the buildx plugin or is older than 23"


@pytest.fixture
def other(
    engine: Engine, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Builder:
    """Chooses the builder that caliban wouldn't choose here."""
    if builds.detect_builder(engine) is Builder.BUILDKIT:
        monkeypatch.setenv("DOCKER_BUILDKIT", "0")
        return Builder.LEGACY
    outside = os.environ["PATH"]
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{outside}")
    for place in outside.split(":"):
        if program := shutil.which("docker", path=place):
            (tmp_path / "bin/docker").unlink(missing_ok=True)
            (tmp_path / "bin/docker").symlink_to(program)
            if builds.detect_builder(engine) is Builder.BUILDKIT:
                break
    else:
        pytest.skip(NO_BUILDKIT)
    return Builder.BUILDKIT


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
