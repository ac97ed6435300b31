"""The project's own Dockerfile, which makes the image that caliban's layers are put on."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from caliban import __version__, home, terminal
from caliban.docker.engine import Engine
from caliban.docker.image import builder as builders
from caliban.docker.image import context
from caliban.docker.image.build_secrets import BuildSecrets
from caliban.docker.image.context import File
from caliban.docker.image.dockerfile import LABEL
from caliban.errors import BuildError, UsageError
from caliban.model.image import ImagePlan, ProjectDockerfile

# Marks an image as such a base, by the fingerprint that its name ends with.
BASE_LABEL = f"{LABEL}.dockerfile"

# Stands for the image that a Dockerfile makes, until `current` gives it its name.
UNNAMED = f"{LABEL}:base"

_ESCAPE = r"(?i)\s*#\s*escape\s*=\s*(\S)\s*"
_INSTRUCTION = r"(?is)\s*(?:ONBUILD\s+)?(COPY|ADD|RUN)\s+(.*)"
_OPTION = r"\s*--([\w-]+)(?:=(\S*))?"
_PATTERN = r"[*?\[\\]"


def current(plan: ImagePlan, excluded: Iterable[Path] = ()) -> ImagePlan:
    """A plan with the name of the base image that its Dockerfile makes, as it is now.

    The name is known without an engine: it is a fingerprint of the Dockerfile, its arguments and
    the files that it copies. What it begins with is not part of it.

    Args:
      plan: the image; one without a Dockerfile is returned unchanged.
      excluded: files that are never copied, see context.files.

    Raises:
      UsageError: the Dockerfile, or a file that it copies, cannot be read.
    """
    if plan.dockerfile is None:
        return plan
    project, own = Path(plan.directory), plan.dockerfile
    total = hashlib.sha256(_text(project, own).encode(errors="surrogateescape"))
    chosen = [own.target, own.build_args, *([plan.platform] if plan.platform else [])]
    total.update(json.dumps(chosen).encode())
    for file in files(project, own, excluded):
        place = f"\0{file.name}\0{stat.S_IMODE(file.info.st_mode):o}\0{_content(file)}"
        total.update(place.encode(errors="surrogateescape"))
    return replace(plan, base_image=f"{UNNAMED}-{total.hexdigest()[:16]}")


def build(
    plan: ImagePlan,
    engine: Engine,
    excluded: Iterable[Path],
    pull: bool,
    no_cache: bool,
    secrets: BuildSecrets,
    allowed_keys: Sequence[str],
) -> None:
    """Builds a plan's base image from the Dockerfile, as `docker build` would.

    Args:
      plan: the image; see `current`.
      engine: where it is built.
      excluded: files that are never copied.
      pull: whether to ask the registry for a newer image to begin with.
      no_cache: whether to build from the first step on.
      secrets: those that the build gets.
      allowed_keys: files that may be copied although they look like keys, see keys.check.

    Raises:
      BuildError: a step of the Dockerfile failed; its output has been shown.
      UsageError: a file cannot be read or looks like a key, or the builder cannot lend the secrets
        to its steps.
    """
    from caliban.docker.image import keys, progress

    own, project = plan.dockerfile, Path(plan.directory)
    assert own is not None
    arguments = ["--file", own.path, "--tag", plan.base_image]
    fingerprint = plan.base_image.rpartition("-")[2]
    marks = {BASE_LABEL: fingerprint, builders.HISTORY: home.history_mark()}
    for key, value in {LABEL: __version__, **marks}.items():
        arguments += ["--label", f"{key}={value}"]
    if own.target:
        arguments += ["--target", own.target]
    for key, value in own.build_args:
        arguments += ["--build-arg", f"{key}={value}"]
    arguments += ["--pull"] * pull + ["--no-cache"] * no_cache
    arguments += ["--platform", plan.platform] if plan.platform else []
    sent = files(project, own, excluded)
    keys.check(sent, allowed_keys)
    builder = builders.of_client(engine)
    builders.check_secrets(engine, plan.secrets)
    opened = secrets.open(plan.secrets)
    terminal.note(f"Building the base image {plan.base_image} from {own.path}")
    with builders.running(
        builder,
        [*arguments, *opened.arguments()],
        lambda stream: _write(sent, stream),
        opened.environment(),
    ) as child:
        code, output = progress.show(child, mask=opened.mask)
    if code:
        reason = progress.reason(output)
        hint = (
            f"It is built as 'docker build --file {own.path} .' builds it, before caliban's own "
            "steps. The output of the step that failed stands above."
        )
        if "BuildKit" in reason:
            hint = "Install docker's buildx plugin, or take out what only BuildKit knows."
        raise BuildError(f"the project's own {own.path} could not be built: {reason}", hint)
    _drop_triggers(plan.base_image, engine)


def triggers(image: Mapping[str, Any] | None) -> list[str]:
    """The ONBUILD instructions of an image, which every build on top of it begins with.

    Args:
      image: what the engine knows of it.
    """
    return list((image or {"Config": {}})["Config"].get("OnBuild") or [])


def _drop_triggers(name: str, engine: Engine) -> None:
    """Takes its ONBUILD instructions from an image: they are for other builds than caliban's."""
    if not triggers(engine.image(name)):
        return
    terminal.note("Its ONBUILD instructions are not carried out.")
    repository, _, tag = name.partition(":")
    with engine.errors("removing the ONBUILD instructions of a base image"):
        client = engine.client
        container = client.create_container(name, command=["true"])["Id"]
        try:
            client.commit(container, repository, tag)
        finally:
            client.remove_container(container, force=True)


