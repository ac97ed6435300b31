"""The builder: which one there is, how `docker build` is best called, one build at a time."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import IO, Protocol

from caliban import home, process
from caliban.docker.engine import Engine
from caliban.docker.image.dockerfile import LABEL
from caliban.errors import BuildError, CalibanError, UsageError

# Label of an image: the history for whose jobs it was built first, see home.history_mark.
HISTORY = f"{LABEL}.history"

# The folder in ~/.caliban with a lock for each build under way.
_LOCKS = "locks"

# How long a context is sent before anything else is done, in seconds.
_HEAD_START = 0.05

_CLIENT = r"Docker version (\d+)\."


class Builder(enum.Enum):
    """Who builds.

    The names are those of the environment variable DOCKER_BUILDKIT that asks for each; without it,
    clients up to 22 use the legacy builder silently.
    """

    BUILDKIT = "1"
    LEGACY = "0"


class Receiver(Protocol):
    """What a context is sent to: a program, or a request to the engine."""

    @property
    def stdin(self) -> IO[bytes] | None:
        """Where it is written to."""

    def poll(self) -> int | None:
        """The exit code; None while it runs."""

    def kill(self) -> None:
        """Ends it at once."""


def detect(engine: Engine) -> Builder:
    """Finds out who builds images that caliban has written the Dockerfile of.

    An engine on this machine is asked for BuildKit by its API, so that it makes no difference which
    `docker` there is. podman builds by itself, for whoever believes it to be the legacy builder.

    Args:
      engine: where images are built.

    Raises:
      EngineError: it does not answer.
    """
    if os.environ.get("DOCKER_BUILDKIT") == "0" or engine.is_podman():
        return Builder.LEGACY
    return Builder.BUILDKIT if engine.has_socket else _of_client()


def of_client(engine: Engine) -> Builder:
    """Finds out whether `docker build` can use BuildKit, which lends secrets to the steps.

    A client from 23 on needs the buildx plugin for that, and stops with an error when it is asked
    for BuildKit without it. Older ones carry it in themselves.

    Args:
      engine: where images are built.

    Raises:
      EngineError: it does not answer.
    """
    found = detect(engine)
    return _of_client() if found is Builder.BUILDKIT and engine.has_socket else found


def _of_client() -> Builder:
    with process.start(["docker", "buildx", "version"]) as plugin:  # side by side, 70 ms each
        version = re.search(_CLIENT, process.run(["docker", "--version"]).stdout)
        plugin.communicate()
    if plugin.returncode == 0:
        return Builder.BUILDKIT
    return Builder.BUILDKIT if version and int(version[1]) < 23 else Builder.LEGACY


def check_secrets(engine: Engine, ids: Sequence[str]) -> None:
    """Makes sure that secrets can be lent to the steps of a build, before it has begun.

    Args:
      engine: where it is built.
      ids: those of the secrets; none need nothing.

    Raises:
      UsageError: they cannot.
      EngineError: the engine does not answer.
    """
    if not ids or of_client(engine) is Builder.BUILDKIT:
        return
    if os.environ.get("DOCKER_BUILDKIT") == "0":
        why, hint = "DOCKER_BUILDKIT=0 asks for the legacy builder", "Unset DOCKER_BUILDKIT."
    elif engine.is_podman():
        why = f"podman, at {engine.host}, takes no secrets from docker"
        hint = "Build with a Docker engine: 'docker context use default', or unset DOCKER_HOST."
    else:
        why = "this docker has no BuildKit"
        hint = "Install the plugin buildx: the package docker-buildx-plugin, or docker-buildx."
    raise UsageError(
        f"the build needs secrets ({', '.join(ids)}), and the builder cannot lend them to a step "
        f"without leaving them in the image: {why}",
        hint,
    )


@contextlib.contextmanager
def running(
    builder: Builder,
    arguments: Sequence[str],
    send: Callable[[IO[bytes]], None],
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[process.Child]:
    """Runs `docker build`, whose context is sent to it while its output is read.

    Args:
      builder: which one, see `of_client`.
      arguments: those of `docker build`, without the "-" for its context.
      send: writes the context, a tar archive, to a stream.
      environment: more variables.

    Yields:
      The program, whose output is still to be read. It is ended with the block.

    Raises:
      Exception: what `send` raised; a BuildError in the place of an OSError.
    """
    variables = {
        "DOCKER_BUILDKIT": builder.value,
        "BUILDKIT_PROGRESS": "plain",
        # Unset, for the engine's own builder: another one does not know the engine's images.
        "BUILDX_BUILDER": "",
        # With attestations, an image becomes a list of images, which not every platform takes.
        "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        **environment,
    }
    command = ["docker", "build", "--force-rm", *arguments, "-"]
    with (
        process.start(command, process.PIPE, variables, merge_stderr=True) as child,
        sending(send, child) as problems,
    ):
        yield child
    if problems:
        raise problems[0]


@contextlib.contextmanager
def sending(write: Callable[[IO[bytes]], None], child: Receiver) -> Iterator[list[Exception]]:
    """Feeds the build context to the builder while its output is read.

    Args:
      write: writes it to a stream.
      child: the builder, or what stands for it here.

    Yields:
      A list that holds what went wrong on the way, once the block has ended.
    """
    problems: list[Exception] = []

    def send() -> None:
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError), child.stdin as stream:
            try:
                write(stream)
            except BrokenPipeError:
                return  # the builder has ended, and says why
            except Exception as error:  # noqa: BLE001 - it is raised where the builder is waited for
                child.kill()  # before the stream ends, which would pass for the end of the context
                if isinstance(error, OSError):
                    error = BuildError(f"the project's files cannot be read to their end: {error}")
                problems.append(error)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        # Files that are few have gone by then. Whatever Python does beside it would hold it up.
        sender.join(_HEAD_START)
        yield problems
    finally:
        # The engine ends a build whose client has gone. Asked by SIGTERM, `docker build` 20.10 goes
        # on to the build's own end now and then.
        if child.poll() is None:
            child.kill()
        sender.join()


@contextlib.contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Lets one process of this user build an image while the others wait for it."""
    path = home.directory(_LOCKS) / re.sub(r"[^\w.-]", "-", name)
    with contextlib.ExitStack() as stack:
        while True:
            try:
                lock = stack.enter_context(path.open("w"))
            except OSError as error:
                raise CalibanError(f"cannot write {path}: {error.strerror}") from None
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Whoever had the lock before has removed its file: it excludes nobody who comes now.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                    break
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_under_way() -> bool:
    """Whether this user is building an image now, in whatever process."""
    for path in home.path(_LOCKS).glob("*"):
        with contextlib.suppress(FileNotFoundError), path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False
