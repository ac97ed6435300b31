"""What an image costs, beside a plain Dockerfile that the same builder builds in the same run."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import Row

PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "matplotlib", "absl-py", "tqdm")

# One package more, which changes what has to be resolved and installed.
MORE = "tabulate"

ROUNDS = 3

# caliban as it is, but for the name of the folder that uv is lent: each round begins with none.
CALIBAN = """
import sys
from caliban.docker.image import uv
from caliban.main import main
uv.MOUNT = uv.MOUNT.replace(uv.CACHE, sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""

PLAIN = """\
FROM {base}
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /usr/app
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt
COPY train.py ./
ENTRYPOINT ["python", "train.py"]
"""

# Ends with an error if a package has no bytecode.
COMPILED = (
    "import importlib.util as u, os, sys; sys.exit(any(not os.path.exists(u.cache_from_source("
    "u.find_spec(name).origin)) for name in "
    "('numpy', 'scipy', 'pandas', 'sklearn', 'matplotlib', 'absl', 'tqdm')))"
)


@dataclass(frozen=True)
class Builder:
    """A way to build.

    Attributes:
      name: what it is called in the table.
      environment: that of `docker`, which makes it build so.
    """

    name: str
    environment: Mapping[str, str]


def building(folder: Path) -> Iterator[Row]:
    """Images, built from nothing, after a change of the requirements and after one of the code."""
    for builder in builders(folder):
        rounds: dict[str, list[tuple[float, float]]] = {}
        for number in range(ROUNDS):
            with Round(folder / f"{builder.name}-{number}", builder) as one:
                for name, pair in one.measure():
                    rounds.setdefault(name, []).append(pair)
        bounds = {"cold": 1 / 2, "one requirement more": 1 / 3, "code edited": 1.0}
        for name, pairs in rounds.items():
            ours, plain = (statistics.median(each) for each in zip(*pairs, strict=True))
            yield Row(f"{builder.name}: {name}", f"{ours:.2f} s",
                      f"plain Dockerfile: {plain:.2f} s", ours / plain, bounds[name])  # fmt: skip


def unchanged(folder: Path) -> Iterator[Row]:
    """A project that has its image already: when its output begins."""
    project = folder / "unchanged"
    project.mkdir()
    (project / "requirements.txt").write_text("absl-py\n")
    (project / "train.py").write_text("print('begins', flush=True)\n")
    caliban = [sys.executable, "-m", "caliban"]
    build = [*caliban, "build", "--nogpu", "train.py"]
    built = subprocess.run(build, cwd=project, check=True, text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL)  # fmt: skip
    run = [*caliban, "run", "--nogpu", "train.py"]
    bare = ["docker", "run", "--rm", built.stdout.strip()]
    pairs = [(first_line(run, project), first_line(bare, project)) for _ in range(11)]
    ours, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    yield Row("an unchanged project's first line", f"{ours:.2f} s", f"docker run: {theirs:.2f} s",
              ours / theirs, 2.5)  # fmt: skip


def first_line(command: Sequence[str], folder: Path) -> float:
    """Seconds until a program has printed a line."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        seconds = time.perf_counter() - start
        child.stdout.read()
    assert line, f"{command} has printed nothing"
    return seconds


def builders(folder: Path) -> Iterator[Builder]:
    """The builders that the programs on PATH can use: that which caliban uses by itself first."""
    from caliban.docker.engine import Engine
    from caliban.docker.image import builder

    engine = Engine()
    if builder.detect(engine) is builder.Builder.BUILDKIT:
        yield Builder("BuildKit", {"DOCKER_BUILDKIT": "1"})
        yield Builder("legacy builder", {"DOCKER_BUILDKIT": "0"})
        return
    yield Builder("legacy builder", {"DOCKER_BUILDKIT": "0"})
    # An older client carries BuildKit in itself.
    for place in os.environ["PATH"].split(os.pathsep):
        if program := shutil.which("docker", path=place):
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin/docker").unlink(missing_ok=True)
            (folder / "bin/docker").symlink_to(program)
            path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
            outside, os.environ["PATH"] = os.environ["PATH"], path
            found = builder.detect(engine)
            os.environ["PATH"] = outside
            if found is builder.Builder.BUILDKIT:
                yield Builder("BuildKit", {"DOCKER_BUILDKIT": "1", "PATH": path})
                return


class Round(contextlib.ExitStack):
    """A project on a base image of its own, for which no layer is there yet."""

    def __init__(self, folder: Path, builder: Builder) -> None:
        super().__init__()
        self.name = f"caliban-bench-{uuid.uuid4().hex[:12]}"
        self.home, self.folder = folder / "home", folder / "project"
        self.environment = {
            **os.environ,
            **builder.environment,
            "CALIBAN_BASE_IMAGE": f"{self.name}:base",
            "HOME": str(self.home),
        }

    def __enter__(self) -> Round:
        super().__enter__()
        for each in (self.home, self.folder):
            each.mkdir(parents=True)
        base = os.environ.get("CALIBAN_BASE_IMAGE") or "python:3.12-slim-bookworm"
        self.docker("build", "--tag", f"{self.name}:base", "-", stdin=self._text(base))
        self.callback(self._remove)
        return self

    def measure(self) -> Iterator[tuple[str, tuple[float, float]]]:
        """What was done, with the seconds that ours and the plain one took."""
        self._write(PACKAGES, 0)
        yield "cold", self._pair()
        self._write((*PACKAGES, MORE), 0)
        yield "one requirement more", self._pair()
        edits = []
        for number in range(1, 6):
            self._write((*PACKAGES, MORE), number)
            edits.append(self._pair())
        ours, plain = zip(*edits, strict=True)
        yield "code edited", (statistics.median(ours), statistics.median(plain))

    def docker(self, *args: str, stdin: str = "") -> str:
        """Runs docker, and returns what it prints."""
        done = subprocess.run(["docker", *args], input=stdin, env=self.environment, check=True,
                              cwd=self.folder, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)  # fmt: skip
        return done.stdout.strip()

    def _text(self, base: str) -> str:
        # Not the label alone: BuildKit finds the layers of other rounds by what they hold.
        return f"FROM {base}\nLABEL {self.name}=\nRUN echo {self.name} > /round\n"

    def _write(self, packages: tuple[str, ...], number: int) -> None:
        (self.folder / "requirements.txt").write_text("".join(f"{each}\n" for each in packages))
        (self.folder / "train.py").write_text(f"print({number})\n")
        (self.folder / "Dockerfile").write_text(PLAIN.format(base=f"{self.name}:base"))

    def _pair(self) -> tuple[float, float]:
        return self._ours(), self._plain()

    def _ours(self) -> float:
        command = [sys.executable, "-c", CALIBAN, self.name, "build", "--nogpu", "train.py"]
        start = time.perf_counter()
        built = subprocess.run(command, env=self.environment, cwd=self.folder, check=True,
                               text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)  # fmt: skip
        seconds = time.perf_counter() - start
        image = built.stdout.strip()
        self.docker("run", "--rm", "--entrypoint", "python", image, "-c", COMPILED)
        return seconds

    def _plain(self) -> float:
        start = time.perf_counter()
        self.docker("build", "--quiet", "--tag", f"{self.name}:plain", ".")
        return time.perf_counter() - start

    def _remove(self) -> None:
        # BuildKit's folder of that name can't be removed by itself, but it can be emptied.
        if self.environment["DOCKER_BUILDKIT"] == "1":
            mount = f"--mount=type=cache,id={self.name},target=/lent"
            text = f"{self._text(f'{self.name}:base')}RUN {mount} rm -rf /lent/*\n"
            self.docker("build", "--tag", f"{self.name}:empty", "-", stdin=text)
        for _ in range(9):  # an image goes only after those that were built on it
            images = ("images", "--all", "--quiet", "--filter", f"label={self.name}")
            if found := dict.fromkeys(self.docker(*images).split()):
                with contextlib.suppress(subprocess.CalledProcessError):
                    self.docker("rmi", "--force", *found)
        with contextlib.suppress(subprocess.CalledProcessError):
            self.docker("volume", "rm", self.name)
