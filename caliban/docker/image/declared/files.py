"""The files that a plan's dependencies are resolved from, and its local packages installed from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from caliban.docker.image.declared import backend, locks, pyproject, requirements
from caliban.model.image import ImagePlan


def names(plan: ImagePlan) -> Iterator[str]:
    """Lists those files and folders, relative to the project; some come twice.

    Of a folder just the folder is meant, unless `trees` has it.

    Raises:
      UsageError: one that names others can't be read.
    """
    project = Path(plan.directory)
    yield from plan.requirements
    if plan.project:
        yield plan.project
    if plan.project == "Pipfile" or plan.groups:
        yield from (name for name in (pyproject.NAME,) if (project / name).is_file())
    if plan.lock_file and (project / plan.lock_file).is_file():
        yield plan.lock_file
    for root in _roots(plan, project):
        yield from backend.files(project, root)
    for package in plan.packages:
        if not package.startswith("-e "):
            yield requirements.directory(package)


def placeholders(plan: ImagePlan) -> Iterator[str]:
    """Lists the files that have to be there and are not read: what they hold makes no difference.

    Raises:
      UsageError: see `names`.
    """
    project = Path(plan.directory)
    for root in _roots(plan, project):
        yield from backend.placeholders(project, root)
    for package in plan.packages:
        if not package.startswith("-e "):
            yield from backend.missing(project, requirements.directory(package))


def trees(plan: ImagePlan) -> Iterator[str]:
    """Lists the folders of which all is needed, relative to the project.

    Raises:
      UsageError: see `names`.
    """
    project = Path(plan.directory)
    for package in plan.packages:
        if not package.startswith("-e "):
            yield requirements.directory(package)
    if plan.requirements and (project / plan.requirements[0]).is_file():
        yield from requirements.read(project, plan.requirements[0]).links


def _roots(plan: ImagePlan, project: Path) -> Iterator[str]:
    """The folders of the packages whose build backends are asked what they are."""
    if plan.project in backend.DECLARING and _asks_backend(plan, project):
        yield "."
    for package in plan.packages:
        where = requirements.directory(package)
        if package.startswith("-e ") and (project / where).is_dir():
            yield where
    for member in locks.members(project) if plan.lock_file == locks.UV else ():
        if member != "." and (project / member).is_dir():
            yield member


def hashes(plan: ImagePlan) -> dict[str, list[str]]:
    """The hashes that requirements files give for packages, by the packages' normalised names.

    Raises:
      UsageError: see `names`.
    """
    if not plan.requirements:
        return {}
    return requirements.read(Path(plan.directory), plan.requirements[0]).hashes


def _asks_backend(plan: ImagePlan, project: Path) -> bool:
    """Whether the build backend is asked what the project depends on."""
    if plan.project != pyproject.NAME:
        return True
    return plan.lock_file != locks.POETRY and pyproject.read(project).is_made_by_backend
