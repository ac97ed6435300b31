"""From a command line, the environment and the project's files to the image that is wanted."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from caliban import config, home, terminal
from caliban.docker import identity
from caliban.docker.identity import Credentials
from caliban.docker.image import own_dockerfile, project
from caliban.docker.image.build_secrets import NONE, BuildSecrets
from caliban.docker.image.build_secrets import parse as parse_secrets
from caliban.docker.image.dockerfile import has_dependencies
from caliban.errors import Problems, UsageError
from caliban.model import module
from caliban.model.image import ImagePlan, Mode

if TYPE_CHECKING:
    from caliban.docker.engine import Engine
    from caliban.history.store import HistoryStore
    from caliban.images import Images
    from caliban.platform.google import Access


@dataclass(frozen=True)
class ImageChoice:
    """What the image arguments, the environment and the project's files come to.

    Attributes:
      settings: the project's .calibanconfig.json.
      mode: CPU or GPU.
      plan: what the image holds.
      credentials: those that the containers get.
      build_secrets: those that a build gets.
      allowed_keys: files that may be in the image although they look like keys.
    """

    settings: config.Config
    mode: Mode
    plan: ImagePlan
    credentials: Credentials
    build_secrets: BuildSecrets = NONE
    allowed_keys: tuple[str, ...] = ()

    @property
    def secrets(self) -> list[Path]:
        """The credentials, and what keys are named besides: no image and no project shows them."""
        named = (
            os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"),
            self.settings.gcloud.cloud_key,
        )
        keys = [home.expand(name).absolute() for name in named if name]
        return list(dict.fromkeys([*self.credentials.files, *keys, *self.build_secrets.files]))


def choose(args: argparse.Namespace, problems: Problems) -> ImageChoice | None:
    """Reads the arguments that flags.add_image_arguments and flags.add_code_arguments define.

    Without the latter, the plan is that of an interactive image, which holds no code.

    Args:
      args: the parsed command line.
      problems: where what is wrong is collected.

    Returns:
      The choice; None if `problems` has something now.
    """
    return choose_in(surroundings(args, problems), args, problems)


def choose_in(
    around: Surroundings, args: argparse.Namespace, problems: Problems
) -> ImageChoice | None:
    """The same, where what is around has been seen already: the mode may have changed since.

    Args:
      around: see `surroundings`.
      args: the parsed command line.
      problems: where what is wrong is collected.

    Returns:
      The choice; None if `problems` has something now.
    """
    directory, settings, mode, credentials = around
    name = getattr(args, "module", None)
    code = problems.attempt(
        lambda: module.find(name, directory) if name is not None else None, None
    )
    dockerfile = settings.dockerfile(mode, os.environ)
    given = problems.attempt(lambda: build_secrets(args.secret, settings, credentials), NONE)
    planned = problems.attempt(
        lambda: project.plan(
            directory,
            mode,
            own_dockerfile.UNNAMED if dockerfile else settings.base_image(mode, os.environ),
            code,
            extras=args.extras,
            apt_packages=settings.apt_packages.get(mode, ()),
            directories=getattr(args, "dir", ()),
        ),
        None,
    )
    if planned is None or (name is not None and code is None):
        return None
    plan, said = planned
    warnings = list(settings.unused)
    # An image that is used as it is has what it has, whatever the project declares.
    if not (getattr(args, "image_tag", None) or getattr(args, "image_id", None)):
        for each in said.notes:
            terminal.note(each)
        if mode in settings.dockerfiles and dockerfile is None:
            own = settings.dockerfiles[mode].path
            said.warnings.append(f"{own} is not built: $CALIBAN_BASE_IMAGE says what to build on")
        warnings = [*said.warnings, *warnings]
    for each in warnings:
        terminal.warn(each)
    julia = settings.julia_version or ""
    plan = replace(plan, dockerfile=dockerfile, julia=julia, platform=args.platform or "")
    # The settings' own, where no step is lent them, need no builder that could.
    if args.secret or dockerfile or has_dependencies(plan):
        plan = replace(plan, secrets=given.ids)
    allowed = (*settings.allowed_keys, *args.allow_key)
    choice = ImageChoice(settings, mode, plan, credentials, given, allowed)
    plan = problems.attempt(lambda: own_dockerfile.current(plan, choice.secrets), plan)
    return replace(choice, plan=plan)


def images(
    args: argparse.Namespace,
    choice: ImageChoice,
    engine: Engine,
    history: Callable[[], AbstractContextManager[HistoryStore]],
) -> Images:
    """How images are built for a command line, see caliban.images.

    Args:
      args: the parsed command line.
      choice: what it comes to.
      engine: where images are built.
      history: opens the history.
    """
    from caliban.images import Images

    return Images(
        engine,
        history,
        choice.secrets,
        choice.build_secrets,
        choice.allowed_keys,
        args.no_cache,
        args.upgrade_deps,
    )


def build_secrets(
    words: Sequence[str], settings: config.Config, credentials: Credentials
) -> BuildSecrets:
    """The secrets that a project's builds get.

    Args:
      words: the values of --secret.
      settings: the project's; they may ask for a token of the user's credentials.
      credentials: those.

    Raises:
      UsageError: see docker.build_secrets.parse.
    """
    google = _token_maker(credentials) if settings.build_time_credentials else None
    return parse_secrets(words, os.environ, google)


def _token_maker(credentials: Credentials) -> Callable[[], str]:
    """Gives access tokens of the user's credentials: the same one as long as it is valid."""

    @functools.cache
    def access() -> Access:
        from caliban.platform import google

        key = str(credentials.key) if credentials.key else None
        try:
            return google.access(key, os.environ)
        except google.CredentialsError as error:
            raise UsageError(
                '"build_time_credentials" in .calibanconfig.json asks for an access token of '
                f"Google's: {error.message}",
                error.hint,
            ) from None

    return lambda: access().token()


class Surroundings(NamedTuple):
    """What decides an image besides what it holds: see `surroundings`."""

    directory: Path
    settings: config.Config
    mode: Mode
    credentials: Credentials


def surroundings(args: argparse.Namespace, problems: Problems) -> Surroundings:
    """What an image that is used as it is needs to be known of: all but what it holds.

    Args:
      args: the parsed command line.
      problems: where what is wrong is collected.

    Returns:
      The current directory, its settings, the mode and the user's credentials.
    """
    directory = config.project()
    settings = problems.attempt(lambda: config.load(directory), config.Config())
    mode = Mode.CPU if args.nogpu else settings.default_mode or Mode.GPU
    key = settings.cloud_key(args.cloud_key, os.environ)
    credentials = problems.attempt(
        lambda: identity.credentials(key, os.environ), identity.Credentials()
    )
    return Surroundings(directory, settings, mode, credentials)
