"""Which builder is used."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest

from caliban.docker.engine import Engine
from caliban.docker.image import builder
from caliban.docker.image.builder import Builder
from caliban.errors import BuildError, UsageError

DOCKER = [{"Name": "Engine", "Version": "20.10.24"}, {"Name": "runc"}]
PODMAN = [{"Name": "Podman Engine", "Version": "4.3.1"}, {"Name": "Conmon"}]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH for a `docker` that is nothing but a client."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "docker"


def answer(client: Path, version: str, buildx: bool) -> None:
    """Makes a `docker` that knows its version, and perhaps the plugin."""
    client.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f"  'buildx version') exit {0 if buildx else 1};;\n"
        f"  --version) echo '{version}';;\n"
        "  *) exit 125;;\n"
        "esac\n"
    )
    client.chmod(0o755)


def engine(components: list[dict[str, str]]) -> Engine:
    found = Engine()
    found.__dict__["client"] = SimpleNamespace(version=lambda: {"Components": components})
    return found


@pytest.mark.parametrize(
    ("version", "buildx", "components", "chosen"),
    [
        ("Docker version 28.2.2, build e6534b4", True, DOCKER, Builder.BUILDKIT),
        ("Docker version 28.2.2, build e6534b4", False, DOCKER, Builder.LEGACY),
        ("Docker version 23.0.0, build e92dd87", False, DOCKER, Builder.LEGACY),
        ("Docker version 22.06.0-beta.0, build 3e9117b", False, DOCKER, Builder.BUILDKIT),
        ("Docker version 20.10.24+dfsg1, build 297e128", False, DOCKER, Builder.BUILDKIT),
        ("Docker version 28.2.2, build e6534b4", True, PODMAN, Builder.LEGACY),
        ("Docker version 20.10.24+dfsg1, build 297e128", False, PODMAN, Builder.LEGACY),
        ("something else", False, DOCKER, Builder.LEGACY),
    ],
)
def test_the_best_builder_that_there_is_builds(
    client: Path, version: str, buildx: bool, components: list[dict[str, str]], chosen: Builder
) -> None:
    answer(client, version, buildx)
    assert builder.detect(engine(components)) is chosen


def test_what_the_client_can_do_is_asked_in_one_go(client: Path) -> None:
    client.write_text(
        "#!/bin/sh\n"
        f"cd {client.parent}\n"
        'if [ "$*" = --version ]; then touch asked; exit; fi\n'
        "for turn in $(seq 50); do [ -e asked ] && exit; sleep 0.1; done\n"
        "exit 1\n"
    )
    client.chmod(0o755)
    assert builder.detect(engine(DOCKER)) is Builder.BUILDKIT


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ValueError("a name that no archive takes"), "a name that no archive takes"),
        (PermissionError(13, "denied"), "the project's files cannot be read to their end"),
        (UsageError("cannot read a.txt"), "cannot read a.txt"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_goes_wrong_with_the_context_is_told_and_not_what_the_builder_makes_of_it(
    client: Path, raised: Exception, told: str
) -> None:
    client.write_text("#!/bin/sh\ncat >/dev/null; echo the Dockerfile cannot be empty\n")
    client.chmod(0o755)

    def send(stream: IO[bytes]) -> None:
        raise raised

    expected = BuildError if isinstance(raised, OSError) else type(raised)
    with (
        pytest.raises(expected, match=told),
        builder.running(Builder.LEGACY, [], send) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.read() == b""


def test_whoever_wants_the_legacy_builder_gets_it(
    client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    answer(client, "Docker version 28.2.2, build e6534b4", buildx=True)
    assert builder.detect(engine(DOCKER)) is Builder.LEGACY
