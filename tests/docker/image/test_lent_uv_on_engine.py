"""What resolves the dependencies is lent by this machine, and got by pip where that can't be."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from caliban.docker.engine import Engine
from caliban.docker.image import lent_uv, lock, uv
from caliban.docker.image.build_secrets import NONE
from caliban.docker.image.builder import Builder
from caliban.model.image import ImagePlan, Mode
from tests.docker.conftest import write
from tests.workshop import Workshop, docker

# From where nobody gets anything by pip; uv asks elsewhere.
NO_INDEX = "ENV PIP_INDEX_URL=http://127.0.0.1:9/simple PIP_RETRIES=0\n"


@pytest.fixture(params=Builder, ids=lambda builder: builder.name.lower())
def builder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Builder:
    """Each builder, which has nothing yet of what a step is lent."""
    found: Builder = request.param
    if found is Builder.LEGACY:
        monkeypatch.setenv("DOCKER_BUILDKIT", found.value)
    monkeypatch.setattr(uv, "MOUNT", f"--mount=type=tmpfs,target={uv.FOLDER}")
    return found


@pytest.fixture
def platform(engine: Engine, workshop: Workshop) -> str:
    """That of the base images."""
    return engine.platform(workshop.base("plain"))


@pytest.fixture
def name(engine: Engine, platform: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of the image with uv, which is not there yet."""
    label = f"caliban-test-{uuid.uuid4().hex[:12]}"
    monkeypatch.setattr(lent_uv, "LABEL", label)
    found = f"{label}:uv-{platform.replace('/', '-')}-{uv.VERSION}"
    yield found
    docker("rmi", found, check=False)


def resolved(engine: Engine, folder: Path, base: str) -> dict[str, str]:
    write(folder, {"requirements.txt": "six==1.16.0\n"})
    plan = ImagePlan(Mode.CPU, base, str(folder), None, requirements=("requirements.txt",))
    return lock.resolve(plan, engine, "0" * 32, NONE).versions


def test_dependencies_are_resolved_where_pip_gets_nothing(
    builder: Builder, engine: Engine, workshop: Workshop, folder: Path
) -> None:
    assert resolved(engine, folder, workshop.base("no-index", NO_INDEX)) == {"six": "1.16.0"}


def test_a_uv_that_does_not_start_in_the_base_image_is_got_by_pip(
    builder: Builder, engine: Engine, workshop: Workshop, folder: Path, platform: str, name: str
) -> None:
    archive, content = io.BytesIO(), b"#!/made/for/another/libc\n"
    with tarfile.open(fileobj=archive, mode="w") as files:
        header = tarfile.TarInfo("uv")
        header.size, header.mode = len(content), 0o755
        files.addfile(header, io.BytesIO(content))
    subprocess.run(["docker", "import", "-", name], input=archive.getvalue(), check=True)
    assert lent_uv.image(engine, platform) == name
    assert resolved(engine, folder, workshop.base("plain")) == {"six": "1.16.0"}


def test_an_engine_gets_uv_once(engine: Engine, platform: str, name: str) -> None:
    assert lent_uv.image(engine, platform) == name
    first = engine.image_id(name)
    assert lent_uv.image(engine, platform) == name
    assert engine.image_id(name) == first


@pytest.mark.parametrize(
    "said",
    [
        "uv 0.0.1 ({processor}-unknown-linux-gnu)",
        "uv {version} (sparc-unknown-linux-gnu)",
        "uv {version} ({processor}-apple-darwin)",
        "uv {version}",
        "",
    ],
)
def test_another_uv_is_not_lent(
    engine: Engine,
    platform: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
) -> None:
    processor = {"amd64": "x86_64", "arm64": "aarch64"}[platform.split("/")[1]]
    line = said.format(version=uv.VERSION, processor=processor)
    write(tmp_path, {"uv": f"#!/bin/sh\necho '{line}'\n"})
    (tmp_path / "uv").chmod(0o755)
    monkeypatch.setattr("uv.find_uv_bin", lambda: str(tmp_path / "uv"))
    assert lent_uv.image(engine, platform) == ""
    assert engine.image(name) is None


def test_nothing_is_lent_to_an_image_for_another_processor(engine: Engine, name: str) -> None:
    assert lent_uv.image(engine, "linux/s390x") == ""


def test_caliban_requires_the_uv_that_it_makes_images_with() -> None:
    text = (Path(__file__).parents[3] / "requirements.txt").read_text()
    assert re.findall(r"^uv\b.*", text, re.MULTILINE) == [
        f'uv=={uv.VERSION}; sys_platform == "linux"'
    ]
