"""What the tests of `caliban replay` have in common, besides their fixtures in conftest.py."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from caliban.bundle.archive import Archive
from tests.bundle import forgery
from tests.conftest import Caliban

Elsewhere = Callable[[], None]

# Three experiments, of which one fails, and whose flags come in an odd order.
EXPERIMENTS: list[dict[str, Any]] = [
    {"say": 'caliban: {"loss": 0.5, "good": true}', "env": "HOME"},
    {"env": "USER", "say": 'caliban: {"loss": 0.25}'},
    {"say": "x", "exit": 3},
]


def replayed(caliban: Caliban, *args: str, code: int = 0, timeout: float = 120) -> dict[str, Any]:
    """What `caliban replay` says for programs."""
    done = caliban("replay", *args, "--json", timeout=timeout)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def results(found: dict[str, Any]) -> list[str]:
    """What came of each experiment."""
    return [each["result"] for each in found["experiments"]]


def altered(file: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """The same file, whose manifest claims something else."""
    with Archive(file) as opened:
        manifest = copy.deepcopy(dict(opened.manifest))
        parts = {name: opened.read(name, 1 << 30) for name in opened.parts}
    change(manifest)
    forgery.raw(path, forgery.dumped(manifest, parts), dict(sorted(parts.items())))
    return str(path)


def image_of(file: Path) -> str:
    """The id of the image that a file's jobs ran."""
    with Archive(file) as opened:
        found: str = opened.manifest["launches"][0]["image"]["id"]
    return found
