"""From an ImagePlan to an image in the engine."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from caliban import __version__, home, process, terminal
from caliban.docker import context, dockerfile
from caliban.docker.engine import Engine
from caliban.errors import BuildError, UsageError
from caliban.model.image import ImagePlan

LABEL = "caliban"

# The first line of a step, as the legacy builder writes it and as BuildKit does: "2/9".
_STEP = re.compile(r"Step (\d+/\d+) :|#\d+ \[[^\]]*?\s*(\d+/\d+)\]")


class Builder(enum.Enum):
    """How this machine's `docker build` is best called.

    The names are those of the environment variable DOCKER_BUILDKIT that asks for each; without it,
    clients up to 22 use the legacy builder silently.
    """

    BUILDKIT = "1"
    LEGACY = "0"


def ensure(
    plan: ImagePlan, engine: Engine, excluded: Sequence[Path] = (), no_cache: bool = False
) -> str:
    """Builds the image of a plan, unless the engine already has just that one.

    Args:
      plan: what the image holds.
      engine: where it is built.
      excluded: files that must not be copied, see context.files.
      no_cache: whether to build it anew, from the first step on.

    Returns:
      The image's id, "sha256:...".

    Raises:
      BuildError: a step failed; its output has been shown.
      UsageError: the base image cannot be had, or a file of the project cannot be read.
      EngineError: the engine does not answer.
    """
    files = context.files(plan, excluded)
    base_id = _base(plan.base_image, engine)
    name = f"caliban:{plan.mode.value}-{context.fingerprint(plan, base_id, files)}"
    with _one_at_a_time(name):
        found = None if no_cache else engine.image_id(name)
        if found is not None:
            return found
        _build(plan, name, files, no_cache)
    built = engine.image_id(name)
    if built is None:
        raise BuildError(f"the image {name} was built, but the engine at {engine.host} lacks it")
    return built


def _base(name: str, engine: Engine) -> str:
    """Id of the base image, which is pulled if the engine doesn't have it."""
    found = engine.image_id(name)
    if found is not None:
        return found
    terminal.note(f"Pulling the base image {name}")
    with process.start(["docker", "pull", name], merge_stderr=True) as child:
        code, output = _show(child)
    if code or (pulled := engine.image_id(name)) is None:
        raise UsageError(
            f"the base image {name} cannot be pulled: {_last_line(output)}",
            'Name an image that can be had as "base_image" in .calibanconfig.json, or in '
            "$CALIBAN_BASE_IMAGE; an image that the engine already has is used without a registry.",
        )
    return pulled


def _build(plan: ImagePlan, name: str, files: Sequence[context.File], no_cache: bool) -> None:
    builder = detect_builder()
    text = dockerfile.render(plan, buildkit=builder is Builder.BUILDKIT)
    command = ["docker", "build", "--rm", "--tag", name, "--label", f"{LABEL}={__version__}"]
    command += ["--label", f"{LABEL}.base={plan.base_image}"]
    command += ["--no-cache", "-"] if no_cache else ["-"]
    terminal.note(f"Building the image {name}")
    environment = {"DOCKER_BUILDKIT": builder.value, "BUILDKIT_PROGRESS": "plain"}
    with (
        process.start(command, process.PIPE, environment, merge_stderr=True) as child,
        _sending(text, files, child) as problems,
    ):
        code, output = _show(child)
    if problems:
        raise problems[0]
    if code:
        raise BuildError(
            f"the image could not be built: {_last_line(output)}",
            "The output of the step that failed stands above.",
        )


def detect_builder() -> Builder:
    """Finds out whether `docker build` can use BuildKit.

    A client from 23 on needs the buildx plugin for that, and stops with an error when it is asked
    for BuildKit without it. Older ones carry it in themselves.
    """
    if process.run(["docker", "buildx", "version"]).exit_code == 0:
        return Builder.BUILDKIT
    version = process.run(["docker", "version", "--format", "{{.Client.Version}}"]).stdout
    major = version.partition(".")[0].strip()
    return Builder.BUILDKIT if major.isdigit() and int(major) < 23 else Builder.LEGACY


@contextlib.contextmanager
def _sending(
    text: str, files: Sequence[context.File], child: process.Child
) -> Iterator[list[UsageError]]:
    """Feeds the build context to the builder while its output is read.

    Yields:
      A list that holds what went wrong on the way, once the block has ended.
    """
    problems: list[UsageError] = []

    def send() -> None:
        assert child.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError), child.stdin as stream:
                context.write(text, files, stream)
        except UsageError as error:
            problems.append(error)
            child.terminate()

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield problems
    finally:
        if child.poll() is None:
            child.terminate()
        sender.join()


def _show(child: process.Child) -> tuple[int, list[str]]:
    """Shows a program's progress; returns its exit code and the lines of its last step."""
    view = terminal.Folded()
    for line in child.stdout or ():
        text = line.decode(errors="replace").rstrip("\r\n")
        if match := _STEP.match(text):
            view.step(f"step {match[1] or match[2]}")
        view.line(text)
    code = child.wait()
    view.end(failed=code != 0)
    return code, view.recent


def _last_line(lines: Sequence[str]) -> str:
    """The line that most likely says what went wrong."""
    for line in reversed(lines):
        if line.strip():
            return line.strip()
    return "the program gave no reason"


@contextlib.contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    """Lets one process of this user build an image while the others wait for it."""
    path = home.directory("locks") / name.replace(":", "-")
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Whoever waits for the lock holds the file open, and needs no name for it.
            path.unlink(missing_ok=True)
