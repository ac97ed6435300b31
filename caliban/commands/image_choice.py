"""From a command line, the environment and the project's files to the image that is wanted."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from caliban import config, home, terminal
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

    @property
    def secrets(self) -> list[Path]:
        """The credentials, and what keys are named besides: no image and no project shows them."""
        named = (
            os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"),
            self.settings.gcloud.cloud_key,
        )
        keys = [home.expand(name).absolute() for name in named if name]
        return list(dict.fromkeys([*self.credentials.files, *keys]))


def choose(args: argparse.Namespace, problems: Problems) -> ImageChoice | None:
    """Reads the arguments that flags.add_image_arguments and flags.add_code_arguments define.

    Without the latter, the plan is that of an interactive image, which holds no code.

    Args:
      args: the parsed command line.
      problems: where what is wrong is collected.

    Returns:
      The choice; None if `problems` has something now.
    """
    directory, settings, mode, credentials = surroundings(args, problems)
    name = getattr(args, "module", None)
    code = problems.attempt(lambda: module.find(name, directory) if name else None, None)
    planned = problems.attempt(
        lambda: project.plan(
            directory,
            mode,
            settings.base_image(mode, os.environ),
            code,
            extras=args.extras,
            apt_packages=settings.apt_packages.get(mode, ()),
            directories=getattr(args, "dir", ()),
        ),
        None,
    )
    if planned is None or (name is not None and code is None):
        return None
    plan, warnings = planned
    for each in (*warnings, *settings.unused):
        terminal.warn(each)
    return ImageChoice(settings, mode, plan, credentials)


def surroundings(
    args: argparse.Namespace, problems: Problems
) -> tuple[Path, config.Config, Mode, Credentials]:
    """What an image that is used as it is needs to be known of: all but what it holds.

    Args:
      args: the parsed command line.
      problems: where what is wrong is collected.

    Returns:
      The current directory, its settings, the mode and the user's credentials.
    """
    try:
        directory = Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current directory has been deleted") from None
    settings = problems.attempt(lambda: config.load(directory), config.Config())
    mode = Mode.CPU if args.nogpu else settings.default_mode or Mode.GPU
    key = config.choose(
        args.cloud_key,
        os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"),
        settings.gcloud.cloud_key,
        "",
    )
    credentials = problems.attempt(
        lambda: identity.credentials(key, os.environ), identity.Credentials()
    )
    return directory, settings, mode, credentials
