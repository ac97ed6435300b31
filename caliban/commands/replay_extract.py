"""The code of a file of experiments as directories, where every command works with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caliban import config, terminal
from caliban.bundle import extraction
from caliban.bundle.archive import Archive
from caliban.bundle.recorded import Recorded, RecordedJob, RecordedLaunch
from caliban.errors import UsageError
from caliban.model.image import ImagePlan

CODE, EXPERIMENTS, LOCK = "code", "experiments.json", "requirements.lock"


def extract(archive: Archive, found: Recorded, directory: Path) -> int:
    """Writes a directory for each launch, and prints their names.

    Args:
      archive: the file.
      found: what it says.
      directory: that gets them; it must not be there yet, or be empty.

    Raises:
      UsageError: it is there, or the code cannot be written.
    """
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UsageError(f"--extract {directory}: it is there already, and not empty")
        for number, launch in enumerate(found.launches):
            folder = directory.resolve() / str(number)
            extraction.extract(archive, launch.code, folder / CODE)
            jobs = [job for job in found.jobs if job.launch == number]
            (folder / EXPERIMENTS).write_text(_json([dict(job.experiment.params) for job in jobs]))
            (folder / CODE / config.FILE_NAME).write_text(_json(_settings(launch.plan)))
            if launch.plan.lock:
                (folder / LOCK).write_text(launch.plan.lock, errors="surrogateescape")
            _tell(launch, jobs, folder)
            terminal.result(str(folder))
    except OSError as error:
        raise UsageError(f"--extract: cannot write {error.filename}: {error.strerror}") from None
    return 0


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
