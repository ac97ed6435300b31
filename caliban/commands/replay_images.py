"""The images of recorded jobs: loaded from the file, or built anew; what is not as it was."""

from __future__ import annotations

import argparse
import contextlib
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import config, terminal
from caliban.bundle import extraction, images
from caliban.bundle.archive import Archive
from caliban.bundle.recorded import RecordedLaunch, shown
from caliban.commands import job_lines
from caliban.docker.engine import Engine
from caliban.docker.image import base, context, dockerfile, lock, own_dockerfile, provenance
from caliban.docker.image.declared import locks, requirements
from caliban.errors import UsageError
from caliban.model.image import ImagePlan
from caliban.model.lock import Lock, changes

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore

# How many packages are named that are not as they were.
_TOLD = 20


@dataclass(frozen=True)
class Prepared:
    """An image that recorded jobs can run again.

    Attributes:
      plan: what it holds; its directory has the code for as long as jobs run.
      image: its id.
      is_built: whether it was built here.
      differences: what is not as it was, in words; none of an image from the file.
    """

    plan: ImagePlan
    image: str
    is_built: bool
    differences: Sequence[str] = ()


@dataclass(frozen=True)
class Workshop:
    """Where images are made.

    Attributes:
      archive: the file.
      images: part with an image, by its id.
      engine: that gets the images.
      store: the history, which knows locks.
      args: the command line, see flags.add_secret_arguments.
    """

    archive: Archive
    images: dict[str, str]
    engine: Engine
    store: HistoryStore
    args: argparse.Namespace

    def prepare(self, launch: RecordedLaunch, directory: Path) -> Prepared:
        """Sees to the image of a launch.

        Args:
          launch: what jobs ran.
          directory: where its code goes.

        Raises:
          UsageError: the file is not what it should be, or the image needs what is not there.
          BuildError: a step of its build failed.
          EngineError: the engine does not answer.
        """
        extraction.extract(self.archive, launch.code, directory)
        plan = replace(launch.plan, directory=str(directory))
        if part := self.images.get(launch.image):
            images.load(self.archive, part, launch.image, self.engine)
            return Prepared(plan, launch.image, is_built=False)
        self._check_inside(plan)
        built, image = self._build(self._with_base(plan, launch))
        return Prepared(built, image, True, list(_differences(launch, built, image, self.engine)))

    def _build(self, plan: ImagePlan) -> tuple[ImagePlan, str]:
        from caliban.commands import image_choice
        from caliban.docker.identity import Credentials
        from caliban.images import Images

        # No settings: those of the project could ask for the user's credentials.
        secrets = image_choice.build_secrets(self.args.secret, config.Config(), Credentials())
        return Images(
            self.engine,
            lambda: contextlib.nullcontext(self.store),
            secrets.files,
            secrets,
            self.args.allow_key,
        ).ensure(plan)

    def _check_inside(self, plan: ImagePlan) -> None:
        """Sees to it that nothing beside the project is read, whatever its files name.

        Raises:
          UsageError: something would be.
        """
        project = Path(plan.directory)
        members = locks.members(project) if plan.lock_file == locks.UV else []
        if outside := next(filter(requirements.is_outside, members), None):
            raise self.archive.refused(f"its {locks.UV} names {shown(outside)}")
        for file in _read(plan):
            path = file.path.parent if stat.S_ISLNK(file.info.st_mode) else file.path
            if file.text is None and not any(
                path.resolve().is_relative_to(top) for top in (project, context.RESOURCES.resolve())
            ):
                raise self.archive.refused(f"its image is made of {shown(str(file.path))}")

    def _with_base(self, plan: ImagePlan, launch: RecordedLaunch) -> ImagePlan:
        """A plan on the very base image that it was built on, if that can be had by its digest."""
        is_here = self.engine.image_id(plan.base_image) == launch.base_id
        if plan.dockerfile or is_here or not launch.base_digest:
            return plan
        pinned = replace(plan, base_image=launch.base_digest)
        try:
            base.ensure(pinned, self.engine)
        except UsageError as error:
            terminal.warn(f"{error.message}; {plan.base_image} is taken as it is now")
            return plan
        own = Lock.parse(plan.lock)
        platform = self.engine.platform(pinned.base_image)
        if own.declaration == lock.declaration(plan, platform):
            own = replace(own, declaration=lock.declaration(pinned, platform))
        return replace(pinned, lock=str(own) if plan.lock else "")


def _read(plan: ImagePlan) -> Iterator[context.File]:
    """The files that an image is made of."""
    yield from context.declared(plan)
    yield from context.files(plan)
    if plan.dockerfile:
        yield from own_dockerfile.files(Path(plan.directory), plan.dockerfile)


def _differences(
    launch: RecordedLaunch, plan: ImagePlan, image: str, engine: Engine
) -> Iterator[str]:
    """What of an image is not as it was recorded."""
    now = provenance.of_labels(engine.labels(image) or {})
    if now is None or launch.name.endswith(f"-{now.fingerprint}"):
        return
    is_known = True
    if now.base_id != launch.base_id:
        is_known = False
        before = job_lines.short_image(launch.base_id) or "unknown"
        yield f"base image {plan.base_image}: {before} -> {job_lines.short_image(now.base_id)}"
    lines = list(changes(Lock.parse(launch.plan.lock), Lock.parse(plan.lock)))
    for line in lines[:_TOLD]:
        is_known = False
        yield line
    if len(lines) > _TOLD:
        yield f"and {len(lines) - _TOLD} more packages"
    first, _, rest = dockerfile.render(plan).partition("\n")
    began, _, before = launch.dockerfile.partition("\n")
    if rest != before:
        is_known = False
        yield "the Dockerfile, which another version of caliban writes in another way"
    if is_known and first == began:
        yield "the project's files"
