"""The use case of images: what a project declares is locked, once, and then built."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import terminal
from caliban.docker.engine import Engine
from caliban.docker.image import (
    base,
    build,
    context,
    dockerfile,
    inputs,
    lock,
    own_dockerfile,
)
from caliban.docker.image import builder as builders
from caliban.docker.image.build_secrets import NONE, BuildSecrets
from caliban.docker.image.declared import locks, resolution
from caliban.errors import BuildError
from caliban.history import opening
from caliban.model.image import ImagePlan
from caliban.model.lock import Lock, changes

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore

# How many of the changes in a lock are told one by one.
_TOLD = 8


@dataclass(frozen=True)
class Images:
    """Builds images, as far as they are not there.

    Attributes:
      engine: where they are built.
      history: opens the history, which knows the locks; only done where one is needed.
      excluded: files that must not be copied, see docker.build.ensure.
      secrets: those that the builds get.
      allowed_keys: files that may be in the images although they look like keys.
      no_cache: whether to build anew, from the first step on.
      upgrade: whether to resolve the dependencies anew.
      pull: whether to look for a newer base image in its registry.
    """

    engine: Engine
    history: Callable[[], AbstractContextManager[HistoryStore]]
    excluded: Sequence[Path] = ()
    secrets: BuildSecrets = NONE
    allowed_keys: Sequence[str] = ()
    no_cache: bool = False
    upgrade: bool = False
    pull: bool = False

    def ensure(self, plan: ImagePlan) -> tuple[ImagePlan, str]:
        """Makes sure that the engine has the image of a plan.

        Args:
          plan: what the image holds. The lock that it has already is used as long as it was made
            of what the project declares now.

        Returns:
          The plan with the lock that the image is built from, and the image's id.

        Raises:
          BuildError: the dependencies can't be resolved, or a step failed; the output was shown.
          UsageError: the base image cannot be had, or a file of the project cannot be read.
          HistoryError: the history fails.
          EngineError: the engine does not answer.
        """
        if plan.platform and self.engine.own_platform() == plan.platform:
            plan = replace(plan, platform="")  # so that the same image is recorded as the same
        plan = own_dockerfile.current(plan, self.hidden)
        base.ensure(
            *(plan, self.engine, self.hidden, self.pull, self.no_cache),
            *(self.secrets, self.allowed_keys),
        )
        if not resolution.needs_resolution(plan):
            return plan, self._build(plan)
        with self._opened() as store:
            locked, is_new = self._locked(plan, store)
            try:
                return locked, self._build(locked)
            except BuildError as error:
                if is_new or dockerfile.OTHER_PYTHON not in error.message:
                    raise
            terminal.note("The base image has another Python than the lock: resolving anew")
            locked, _ = self._locked(locked, store, upgrade=True)
            return locked, self._build(locked)

    @property
    def hidden(self) -> list[Path]:
        """The files that are never copied."""
        key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        return [*self.excluded, *([Path(key)] if key else [])]

    def known(self, plan: ImagePlan) -> ImagePlan:
        """A plan with its lock, if that is known; nothing is resolved, built or pulled.

        Raises:
          UsageError: a file of the project cannot be read.
          HistoryError: the history fails.
          EngineError: the engine does not answer.
        """
        plan = own_dockerfile.current(plan, self.hidden)
        if not resolution.needs_resolution(plan):
            return plan
        platform = self._platform(plan)
        if not platform and (last := inputs.newest(plan)):
            # That base image is still to be made or pulled. It will run on what the last one did.
            platform = self.engine.platform(last[0].base_id)
        if not platform:
            return plan
        with self._opened() as store:
            found = _find(plan, lock.declaration(plan, platform), store)
        return replace(plan, lock=str(found) if found else "")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Callable[[], HistoryStore]]:
        """What opens the history where it is first needed; it is closed with the block."""
        with contextlib.ExitStack() as stack:
            yield functools.cache(lambda: stack.enter_context(self.history()))

    def _build(self, plan: ImagePlan) -> str:
        return build.ensure(
            plan, self.engine, self.hidden, self.no_cache, self.secrets, self.allowed_keys
        )

    def _platform(self, plan: ImagePlan) -> str:
        return self.engine.platform(plan.base_image)

    def _locked(
        self, plan: ImagePlan, store: Callable[[], HistoryStore], upgrade: bool = False
    ) -> tuple[ImagePlan, bool]:
        """A plan with its lock, which is resolved and kept if need be; and whether it is new."""
        upgrade = upgrade or self.upgrade
        platform = self._platform(plan)
        digest = lock.declaration(plan, platform)
        found = _find(plan, digest, store)
        if found and not upgrade:
            return replace(plan, lock=str(found)), False
        with builders.one_at_a_time(f"lock-{digest}"):
            # Another process may have been at it.
            known = store().locks
            now = known.find(digest)
            if now and not upgrade:
                return replace(plan, lock=now), False
            from caliban.docker.image import keys

            sent = [*context.declared(plan), *context.files(plan, self.hidden)]
            keys.check(sent, self.allowed_keys)
            project = lock.project(plan, platform)
            last = "" if upgrade else plan.lock or known.newest(project)
            before = Lock.parse(last) if last else None
            new = lock.resolve(plan, self.engine, digest, self.secrets, before)
            kept = known.keep(project, digest, str(new), replaces=now if upgrade else None)
        if found:
            _tell(plan, found, Lock.parse(kept))
        return replace(plan, lock=kept), True


def _find(plan: ImagePlan, digest: str, store: Callable[[], HistoryStore]) -> Lock | None:
    """The lock that holds for a declaration: the plan's own, or the history's; None for none."""
    own = Lock.parse(plan.lock)
    if plan.lock and own.declaration == digest:
        return own
    kept = opening.known_lock(digest) or store().locks.find(digest)
    return Lock.parse(kept) if kept else None


def _tell(plan: ImagePlan, before: Lock, after: Lock) -> None:
    """Says what has changed in a lock, in a few lines."""
    lines = list(changes(before, after))
    if not lines and plan.lock_file and Path(plan.directory, plan.lock_file).is_file():
        command = locks.upgrade(plan.lock_file)
        terminal.note(f"{plan.lock_file} says which versions are installed; renew it: {command}")
    elif not lines:
        terminal.note("All dependencies are at the newest versions that are allowed.")
    for line in lines[:_TOLD]:
        terminal.note(f"  {line}")
    if len(lines) > _TOLD:
        terminal.note(f"  and {len(lines) - _TOLD} more")
