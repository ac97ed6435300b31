"""From a command line, the environment and the project's files to the image that is wanted."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from caliban import config, terminal
from caliban.docker import identity, project
from caliban.docker.identity import Credentials
from caliban.errors import Problems, UsageError
from caliban.model import module
from caliban.model.image import ImagePlan, Mode


@dataclass(frozen=True)
class ImageChoice:
    """What the image arguments, the environment and the project's files come to.

    Attributes:
      settings: the project's .calibanconfig.json.
      mode: CPU or GPU.
      plan: what the image holds.
      credentials: those that the containers get.
    """

    settings: config.Config
    mode: Mode
    plan: ImagePlan
    credentials: Credentials


def choose(args: argparse.Namespace, problems: Problems) -> ImageChoice | None:
    """Reads the arguments that flags.add_image_arguments and flags.add_code_arguments define.

    Args:
      args: the parsed command line.
      problems: where what is wrong is collected.

    Returns:
      The choice; None if `problems` has something now.
    """
    try:
        directory = Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current directory has been deleted") from None
    settings = problems.attempt(lambda: config.load(directory), config.Config())
    mode = Mode.CPU if args.nogpu else settings.default_mode or Mode.GPU
    code = problems.attempt(lambda: module.find(args.module, directory), None)
    key = config.choose(
        args.cloud_key,
        os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"),
        settings.gcloud.cloud_key,
        "",
    )
    credentials = problems.attempt(
        lambda: identity.credentials(key, os.environ), identity.Credentials()
    )
    planned = problems.attempt(
        lambda: project.plan(
            directory,
            mode,
            settings.base_image(mode, os.environ),
            code,
            extras=args.extras,
            apt_packages=settings.apt_packages.get(mode, ()),
            directories=args.dir,
        ),
        None,
    )
    if planned is None or code is None:
        return None
    plan, warnings = planned
    for each in (*warnings, *settings.unused):
        terminal.warn(each)
    return ImageChoice(settings, mode, plan, credentials)
