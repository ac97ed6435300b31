"""What a project declares about its environment: from its files to an ImagePlan."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from caliban.docker.image.declared import (
    backend,
    conda,
    interpreter,
    local,
    locks,
    pyproject,
    setup_cfg,
)
from caliban.docker.image.declared import requirements as requirements_files
from caliban.docker.image.declared.conda import Environment
from caliban.docker.image.declared.interpreter import Wanted
from caliban.docker.image.declared.locks import Managed
from caliban.docker.image.declared.pyproject import Pyproject
from caliban.docker.image.declared.requirements import Requirements
from caliban.errors import UsageError
from caliban.model.image import ImagePlan, Mode
from caliban.model.module import Kind, Module

_REQUIREMENTS = "requirements.txt"

# The files that declare something, wherever they are.
_DECLARING = (
    *(_REQUIREMENTS, *backend.DECLARING, "Pipfile", *conda.NAMES),
    *(locks.UV, locks.POETRY, locks.PIPENV, interpreter.FILE),
)

# Files of other tools, which somebody may expect to be used, and what has to be there instead.
_FOREIGN = {
    "pdm.lock": "pyproject.toml, or a uv.lock",
    "pylock.toml": "pyproject.toml, or a uv.lock",
    "pixi.toml": "environment.yml",
    "conda-lock.yml": "environment.yml",
}

# How a package that is fetched by git is written in any of the files.
_GIT = re.compile(rb"git\+|[{\s]git\s*=\s*[\"']|\btype = \"git\"|\"git\":")


@dataclass
class Messages:
    """What the user is told of a project's declarations, each in a line.

    Attributes:
      notes: what was found, and what is ignored because something else counts.
      warnings: what was asked for, and has no effect.
    """

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def plan(
    project: Path,
    mode: Mode,
    base_image: str,
    module: Module | None,
    extras: Sequence[str] = (),
    apt_packages: Sequence[str] = (),
    directories: Sequence[str] = (),
) -> tuple[ImagePlan, Messages]:
    """Plans the image of a project from the files that declare its dependencies.

    Args:
      project: the directory of the project.
      mode: for CPU or GPU; also the name of the optional dependency set that is always asked for.
      base_image: the image to build on; the default one may give way to another Python's.
      module: the code to execute; None for an interactive image.
      extras: more optional dependency sets, or dependency groups.
      apt_packages: packages of the distribution.
      directories: extra directories to copy.

    Raises:
      UsageError: a file that declares dependencies can't be read or asks for what can't be, an
        optional set is not declared, or an extra directory is missing or outside the project.
    """
    said = Messages()
    _check_files(project)
    toml = pyproject.read(project)
    managed = locks.detect(project, toml)
    environment_file = next((name for name in conda.NAMES if (project / name).is_file()), "")
    environment = conda.read(project / environment_file) if environment_file else Environment()
    wanted, groups = _sets(project, mode, extras, toml, managed, said)
    required = _required(project, managed, environment_file, environment, said)
    packages = local.packages(project, toml, managed, required.packages, wanted, groups)
    python = _python(project, toml, managed, environment, said)
    configured = base_image
    base_image, missing = interpreter.base_image(configured, mode, python)
    if base_image != configured or (python.is_exact and missing == python):
        on = f", on {base_image}" if base_image != configured else ""
        said.notes.append(f"Python: {python.request}, as {python.source} says{on}")
    files = [*required.files, managed.project, managed.lock_file, pyproject.NAME]
    if required.uses_git or any(_GIT.search(_bytes(project / name)) for name in files if name):
        apt_packages = [*apt_packages, "git"]
    copied = [_directory(each, project) for each in directories]
    if module is not None:
        copied += _code_of(project, packages, [module.copied, *copied])
    planned = ImagePlan(
        mode=mode,
        base_image=base_image,
        directory=str(project),
        module=module,
        requirements=tuple(required.files),
        project=managed.project,
        extras=tuple(wanted),
        apt_packages=tuple(sorted({*apt_packages})),
        directories=tuple(copied),
        groups=tuple(groups),
        lock_file=managed.lock_file,
        pip=tuple(environment.pip) if required.files or not managed.lock_file else (),
        conda=tuple(environment.arguments),
        python=missing.request,
        packages=tuple(packages),
    )
    _check_src(project, planned)
    _tell(project, planned, environment_file, environment, said)
    return planned, said


def _check_files(project: Path) -> None:
    """Sees to it that what looks like a declaration is one, and doesn't count as absent.

    Raises:
      UsageError: it is a folder, or a link to nowhere; or the setup.cfg can't be read.
    """
    for path in (project / name for name in _DECLARING):
        if path.is_symlink() and not path.exists():
            raise UsageError(
                f"{path} is a link to {path.readlink()}, which does not exist",
                "Without the file, its dependencies would be missing from the image.",
            )
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a file", "Files of that name declare dependencies.")
    setup_cfg.read(project)


def is_declared_as(before: ImagePlan) -> bool:
    """Whether the project's files declare what an earlier plan took from them."""
    extras = [each for each in (*before.extras, *before.groups) if each != before.mode.value]
    project = Path(before.directory)
    try:
        now, _ = plan(project, before.mode, before.base_image, before.module, extras)
    except UsageError:
        return False
    return _declared(now) == _declared(before)


