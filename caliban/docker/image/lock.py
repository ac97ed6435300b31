"""Resolves what a project declares to a lock: in the base image, where it will be installed."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from caliban import process
from caliban.docker.engine import Engine
from caliban.docker.image import builder as builders
from caliban.docker.image import context, dockerfile, uv
from caliban.docker.image.build_secrets import BuildSecrets
from caliban.docker.image.builder import Builder
from caliban.docker.image.declared import files as declared
from caliban.docker.image.declared import resolution
from caliban.docker.image.dockerfile import DEPENDENCIES, LOCK, LOCK_FILE, VENV, Section
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
    from caliban.docker.image import lent_uv, order

    builders.check_secrets(engine, plan.secrets)
    builder = builders.detect(engine)
    files = context.declared(plan)
    lender = lent_uv.image(engine, engine.platform(plan.base_image))
    sections = list(_sections(plan, builder, bool(files), before, lender))
    # What the first layers copy, which are also those of the image.
    known = str(before) if before else ""
    files += context.files(replace(plan, live=True, lock=known, packages=()))
    opened = secrets.open(plan.secrets, [file.path for file in files])
    loading = threading.Thread(target=engine.load, daemon=True)  # for `_read`
    loading.start()
    wanted = order.Order(builder, sections, files, secrets=opened, platform=plan.platform)
    image = order.carry_out(wanted, engine, "the dependencies could not be resolved")
    loading.join()
    found = _read(engine, image)
    first, _, printed = opened.conceal(found.decode()).partition("\n")
    locked = resolution.lock(printed, declared.hashes(plan))
    return Lock(first.rpartition(" ")[2], digest, locked)


def _sections(
    plan: ImagePlan, builder: Builder, has_files: bool, before: Lock | None, lender: str
) -> Iterator[Section]:
    """The Dockerfile of the resolver, whose first layers are those of the image itself."""
    buildkit = builder is Builder.BUILDKIT
    yield from dockerfile.foundation(plan, buildkit)
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
            # The legacy builder lends nothing; this image is not kept.
            *([f"COPY --from={lender} /uv {uv.BIN}/uv"] if lender and not buildkit else []),
            f"WORKDIR {WORKING_DIRECTORY}",
            *([f"COPY {DEPENDENCIES}/ ./"] if has_files else []),
            *([f"COPY {LOCK}/ {_BEFORE}/"] if before else []),
            uv.step(commands, plan.secrets, buildkit, lender=lender),
        ),
    )


def _read(engine: Engine, image: str) -> bytes:
    """What the resolver has found, taken from its image, which is removed."""
    import tarfile
    import uuid

    from caliban.docker.containers import OWNER, Containers

    client = engine.client
    name = f"caliban-step-{uuid.uuid4().hex[:12]}"
    labels = {OWNER: process.identity()}
    with engine.errors("reading what the resolver has found"):
        try:
            client.create_container(image, command=["true"], name=name, labels=labels)
            content, _ = client.get_archive(name, _RESOLVED)
            with tarfile.open(fileobj=io.BytesIO(b"".join(content))) as opened:
                found = opened.extractfile(opened.getmembers()[0])
                assert found is not None
                return found.read()
        finally:
            Containers(engine).remove(name)
            # The layers below it are those of the image that is built next.
            client.remove_image(image, noprune=True)
