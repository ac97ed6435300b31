"""What the engine is told to build, and how it is told: by its API, or by `docker build`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from caliban import terminal
from caliban.docker.engine import Engine
from caliban.docker.image import api, archive
from caliban.docker.image import builder as builders
from caliban.docker.image.build_secrets import Opened
from caliban.docker.image.builder import Builder
from caliban.docker.image.context import File
from caliban.docker.image.dockerfile import Section
from caliban.errors import BuildError

if TYPE_CHECKING:
    from caliban.docker.image.progress import Program

# The legacy builder's answer if an image on the same base is removed while it looks through them
# for a step that it need not repeat: builds and removals of others are enough for that.
_VANISHED = r'unable to find image "sha256:[0-9a-f]{64}"'
_TRIES = 5


@dataclass(frozen=True)
class Order:
    """What is to be built.

    Attributes:
      builder: who builds it, see builder.detect.
      sections: those of its Dockerfile, in the dialect of that builder.
      files: what they copy, see context.files.
      name: of the image; "" for none.
      labels: those that it gets.
      no_cache: whether to go through each step anew.
      secrets: those that its steps are lent.
      platform: what it is for, see ImagePlan; "" for what the engine builds for by itself.
    """

    builder: Builder
    sections: Sequence[Section]
    files: Sequence[File]
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    secrets: Opened = field(default_factory=Opened)
    platform: str = ""

    def write(self, stream: IO[bytes]) -> None:
        """Writes the context, with the Dockerfile in it.

        Raises:
          UsageError: a file cannot be read.
        """
        text = "".join(f"{line}\n" for each in self.sections for line in each.instructions)
        archive.write(text, self.files, stream)


def carry_out(
    order: Order,
    engine: Engine,
    failure: str = "the image could not be built",
    announce: Callable[[], object] = lambda: None,
) -> str:
    """Has an image built, and shows how that goes.

    Args:
      order: what to build.
      engine: where it is built.
      failure: what is said if it can't be, before the reason.
      announce: says what is built, while the builder is at work already.

    Returns:
      The image's id, "sha256:...".

    Raises:
      BuildError: a step failed; its output has been shown.
      EngineError: the engine does not answer.
    """
    if order.builder is Builder.LEGACY and order.labels:
        # In one step. Of labels that come besides, that builder makes a step each.
        from caliban.docker.image import progress

        marks = " ".join(f"{key}={json.dumps(value)}" for key, value in order.labels.items())
        store = Section(progress.STORE, (f"LABEL {marks}",))
        order = replace(order, sections=[*order.sections, store], labels={})
    # Secrets are lent by the program that asks for the build, as long as that goes on.
    by_api = engine.has_socket and not order.secrets.secrets
    for left in reversed(range(_TRIES)):
        code, printed, image = (_by_api if by_api else _by_program)(order, engine, announce)
        if not code or not left or not any(re.search(_VANISHED, line) for line in printed):
            break
        terminal.note("Once more: an image on the same base was removed at that moment.")
    if code:
        from caliban.docker.image import progress

        hint = "The output of the step that failed stands above."
        if order.platform and any("exec format error" in line for line in printed):
            hint = (
                f"This machine can't run programs of {order.platform}. Emulation makes it able to: "
                "install qemu-user-static and binfmt-support, or build on a machine of that kind."
            )
        raise BuildError(f"{failure}: {progress.reason(printed)}", hint)
    return image


def _by_api(
    order: Order, engine: Engine, announce: Callable[[], object]
) -> tuple[int, list[str], str]:
    parameters = {
        "version": "2" if order.builder is Builder.BUILDKIT else "1",
        "forcerm": "1",
        "labels": json.dumps(order.labels),
        "buildargs": json.dumps(engine.proxies()),
    }
    parameters |= {"t": order.name} if order.name else {}
    parameters |= {"nocache": "1"} if order.no_cache else {}
    if platform := order.platform or os.environ.get("DOCKER_DEFAULT_PLATFORM"):
        parameters["platform"] = platform
    with api.running(engine, parameters, order.write) as build:
        code, printed = _show(build, order, announce)
    return code, printed, build.image


def _by_program(
    order: Order, _: Engine, announce: Callable[[], object]
) -> tuple[int, list[str], str]:
    import tempfile

    arguments = ["--tag", order.name] if order.name else []
    for key, value in order.labels.items():
        arguments += ["--label", f"{key}={value}"]
    arguments += [*order.secrets.arguments(), *(["--no-cache"] if order.no_cache else [])]
    arguments += ["--platform", order.platform] if order.platform else []
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "id")
        with builders.running(
            order.builder,
            ["--iidfile", str(image), *arguments],
            order.write,
            order.secrets.environment(),
        ) as child:
            code, printed = _show(child, order, announce)
        return code, printed, "" if code else image.read_text().strip()


def _show(build: Program, order: Order, announce: Callable[[], object]) -> tuple[int, list[str]]:
    """Says what is being built, and shows how that goes, see progress.show."""
    announce()
    # Here, and not before: it takes a while, and the builder is at work by now.
    from caliban.docker.image import progress

    return progress.show(build, sections=order.sections, mask=order.secrets.mask)
