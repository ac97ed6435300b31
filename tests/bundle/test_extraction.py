"""`caliban replay --extract`: the code of a file as directories, all of it or nothing."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from caliban.commands import replay_extract
from tests.bundle import forgery
from tests.bundle.forgery import Manifest
from tests.commands.test_parallel_on_engine import small_disk
from tests.conftest import Inline


def two_launches(manifest: Manifest, parts: dict[str, bytes]) -> None:
    """Two launches, of which the second one has two megabytes more."""
    first = manifest["launches"][0]
    second = copy.deepcopy(first)
    content = b"x" * 2_000_000
    parts[forgery.part_of(content)] = content
    second["code"].append({"path": "data", "kind": "file", "part": forgery.part_of(content)})
    manifest["launches"] = [first, second]


@pytest.mark.parametrize("target", ["out", "made/by/it/out", "there"])
def test_a_disk_that_gets_full_is_left_as_it_was(
    target: str, tmp_path: Path, home: Path, inline: Inline
) -> None:
    forgery.write(tmp_path / "tries.tar", two_launches)
    with small_disk(tmp_path / "small", "1m") as disk:
        (disk / "there").mkdir()
        done = inline("replay", str(tmp_path / "tries.tar"), "--extract", str(disk / target))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines()[-1].endswith("No space left on device")
        assert "error: cannot write " in done.stderr
        assert [each.relative_to(disk).as_posix() for each in disk.rglob("*")] == ["there"]


def test_an_interrupted_extraction_leaves_nothing(
    tmp_path: Path, home: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    forgery.write(tmp_path / "tries.tar", two_launches)
    before = {*tmp_path.iterdir()}
    monkeypatch.setattr(replay_extract, "_write", interrupted)
    done = inline("replay", str(tmp_path / "tries.tar"), "--extract", str(tmp_path / "a" / "out"))
    assert (done.returncode, done.stdout) == (130, "")
    assert {*tmp_path.iterdir()} == before
