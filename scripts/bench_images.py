"""What an image costs, beside a plain Dockerfile that the same builder builds in the same run."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import statistics
import subprocess
import sysconfig
import time
import uuid
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import Row

from caliban.docker.engine import Engine
from caliban.docker.image import builder
from caliban.docker.image.dockerfile import Section
from caliban.docker.image.order import Order, carry_out

PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "matplotlib", "absl-py", "tqdm")

# One package more, which changes what has to be resolved and installed.
MORE = "tabulate"

ROUNDS = 3

# caliban as it is, but for the names of the folder that uv is lent, and of the image that lends uv:
# each round begins with neither.
CALIBAN = """
import sys
from caliban.docker.image import lent_uv, uv
from caliban.main import main
lent_uv.LABEL = sys.argv.pop(1)
uv.MOUNT = uv.MOUNT.replace(uv.CACHE, lent_uv.LABEL)
sys.exit(main())
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
    """A builder of `docker build`.

    Attributes:
      name: what it is called in the table.
      environment: that of `docker`, which makes it build so.
    """

    name: str
    environment: Mapping[str, str]


def building(folder: Path) -> Iterator[Row]:
    """Images, built from nothing, after a change of the requirements and after one of the code."""
    references = list(builders(folder))
    seconds: dict[str, list[list[float]]] = {}
    for number in range(ROUNDS):
        with Round(folder / f"round-{number}", references) as measuring:
            for name, measured in measuring.measure():
                seconds.setdefault(name, []).append(measured)
    bounds = {"cold": 1 / 2, "one requirement more": 1 / 3, "code edited": 1.0}
    for name, rounds in seconds.items():
        ours, *plain = (statistics.median(each) for each in zip(*rounds, strict=True))
        for one, reference in zip(references, plain, strict=True):
            yield Row(f"{name}, beside {one.name}", f"{ours:.2f} s",
                      f"plain Dockerfile: {reference:.2f} s", ours / reference,
                      bounds[name])  # fmt: skip


def installed(folder: Path) -> str:
    """A Python that has caliban as an ordinary installation has it.

    What is installed for development is found by a hook, which every start of Python pays for.
    """
    if not (place := folder / "venv").exists():
        venv.create(place, symlinks=True)
        purelib = sysconfig.get_path("purelib", vars={"base": str(place)})
        paths = (str(Path(__file__).parents[1]), sysconfig.get_path("purelib"))
        Path(purelib, "caliban.pth").write_text("\n".join(paths))
    return str(place / "bin/python")


def environment(**more: str) -> dict[str, str]:
    """The environment of what is measured: Python keeps bytecode, and caliban's builder is its own.

    Args:
      more: further variables.
    """
    left_out = ("PYTHONDONTWRITEBYTECODE", "DOCKER_BUILDKIT")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, **more}


def unchanged(folder: Path) -> Iterator[Row]:
    """A project that has its image already: when its output begins."""
    project = folder / "unchanged"
    project.mkdir()
    (project / "requirements.txt").write_text("absl-py\n")
    (project / "train.py").write_text("print('begins', flush=True)\n")
    caliban = [installed(folder), "-m", "caliban"]
    build = [*caliban, "build", "--nogpu", "train.py"]
    built = subprocess.run(build, cwd=project, check=True, text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, env=environment())  # fmt: skip
    run = [*caliban, "run", "--nogpu", "train.py"]
    bare = ["docker", "run", "--rm", built.stdout.strip()]
    first_line(run, project)  # which compiles what caliban imports
    pairs = [(first_line(run, project), first_line(bare, project)) for _ in range(11)]
    ours, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    yield Row("an unchanged project's first line", f"{ours:.2f} s", f"docker run: {theirs:.2f} s",
              ours / theirs, 2.5)  # fmt: skip


