"""The code of a file of experiments as directories, where every command works with it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from caliban import config, result_file, terminal
from caliban.bundle import extraction
from caliban.bundle.archive import Archive
from caliban.bundle.recorded import Recorded, RecordedJob, RecordedLaunch
from caliban.errors import UsageError
from caliban.model.image import ImagePlan

CODE, EXPERIMENTS, LOCK = "code", "experiments.json", "requirements.lock"


def extract(archive: Archive, found: Recorded, directory: Path) -> int:
    """Writes a directory for each launch, and prints their names: all of them, or none.

    Args:
      archive: the file.
      found: what it says.
      directory: that gets them; it must not be there yet, or be empty.

    Raises:
      UsageError: it is there, or the code cannot be written.
      CalibanError: the disk is full.
    """
    folders = [directory.resolve() / str(number) for number in range(len(found.launches))]
    jobs = [[job for job in found.jobs if job.launch == at] for at in range(len(folders))]
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UsageError(f"--extract {directory}: it is there already, and not empty")
        with _removed_on_failure(folders):
            for launch, mine, folder in zip(found.launches, jobs, folders, strict=True):
                extraction.extract(archive, launch.code, folder / CODE)
                _write(launch, mine, folder)
    except OSError as error:
        name = error.filename or directory  # a write doesn't know where it goes
        raise result_file.failure(str(name), error) from None
    for launch, mine, folder in zip(found.launches, jobs, folders, strict=True):
        _tell(launch, mine, folder)
        terminal.result(str(folder))
    return 0


@contextlib.contextmanager
def _removed_on_failure(folders: Sequence[Path]) -> Iterator[None]:
    """Removes folders of one directory, and that, if something is raised in the `with`.

    Args:
      folders: that are not there yet; of the directories that they lie in, those go that neither
        are there yet.
    """
    above = [each for each in folders[0].parents if not each.exists()] if folders else []
    try:
        yield
    except BaseException:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                terminal.warn(f"{folder} is not whole, and could not be removed")
        for folder in above:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _write(launch: RecordedLaunch, jobs: Sequence[RecordedJob], folder: Path) -> None:
    """Writes what a launch takes besides its code."""
    (folder / EXPERIMENTS).write_text(_json([dict(job.experiment.params) for job in jobs]))
    (folder / CODE / config.FILE_NAME).write_text(_json(_settings(launch.plan)))
    if launch.plan.lock:
        (folder / LOCK).write_text(launch.plan.lock, errors="surrogateescape")


def _settings(plan: ImagePlan) -> dict[str, Any]:
    """The settings of a project that come to a plan."""
    own = plan.dockerfile
    found: dict[str, Any] = {
        "dockerfile": own and own.to_json(),
        "base_image": None if own else plan.base_image,
        "apt_packages": list(plan.apt_packages),
        "julia_version": plan.julia,
    }
    return {key: value for key, value in found.items() if value}


def _json(value: object) -> str:
    return f"{json.dumps(value, indent=2)}\n"


def _tell(launch: RecordedLaunch, jobs: Sequence[RecordedJob], folder: Path) -> None:
    """Says how the jobs of a launch are run from its directory."""
    import shlex

    from caliban.model.image import Mode

    if not launch.plan.module or not jobs:
        return
    words = ["caliban", "run", *(["--nogpu"] if launch.plan.mode is Mode.CPU else [])]
    for extra in launch.plan.extras:
        words += ["--extras", extra]
    for extra in launch.plan.directories:
        words += ["-d", extra]
    words += ["--experiment_config", f"../{EXPERIMENTS}", launch.plan.module.name]
    arguments = {job.experiment.args for job in jobs}
    if len(arguments) == 1 and (given := next(iter(arguments))):
        words += ["--", *given]
    command = shlex.join(words)
    if command.isprintable():
        terminal.note(f"cd {shlex.quote(str(folder / CODE))} && {command}")