def files(project: Path, own: ProjectDockerfile, excluded: Iterable[Path] = ()) -> list[File]:
    """What the builder needs: the Dockerfile, and the files that it copies, sorted by name.

    The .dockerignore is honoured; one that belongs to this Dockerfile ("train.Dockerfile" and
    "train.Dockerfile.dockerignore") comes in its place.

    Raises:
      UsageError: the Dockerfile is not there, or a folder cannot be read.
    """
    path = project / own.path
    text = _text(project, own)
    ignore = path.with_name(f"{path.name}.dockerignore")
    listed = context.listed(
        project, sources(text), excluded, ignore if ignore.is_file() else project / ".dockerignore"
    )
    found = {file.name: file for file in listed}
    for part in (*reversed(PurePosixPath(own.path).parents), PurePosixPath(own.path)):
        found[str(part)] = File("", str(part), project / part, (project / part).stat())
    return [found[name] for name in sorted(found)]


def _text(project: Path, own: ProjectDockerfile) -> str:
    path = project / own.path
    try:
        return path.read_text(errors="surrogateescape")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise UsageError(
            f'"dockerfile" in .calibanconfig.json names {own.path}, which '
            + (f"is not there, in {project}" if missing else f"cannot be read: {error.strerror}"),
        ) from None


def sources(text: str) -> list[str]:
    """The paths of the project that a Dockerfile copies or mounts; ["."] for all of it.

    Where that can't be told, as with a variable, it is all that may be meant.

    Args:
      text: of the Dockerfile.
    """
    found: set[str] = set()
    for line in _logical_lines(text):
        match = re.fullmatch(_INSTRUCTION, line)
        if match is None:
            continue
        options, rest = _options(match[2])
        if match[1].upper() == "RUN":
            mounts = (next(csv.reader([value]), []) for key, value in options if key == "mount")
            found.update(filter(None, map(_mounted, mounts)))
        elif "from" not in dict(options):
            found.update(map(_root, _operands(rest)))
    return ["."] if "." in found else sorted(found)


def _logical_lines(text: str) -> Iterator[str]:
    """The instructions of a Dockerfile, each in one line, without comments."""
    escape, whole = "\\", ""
    for line in text.splitlines():
        directive = re.fullmatch(_ESCAPE, line)
        if directive and not whole:
            escape = directive[1]
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line.rstrip().endswith(escape):
            whole += line.rstrip()[:-1] + " "
            continue
        yield whole + line
        whole = ""
    yield whole


def _options(text: str) -> tuple[list[tuple[str, str]], str]:
    """The options that an instruction begins with, and the rest."""
    found = []
    while match := re.match(_OPTION, text):
        found.append((match[1], match[2] or ""))
        text = text[match.end() :]
    return found, text.strip()


def _operands(text: str) -> Iterator[str]:
    """What a COPY or an ADD takes from the project."""
    words = text.split()
    if text.startswith("["):
        try:
            words = [str(word) for word in json.loads(text)]
        except ValueError:
            words = [".", "."]  # the builder will say what is wrong
    for word in words[:-1]:
        if not word.startswith(("<<", "git@")) and "://" not in word:
            yield word


def _mounted(words: Sequence[str]) -> str:
    """What a mount takes from the project; "" for nothing."""
    values = dict(word.partition("=")[::2] for word in words)
    if values.get("type", "bind") != "bind" or "from" in values:
        return ""
    return _root(values.get("source", values.get("src", ".")))


def _root(source: str) -> str:
    """The part of the project that a path, or a pattern of paths, lies in."""
    if "$" in source:
        return "."
    parts = [part for part in PurePosixPath(source.lstrip("/")).parts if part != "."]
    fixed = next((i for i, part in enumerate(parts) if re.search(_PATTERN, part)), len(parts))
    root = os.path.normpath("/".join(parts[:fixed]) or ".")
    return "." if root.startswith("..") else root


def _content(file: File) -> str:
    try:
        return file.content
    except OSError as error:
        raise UsageError(
            f"cannot read {file.path}, which the project's Dockerfile copies: {error.strerror}",
            "Make it readable, or name it in .dockerignore.",
        ) from None


def _write(sent: Sequence[File], stream: IO[bytes]) -> None:
    """Writes a context as a tar archive, with the permissions that files have here."""
    import tarfile

    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        for file in sent:
            header = archive.gettarinfo(file.path, file.name)
            if header is None:  # a socket
                continue
            header.uid = header.gid = 0
            header.uname = header.gname = ""
            if not header.isreg():
                archive.addfile(header)
                continue
            with file.path.open("rb") as content:
                header.size = os.fstat(content.fileno()).st_size
                archive.addfile(header, content)
