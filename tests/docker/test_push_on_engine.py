"""Images pushed to a real registry: once, whatever happens, and what is said when they can't be."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from caliban.docker import push
from caliban.docker.engine import Engine
from caliban.docker.push import PushError
from caliban.model.image_name import ImageName
from tests.docker.conftest import Calls
from tests.docker_registry import PASSWORD, USER, DockerRegistry, Gate, forget
from tests.parts import OpenScreen
from tests.tarball import packed
from tests.workshop import Workshop, docker

Push = Callable[[str, str], str]


@pytest.fixture
def image(workshop: Workshop) -> str:
    """The id of a small image that nothing was ever pushed of."""
    return small(workshop)


def small(workshop: Workshop) -> str:
    """A small image, of which no registry has anything."""
    key, _, value = workshop.label.partition("=")
    text = f"FROM scratch\nLABEL {key}={value} unique={uuid.uuid4().hex}\nCOPY . /\n"
    return built(text, os.urandom(1 << 18))


def built(dockerfile: str, content: bytes) -> str:
    command = ["docker", "build", "--no-cache", "--quiet", "-"]
    ended = subprocess.run(
        command,
        input=packed({"Dockerfile": dockerfile.encode(), "data": content}),
        capture_output=True,
        check=True,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
    )
    return ended.stdout.decode().strip()


@pytest.fixture
def guarded(engine: Engine, docker_registry: DockerRegistry) -> Iterator[DockerRegistry]:
    """A registry that asks for a login."""
    with contextlib.closing(DockerRegistry(asks_for_login=True)) as found:
        yield found
        forget(found.host)


@pytest.fixture
def gate(docker_registry: DockerRegistry) -> Iterator[Gate]:
    """A way to the registry that cuts connections as `gate.cuts` says."""
    found = Gate(docker_registry.host)
    yield found
    found.close()
    forget(found.host)


def target(host: str) -> ImageName:
    return ImageName(f"{host}/team/caliban", f"cpu-{uuid.uuid4().hex[:16]}")


def uploads(calls: Calls) -> int:
    """How often docker was asked to push."""
    return sum(line.startswith("push ") for line in calls.lines)


def test_an_image_is_pushed_once_and_named_by_its_digest(
    engine: Engine, docker_registry: DockerRegistry, image: str, calls: Calls
) -> None:
    name = target(docker_registry.host)
    made: list[str] = []
    reference = push.ensure(engine, image, name, lambda: made.append("prepared"))
    assert re.fullmatch(rf"{name.repository}@sha256:[0-9a-f]{{64}}", reference)
    assert docker_registry.tags("team/caliban").count(name.tag) == 1
    assert push.ensure(engine, image, name, lambda: made.append("prepared")) == reference
    assert uploads(calls) == len(made) == 1
    docker("rmi", str(name))
    docker("pull", reference)
    assert engine.image_id(reference) == image
    docker("rmi", reference)


def test_it_is_found_by_its_tag_when_the_engine_has_forgotten_the_digest(
    engine: Engine,
    docker_registry: DockerRegistry,
    image: str,
    calls: Calls,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = target(docker_registry.host)
    reference = push.ensure(engine, image, name)
    docker("tag", image, "caliban-test-kept:1")
    docker("rmi", str(name))
    capsys.readouterr()
    assert push.ensure(engine, image, name) == reference
    docker("rmi", "--no-prune", "caliban-test-kept:1", check=False)
    assert uploads(calls) == 1
    assert capsys.readouterr().err == f"The registry has the image already: {name}\n"


def test_another_image_of_that_tag_is_not_taken_for_it(
    engine: Engine, docker_registry: DockerRegistry, image: str, workshop: Workshop
) -> None:
    name = target(docker_registry.host)
    first = push.ensure(engine, image, name)
    second = push.ensure(engine, small(workshop), name)
    assert first != second
    assert push.ensure(engine, image, name) == first  # nothing names it there but its digest


def test_an_image_that_the_registry_has_lost_is_pushed_again(
    engine: Engine, docker_registry: DockerRegistry, image: str
) -> None:
    with contextlib.closing(DockerRegistry()) as other:
        gate = Gate(other.host)
        name = target(gate.host)
        reference = push.ensure(engine, image, name)
        other.stop()
        gate._server = ("127.0.0.1", int(docker_registry.host.partition(":")[2]))
        assert push.ensure(engine, image, name) == reference
        assert name.tag in docker_registry.tags("team/caliban")
        gate.close()
        forget(gate.host)


def test_layers_that_are_there_are_not_sent_again(
    engine: Engine, docker_registry: DockerRegistry, gate: Gate, image: str, workshop: Workshop
) -> None:
    key, _, value = workshop.label.partition("=")
    docker("tag", image, f"caliban-test-{workshop.id}:lower")
    lower = f"FROM caliban-test-{workshop.id}:lower\nLABEL {key}={value}\nCOPY Dockerfile /\n"
    first = target(gate.host)
    push.ensure(engine, image, first)
    sent = sum(map(len, gate.seen))
    push.ensure(engine, built(lower, b""), ImageName(first.repository, "cpu-upper"))
    assert sent > 1 << 18 > 5 * (sum(map(len, gate.seen)) - sent)


def test_a_push_that_is_cut_off_goes_on(
    engine: Engine, gate: Gate, image: str, calls: Calls, capfd: pytest.CaptureFixture[str]
) -> None:
    left = [1, 1]

    def cuts(data: bytes) -> bool:
        return data.startswith(b"PUT ") and b"/manifests/" in data and bool(left and left.pop())

    gate._cuts = cuts
    slept: list[float] = []
    name = target(gate.host)
    assert push.ensure(engine, image, name, sleep=slept.append).startswith(name.repository)
    assert (uploads(calls), slept) == (3, [1.0, 4.0])
    assert f"the push to {gate.host} was cut off; it goes on in 1 s" in capfd.readouterr().err


def test_a_registry_that_is_down_is_told(
    engine: Engine, docker_registry: DockerRegistry, image: str, capfd: pytest.CaptureFixture[str]
) -> None:
    gate = Gate(docker_registry.host)
    gate.close()
    slept: list[float] = []
    with pytest.raises(PushError) as error:
        push.ensure(engine, image, target(gate.host), sleep=slept.append)
    forget(gate.host)
    assert f"the registry {gate.host} can't be reached by the engine" in error.value.message
    assert "connection refused" in error.value.message
    assert slept == []


def test_a_registry_that_goes_down_meanwhile_is_waited_for(
    engine: Engine, image: str, calls: Calls, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(DockerRegistry()) as own:
        gate = Gate(own.host)

        def cuts(data: bytes) -> bool:
            is_last = data.startswith(b"PUT ") and b"/manifests/" in data
            if is_last and not slept:
                own.stop()
            return is_last and not slept

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 2:
                own.start()

        slept: list[float] = []
        gate._cuts = cuts
        name = target(gate.host)
        reference = push.ensure(engine, image, name, sleep=sleep)
        assert reference.startswith(name.repository)
        assert slept == [1.0, 4.0]
        gate.close()
        forget(gate.host)


def test_who_is_not_logged_in_is_told_the_command(
    engine: Engine, guarded: DockerRegistry, image: str, calls: Calls
) -> None:
    with pytest.raises(PushError) as error:
        push.ensure(engine, image, target(guarded.host))
    assert f"docker is not logged in to {guarded.host}" in error.value.message
    assert error.value.hint == f"Log in: docker login {guarded.host}"
    assert uploads(calls) == 1


def test_dockers_login_is_used_and_shown_nowhere(
    engine: Engine,
    guarded: DockerRegistry,
    image: str,
    calls: Calls,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "settings"))
    command = ["docker", "login", "--username", USER, "--password-stdin", guarded.host]
    subprocess.run(command, input=PASSWORD.encode(), check=True, capture_output=True)
    capfd.readouterr()
    name = target(guarded.host)
    assert push.ensure(engine, image, name) == push.ensure(engine, image, name)
    assert uploads(calls) == 1
    settings = json.loads((tmp_path / "settings/config.json").read_text())
    told = capfd.readouterr()
    for secret in (PASSWORD, settings["auths"][guarded.host]["auth"]):
        assert secret not in "\n".join([told.out, told.err, *calls.lines])


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        (
            "denied: Unauthenticated request. Unauthenticated requests do not have permission "
            '"artifactregistry.repositories.uploadArtifacts" on resource "projects/p/r" (or it '
            "may not exist)",
            "docker is not logged in to us-central1-docker.pkg.dev",
            "Log in: gcloud auth configure-docker us-central1-docker.pkg.dev",
        ),
        (
            'denied: Permission "artifactregistry.repositories.uploadArtifacts" denied on resource '
            '"projects/p/locations/us-central1/repositories/r" (or it may not exist)',
            "your account may not write there, or the repository does not exist",
            "roles/artifactregistry.writer",
        ),
        ("name unknown: Repository 'r' not found", "has no such repository", "Make it there"),
        ("no basic auth credentials", "docker is not logged in", "gcloud auth configure-docker"),
        ('Get "https://x/v2/": x509: unknown authority', "doesn't trust", "certificate"),
        ("something new", "something new", ""),
    ],
)
def test_what_registries_say_is_explained(
    engine: Engine,
    image: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    message: str,
    hint: str,
) -> None:
    program = tmp_path / "bin/docker"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit 1\n")
    program.chmod(0o755)
    # No registry is asked: nothing answers at this address.
    monkeypatch.setattr("caliban.docker.registry.find", lambda _: None)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    name = ImageName("us-central1-docker.pkg.dev/p/r/caliban", "cpu-1")
    with pytest.raises(PushError) as error:
        push.ensure(engine, image, name, sleep=lambda _: None)
    monkeypatch.undo()
    forget("us-central1-docker.pkg.dev")
    assert message in error.value.message
    assert hint in error.value.hint


def test_two_at_a_time_push_it_once(
    engine: Engine, docker_registry: DockerRegistry, image: str, calls: Calls
) -> None:
    name = target(docker_registry.host)
    script = (
        "import sys\n"
        "from caliban.docker import push\n"
        "from caliban.docker.engine import Engine\n"
        "from caliban.model.image_name import ImageName\n"
        "engine = Engine()\n"
        "print(push.ensure(engine, sys.argv[1], ImageName.parse(sys.argv[2])))\n"
    )
    command = [sys.executable, "-c", script, image, str(name)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {each.communicate()[0].strip() for each in started}
    assert len(found) == 1 and found.pop().startswith(f"{name.repository}@sha256:")
    assert uploads(calls) == 1


def test_on_a_terminal_a_push_is_one_line(
    engine: Engine, docker_registry: DockerRegistry, image: str, screen: OpenScreen
) -> None:
    name = target(docker_registry.host)
    script = (
        "import sys; from caliban.docker import push; from caliban.docker.engine import Engine; "
        "from caliban.model.image_name import ImageName; "
        "push.ensure(Engine(), sys.argv[1], ImageName.parse(sys.argv[2]))"
    )
    terminal = screen()
    terminal.clear()
    terminal.line(f"{sys.executable} -c '{script}' {image} {name}")
    terminal.shows(rf"^ +\d+\.\d s  Push the image to {name}$")
    terminal.shows("^host 0>")
    assert "Preparing" not in terminal.text()
