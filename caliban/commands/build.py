"""Build the image that `caliban run` would use, and print its id.

The image holds the project's declared dependencies, the code and the extra directories. It is built
only if it isn't there yet: the same files give the same image.

With --devcontainer it is the image of `caliban shell`, which holds no code, and the file is written
that makes VS Code open the project in it.

  caliban build --nogpu trainer.train
  caliban build --nogpu --devcontainer
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import flags, terminal
from caliban.errors import EngineError, Problems, UsageError

if TYPE_CHECKING:
    from caliban.commands.image_choice import ImageChoice
    from caliban.docker.engine import Engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    flags.add_image_arguments(parser)
    parser.add_argument(
        "--devcontainer",
        action="store_true",
        help="Write .devcontainer/devcontainer.json, by which VS Code and other editors open the "
        "project in its image. No module is needed.",
    )
    flags.add_code_arguments(parser, is_optional=True)


def run(args: argparse.Namespace) -> int:
    """Builds the image and prints its id on stdout."""
    from caliban.commands import image_choice
    from caliban.docker import build
    from caliban.docker.engine import Engine

    if args.module is None and not args.devcontainer:
        raise UsageError("no module is named", "caliban build trainer.train, for example.")
    problems = Problems()
    choice = image_choice.choose(args, problems)
    engine = Engine()
    if args.devcontainer:
        problems.attempt(lambda: _check_devcontainer(engine), None)
    problems.check()
    assert choice is not None

    secrets = list(choice.credentials.files)
    plan = choice.plan.interactive() if args.devcontainer else choice.plan
    image = build.ensure(plan, engine, secrets, args.no_cache)
    if args.devcontainer:
        terminal.note(f"Wrote {_write_devcontainer(choice, engine, image)}")
    terminal.result(image)
    return 0


def _check_devcontainer(engine: Engine) -> None:
    """Finds out what stands in the way of a devcontainer.json, before anything is built."""
    from caliban.docker import devcontainer

    devcontainer.check(Path.cwd())
    if not engine.is_local:
        raise UsageError(
            f"the engine at {engine.host} is on another machine, where the project cannot be "
            "mounted: --devcontainer is of no use"
        )


def _write_devcontainer(choice: ImageChoice, engine: Engine, image: str) -> Path:
    """Writes the file by which editors open the project in an image."""
    from caliban.commands import container_choice
    from caliban.docker import devcontainer, identity

    uid, gid = os.getuid(), os.getgid()
    accounts = identity.account_files(uid, gid, flags.user_name())
    for file in accounts:
        file.write()
    try:
        gpus = container_choice.gpus(engine, choice.mode, "build")
    except EngineError:
        gpus = ()  # another machine may build the image that this one can't use
    project = Path(choice.plan.directory)
    text = devcontainer.render(
        engine.image_name(image),
        choice.mode,
        project,
        uid,
        gid,
        Path.home(),
        {file.path: file.target for file in accounts},
        gpus,
    )
    return devcontainer.write(project, text)
