"""From an ImagePlan to an image in the engine."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from caliban import __version__, home, terminal
from caliban.docker.engine import Engine
from caliban.docker.image import (
    base,
    context,
    dockerfile,
    inputs,
    own_dockerfile,
    provenance,
)
from caliban.docker.image import builder as builders
from caliban.docker.image.build_secrets import NONE, BuildSecrets
from caliban.docker.image.builder import Builder
from caliban.model.image import ImagePlan


def ensure(
    plan: ImagePlan,
    engine: Engine,
    excluded: Sequence[Path] = (),
    no_cache: bool = False,
    secrets: BuildSecrets = NONE,
    allowed_keys: Sequence[str] = (),
) -> str:
    """Builds the image of a plan, unless the engine already has just that one.

    Args:
      plan: what the image holds, with its lock if there is anything to lock; see caliban.images.
      engine: where it is built.
      excluded: files that must not be copied, see context.files; the key that
        $GOOGLE_APPLICATION_CREDENTIALS names never is, whether it is used or not.
      no_cache: whether to build it anew, from the first step on.
      secrets: those that the build gets.
      allowed_keys: files that may be in the image although they look like keys, see keys.check.

    Returns:
      The image's id, "sha256:...".

    Raises:
      BuildError: a step failed; its output has been shown.
      UsageError: the base image cannot be had, a file of the project cannot be read or looks like
        a key, or the builder cannot lend the secrets to its steps.
      EngineError: the engine does not answer.
    """
    key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    hidden = [*excluded, *([Path(key)] if key else [])]
    plan = own_dockerfile.current(plan, hidden)
    files = context.files(plan, hidden)
    base_id = base.ensure(plan, engine, hidden, secrets=secrets, allowed_keys=allowed_keys)
    parts = provenance.of_files(plan, base_id, files)
    name = inputs.image_name(plan, parts)
    with builders.one_at_a_time(name):
        found = None if no_cache else engine.image_id(name)
        if found is not None:
            if not inputs.is_kept(plan, name):
                inputs.keep(plan, inputs.of(plan, parts, files, hidden))
            return found
        from caliban.docker.image import keys, order

        keys.check([*context.declared(plan), *files], allowed_keys)
        builders.check_secrets(engine, plan.secrets)
        opened = secrets.open(plan.secrets, [file.path for file in context.declared(plan)])

        @functools.cache
        def announce() -> inputs.Inputs:
            from caliban.docker.image import explain

            made_of = inputs.of(plan, parts, files, hidden)
            terminal.note(f"Building the image {name}{explain.why(plan, made_of)}")
            return made_of

        marks = {"": __version__, ".base": plan.base_image, **parts.labels()}
        labels = {f"{dockerfile.LABEL}{key}": value for key, value in marks.items()}
        labels[builders.HISTORY] = home.history_mark()
        builder = builders.detect(engine)
        sections = list(dockerfile.sections(plan, builder is Builder.BUILDKIT))
        built = order.carry_out(
            order.Order(*(builder, sections, files, name, labels, no_cache, opened, plan.platform)),
            engine,
            announce=announce,
        )
        inputs.keep(plan, announce())
    return built
