"""Commands in a directory that somebody has deleted meanwhile, as an unmounted one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Inline

ZONE = ("--zone", "us-central1-a")


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--nogpu", "trainer.train"),
        ("build", "--nogpu", "trainer.train"),
        ("shell", "--nogpu"),
        ("cloud", "--nogpu", "trainer.train"),
        ("cloud", "--resume", "sweep"),
        ("cluster", "ls"),
        ("cluster", "create", "--project_id", "fish", *ZONE),
        ("cluster", "node_pool", "ls", "--project_id", "fish", "--cluster_name", "tank", *ZONE),
        ("cluster", "job", "ls"),
        ("cluster", "job", "submit", "--nogpu", "trainer.train"),
        ("cluster", "job", "submit", "--resume", "sweep"),
        ("cluster", "job", "submit_file", "job.yaml"),
    ],
    ids=" ".join,
)
def test_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: Inline, words: tuple[str, ...]
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    ended = inline(*words)
    assert ended.returncode == 2, ended.stderr
    assert "the current directory has been deleted" in ended.stderr
