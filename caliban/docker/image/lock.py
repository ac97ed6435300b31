"""Resolves what a project declares to a lock: in the base image, where it will be installed."""

from __future__ import annotations

import hashlib
import json
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from caliban.docker.engine import Engine
from caliban.docker.image import archive, context, dockerfile, legacy, progress, uv
from caliban.docker.image import builder as builders
from caliban.docker.image.build_secrets import BuildSecrets, Opened
from caliban.docker.image.builder import Builder
from caliban.docker.image.context import File
from caliban.docker.image.declared import files as declared
from caliban.docker.image.declared import resolution
from caliban.docker.image.dockerfile import DEPENDENCIES, LOCK, LOCK_FILE, VENV, Section
from caliban.errors import BuildError
from caliban.model.image import WORKING_DIRECTORY, ImagePlan
from caliban.model.lock import Lock

# Where the resolver leaves what it has found, in its container.
_RESOLVED = "/tmp/resolved.txt"

# Where it finds the lock so far.
_BEFORE = "/tmp/before"

_TITLE = "Resolve the dependencies"


def declaration(plan: ImagePlan, platform: str) -> str:
    """Stands for all that decides what is resolved, as 32 hexadecimal digits.

    Args:
      plan: what is declared; its `lock` makes no difference.
      platform: the base image's, "linux/amd64".

    Raises:
      UsageError: a file that declares something cannot be read.
    """
    known = (
        *("base_image", "conda", "extras", "groups", "lock_file", "packages", "pip", "project"),
        *("python", "requirements"),
    )
    attributes = {name: getattr(plan, name) for name in known}
    if plan.dockerfile:
        # Which is called otherwise with each change of what it copies.
        attributes["base_image"] = plan.dockerfile.to_json()
    files = context.digest(context.declared(plan))
    text = json.dumps([attributes, platform, files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def project(plan: ImagePlan, platform: str) -> str:
    """Stands for what a plan is of, whatever it declares, as 32 hexadecimal digits.

    Args:
      plan: what is declared.
      platform: see `declaration`.
    """
    base = plan.dockerfile.path if plan.dockerfile else plan.base_image
    text = json.dumps([plan.directory, plan.mode.value, base, platform])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def resolve(
    plan: ImagePlan,
    engine: Engine,
    digest: str,
    secrets: BuildSecrets,
    before: Lock | None = None,
) -> Lock:
    """Resolves what a plan declares.

    Args:
      plan: what is declared; its base image is there.
      engine: where it is resolved.
      digest: its declaration, see above.
      secrets: those that the plan names.
      before: the lock so far, whose versions stay what they are as far as they still will do;
        None to take the newest.

    Raises:
      BuildError: it can't be resolved; the output has been shown.
      EngineError: the engine does not answer.
    """
    builder = builders.detect(engine)
    builders.check_secrets(builder, engine, plan.secrets)
    files = context.declared(plan)
    sections = list(_sections(plan, builder, bool(files), before))
    # What the first layers copy, which are also those of the image.
    known = str(before) if before else ""
    files += context.files(replace(plan, live=True, lock=known, packages=()))
    opened = secrets.open(plan.secrets, [file.path for file in files])
    if builder is Builder.BUILDKIT:
        found = _by_buildkit(sections, files, opened)
    else:
        found = legacy.output(engine, sections, files, _RESOLVED)
    first, _, printed = opened.conceal(found.decode()).partition("\n")
    locked = resolution.lock(printed, declared.hashes(plan))
    return Lock(first.rpartition(" ")[2], digest, locked)


def _sections(
    plan: ImagePlan, builder: Builder, has_files: bool, before: Lock | None
) -> Iterator[Section]:
    """The Dockerfile of the resolver, whose first layers are those of the image itself."""
    start, *others = dockerfile.foundation(plan, buildkit=True)
    first, *rest = start.instructions
    named = f"{first} AS resolver" if builder is Builder.BUILDKIT else first
    yield replace(start, instructions=(named, *rest))
    yield from others
    python = f"{VENV}/bin/python"
    kept = f"{_BEFORE}/{LOCK_FILE}" if before else ""
    commands = (
        # What indexes have said a short time ago may be out of date, and the reason to be here.
        'rm -rf "$UV_CACHE_DIR"/simple-*',
        f"{python} -c {shlex.quote(dockerfile.PYTHON_LINE)} > {_RESOLVED}",
        f"{{ {resolution.script(plan, python, kept)}; }} >> {_RESOLVED}",
        # What was found another time does not count.
        f": {time.time_ns()}",
    )
    yield Section(
        _TITLE,
        (
            f"WORKDIR {WORKING_DIRECTORY}",
            *([f"COPY {DEPENDENCIES}/ ./"] if has_files else []),
            *([f"COPY {LOCK}/ {_BEFORE}/"] if before else []),
            uv.step(commands, plan.secrets, buildkit=True),
        ),
    )


def _by_buildkit(sections: Sequence[Section], files: Sequence[File], secrets: Opened) -> bytes:
    last = Section(_TITLE, ("FROM scratch", f"COPY --from=resolver {_RESOLVED} /"))
    text = "".join(f"{line}\n" for each in (*sections, last) for line in each.instructions)
    with tempfile.TemporaryDirectory() as folder:
        with builders.running(
            Builder.BUILDKIT,
            ["--output", f"type=local,dest={folder}", *secrets.arguments()],
            lambda stream: archive.write(text, files, stream),
            secrets.environment(),
        ) as child:
            everything = [*sections, last]
            code, printed = progress.show(child, sections=everything, mask=secrets.mask)
        if code:
            raise BuildError(
                f"the dependencies could not be resolved: {progress.reason(printed)}",
                "What the resolver said stands above.",
            )
        return Path(folder, Path(_RESOLVED).name).read_bytes()
