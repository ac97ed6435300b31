"""Images for another platform: as far as an engine of one architecture can show.

Its base has this machine's programs and says that it is for another one, so that they run.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from caliban.docker.engine import Engine
from tests.conftest import Inline
from tests.workshop import Workshop, docker


@pytest.fixture
def foreign(engine: Engine) -> str:
    """A platform that is not the engine's own."""
    return "linux/amd64" if engine.own_platform() == "linux/arm64" else "linux/arm64"


@pytest.fixture
def base(
    workshop: Workshop, foreign: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A base image that says it is for another platform."""
    name = f"caliban-test-{workshop.id}:foreign"
    saved, changed = tmp_path / "saved.tar", tmp_path / "changed.tar"
    docker("save", "--output", str(saved), workshop.base("plain"))
    with tarfile.open(saved) as old, tarfile.open(changed, "w") as new:
        (manifest,) = json.loads(old.extractfile("manifest.json").read())  # type: ignore[union-attr]
        for member in old:
            content = old.extractfile(member).read() if member.isfile() else b""  # type: ignore[union-attr]
            if member.name == "manifest.json":
                content = json.dumps([{**manifest, "RepoTags": [name]}]).encode()
            elif member.name == manifest["Config"]:
                image = {**json.loads(content), "architecture": foreign.partition("/")[2]}
                content = json.dumps(image).encode()
            elif member.name == "repositories":
                continue
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    docker("load", "--input", str(changed))
    saved.unlink()
    changed.unlink()
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", name)
    yield name
    docker("rmi", "--force", name)


def test_the_image_is_for_the_platform_that_is_named(
    project: Path, base: str, foreign: str, inline: Inline, engine: Engine
) -> None:
    done = inline("build", "--nogpu", "--platform", foreign, "trainer.train")
    assert done.returncode == 0, done.stderr
    assert engine.platform(done.stdout.strip()) == foreign
    ran = inline("run", "--nogpu", "--platform", foreign, "trainer.train", "--", "here")
    assert ran.returncode == 0, ran.stderr
    assert "['here']" in ran.stdout + ran.stderr


def test_the_engines_own_platform_makes_the_same_image_as_none(
    project: Path, workshop: Workshop, inline: Inline, engine: Engine
) -> None:
    plain = inline("build", "--nogpu", "trainer.train")
    named = inline("build", "--nogpu", "--platform", engine.own_platform(), "trainer.train")
    assert plain.returncode == named.returncode == 0, named.stderr
    assert plain.stdout == named.stdout


def test_a_base_of_another_platform_is_not_built_on(
    project: Path, workshop: Workshop, inline: Inline, foreign: str, engine: Engine
) -> None:
    done = inline("build", "--nogpu", "--platform", foreign, "trainer.train")
    assert done.returncode == 2
    assert f"the base image {workshop.base('plain')} cannot be pulled" in done.stderr
    assert f"The engine has an image of that name for {engine.own_platform()}." in done.stderr


def test_what_is_no_platform_is_refused(project: Path, inline: Inline) -> None:
    done = inline("build", "--nogpu", "--platform", "arm", "trainer.train")
    assert done.returncode == 2
    assert "expected a platform like linux/arm64, found 'arm'" in done.stderr
