"""Real images: what is seen of the `docker` program, and who builds them."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from caliban.docker.engine import Engine
from caliban.docker.image.builder import Builder, of_client
from tests.conftest import Caliban
from tests.docker.wire import Wire
from tests.workshop import Workshop, docker


def inspect(image: str) -> dict[str, Any]:
    """What the engine knows of an image."""
    found: list[dict[str, Any]] = json.loads(docker("image", "inspect", image))
    return found[0]


def inside(image: str, command: str) -> str:
    """What a shell command prints in a container of an image, which it runs in as root."""
    return docker("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", command)


def listing(image: str, folders: str, fields: str = "%p %y %m %U:%G %l") -> list[str]:
    """What lies in folders of an image, in the fields of find's -printf."""
    return sorted(inside(image, f"find {folders} -xdev -printf '{fields}\\n'").splitlines())


def saved(image: str) -> Iterator[tuple[str, bytes]]:
    """Every file of `docker save`, unpacked, and the names of the files in its layers."""
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        with tarfile.open(fileobj=child.stdout, mode="r|") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isreg() else None
                content = stream.read() if stream else b""
                if content[:2] == b"\x1f\x8b":
                    content = gzip.decompress(content)
                yield member.name, content
                if content[257:262] == b"ustar":
                    with tarfile.open(fileobj=io.BytesIO(content)) as layer:
                        yield from ((name, b"") for name in layer.getnames())


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Writes files, by their names, with the folders that they are in."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


NO_BUILDKIT = "no `docker` on PATH can use BuildKit: none has the buildx plugin or is older than 23"


def variables_for(builder: Builder, engine: Engine, folder: Path) -> Mapping[str, str]:
    """The variables of the environment that make caliban use a builder.

    Args:
      builder: the one to use.
      engine: where images are built.
      folder: an empty one, which may come to hold the `docker` that caliban finds.
    """
    if builder is Builder.LEGACY:
        return {"DOCKER_BUILDKIT": "0"}
    if of_client(engine) is Builder.BUILDKIT:
        return {}
    outside = os.environ["PATH"]
    for place in outside.split(":"):
        if program := shutil.which("docker", path=place):
            (folder / "docker").unlink(missing_ok=True)
            (folder / "docker").symlink_to(program)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PATH", f"{folder}:{outside}")
                if of_client(engine) is Builder.BUILDKIT:
                    return {"PATH": os.environ["PATH"]}
    pytest.skip(NO_BUILDKIT)


class Build(Protocol):
    """Builds a project's image with `caliban build --nogpu` and returns its id."""

    def __call__(self, *args: str, cwd: Path | None = None) -> str: ...


@pytest.fixture
def build(caliban: Caliban) -> Build:
    """Builds images."""

    def run(*args: str, cwd: Path | None = None) -> str:
        built = caliban("build", "--nogpu", *args, cwd=cwd, timeout=300)
        assert built.returncode == 0, built.stderr
        return built.stdout.strip()

    return run


