"""Build the image that `caliban run` would use, and print its id.

The image holds the project's declared dependencies, the code and the extra directories. It is built
only if it isn't there yet: the same files give the same image.
"""

from __future__ import annotations

import argparse

from caliban import flags, terminal
from caliban.errors import Problems


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    flags.add_image_arguments(parser)
    flags.add_code_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Builds the image and prints its id on stdout."""
    from caliban.commands import image_choice

    problems = Problems()
    choice = image_choice.choose(args, problems)
    problems.check()
    assert choice is not None

    from caliban.docker import build
    from caliban.docker.engine import Engine

    secrets = list(choice.credentials.files)
    terminal.result(build.ensure(choice.plan, Engine(), secrets, args.no_cache))
    return 0
