"""Installs Julia, while an image is built: install_julia.py VERSION [PROGRAM].

"1.10" is the newest release of that line, "1.10.4" just that one. It comes from Julia's own server,
or from the mirror of it that $JULIAUP_SERVER names (as for juliaup), and must have the checksum
that is in the server's list of releases. PROGRAM is the link that is made to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

SERVER = "https://julialang-s3.julialang.org"
FOLDER = Path(__file__).resolve().parent
PROGRAM = "/usr/local/bin/julia"


def choose(releases: dict[str, Any], wanted: str, triplet: str) -> dict[str, Any]:
    """What the list of releases says of the newest archive that is wanted."""
    found: dict[str, dict[str, Any]] = {}
    for version, release in releases.items():
        is_of_line = release["stable"] and version.startswith(wanted + ".")
        for file in release["files"] if version == wanted or is_of_line else ():
            if file["triplet"] == triplet and file["url"].endswith(".tar.gz"):
                found[version] = file
    if not found:
        sys.exit(f"error: there is no Julia {wanted} for {triplet}")
    return found[max(found, key=lambda version: [int(part) for part in numbers(version)])]


def numbers(version: str) -> list[str]:
    """The numbers of a version, without what marks one that is no release yet."""
    return version.partition("-")[0].split(".")


def fetch(url: str, stream: IO[bytes]) -> str:
    """Downloads to a stream; returns the SHA-256 of what has come."""
    total = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=180) as answer:
            while block := answer.read(1 << 20):
                total.update(block)
                stream.write(block)
    except OSError as error:
        sys.exit(f"error: cannot download {url}: {getattr(error, 'reason', error)}")
    stream.flush()
    return total.hexdigest()


def main() -> None:
    """Installs the version that the command line names."""
    wanted, program = sys.argv[1], Path((*sys.argv[2:], PROGRAM)[0])
    server = os.environ.get("JULIAUP_SERVER", SERVER).rstrip("/")
    libc = "gnu" if platform.libc_ver()[0] == "glibc" else "musl"
    with tempfile.TemporaryFile() as stream:
        fetch(f"{server}/bin/versions.json", stream)
        stream.seek(0)
        file = choose(json.load(stream), wanted, f"{platform.machine()}-linux-{libc}")
    with tempfile.NamedTemporaryFile() as archive:
        checksum = fetch(f"{server}/bin/{file['url'].partition('/bin/')[2]}", archive)
        if checksum != file["sha256"]:
            sys.exit(f"error: {file['url']} has the checksum {checksum}, not {file['sha256']}")
        with tarfile.open(archive.name) as content:
            folder = content.getnames()[0].partition("/")[0]
            content.extractall(FOLDER)  # from Julia itself, as the checksum says
    if program.is_symlink() or program.exists():
        program.unlink()
    program.symlink_to(FOLDER / folder / "bin" / "julia")
    subprocess.run([program, "--version"], check=True)


if __name__ == "__main__":
    main()
