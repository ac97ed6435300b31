"""Finds out what jobs are made of while they start, and writes it down: nobody waits for it."""

from __future__ import annotations

import contextlib
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from caliban import __version__, terminal
from caliban.docker.engine import Engine
from caliban.docker.image import context, inputs
from caliban.docker.image.dockerfile import DEPENDENCIES, LABEL, LOCK, OWN_FOLDERS
from caliban.errors import EngineError, UsageError
from caliban.model.image import ImagePlan
from caliban.model.image_name import ImageName
from caliban.model.provenance import Image, Machine, Provenance, Repository, Source
from caliban.provenance import git, machine

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore

# How long a launch that has nothing else to do waits for the record, in seconds.
_PATIENCE = 20.0

# For how long jobs are given their start before it is looked what they are made of, in seconds:
# Python does one thing at a time.
_HEAD_START = 0.1

# How long the files of live code are read, in seconds, and how much of one is kept of its digest.
_READING = 3.0
_KEPT = 24

# Parts of an image's input that hold neither code nor what declares its dependencies.
_NO_SOURCE = (*OWN_FOLDERS, LOCK)

_FINGERPRINT = re.compile(r"-([0-9a-f]{16})$")


@dataclass(frozen=True)
class Call:
    """How jobs are launched.

    Attributes:
      command: of caliban: "run".
      flags: that were given, by name, without secrets.
      experiments: the experiment file as JSON; "" for none.
    """

    command: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    experiments: str = ""


@dataclass(frozen=True)
class Elsewhere:
    """What there is to say of jobs of another platform.

    Attributes:
      requested: what they ask it for, see model.provenance.Machine.
      secrets: names of its secrets that they find something of.
      image_id: by which the engine here knows their image; "" if it needn't have that.
    """

    requested: Mapping[str, str]
    secrets: Sequence[str] = ()
    image_id: str = ""


@dataclass(frozen=True)
class Earlier:
    """What another history has recorded of jobs that run again.

    Attributes:
      image: that they ran.
      source: the code in it.
    """

    image: Image
    source: Source


@dataclass(frozen=True)
class Made:
    """Jobs of one launch and one image.

    Attributes:
      uids: of the jobs.
      plan: the ImagePlan that the image was made by, as JSON.
      image: its id, or the reference by which the platform pulls it.
      variables: names of the environment variables that the jobs find.
      is_fresh: whether the image was made of, or the jobs see, the files as they are now. If not,
        where the code came from is taken from earlier jobs with the image.
      excluded: files that live jobs don't see.
      elsewhere: where they run; None for this machine.
      earlier: image and source as whoever ran them first has recorded them; None if this history
        knows.
    """

    uids: Sequence[str]
    plan: Mapping[str, Any]
    image: str
    variables: Sequence[str] = ()
    is_fresh: bool = True
    excluded: Sequence[Path] = ()
    elsewhere: Elsewhere | None = None
    earlier: Earlier | None = None


class Gathering:
    """Looks at the project and the machine from `with` on, beside all that is done there."""

    def __init__(
        self, engine: Engine, call: Call, projects: Iterable[Path], has_gpus: bool = False
    ) -> None:
        """Looks at nothing yet.

        Args:
          engine: that has the images.
          call: how the jobs are launched.
          projects: the directories whose code goes into images now; none for images as they are.
          has_gpus: whether the jobs get GPUs of this machine.
        """
        self._engine = engine
        self._call = call
        self._projects = dict.fromkeys(projects)
        self._has_gpus = has_gpus
        self._repositories: dict[Path, tuple[Repository | None, str]] = {}
        self._threads: list[threading.Thread] = []
        self._is_over = threading.Event()
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        self._start(self._look)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        deadline = time.monotonic() + _PATIENCE
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        if self._failure is not None:  # of whatever kind: the jobs are none the worse for it
            what = str(self._failure) or type(self._failure).__name__
            terminal.warn(f"what exactly these jobs ran is not recorded: {what}")

    def keep(
        self,
        store: HistoryStore,
        made: Sequence[Made] | Callable[[], Sequence[Made]],
        patience: float = 0.0,
    ) -> None:
        """Has it written down what jobs are made of, as soon as that is known.

        Args:
          store: the history, which stays open until the end of the `with`.
          made: the jobs, which have been recorded; or what tells them, beside all that is done.
          patience: for how many seconds it is waited until that is done.
        """

        def write() -> None:
            if not patience:
                self._is_over.wait(_HEAD_START)
            self._write(store, made() if callable(made) else made)

        self._start(write)
        self._threads[-1].join(patience)

    def _start(self, work: Callable[[], None]) -> None:
        def attempt() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - it is told where this was started
                self._failure = self._failure or error

        # A git that hangs for good must not keep caliban from ending.
        self._threads.append(threading.Thread(target=attempt, daemon=True))
        self._threads[-1].start()

    def _look(self) -> None:
        for project in self._projects:
            self._repositories[project] = git.look(project)

    def _write(self, store: HistoryStore, made: Sequence[Made]) -> None:
        is_here = any(each.elsewhere is None for each in made)
        here = machine.look(self._engine, self._has_gpus) if is_here else Machine()
        self._threads[0].join()
        for each in made:
            image = self._image(store, each)
            call, there = self._call, each.elsewhere
            store.provenances.keep(
                each.uids,
                Provenance(
                    version=__version__,
                    command=call.command,
                    flags=dict(call.flags),
                    variables=tuple(sorted({*each.variables})),
                    secrets=tuple(there.secrets) if there else (),
                    experiments=call.experiments,
                    plan=dict(each.plan),
                    image=image,
                    source=self._source(store, each, image),
                    machine=Machine(requested=dict(there.requested)) if there else here,
                ),
            )

    def _image(self, store: HistoryStore, made: Made) -> Image:
        found = self._found(store, made)
        if made.earlier is None or found.id != made.earlier.image.id:
            return found
        # The very image, of which the engine may know neither the name nor what it was built on.
        return replace(made.earlier.image, digest=found.digest)

    def _found(self, store: HistoryStore, made: Made) -> Image:
        if made.elsewhere is None:
            return _image(self._engine, made.image, made.plan)
        if not made.is_fresh and (earlier := store.provenances.of_image(made.image)):
            return earlier.image
        found, known = Image(), made.elsewhere.image_id
        if known:
            # What an image was built on that caliban has not made now, its plan doesn't say.
            found = _image(self._engine, known, made.plan if made.is_fresh else {})
        digest = made.image if "@" in made.image else found.digest
        return replace(found, name=found.name or made.image, digest=digest)

    def _source(self, store: HistoryStore, made: Made, image: Image) -> Source | None:
        if made.earlier is not None:
            return made.earlier.source
        if not made.is_fresh:
            earlier = store.provenances.of_image(made.image)
            return earlier.source if earlier else None
        plan = ImagePlan.from_json(made.plan)
        repository, note = self._repositories.get(Path(plan.directory), (None, ""))
        source = Source(repository=repository, note=note)
        if plan.live:
            files, why = _live_files(plan, made.excluded)
        else:
            files, why = _copied_files(plan, image), ""
        if not files:
            return replace(source, note="; ".join(filter(None, (note, why))))
        return replace(source, files=files, digest=Source.digest_of(files))


