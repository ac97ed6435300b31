"""`caliban build --devcontainer`: an editor's container is what `caliban shell` opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Inline
from tests.workshop import Workshop, docker


def test_the_devcontainer_has_the_image_of_the_environment(
    project: Path, workshop: Workshop, inline: Inline
) -> None:
    done = inline("build", "--nogpu", "--devcontainer")
    assert done.returncode == 0, done.stderr
    file = project / ".devcontainer" / "devcontainer.json"
    assert str(file) in done.stderr
    (name,) = {word for word in file.read_text().split('"') if word.startswith("caliban:cpu-")}
    assert docker("inspect", "--format", "{{.Id}}", name).strip() == done.stdout.strip()
    # It holds no code: an edit changes nothing, and neither does the file itself.
    (project / "trainer" / "train.py").write_text("print('edited')\n")
    again = inline("build", "--nogpu", "--devcontainer", "trainer.train")
    assert again.stdout == done.stdout
    assert inline("build", "--nogpu", "trainer.train").stdout != done.stdout


def test_a_file_of_somebody_else_stays(project: Path, workshop: Workshop, inline: Inline) -> None:
    file = project / ".devcontainer" / "devcontainer.json"
    file.parent.mkdir()
    file.write_text("{}")
    done = inline("build", "--nogpu", "--devcontainer")
    assert done.returncode == 2
    assert file.read_text() == "{}"
    assert "Building" not in done.stderr


def test_without_it_a_module_must_be_named(project: Path, inline: Inline) -> None:
    done = inline("build", "--nogpu")
    assert done.returncode == 2
    assert "no module is named" in done.stderr


def test_an_engine_elsewhere_has_no_use_for_it(
    project: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    done = inline("build", "--nogpu", "--devcontainer")
    assert done.returncode == 2
    assert "another machine" in done.stderr
