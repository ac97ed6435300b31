"""The images of recorded jobs: loaded from the file, or built anew; what is not as it was."""

from __future__ import annotations

import argparse
import contextlib
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from caliban.provenance.gathering import Earlier

# How many packages are named that are not as they were.
_TOLD = 20


@dataclass(frozen=True)
class Prepared:
    """An image that recorded jobs can run again.

    Attributes:
      launch: what was recorded of it.
      plan: what it holds; its directory has the code for as long as jobs run.
      image: its id.
      is_built: whether it was built here.
      differences: what is not as it was, in words; none of an image from the file.
    """

    launch: RecordedLaunch
    plan: ImagePlan
    image: str
    is_built: bool
    differences: Sequence[str] = ()

    @property
    def earlier(self) -> Earlier:
        """What the history that the file comes from had of it."""
        from caliban.provenance.gathering import Earlier

        return Earlier(self.launch.image, self.launch.source)

    def container_spec(self, file: Path) -> dict[str, Any]:
        """The plan as it is recorded: with the file that the code comes from as its directory."""
        return replace(self.plan, directory=str(file)).to_json()

    def tell(self) -> None:
        """Says how it compares with the one that was recorded."""
        name = self.launch.image.name or self.launch.image.id
        if self.differences:
            # Packages, for one, are called as the file says.
            lines = map(terminal.one_line, self.differences)
            terminal.warn("\n  ".join([f"the image is not as {name} was:", *lines]))
        elif self.is_built:
            terminal.note(f"The image is made of the same as {name} was.")
        else:
            terminal.note(f"The image is the very one that was recorded: {self.image}")


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

    def plan(self, launch: RecordedLaunch, directory: Path) -> ImagePlan:
        """What the image of a launch is to hold, with its code in a directory.

        Args:
          launch: what jobs ran.
          directory: where the code goes; it is made.

        Raises:
          UsageError: the file is not what it should be, or the code cannot be written.
        """
        extraction.extract(self.archive, launch.code, directory)
        return replace(launch.plan, directory=str(directory))

    def prepare(self, launch: RecordedLaunch, plan: ImagePlan) -> Prepared:
        """Sees to the image of a launch, and says how it compares with the recorded one.

        Args:
          launch: what jobs ran.
          plan: see `plan`.

        Raises:
          UsageError: the file is not what it should be, or the image needs what is not there.
          BuildError: a step of its build failed.
          EngineError: the engine does not answer.
        """
        recorded = launch.image.id
        part = self.images.get(recorded)
        if part and plan.live == launch.plan.live:
            images.load(self.archive, part, recorded, self.engine)
            prepared = Prepared(launch, plan, recorded, is_built=False)
        else:
            self._check_inside(plan)
            built, image = self._build(self._with_base(plan, launch))
            differences = list(_differences(launch, built, image, self.engine))
            prepared = Prepared(launch, built, image, True, differences)
        prepared.tell()
        return prepared

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
        known = launch.image
        is_here = self.engine.image_id(plan.base_image) == known.base_id
        if plan.dockerfile or is_here or not known.base_digest:
            return plan
        pinned = replace(plan, base_image=known.base_digest)
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
    if now is None or launch.image.name.endswith(f"-{now.fingerprint}"):
        return
    is_known = True
    if now.base_id != launch.image.base_id:
        is_known = False
        before = job_lines.short_image(launch.image.base_id) or "unknown"
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
