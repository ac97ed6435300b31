"""Which builder is used."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest

from caliban.docker.engine import Engine
from caliban.docker.image import builder
from caliban.docker.image.builder import Builder
from caliban.errors import BuildError, UsageError


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


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """One of Docker's on this machine."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.delenv("DOCKER_BUILDKIT", raising=False)
    found = Engine()
    monkeypatch.setattr(found, "is_podman", lambda: False)
    return found


CLIENTS = [
    ("Docker version 28.2.2, build e6534b4", True, Builder.BUILDKIT),
    ("Docker version 28.2.2, build e6534b4", False, Builder.LEGACY),
    ("Docker version 23.0.0, build e92dd87", False, Builder.LEGACY),
    ("Docker version 22.06.0-beta.0, build 3e9117b", False, Builder.BUILDKIT),
    ("Docker version 20.10.24+dfsg1, build 297e128", False, Builder.BUILDKIT),
    ("something else", False, Builder.LEGACY),
]


@pytest.mark.parametrize(("version", "buildx", "chosen"), CLIENTS)
def test_an_engine_here_builds_with_buildkit_whatever_the_client_can(
    engine: Engine, client: Path, version: str, buildx: bool, chosen: Builder
) -> None:
    answer(client, version, buildx)
    assert builder.detect(engine) is Builder.BUILDKIT
    assert builder.of_client(engine) is chosen


@pytest.mark.parametrize(("version", "buildx", "chosen"), CLIENTS)
def test_elsewhere_the_client_decides(
    engine: Engine, client: Path, version: str, buildx: bool, chosen: Builder
) -> None:
    answer(client, version, buildx)
    engine.host = "ssh://me@example.com"
    assert builder.detect(engine) is builder.of_client(engine) is chosen


def test_podman_builds_as_the_legacy_builder_does(
    engine: Engine, client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(client, *CLIENTS[0][:2])
    monkeypatch.setattr(engine, "is_podman", lambda: True)
    assert builder.detect(engine) is builder.of_client(engine) is Builder.LEGACY


def test_what_the_client_can_do_is_asked_in_one_go(engine: Engine, client: Path) -> None:
    client.write_text(
        "#!/bin/sh\n"
        f"cd {client.parent}\n"
        'if [ "$*" = --version ]; then touch asked; exit; fi\n'
        "for turn in $(seq 50); do [ -e asked ] && exit; sleep 0.1; done\n"
        "exit 1\n"
    )
    client.chmod(0o755)
    assert builder.of_client(engine) is Builder.BUILDKIT


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
    engine: Engine, client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    answer(client, *CLIENTS[0][:2])
    assert builder.detect(engine) is builder.of_client(engine) is Builder.LEGACY
