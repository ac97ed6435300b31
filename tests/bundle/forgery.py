"""Files of experiments as their writer, or somebody with bad intentions, makes them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from caliban.bundle import archive
from caliban.model.image import ImagePlan, Mode
from caliban.model.module import Kind, Module

Manifest = dict[str, Any]
Change = Callable[[Manifest, dict[str, bytes]], object]

TRAIN, INIT, SCRIPT, LINK = b"print('trained')\n", b"", b"exec true\n", b"run.sh"
LOCK = f"# Python 3.11\n# Resolved from {'0' * 32}\nabsl-py==2.3.1\n"


def part_of(content: bytes) -> str:
    """The name of the part of a file of the code."""
    return f"files/{hashlib.sha256(content).hexdigest()}"


def honest() -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the parts of a file with two experiments."""
    plan = ImagePlan(
        Mode.CPU,
        "debian:12",
        "/home/ada/digits",
        Module(Kind.PYTHON_MODULE, "trainer.train", "trainer"),
        requirements=("requirements.txt",),
    ).to_json()
    code = {
        "requirements.txt": ("file", b"absl-py\n"),
        "trainer/__init__.py": ("file", INIT),
        "trainer/train.py": ("file", TRAIN),
        "trainer/run.sh": ("program", SCRIPT),
        "trainer/start": ("link", LINK),
    }
    parts = {part_of(content): content for _, content in code.values()}
    parts["launches/0/Dockerfile"] = b"FROM debian:12\n"
    parts["launches/0/requirements.lock"] = LOCK.encode()
    listed = [
        {"path": path, "kind": kind, "part": part_of(content)}
        for path, (kind, content) in code.items()
    ]
    names = ("cpu", "driver", "engine", "host", "kernel", "system")
    launch = {
        "version": "1.0",
        "command": "run",
        "flags": {"nogpu": True},
        "variables": ["PYTHONUNBUFFERED"],
        "plan": {**plan, "lock": "launches/0/requirements.lock"},
        "dockerfile": "launches/0/Dockerfile",
        "code": [*listed, {"path": "trainer/data", "kind": "folder"}],
        "source": {"digest": "", "note": "", "repository": None},
        "image": {
            **dict.fromkeys(("id", "base_id"), "sha256:" + "0" * 64),
            "name": "caliban:cpu-0",
            "digest": "",
            "base": "debian:12",
            "base_digest": "",
        },
        "machine": {**dict.fromkeys(names, ""), "cpus": 4, "memory": 0, "gpus": []},
    }
    job: Manifest = {
        "launch": 0,
        "args": [],
        "platform": "local",
        "status": "SUCCEEDED",
        "exit_code": 0,
        "reason": "",
        "cause": "",
        "metrics": {"accuracy": 0.5},
        "log": None,
        **dict.fromkeys(("created", "started", "finished"), "2026-11-21T14:00:00+00:00"),
    }
    jobs = [{**job, "job": number, "params": [["rate", 0.1 * number]]} for number in (1, 2)]
    return {"caliban": "1.0", "group": "tries", "launches": [launch], "jobs": jobs}, parts


def write(path: Path, change: Change = lambda manifest, parts: None) -> None:
    """Writes a file whose digests fit, whatever it says.

    Args:
      path: of the file.
      change: is given the manifest and the parts, and makes of them what it likes.
    """
    manifest, parts = copy.deepcopy(honest())
    change(manifest, parts)
    archive.write(path, manifest, parts)


def raw(path: Path, manifest: bytes, parts: Mapping[str, bytes]) -> None:
    """Writes a file with any text as its manifest, and any parts in any order."""
    with path.open("wb") as stream:
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}\n".encode()
        archive._put(stream, archive.DIGEST, digest)
        archive._put(stream, archive.MANIFEST, manifest)
        for name, content in parts.items():
            archive._put(stream, name, content)
        stream.write(archive._END)


def entry(name: str, content: bytes) -> Manifest:
    """How a manifest lists a part."""
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def dumped(manifest: Manifest, parts: Mapping[str, bytes]) -> bytes:
    """The text of a manifest with its parts, as it is written."""
    whole = {"format": archive.FORMAT, "version": archive.VERSION, **manifest}
    whole["parts"] = [entry(name, parts[name]) for name in sorted(parts)]
    return json.dumps(whole).encode()
