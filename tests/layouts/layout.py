"""What the `verify` scripts use: runs caliban as its users do, and says what came of it."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

_PROBE = (Path(__file__).parent / "probe.py").read_text()

# All that was found out, shown when a script fails: its asserts say only what they expected.
_log: list[str] = []


@dataclass(frozen=True)
class Image:
    """An image that caliban has built.

    Attributes:
      id: its id in the engine.
      messages: what caliban wrote on stderr.
    """

    id: str
    messages: str

    @cached_property
    def _found(self) -> dict[str, Any]:
        """What the probe sees in a container of the image, see probe.py."""
        container = ("run", "--rm", "--interactive", "--network", "none", "--user", "0")
        said = _call("docker", *container, "--entrypoint", "python3", self.id, "-", stdin=_PROBE)
        found: dict[str, Any] = json.loads(said.stdout)
        assert found["uncompiled"] == [], f"without bytecode: {found['uncompiled']}"
        assert found["left"] == [], f"left by the installation: {found['left']}"
        return found

    @property
    def packages(self) -> Mapping[str, str]:
        """The versions of the packages that were installed, by their normalised names.

        To ask is to check that each of their modules is compiled, and that no installer is left.
        """
        packages: dict[str, str] = self._found["packages"]
        return packages

    @property
    def files(self) -> set[str]:
        """The files below the working directory, by their paths in it."""
        return {*self._found["files"]} | {*self._found["links"]}

    @property
    def links(self) -> Mapping[str, str]:
        """The symbolic links below the working directory, and where each of them leads."""
        links: dict[str, str] = self._found["links"]
        return links

    def origin(self, package: str) -> Mapping[str, Any]:
        """Where a package came from that is of no index: its direct_url.json."""
        origin: dict[str, Any] = self._found["origins"][package]
        return origin

    def notes(self, *words: str) -> list[str]:
        """The lines of stderr in which all of these words stand."""
        lines = self.messages.splitlines()
        return [line for line in lines if all(word in line for word in words)]


@dataclass(frozen=True)
class Job(Image):
    """A job that has ended, and its image.

    Attributes:
      output: what it wrote on stdout.
    """

    output: str


def run(*args: str, exit_code: int = 0) -> Job:
    """Runs `caliban run --nogpu` with these arguments in the working directory.

    Args:
      args: what follows.
      exit_code: the one that is expected.
    """
    ran = _caliban("run", "--nogpu", *args, exit_code=exit_code)
    [newest, *_] = json.loads(_caliban("status", "--json").stdout)
    return Job(id=newest["image"], messages=ran.stderr, output=ran.stdout)


def build(*args: str) -> Image:
    """Runs `caliban build` with these arguments in the working directory."""
    built = _caliban("build", *args)
    return Image(id=built.stdout.strip(), messages=built.stderr)


def refused(*args: str) -> str:
    """What `caliban run --nogpu` says on stderr where it has to end with an error."""
    ran = _caliban("run", "--nogpu", *args, exit_code=None)
    assert ran.returncode in (1, 2), f"exit code {ran.returncode}"
    assert "Traceback" not in ran.stderr
    return ran.stderr


def _caliban(*args: str, exit_code: int | None = 0) -> subprocess.CompletedProcess[str]:
    # -P: modules of the project may be named as those of Python's library are.
    return _call(sys.executable, "-P", "-m", "caliban", *args, exit_code=exit_code)


def _call(
    *command: str, stdin: str = "", exit_code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, errors="surrogateescape", check=False
    )
    _log.append(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}[{done.returncode}]")
    assert exit_code in (None, done.returncode), f"exit code {done.returncode}"
    return done


def _explain(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    told = "\n".join([*_log, "".join(traceback.format_exception(kind, error, at))])
    sys.stderr.buffer.write(told.encode(errors="backslashreplace"))


sys.excepthook = _explain