def _image(engine: Engine, image: str, plan: Mapping[str, Any]) -> Image:
    """What the engine knows of an image and of the one that it is built on."""
    base = str(plan.get("base_image", ""))
    try:
        found = engine.image(image)
    except EngineError:  # it may be restarting: the rest is known all the same
        found = None
    if found is None:
        return Image(name=image, digest=image if "@" in image else "", base=base)
    labels = found.get("Config", {}).get("Labels") or {}
    base_id = str(labels.get(f"{LABEL}.base_id", ""))
    below = None
    with contextlib.suppress(EngineError):
        below = engine.image(base_id) if base_id else None
    return Image(
        id=str(found["Id"]),
        name=_first(found.get("RepoTags")),
        digest=_first(found.get("RepoDigests")),
        base=base,
        base_id=base_id,
        base_digest=_first((below or {}).get("RepoDigests"), base),
    )


def _first(names: Sequence[str] | None, like: str = "") -> str:
    """One of several names: of the repository of `like`, then caliban's own, then others."""

    def is_elsewhere(name: str) -> bool:
        return not like or _place(name) != _place(like)

    # Of caliban's own names, no registry is a part.
    return min(names or (), key=lambda name: (is_elsewhere(name), "/" in name, name), default="")


def _place(image: str) -> tuple[str, str] | None:
    try:
        name = ImageName.parse(image)
    except UsageError:
        return None
    return name.host, name.path


def _copied_files(plan: ImagePlan, image: Image) -> dict[str, str]:
    """What stands for each file of an image that has just been made, or was found unchanged."""
    found = inputs.newest(plan)
    fingerprint = _FINGERPRINT.search(image.name)
    if found is None or not fingerprint or not found[0].image.endswith(fingerprint[0]):
        return {}
    files = {**found[0].read, **found[0].files.get(DEPENDENCIES, {})}
    for folder, contents in found[0].files.items():
        if folder not in (*_NO_SOURCE, DEPENDENCIES):
            for name, text in contents.items():
                # What declares something may be read through a link.
                if name not in files or not text.startswith("link "):
                    files[name] = text
    return _sorted(files)


def _live_files(plan: ImagePlan, excluded: Sequence[Path]) -> tuple[dict[str, str], str]:
    """What stands for each file of live code, as far as it can be read in a few seconds."""
    deadline = time.monotonic() + _READING
    try:
        files = dict(inputs.deciding(plan))
        listed = context.files(replace(plan, live=False, lock=""), excluded)
    except UsageError as error:
        return {}, error.message
    for file in listed:
        if time.monotonic() > deadline:
            return {}, "the files take too long to read"
        if file.folder not in (*_NO_SOURCE, DEPENDENCIES):
            is_known = file.name in files and stat.S_ISLNK(file.info.st_mode)
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                files[file.name] = files[file.name] if is_known else file.content[:_KEPT]
    return _sorted(files), ""


def _sorted(files: Mapping[str, str]) -> dict[str, str]:
    """Files in the order of their names; of folders, those that have nothing in them."""
    full = {str(folder) for name in files for folder in PurePosixPath(name).parents} | {"."}
    kept = {name: text for name, text in files.items() if text != "folder" or name not in full}
    return dict(sorted(kept.items()))
