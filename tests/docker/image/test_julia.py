"""Julia in an image: which release it is, and that it is what Julia's server says it is."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from caliban.docker.image.context import RESOURCES

SCRIPT = RESOURCES / "julia" / "install_julia.py"
TRIPLET = f"{platform.machine()}-linux-gnu"

VERSIONS = ["1.9.4", "1.10.0", "1.10.2", "1.10.10", "1.11.0-rc1", "1.1.1"]


def archive(version: str) -> bytes:
    """An archive like those of Julia, with a program that knows its version and nothing else."""
    stream = io.BytesIO()
    program = f"#!/bin/sh\necho julia version {version}\n".encode()
    with tarfile.open(fileobj=stream, mode="w:gz") as content:
        header = tarfile.TarInfo(f"julia-{version}/bin/julia")
        header.size, header.mode = len(program), 0o755
        content.addfile(header, io.BytesIO(program))
    return stream.getvalue()


def mirror(folder: Path, changes: Mapping[str, Any]) -> str:
    """A server of Julia's releases; what its list says of their archives can be changed."""
    releases = {}
    for version in VERSIONS:
        line = ".".join(version.split(".")[:2])
        path = folder / f"bin/linux/x64/{line}/julia-{version}-linux.tar.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(archive(version))
        url = f"https://julialang-s3.julialang.org/{path.relative_to(folder)}"
        file = {"triplet": TRIPLET, "url": url, "kind": "archive"}
        file["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        installer = {**file, "url": f"{url.removesuffix('.tar.gz')}.exe", "sha256": "0"}
        other = {**file, "triplet": "x86_64-w64-mingw32", "sha256": "0"}
        files = [other, {**file, **changes}, installer]
        releases[version] = {"stable": "-" not in version, "files": files}
    (folder / "bin" / "versions.json").write_text(json.dumps(releases))
    return folder.as_uri()


def install(
    folder: Path, wanted: str, server: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Runs a copy of the script, as an image would."""
    place = folder / "opt" / "julia"
    place.mkdir(parents=True)
    (place / SCRIPT.name).write_bytes(SCRIPT.read_bytes())
    program = folder / "julia"
    done = subprocess.run(
        [sys.executable, place / SCRIPT.name, wanted, program],
        env={**os.environ, "JULIAUP_SERVER": server},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, program


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        ("1.10", "1.10.10"),
        ("1.10.2", "1.10.2"),
        ("1", "1.10.10"),
        ("1.1", "1.1.1"),
        ("1.11.0-rc1", "1.11.0-rc1"),
    ],
)
def test_the_newest_release_of_a_line_is_installed(
    tmp_path: Path, wanted: str, version: str
) -> None:
    done, program = install(tmp_path, wanted, mirror(tmp_path / "mirror", {}))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"julia version {version}\n"
    answer = subprocess.check_output([program, "--version"], text=True)
    assert answer == f"julia version {version}\n"


def test_an_archive_with_another_checksum_is_not_unpacked(tmp_path: Path) -> None:
    server = mirror(tmp_path / "mirror", {"sha256": "f" * 64})
    done, program = install(tmp_path, "1.10.2", server)
    assert done.returncode == 1
    assert "julia-1.10.2-linux.tar.gz has the checksum " in done.stderr
    assert done.stderr.endswith(f", not {'f' * 64}\n")
    assert not program.exists()
    assert [path.name for path in (tmp_path / "opt" / "julia").iterdir()] == [SCRIPT.name]


@pytest.mark.parametrize("wanted", ["1.12", "1.11", "1.10.3", "2"])
def test_a_version_that_there_is_not_is_said(tmp_path: Path, wanted: str) -> None:
    done, _ = install(tmp_path, wanted, mirror(tmp_path / "mirror", {}))
    assert done.returncode == 1
    assert done.stderr == f"error: there is no Julia {wanted} for {TRIPLET}\n"


def test_a_machine_without_a_julia_is_told(tmp_path: Path) -> None:
    done, _ = install(tmp_path, "1.10", mirror(tmp_path / "mirror", {"triplet": "i686-linux-gnu"}))
    assert done.stderr == f"error: there is no Julia 1.10 for {TRIPLET}\n"


def test_a_server_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    done, _ = install(tmp_path, "1.10", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "error: cannot download http://127.0.0.1:9/bin/versions.json: " in done.stderr
    assert "Traceback" not in done.stderr
