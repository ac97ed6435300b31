"""What commands say of secrets and keys that are named wrongly, before Docker is asked anything."""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from caliban import flags
from caliban.commands import image_choice
from caliban.docker.image.build_secrets import BuildSecrets
from caliban.errors import Problems, UsageError
from caliban.platform import google
from tests.conftest import Inline
from tests.google_cloud.client import FakeTime, private_key, write_key
from tests.google_cloud.cloud import GoogleCloud


def choose(*words: str) -> tuple[image_choice.ImageChoice | None, Problems]:
    parser = argparse.ArgumentParser()
    flags.add_image_arguments(parser)
    problems = Problems()
    return image_choice.choose(parser.parse_args(["--nogpu", *words]), problems), problems


def test_a_plan_names_its_secrets_and_hides_their_files(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "requirements.txt").write_text("six\n")
    (project / ".netrc").write_text("machine host login me password x\n")
    monkeypatch.setenv("TOKEN", "value")
    chosen, problems = choose("--secret", "id=netrc,src=.netrc", "--secret", "id=TOKEN")
    problems.check()
    assert chosen is not None
    assert chosen.plan.secrets == ("TOKEN", "netrc")
    assert project / ".netrc" in chosen.secrets
    assert "value" not in str(chosen.plan.to_json())


def test_the_settings_ask_for_googles_where_something_is_installed(project: Path) -> None:
    (project / ".calibanconfig.json").write_text(
        '{"build_time_credentials": true, "allowed_keys": ["a.pem"]}'
    )
    chosen, _ = choose("--allow_key", "b.pem")
    assert chosen is not None
    assert chosen.plan.secrets == ()
    assert chosen.allowed_keys == ("a.pem", "b.pem")
    (project / "requirements.txt").write_text("six\n")
    chosen, _ = choose()
    assert chosen is not None
    assert chosen.plan.secrets == ("git-credentials", "netrc")


@pytest.fixture
def cloud() -> Iterator[GoogleCloud]:
    with GoogleCloud(FakeTime()) as started:
        yield started


def googles(project: Path, *words: str) -> BuildSecrets:
    """The secrets of a project whose settings ask for a token."""
    (project / ".calibanconfig.json").write_text('{"build_time_credentials": true}')
    (project / "requirements.txt").write_text("six\n")
    chosen, problems = choose(*words)
    problems.check()
    assert chosen is not None
    return chosen.build_secrets


def test_resolving_and_building_take_one_token(
    project: Path, tmp_path: Path, cloud: GoogleCloud
) -> None:
    key = write_key(cloud, tmp_path / "key.json", "robot@p1", private_key())
    secrets = googles(project, "--cloud_key", key)
    assert cloud.tokens.issued == {}, "nothing is built yet"
    for _ in range(2):
        found = secrets.open(secrets.ids).contents()
    (token,) = cloud.tokens.issued
    assert found["git-credentials"].decode() == (
        f"https://oauth2accesstoken:{token}@source.developers.google.com\n"
    )


def test_a_build_that_takes_hours_gets_another_token(
    project: Path, tmp_path: Path, cloud: GoogleCloud
) -> None:
    key = write_key(cloud, tmp_path / "key.json", "robot@p1", private_key())
    access = google.access(key, {})
    first = access.token()
    assert access.token() == first
    assert access.credentials.expiry is not None
    access.credentials.expiry -= datetime.timedelta(hours=2)
    assert access.token() != first


def test_without_credentials_that_is_said_when_they_are_needed(project: Path) -> None:
    secrets = googles(project)
    with pytest.raises(UsageError) as error:
        secrets.open(secrets.ids)
    assert error.value.message == (
        '"build_time_credentials" in .calibanconfig.json asks for an access token of Google\'s: '
        "no credentials for Google Cloud were found"
    )
    assert error.value.hint == "Run: gcloud auth application-default login"


@pytest.mark.parametrize("command", ["build", "run", "shell", "notebook"])
def test_a_wrong_secret_is_told_of_with_docker_s_syntax(
    project: Path, inline: Inline, command: str
) -> None:
    code = ["trainer.train"] if command in ("build", "run") else []
    done = inline(command, "--nogpu", "--secret", "id=TOKEN,env=MISSING", *code)
    assert done.returncode == 2
    assert "the environment variable MISSING is not set" in done.stderr
    assert "--secret id=NAME,src=FILE or --secret id=NAME,env=VARIABLE" in done.stderr
    assert "MISSING" not in os.environ