def first_line(command: Sequence[str], folder: Path) -> float:
    """Seconds until a program has printed a line."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
    ) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        seconds = time.perf_counter() - start
        child.stdout.read()
    assert line, f"{command} has printed nothing"
    return seconds


def builders(folder: Path) -> Iterator[Builder]:
    """The builders that the programs on PATH can use."""
    engine, outside = Engine(), os.environ["PATH"]
    for place in outside.split(os.pathsep):
        if program := shutil.which("docker", path=place):
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin/docker").unlink(missing_ok=True)
            (folder / "bin/docker").symlink_to(program)
            os.environ["PATH"] = path = f"{folder / 'bin'}{os.pathsep}{outside}"
            can = builder.of_client(engine) is builder.Builder.BUILDKIT
            os.environ["PATH"] = outside
            if can:
                yield Builder("BuildKit", {"DOCKER_BUILDKIT": "1", "PATH": path})
                break
    yield Builder("the legacy builder", {"DOCKER_BUILDKIT": "0"})


class Round(contextlib.ExitStack):
    """A project on a base image of its own, for which no layer is there yet."""

    def __init__(self, folder: Path, references: Sequence[Builder]) -> None:
        super().__init__()
        self.name = f"caliban-bench-{uuid.uuid4().hex[:12]}"
        self.folder, self.references = folder / "project", references
        self.python = installed(folder.parent)
        self.environment = environment(
            CALIBAN_BASE_IMAGE=f"{self.name}:base", HOME=str(folder / "home")
        )

    def __enter__(self) -> Round:
        super().__enter__()
        for each in (Path(self.environment["HOME"]), self.folder):
            each.mkdir(parents=True)
        base = os.environ.get("CALIBAN_BASE_IMAGE") or "python:3.12-slim-bookworm"
        # Not the label alone: BuildKit finds the layers of other rounds by what they hold.
        text = f"FROM {base}\nLABEL {self.name}=\nRUN echo {self.name} > /round\n"
        legacy = {"DOCKER_BUILDKIT": "0"}
        self.docker("build", "--tag", f"{self.name}:base", "-", stdin=text, more=legacy)
        self.callback(self._remove)
        return self

    def measure(self) -> Iterator[tuple[str, list[float]]]:
        """What was done, with the seconds that ours took, and then the plain ones."""
        self._write(PACKAGES, 0)
        yield "cold", self._all()
        self._write((*PACKAGES, MORE), 0)
        yield "one requirement more", self._all()
        edits = []
        for number in range(1, 6):
            self._write((*PACKAGES, MORE), number)
            edits.append(self._all())
        yield "code edited", [statistics.median(each) for each in zip(*edits, strict=True)]

    def docker(self, *args: str, stdin: str = "", more: Mapping[str, str] | None = None) -> str:
        """Runs docker, and returns what it prints."""
        variables = {**self.environment, **(more or {})}
        done = subprocess.run(["docker", *args], input=stdin, env=variables, cwd=self.folder,
                              check=True, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)  # fmt: skip
        return done.stdout.strip()

    def _write(self, packages: tuple[str, ...], number: int) -> None:
        (self.folder / "requirements.txt").write_text("".join(f"{each}\n" for each in packages))
        (self.folder / "train.py").write_text(f"print({number})\n")
        (self.folder / "Dockerfile").write_text(PLAIN.format(base=f"{self.name}:base"))

    def _all(self) -> list[float]:
        return [self._ours(), *map(self._plain, self.references)]

    def _ours(self) -> float:
        command = [self.python, "-c", CALIBAN, self.name, "build", "--nogpu", "train.py"]
        start = time.perf_counter()
        built = subprocess.run(command, env=self.environment, cwd=self.folder, check=True,
                               text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)  # fmt: skip
        seconds = time.perf_counter() - start
        image = built.stdout.strip()
        self.docker("run", "--rm", "--entrypoint", "python", image, "-c", COMPILED)
        return seconds

    def _plain(self, reference: Builder) -> float:
        start = time.perf_counter()
        tag = f"{self.name}:plain"
        self.docker("build", "--quiet", "--tag", tag, ".", more=reference.environment)
        return time.perf_counter() - start

    def _remove(self) -> None:
        # BuildKit's folder of that name can't be removed by itself, but it can be emptied.
        mount = f"--mount=type=cache,id={self.name},target=/lent"
        steps = (f"FROM {self.name}:base", f"RUN {mount} rm -rf /lent/*")
        with contextlib.redirect_stderr(io.StringIO()):
            empty = Order(builder.Builder.BUILDKIT, [Section("Empty it", steps)], [])
            self.docker("rmi", carry_out(empty, Engine()))
        for _ in range(9):  # an image goes only after those that were built on it
            images = ("images", "--all", "--quiet", "--filter", f"label={self.name}")
            if found := dict.fromkeys(self.docker(*images).split()):
                with contextlib.suppress(subprocess.CalledProcessError):
                    self.docker("rmi", "--force", *found)