def _declared(plan: ImagePlan) -> tuple[object, ...]:
    return (
        plan.requirements,
        plan.project,
        plan.lock_file,
        plan.pip,
        plan.conda,
        plan.packages,
    )


def _sets(
    project: Path,
    mode: Mode,
    extras: Sequence[str],
    toml: Pyproject,
    managed: Managed,
    said: Messages,
) -> tuple[list[str], list[str]]:
    """The optional sets to install, and the dependency groups."""
    known: Collection[str] | None = toml.extras if toml.declares else ()
    groups: Collection[str] = toml.groups
    if managed.project == "Pipfile":
        groups = locks.pipfile(project)[0]
    if managed.project in ("setup.py", "setup.cfg"):
        return list(dict.fromkeys((mode.value, *extras))), []
    if not managed.project and not groups:
        if extras:
            said.warnings.append(
                f"--extras {' '.join(extras)} has no effect: "
                f"there is no {', '.join(backend.DECLARING)} or Pipfile that declares them"
            )
        return [], []
    declared = managed.project or pyproject.NAME
    chosen_extras, chosen_groups = [], []
    for name in dict.fromkeys((mode.value, *extras)):
        if found := _same(name, groups):
            chosen_groups.append(found)
        elif found := name if known is None else _same(name, known):
            chosen_extras.append(found)
        elif name in extras:
            raise UsageError(
                f"{project / declared} declares no extra '{name}' (--extras {name})",
                _there_is(known or (), groups),
            )
        elif known or groups:
            said.warnings.append(
                f"{declared} declares no extra '{name}'; nothing more is installed"
            )
    if known is None and mode.value in chosen_extras:
        # uv refuses what is not there, and only the build backend knows.
        chosen_extras.remove(mode.value)
    return chosen_extras, chosen_groups


def _same(name: str, declared: Collection[str]) -> str:
    """The declared name that means the same as another: "data-sets" for "Data_Sets"; or ""."""
    from packaging.utils import canonicalize_name

    wanted = canonicalize_name(name)
    return next((each for each in sorted(declared) if canonicalize_name(each) == wanted), "")


def _there_is(extras: Collection[str], groups: Collection[str]) -> str:
    parts = [f"the extras {', '.join(sorted(extras))}"] if extras else []
    parts += [f"the dependency groups {', '.join(sorted(groups))}"] if groups else []
    return f"It declares {' and '.join(parts)}." if parts else "It declares none."


def _required(
    project: Path, managed: Managed, file: str, environment: Environment, said: Messages
) -> Requirements:
    """What requirements.txt and the pip section of an environment.yml say, unless a lock does."""
    lock = managed.lock_file
    if lock:
        by = lock if (project / lock).is_file() else managed.project
        if (project / _REQUIREMENTS).is_file():
            said.notes.append(f"Ignored: {_REQUIREMENTS}, because {by} says what is installed")
        if environment.pip:
            said.notes.append(f"Ignored: the pip section of {file}, because of {by}")
        return Requirements()
    found = Requirements()
    if (project / _REQUIREMENTS).is_file():
        found = requirements_files.read(project, _REQUIREMENTS)
    requirements_files.add(found, project, file, environment.pip)
    return found


