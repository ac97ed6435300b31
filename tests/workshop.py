"""Real images for tests, and the removal of whatever was made from them.

Everything is built on a base image that carries a label of the test session, which every image and
container made from it inherits: by that label all of it is found and removed when the session ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from caliban.config import Config
from caliban.docker import debris
from caliban.docker.engine import Engine
from caliban.model.image import Mode

T = TypeVar("T")

_PRUNE = "docker builder prune --force --all"


def docker(*args: str, stdin: str = "", check: bool = True) -> str:
    """Runs the `docker` program and returns what it prints on stdout."""
    done = subprocess.run(
        ["docker", *args], input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or not check, f"docker {args}: {done.stderr}"
    return done.stdout


class Workshop:
    """What the tests of a session share: images that are made when they are first asked for."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.label = f"caliban.test={self.id}"
        self._made: dict[str, Any] = {}
        self._environment: dict[str, str] = {}
        self._layers: set[str] = set()

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` returned when something of this name was first asked for."""
        if name not in self._made:
            self._made[name] = make()
        found: T = self._made[name]
        return found

    def base(self, name: str, steps: str = "") -> str:
        """The base image of the tests, marked as the session's, after some more steps."""

        def make() -> str:
            if not self._environment:
                # As long as it is open, other sessions see that there is one.
                file = Path(tempfile.gettempdir(), "caliban-tests.lock")
                self._presence = file.open("w")
                fcntl.flock(self._presence, fcntl.LOCK_SH)
                self._environment, self._layers = dict(os.environ), layers_of_buildkit()
            tag = f"caliban-test-{self.id}:{name}"
            original = Config().base_image(Mode.CPU, os.environ)
            key, _, value = self.label.partition("=")
            text = f"FROM {original}\nLABEL {key}={value}\n{steps}"
            # Looking for what is there already fails if another session removes it just then.
            docker("build", "--no-cache", "--force-rm", "--tag", tag, "-", stdin=text)
            return tag

        return self.once(f"base {name}", make)

    def containers(self, *flags: str) -> list[str]:
        """The ids of the session's containers, running or, with --all, not.

        Those of pods are not among them: a cluster removes them in its own time.
        """
        shown = ("--format", '{{.ID}} {{.Label "io.kubernetes.pod.uid"}}')
        lines = docker("ps", "--filter", f"label={self.label}", *shown, *flags).splitlines()
        return [line.strip() for line in lines if " " not in line.strip()]

    def clear(self) -> None:
        """Removes everything that was made."""
        if not self._environment:
            return
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._environment.items():
                patch.setenv(name, value)
            everything = ("ps", "--all", "--quiet", "--filter", f"label={self.label}")
            for container in docker(*everything).split():
                docker("rm", "--force", container, check=False)
            images = ("images", "--all", "--quiet", "--filter", f"label={self.label}")
            for _ in range(9):  # an image goes only after those that were built on it
                if not (found := dict.fromkeys(docker(*images).split())):
                    break
                docker("rmi", "--force", *found, check=False)
            assert docker(*images) == ""
            with contextlib.suppress(BlockingIOError), self._presence:
                # Otherwise, what is new may be another session's, which goes on from there.
                fcntl.flock(self._presence, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if new := layers_of_buildkit() - self._layers:
                    self._prune(new)

    def _prune(self, layers: set[str]) -> None:
        """Begins to remove layers of BuildKit's, which takes up to a minute; nobody waits for it.

        But for the next session: what removes them has the lock until it is done.
        """
        subprocess.run(
            ["sh", "-c", f'{_PRUNE} --filter "$0" >/dev/null 2>&1 &', f"id={'|'.join(layers)}"],
            pass_fds=[self._presence.fileno()],
            start_new_session=True,
            check=True,
        )


def layers_of_buildkit() -> set[str]:
    """What BuildKit keeps for later builds, except what it has downloaded."""
    engine = Engine()
    with contextlib.closing(engine.client):
        found = debris.disk_usage(engine)["BuildCache"] or []
    return {each["ID"] for each in found if each["Type"] != "exec.cachemount"}
