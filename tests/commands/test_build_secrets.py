"""What commands say of secrets and keys that are named wrongly, before Docker is asked anything."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from caliban import flags
from caliban.commands import image_choice
from caliban.errors import Problems
from tests.conftest import Inline


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
