"""Base images from a registry: when they are pulled, and what is said if they can't be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from caliban.docker.engine import Engine
from caliban.docker.image import base
from caliban.errors import UsageError
from caliban.model import dlvm
from caliban.model.image import ImagePlan, Mode
from tests.conftest import Caliban
from tests.registry import Registry
from tests.workshop import Workshop, docker


@pytest.fixture
def registry(workshop: Workshop) -> Iterator[Registry]:
    """A registry whose images go when the session's do."""
    found = Registry()
    yield found
    found.close()


def labels(workshop: Workshop) -> dict[str, str]:
    key, _, value = workshop.label.partition("=")
    return {key: value}


def plan(name: str) -> ImagePlan:
    return ImagePlan(Mode.CPU, name, "/project")


def test_an_image_is_pulled_once_and_again_only_when_asked_for(
    registry: Registry, workshop: Workshop, engine: Engine
) -> None:
    name = f"{registry.host}/team/base:1"
    registry.put("team/base:1", {"one": "1"}, labels(workshop))
    first = base.ensure(plan(name), engine)
    registry.put("team/base:1", {"one": "2"}, labels(workshop))
    # A tag that has moved is not noticed, and a registry that is gone isn't either.
    assert base.ensure(plan(name), engine) == first
    second = base.ensure(plan(name), engine, pull=True)
    assert second != first
    registry.close()
    assert base.ensure(plan(name), engine) == second


def test_a_digest_names_one_image_for_ever(
    registry: Registry, workshop: Workshop, engine: Engine
) -> None:
    digest = registry.put("team/digest:1", {"one": "1"}, labels(workshop))
    registry.put("team/digest:1", {"one": "2"}, labels(workshop))
    moved = base.ensure(plan(f"{registry.host}/team/digest:1"), engine)
    name = f"{registry.host}/team/digest@{digest}"
    found = base.ensure(plan(name), engine)
    assert found != moved
    assert base.ensure(plan(name), engine, pull=True) == found


@pytest.mark.parametrize(
    ("answer", "meaning", "hint"),
    [
        (None, "the registry has no such image: ", "a mistake in its name and tag"),
        ((404, "NAME_UNKNOWN"), "the registry has no such image: ", "a mistake in its name"),
        ((401, "UNAUTHORIZED"), "the registry asks for a login, or has", "docker login 127"),
        ((403, "DENIED"), "the registry asks for a login, or has", "Log in: docker login 127"),
        ((429, "TOOMANYREQUESTS"), "answers no more requests for now: ", "or wait."),
        ((500, "UNKNOWN"), "received unexpected HTTP status: 500", "Name an image that can be had"),
    ],
    ids=str,
)
def test_what_a_registry_refuses_is_explained(
    registry: Registry, engine: Engine, answer: tuple[int, str] | None, meaning: str, hint: str
) -> None:
    registry.answer = answer
    name = f"{registry.host}/team/none:1"
    with pytest.raises(UsageError) as error:
        base.ensure(plan(name), engine)
    assert error.value.message.startswith(f"the base image {name} cannot be pulled: ")
    assert meaning in error.value.message
    assert hint in error.value.hint
    assert "--pull" not in error.value.hint


@pytest.mark.parametrize("host", ["127.0.0.1:9", "registry.invalid"])
def test_a_registry_that_cannot_be_reached_is_told_from_one_that_refuses(
    engine: Engine, host: str
) -> None:
    with pytest.raises(UsageError) as error:
        base.ensure(plan(f"{host}/a:1"), engine)
    assert "cannot be pulled: the registry cannot be reached: " in error.value.message
    assert "an image that the engine already has is used without a registry" in error.value.hint


def test_who_asks_for_a_newer_one_of_a_local_image_hears_that_there_is_no_registry(
    workshop: Workshop, caliban: Caliban, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"127.0.0.1:9/{workshop.base('local').partition(':')[0]}:local"
    docker("tag", workshop.base("local"), name)
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", name)
    built = caliban("build", "--nogpu", "--pull", "trainer.train")
    assert built.returncode == 2
    assert f"the base image {name} cannot be pulled: the registry cannot be" in built.stderr
    assert "without --pull, it is used" in built.stderr


@pytest.mark.parametrize("name", ["Team/Base:1", "team/base:a:b", "https://example.com/base"])
def test_a_name_that_is_none_is_refused(engine: Engine, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be pulled: that is not how an image can be"):
        base.ensure(plan(name), engine)


def test_a_deep_learning_container_that_is_gone_is_told_of_with_its_date(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho manifest unknown: Failed to fetch; exit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    container = dlvm.resolve("dlvm:pytorch-gpu-2.4")
    with pytest.raises(UsageError, match="the registry has no such image") as error:
        base.ensure(plan(container.name), engine)
    assert f"may be gone after {container.until}" in error.value.hint
    assert dlvm.SOURCE in error.value.hint


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("python:3.12", "docker login"),
        ("team/base:1", "docker login"),
        ("localhost/base", "docker login localhost"),
        ("ghcr.io/team/base:1", "docker login ghcr.io"),
        ("127.0.0.1:5000/base", "docker login 127.0.0.1:5000"),
        ("europe-docker.pkg.dev/p/r/i:1", "gcloud auth configure-docker europe-docker.pkg.dev"),
        ("eu.gcr.io/p/i:1", "gcloud auth configure-docker eu.gcr.io"),
    ],
)
def test_the_advice_logs_in_where_the_image_is(name: str, command: str) -> None:
    _, advice = base._cause(name, ["denied: requested access to the resource is denied"])
    assert advice == f"Log in: {command}"
