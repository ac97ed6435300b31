"""A private index of packages, and a git repository beside it, that ask for a password.

The server runs in a container, as the steps of a build reach it there, and nobody else does.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import subprocess
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.tarball import packed
from tests.workshop import docker

USER = "me"
PORT = 8000

# Gives what lies in /srv to those who know the password.
_SERVER = """
import base64, http.server, os
wanted = "Basic " + base64.b64encode(os.environ["ACCOUNT"].encode()).decode()
class Handler(http.server.SimpleHTTPRequestHandler):
    def send_head(self):
        if self.headers.get("Authorization") == wanted:
            return super().send_head()
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="private"')
        self.send_header("Content-Length", "0")
        self.end_headers()
os.chdir("/srv")
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""

# A build backend that needs nothing: its wheel holds one module, which says what it was built with.
_BACKEND = """
import os, socket, zipfile

def agent():
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.environ["SSH_AUTH_SOCK"])
        client.sendall(bytes([0, 0, 0, 1, 11]))
        return client.makefile("rb").read(5)[4]

def build_wheel(folder, settings=None, metadata=None):
    seen = {
        "agent": agent() if "SSH_AUTH_SOCK" in os.environ else None,
        "ids": sorted(os.listdir("/run/secrets")) if os.path.isdir("/run/secrets") else [],
    }
    info = "fromgit-1.0.dist-info"
    texts = {
        "fromgit.py": f"SEEN = {seen!r}",
        f"{info}/METADATA": "Metadata-Version: 2.1\\nName: fromgit\\nVersion: 1.0\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        f"{info}/RECORD": "",
    }
    name = "fromgit-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for each, text in texts.items():
            wheel.writestr(each, text)
    return name
"""
_PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "fromgit"
version = "1.0"
"""


@dataclass(frozen=True)
class PrivateIndex:
    """A server that runs.

    Attributes:
      host: its address.
      place: its address, with the port and the folder that everything is in.
      password: that of USER.
      container: in which it runs.
    """

    host: str
    place: str
    password: str
    container: str

    @property
    def asked(self) -> str:
        """What it was asked, line by line."""
        done = subprocess.run(
            ["docker", "logs", self.container], capture_output=True, text=True, check=True
        )
        return done.stderr


@contextlib.contextmanager
def serving(image: str, password: str, folder: Path) -> Iterator[PrivateIndex]:
    """Runs a server with the packages `fromindex`, on the index, and `fromgit`, in a repository.

    Args:
      image: one with Python.
      password: that of USER.
      folder: an empty one.
    """
    variables = ("--env", f"ACCOUNT={USER}:{password}")
    command = ("--entrypoint", "python3", image, "-uc", _SERVER)
    container = docker("create", *variables, *command).strip()
    try:
        # Addresses are given to other containers later, with other packages.
        name = uuid.uuid4().hex
        content = packed({f"{name}/{each}": text for each, text in _files(folder).items()})
        subprocess.run(["docker", "cp", "-", f"{container}:/srv"], input=content, check=True)
        docker("start", container)
        address = "{{.NetworkSettings.IPAddress}}"
        host = docker("inspect", "--format", address, container).strip()
        yield PrivateIndex(host, f"{host}:{PORT}/{name}", password, container)
    finally:
        docker("rm", "--force", container)


def _files(folder: Path) -> dict[str, bytes]:
    wheel, name = io.BytesIO(), "fromindex-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        info = "fromindex-1.0.dist-info"
        texts = {
            "fromindex.py": "VALUE = 42\n",
            f"{info}/METADATA": "Metadata-Version: 2.1\nName: fromindex\nVersion: 1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
        }
        for each, text in texts.items():
            archive.writestr(each, text)
    digest = hashlib.sha256(wheel.getvalue()).hexdigest()
    page = f'<a href="../../{name}#sha256={digest}">{name}</a>'
    found = {name: wheel.getvalue(), "simple/fromindex/index.html": page.encode()}
    for each, content in _repository(folder).items():
        found[f"fromgit.git/{each}"] = content
    return found


def _repository(folder: Path) -> Mapping[str, bytes]:
    """The files of a repository, as git takes them from any server that has files."""
    for name, text in {"backend.py": _BACKEND, "pyproject.toml": _PYPROJECT}.items():
        (folder / name).write_text(text)
    commands = (
        "git init --quiet --initial-branch=main . && git add . && "
        "git -c user.name=me -c user.email=me@example.com commit --quiet --message=1 && "
        "git clone --quiet --bare . bare.git && git -C bare.git update-server-info"
    )
    subprocess.run(["sh", "-euc", commands], cwd=folder, check=True)
    bare = folder / "bare.git"
    return {
        path.relative_to(bare).as_posix(): path.read_bytes()
        for path in bare.rglob("*")
        if path.is_file()
    }
