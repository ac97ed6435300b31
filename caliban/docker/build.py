"""From an ImagePlan to an image in the engine."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import itertools
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from caliban import __version__, home, process, terminal
from caliban.docker import context, dockerfile, provenance
from caliban.docker.engine import Engine
from caliban.errors import BuildError, CalibanError, UsageError
from caliban.model.image import ImagePlan

# The first line of a step, as the legacy builder, podman and BuildKit write it: "2/9".
_STEP = re.compile(r"(?:Step |STEP |#\d+ \[[^\]]*?)(\d+/\d+)(?: ?:|\])")

# What BuildKit puts before each line that a step prints: its number and the time.
_PREFIX = re.compile(r"#\d+ \d+\.\d+ +")

# What the builders themselves say: of a step's progress, and after it has failed.
_PROGRESS = re.compile(r"#\d+ |--->|Step |STEP |Removing intermediate container ")
_FAILURE = re.compile(
    r"The command '|building at STEP |#\d+ ERROR|(ERROR: )?(failed to solve|executor failed)"
)

_WARNING = "warning: "

# The legacy builder shows in red what a step writes to stderr.
_COLOUR = re.compile(r"\x1b\[\d*m")

# A line without one is an underlining: "^^^".
_WORD = re.compile(r"\w")

_CLIENT = re.compile(r"Docker version (\d+)\.")


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
      excluded: files that must not be copied, see context.files; the key that
        $GOOGLE_APPLICATION_CREDENTIALS names never is, whether it is used or not.
      no_cache: whether to build it anew, from the first step on.

    Returns:
      The image's id, "sha256:...".

    Raises:
      BuildError: a step failed; its output has been shown.
      UsageError: the base image cannot be had, or a file of the project cannot be read.
      EngineError: the engine does not answer.
    """
    key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    files = context.files(plan, [*excluded, *([Path(key)] if key else [])])
    base_id = _base(plan.base_image, engine)
    parts = provenance.of_files(plan, base_id, files)
    name = f"caliban:{plan.mode.value}-{parts.fingerprint}"
    with _one_at_a_time(name):
        found = None if no_cache else engine.image_id(name)
        if found is not None:
            return found
        _build(plan, engine, name, files, parts, no_cache)
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
            f"the base image {name} cannot be pulled: {_reason(output)}",
            'Name an image that can be had as "base_image" in .calibanconfig.json, or in '
            "$CALIBAN_BASE_IMAGE; an image that the engine already has is used without a registry.",
        )
    return pulled


def _build(
    plan: ImagePlan,
    engine: Engine,
    name: str,
    files: Sequence[context.File],
    parts: provenance.Parts,
    no_cache: bool,
) -> None:
    builder = detect_builder(engine)
    text = dockerfile.render(plan, buildkit=builder is Builder.BUILDKIT)
    labels = {"": __version__, ".base": plan.base_image, **parts.labels()}
    command = ["docker", "build", "--force-rm", "--tag", name]
    for key, value in labels.items():
        command += ["--label", f"{dockerfile.LABEL}{key}={value}"]
    command += ["--no-cache", "-"] if no_cache else ["-"]
    environment = {
        "DOCKER_BUILDKIT": builder.value,
        "BUILDKIT_PROGRESS": "plain",
        # Unset, for the engine's own builder: another one does not know the engine's images.
        "BUILDX_BUILDER": "",
        # With attestations, an image becomes a list of images, which not every platform takes.
        "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
    }
    terminal.note(f"Building the image {name}")
    with (
        process.start(command, process.PIPE, environment, merge_stderr=True) as child,
        _sending(text, files, child) as problems,
    ):
        code, output = _show(child)
    if problems:
        raise problems[0]
    if code:
        raise BuildError(
            f"the image could not be built: {_reason(output)}",
            "The output of the step that failed stands above.",
        )


def detect_builder(engine: Engine) -> Builder:
    """Finds out whether `docker build` can use BuildKit.

    A client from 23 on needs the buildx plugin for that, and stops with an error when it is asked
    for BuildKit without it. Older ones carry it in themselves. podman builds by itself, for
    clients that believe it to be the legacy builder.

    Args:
      engine: where images are built.

    Raises:
      EngineError: it does not answer.
    """
    if os.environ.get("DOCKER_BUILDKIT") == "0" or _is_podman(engine):
        return Builder.LEGACY
    if process.run(["docker", "buildx", "version"]).exit_code == 0:
        return Builder.BUILDKIT
    version = _CLIENT.search(process.run(["docker", "--version"]).stdout)
    return Builder.BUILDKIT if version and int(version[1]) < 23 else Builder.LEGACY


def _is_podman(engine: Engine) -> bool:
    with engine.errors("asking the engine for its version"):
        components = engine.client.version().get("Components") or []
    return any("Podman" in str(component.get("Name")) for component in components)


@contextlib.contextmanager
def _sending(
    text: str, files: Sequence[context.File], child: process.Child
) -> Iterator[list[CalibanError]]:
    """Feeds the build context to the builder while its output is read.

    Yields:
      A list that holds what went wrong on the way, once the block has ended.
    """
    problems: list[CalibanError] = []

    def send() -> None:
        assert child.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError), child.stdin as stream:
                context.write(text, files, stream)
        except (CalibanError, OSError) as error:
            child.kill()
            if not isinstance(error, CalibanError):
                error = BuildError(f"the project's files cannot be read to their end: {error}")
            problems.append(error)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield problems
    finally:
        # The engine ends a build whose client has gone. Asked by SIGTERM, `docker build` 20.10 goes
        # on to the build's own end now and then.
        if child.poll() is None:
            child.kill()
        sender.join()


def _show(child: process.Child) -> tuple[int, list[str]]:
    """Shows a program's progress; returns its exit code and the lines of its last step."""
    view = terminal.Folded()
    warnings: list[str] = []
    for line in child.stdout or ():
        text = _COLOUR.sub("", line.decode(errors="replace")).rstrip("\r\n")
        step = _STEP.match(text)
        view.line(text, begins=f"step {step[1]}" if step else "")
        said = _PREFIX.sub("", text)
        if said.startswith(_WARNING):
            warnings.append(said.removeprefix(_WARNING))
    code = child.wait()
    view.end(failed=code != 0)
    # Among a hundred lines, or folded away, nobody would see them.
    for warning in warnings:
        terminal.warn(warning)
    return code, view.recent


def _reason(lines: Sequence[str]) -> str:
    """The line that most likely says what went wrong: the last one that the failed step wrote."""
    told = [_PREFIX.sub("", line).strip() for line in lines]
    before = itertools.takewhile(lambda line: not _FAILURE.match(line), told)
    own = [line for line in before if _WORD.search(line) and not _PROGRESS.match(line)]
    for line, after in itertools.pairwise([*own, ""]):
        if line.startswith("error:"):  # of uv, with its first cause
            return f"{line} ({after})" if after.startswith("cause:") else line
    return (own or [line for line in told if line] or ["the program gave no reason"])[-1]


@contextlib.contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    """Lets one process of this user build an image while the others wait for it."""
    path = home.directory("locks") / name.replace(":", "-")
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
