"""The bytecode of an image's packages: made once, and right."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from caliban.docker.image.context import RESOURCES


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file among the packages."""
    file = tmp_path / "lib/package/module.py"
    file.parent.mkdir(parents=True)
    file.write_text("VALUE = 1\n")
    return file


def compiled(source: Path, cache: str) -> tuple[int, bytes]:
    """When its bytecode was written, and what that is, after all packages are compiled."""
    folder = source.parents[2]
    script = RESOURCES / "dependencies/compile.py"
    subprocess.run([sys.executable, script, folder / "lib", folder / cache], check=True)
    found = Path(importlib.util.cache_from_source(str(source)))
    return found.stat().st_mtime_ns, found.read_bytes()


def test_what_a_step_has_compiled_the_next_one_does_not_write_again(source: Path) -> None:
    assert compiled(source, "cache") == compiled(source, "cache")
    # The legacy builder keeps none.
    assert compiled(source, "cache") == compiled(source, "empty")
    assert not (source.parents[2] / "empty").exists()


def test_a_file_that_has_changed_is_compiled_anew(source: Path) -> None:
    _, before = compiled(source, "cache")
    source.write_text("VALUE = 2\n")
    _, after = compiled(source, "cache")
    assert after != before
    assert after[8:16] == importlib.util.source_hash(b"VALUE = 2\n")


def test_another_build_takes_what_an_earlier_one_has_compiled(source: Path) -> None:
    compiled(source, "cache")
    (kept,) = (file for file in (source.parents[2] / "cache").rglob("*") if file.is_file())
    kept.write_bytes(b"made earlier")
    Path(importlib.util.cache_from_source(str(source))).unlink()
    assert compiled(source, "cache")[1] == b"made earlier"