def _python(
    project: Path, toml: Pyproject, managed: Managed, environment: Environment, said: Messages
) -> Wanted:
    """The Python that the project asks for."""
    if environment.has_python:
        return Wanted()
    named, warning = interpreter.named(project)
    said.warnings += [warning] if warning else []
    candidates = [named]
    if managed.project == "Pipfile":
        candidates.append(Wanted(locks.pipfile(project)[1], "Pipfile"))
    elif managed.project in ("setup.py", "setup.cfg"):
        candidates.append(Wanted(backend.python_requires(project), managed.project))
    candidates.append(Wanted(toml.requires_python, f"requires-python of {pyproject.NAME}"))
    return interpreter.agree(candidates, project)


def _code_of(project: Path, packages: Iterable[str], copied: Sequence[str]) -> list[str]:
    """The code of the installed packages that is not copied anyway."""
    found: list[str] = []
    for each in packages:
        for path in local.code(project, each):
            parents = {
                str(parent) for parent in (PurePosixPath(path), *PurePosixPath(path).parents)
            }
            if parents.isdisjoint((*copied, *found)):
                found.append(path)
    return found


def _check_src(project: Path, plan: ImagePlan) -> None:
    """Checks that a module in the folder src will be found there."""
    module = plan.module
    if module is None or module.kind is not Kind.PYTHON_MODULE or module.copied != "src":
        return
    installed = any(requirements_files.directory(each) == "." for each in plan.packages)
    if module.name.split(".")[0] != "src" and not installed:
        raise UsageError(
            f"the module '{module.name}' lies in {project / 'src'}, where Python finds it only "
            "once the project is installed",
            "Declare a [build-system] in pyproject.toml, or name the file: "
            f"src/{module.name.replace('.', '/')}.py.",
        )


def _tell(
    project: Path, plan: ImagePlan, file: str, environment: Environment, said: Messages
) -> None:
    """Says what was found and what is ignored."""
    sets = [*plan.extras, *plan.groups]
    declared = plan.project or (pyproject.NAME if plan.groups else "")
    if declared and plan.project not in ("setup.py", "setup.cfg") and sets:
        declared += f" with {', '.join(sets)}"
    if plan.lock_file:
        there = (project / plan.lock_file).is_file()
        declared += f", locked by {plan.lock_file}" if there else f" (there is no {plan.lock_file})"
    required = " with ".join(
        filter(None, [*plan.requirements[:1], ", ".join(plan.requirements[1:])])
    )
    parts = [part for part in (file if plan.conda else "", declared, required) if part]
    lines = [f"Dependencies: {'; '.join(parts)}"] if parts else []
    if plan.packages:
        lines.append(f"Installed from the project itself: {', '.join(plan.packages)}")
    said.notes[:0] = lines
    for key in environment.ignored:
        said.warnings.append(f"'{key}' in {file} has no effect")
    said.notes += [
        f"Ignored: {name}, because {reason}" for name, reason in _ignored(project, plan).items()
    ]


def _ignored(project: Path, plan: ImagePlan) -> dict[str, str]:
    """The files that are there and make no difference, and why."""
    reasons = {
        name: f"caliban does not read it: it would read {instead}"
        for name, instead in _FOREIGN.items()
    }
    if plan.project:
        others = [locks.UV, locks.POETRY, locks.PIPENV, "Pipfile"]
        if not any(requirements_files.directory(each) == "." for each in plan.packages):
            others.append("setup.py")
        reasons |= dict.fromkeys(others, f"{plan.project} declares the dependencies")
        reasons |= {plan.lock_file: "", plan.project: ""}
    else:
        reasons[locks.UV] = reasons[locks.POETRY] = f"no {pyproject.NAME} declares a project"
        reasons[locks.PIPENV] = "there is no Pipfile"
    if not plan.requirements and not plan.project:
        reasons["requirements.in"] = f"it has to be compiled into a {_REQUIREMENTS}"
    return {
        name: reason
        for name, reason in reasons.items()
        if name and reason and (project / name).is_file()
    }


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _directory(name: str, project: Path) -> str:
    """An extra directory as a path relative to the project."""
    path = os.path.relpath(project / name, project)
    if requirements_files.is_outside(path):
        raise UsageError(
            f"--dir {name} lies outside the project",
            f"Extra directories must live inside the current directory, {project}.",
        )
    if not (project / path).is_dir():
        raise UsageError(f"--dir {name}: there is no directory '{path}' in {project}")
    return path