@dataclass(frozen=True)
class Calls:
    """The calls of `docker` that caliban made, and the build contexts that it sent."""

    log: Path
    context: Path

    @property
    def lines(self) -> list[str]:
        """The arguments of each call, in one line."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def calls(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Puts a `docker` first on PATH that writes down how it is called."""
    found = Calls(tmp_path / "calls", tmp_path / "context")
    program = shutil.which("docker")
    script = (
        f"#!/bin/sh\necho \"$*\" >> '{found.log}'\n"
        f'[ "$1" = build ] || exec \'{program}\' "$@"\n'
        f"tee -a '{found.context}' | '{program}' \"$@\"\n"
    )
    write(tmp_path, {"bin/docker": script})
    (tmp_path / "bin/docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return found


@pytest.fixture
def wire(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """Writes down what is sent to the engine."""
    found = Wire(tmp_path / "wire", engine.host)
    monkeypatch.setenv("DOCKER_HOST", found.host)
    yield found
    found.close()


class Somebody(Protocol):
    """Runs caliban as the user with this number, who has a home directory of their own."""

    def __call__(
        self, uid: int, *args: str, cwd: Path, home: Path
    ) -> subprocess.CompletedProcess[str]: ...


@dataclass(frozen=True)
class Others:
    """How programs are run as other users, who may use Docker.

    Attributes:
      python: an interpreter that they may use, and that has what caliban needs.
      groups: those that every user is in.
      search: where it finds caliban.
    """

    python: str
    groups: list[int]
    search: str

    def options(self, uid: int) -> dict[str, Any]:
        """The options of subprocess.run that make a program run as the user with this number."""
        # Settings of Docker that they can't read would be warned of.
        kept = {name: value for name, value in os.environ.items() if name != "DOCKER_CONFIG"}
        env = {**kept, "PYTHONPATH": self.search, "PYTHONDONTWRITEBYTECODE": "1"}
        return {"user": uid, "group": uid, "extra_groups": self.groups, "env": env}


@pytest.fixture
def others(engine: Engine, workshop: Workshop) -> Others:
    """Other users."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    socket = Path(engine.host.removeprefix("unix://"))
    groups = [socket.stat().st_gid] if stat.S_ISSOCK(socket.stat().st_mode) else []
    search = f"{Path(__file__).parents[2]}:{sysconfig.get_path('purelib')}"

    def interpreter() -> str:
        """One that others may use as well, which that of root's home directory is not."""
        for name in (sys.executable, shutil.which("python3", path="/usr/local/bin:/usr/bin")):
            modules = "import caliban.main, absl, docker, sqlalchemy, schema, tqdm, yaml"
            if name is None:
                continue
            options = Others(name, groups, search).options(12345)
            try:
                tried = subprocess.run([name, "-c", modules], cwd="/", check=False, **options)
            except PermissionError:
                continue
            if tried.returncode == 0:
                return name
        pytest.skip("no Python here can be used by others and has caliban's dependencies")

    return Others(workshop.once("interpreter", interpreter), groups, search)


@pytest.fixture
def somebody(others: Others) -> Somebody:
    """Runs caliban as another user, who may use Docker."""

    def run(uid: int, *args: str, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
        options = others.options(uid)
        options["env"] |= {"HOME": str(home), "USER": f"user{uid}", "LOGNAME": f"user{uid}"}
        command = [others.python, "-m", "caliban", *args]
        return subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False, **options
        )

    return run


@pytest.fixture
def public() -> Iterator[Path]:
    """An empty folder that others can reach, too, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


SETUP = """\
from setuptools import find_packages, setup

setup(
    name="everything",
    version="1.2",
    long_description=open("README.md").read(),
    packages=find_packages(),
    install_requires=["six"],
    extras_require={"cpu": ["toml==0.10.2"], "gpu": ["no-such-thing"], "more": ["iniconfig"]},
)
"""

PROJECT = {
    "requirements.txt": "# What it takes:\n-r parts/base requirements.txt\n",
    "parts/base requirements.txt": "six==1.16.0\n",
    "setup.py": SETUP,
    "README.md": "Read me.\n",
    "pyproject.toml": "[build-system]\nrequires = ['setuptools']\n\n[tool.ruff]\n",
    ".calibanconfig.json": '{"apt_packages": ["sl"]}',
    ".dockerignore": "**/*.log\ntrainer/local\n",
    "trainer/__init__.py": "",
    "trainer/train.py": "import six, toml, iniconfig\nprint('trained')\n",
    "trainer/sub/helper.py": "",
    "trainer/train.log": "",
    "trainer/local/secret": "",
    "trainer/__pycache__/train.cpython-311.pyc": "",
    "trainer/env/pyvenv.cfg": "",
    "my data/all of [it]/numbers $1.txt": "1 2 3",
    "my data/not this": "",
    "other/module.py": "",
}

EVERYTHING = (
    *("build", "--nogpu", "-e", "more", "-e", "missing", "-d", "my data/all of [it]"),
    "trainer.train",
)


@dataclass(frozen=True)
class Built:
    """An image, the project that it was built from, and what caliban said on stderr."""

    image: str
    project: Path
    messages: str


@pytest.fixture
def everything(
    workshop: Workshop, caliban: Caliban, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    """The image of a project that declares something of every kind."""

    def make() -> Built:
        folder = tmp_path_factory.mktemp("everything")
        write(folder, {**PROJECT, "trainer/sub/unique": workshop.id})
        with (folder / "requirements.txt").open("a") as file:
            file.write(f"# {workshop.id}\n")
        built = caliban(*EVERYTHING, cwd=folder, timeout=300)
        assert built.returncode == 0, built.stderr
        return Built(built.stdout.strip(), folder, built.stderr)

    return workshop.once("everything", make)
