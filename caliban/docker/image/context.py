"""The build context: just the files that an image needs; what stands for them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NoReturn

from caliban.docker.image import dockerignore
from caliban.docker.image.declared import files as declared_files
from caliban.docker.image.dockerfile import (
    CODE,
    COMPILER,
    DEPENDENCIES,
    JULIA,
    JUPYTER,
    LOCK,
    LOCK_FILE,
    copies_declarations,
    directory_folder,
    has_dependencies,
    render,
)
from caliban.docker.image.dockerignore import DockerIgnore
from caliban.errors import UsageError
from caliban.model.image import OUTPUTS_MARK, ImagePlan
from caliban.model.lock import Lock
from caliban.model.module import Module

# Never part of an image: what Python, git and editors write beside the code changes without it.
_IGNORED_FOLDERS = frozenset({"__pycache__", ".devcontainer", ".git", ".ipynb_checkpoints"})
# In a submodule or a worktree, a file says where git keeps what would be in the folder.
_IGNORED_FILES = frozenset({".git"})

# caliban's own settings, among them perhaps the password of a database; jobs don't read them.
_SETTINGS = ".calibanconfig.json"

# What caliban itself puts into images.
RESOURCES = Path(__file__).parents[2] / "resources"

# The lstat of a file that caliban writes into the context.
_GENERATED = os.stat_result((stat.S_IFREG | 0o644, *[0] * 9))


@dataclass(frozen=True)
class File:
    """A file, folder or link of the context.

    Attributes:
      folder: the folder of the context that it lies in, see the module `dockerfile`.
      name: its path in that folder and in the project, with forward slashes; "." is the folder.
      path: where it is on this machine.
      info: its lstat.
      text: what it holds, if that comes from caliban; None for a file of this machine.
    """

    folder: str
    name: str
    path: Path
    info: os.stat_result
    text: str | None = None

    @functools.cached_property
    def content(self) -> str:
        """Stands for its permissions inside the image and what it holds; it is read once.

        Raises:
          OSError: it cannot be read.
        """
        if stat.S_ISLNK(self.info.st_mode):
            digest = hashlib.sha256(os.fsencode(self.path.readlink())).hexdigest()
            return f"link {digest}"
        if stat.S_ISDIR(self.info.st_mode):
            return "folder"
        if self.text is not None:
            return f"{mode(self):o} {hashlib.sha256(self.text.encode()).hexdigest()}"
        with self.path.open("rb") as stream:
            return f"{mode(self):o} {hashlib.file_digest(stream, 'sha256').hexdigest()}"


def files(plan: ImagePlan, excluded: Iterable[Path] = ()) -> list[File]:
    """Lists what an image needs of the project, sorted by folder and name.

    The project's .dockerignore is honoured. Folders named __pycache__, .git and .devcontainer
    are left out, and so are virtual environments, what jobs have written, and .calibanconfig.json.
    A file that is in two directories to copy is listed with the first.

    Args:
      plan: the image.
      excluded: files that are never copied: credentials that happen to lie inside the project.

    Raises:
      UsageError: the .dockerignore leaves out what the image needs, a folder cannot be read, or the
        whole home directory would be copied.
    """
    project = Path(plan.directory)
    found: dict[tuple[str, str], File] = {}
    if copies_declarations(plan):
        found = {(file.folder, file.name): file for file in _declarations(plan, project)}
    if plan.lock:
        text = Lock.parse(plan.lock).installed
        found[LOCK, LOCK_FILE] = File(LOCK, LOCK_FILE, Path(), _GENERATED, text)
    if has_dependencies(plan):
        for name in (".", COMPILER):
            path = RESOURCES / "dependencies" / name
            found[LOCK, name] = File(LOCK, name, path, path.stat())
    own = {JUPYTER: plan.jupyter, JULIA: plan.julia}
    for folder in filter(own.get, own):
        found.update(((folder, file.name), file) for file in _walk(RESOURCES, folder, folder))
    if plan.live:
        return [found[key] for key in sorted(found)]
    roots = {directory_folder(index): name for index, name in enumerate(plan.directories)}
    if plan.module:
        roots[CODE] = plan.module.copied
    if "." in roots.values() and Path.home().resolve().is_relative_to(project.resolve()):
        raise UsageError(
            f"all of {project} would be copied into the image, and that includes your home "
            "directory",
            "Move the project into a folder of its own, or the code into a folder of the project.",
        )
    secrets = _identities(excluded)
    ignore = dockerignore.load(project / ".dockerignore")
    taken: set[str] = set()
    for folder, root in roots.items():
        for file in _walk(project, folder, root, ignore):
            if file.name in taken or file.name == _SETTINGS or _is_one_of(secrets, file):
                continue
            found[folder, file.name] = file
            if not stat.S_ISDIR(file.info.st_mode):
                taken.add(file.name)
    if plan.module and not _is_there(plan.module.copied, taken):
        raise UsageError(f".dockerignore leaves out {plan.module.copied}, which holds the code")
    if plan.module and (missing := _left_out(project, plan.module, ignore)):
        raise UsageError(
            f".dockerignore leaves out {missing}, which is the code to run",
            f"A line !{missing} at its end takes it back.",
        )
    return [found[key] for key in sorted(found)]


def listed(
    project: Path, roots: Iterable[str], excluded: Iterable[Path], ignore: Path
) -> Iterator[File]:
    """Lists what a Dockerfile of the project's own copies, under the names that files have there.

    Args:
      project: the project.
      roots: the paths in it that are copied; those that aren't there are left out.
      excluded: files that are never copied.
      ignore: the .dockerignore.

    Raises:
      UsageError: a folder cannot be read.
    """
    patterns = dockerignore.load(ignore)
    secrets = _identities(excluded)
    for root in roots:
        for file in _walk(project, "", root, patterns) if (project / root).exists() else ():
            if file.name != _SETTINGS and not _is_one_of(secrets, file):
                yield file


def _identities(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """What tells files from all others: a key has other names as well, by links of both kinds."""
    return {(each.st_dev, each.st_ino) for each in map(_followed, paths) if each}


def _is_one_of(identities: set[tuple[int, int]], file: File) -> bool:
    info = _followed(file.path) if identities else None
    return info is not None and (info.st_dev, info.st_ino) in identities


def declared(plan: ImagePlan) -> list[File]:
    """Lists the files that the dependencies are resolved from, in the folder DEPENDENCIES.

    Raises:
      UsageError: a folder cannot be read.
    """
    found = {file.name: file for file in _declarations(plan, Path(plan.directory))}
    return [found[name] for name in sorted(found)]


def _followed(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None  # a link to nowhere


def _is_there(root: str, names: Iterable[str]) -> bool:
    """Whether there is anything of what the code needs."""
    return any(root == "." or name == root or name.startswith(f"{root}/") for name in names)


def _left_out(project: Path, module: Module, ignore: DockerIgnore | None) -> str:
    """The module's own file, if the patterns leave it out; else ""."""
    own = next((name for name in module.files if (project / name).is_file()), "")
    is_copied = not own or any(file.name == own for file in _walk(project, CODE, own, ignore))
    return "" if is_copied else own


def fingerprint(plan: ImagePlan, base_id: str, context: Iterable[File]) -> str:
    """Names an image by all that decides its content, as 16 hexadecimal digits.

    That is the Dockerfile's text, the id of the base image, and the path, mode and content of
    every copied file.

    Args:
      plan: the image.
      base_id: id of the image it is built on.
      context: the files, see `files`.

    Raises:
      UsageError: a file cannot be read.
    """
    total = hashlib.sha256(f"{render(plan)}\0{base_id}\0".encode())
    for file in context:
        try:
            total.update(_identity(file))
        except OSError as error:
            unreadable(error)
    return total.hexdigest()[:16]


def digest(files: Iterable[File]) -> str:
    """Stands for path, mode and content of files, as 16 hexadecimal digits.

    Raises:
      UsageError: a file cannot be read.
    """
    total = hashlib.sha256()
    try:
        for file in files:
            total.update(_identity(file))
    except OSError as error:
        unreadable(error)
    return total.hexdigest()[:16]


def code_digest(plan: ImagePlan, excluded: Iterable[Path] = ()) -> str:
    """Names the code of a project as it is now: all that an image of it would hold a copy of.

    Args:
      plan: the image; whether it is live makes no difference.
      excluded: see `files`.

    Returns:
      "sha256:..." over path, mode and content of every file.

    Raises:
      UsageError: see `files`.
    """
    total = hashlib.sha256()
    try:
        found = [*declared(plan), *files(replace(plan, live=False, lock=""), excluded)]
        for file in {(file.folder, file.name): file for file in found}.values():
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                total.update(_identity(file))
    except OSError as error:
        unreadable(error)
    return f"sha256:{total.hexdigest()}"


def _identity(file: File) -> bytes:
    """Stands for a file's place, permissions and content."""
    return f"{file.folder}/{file.name}\0{file.content}\0".encode(errors="surrogateescape")


def _declarations(plan: ImagePlan, project: Path) -> Iterator[File]:
    """The files that declare the dependencies, with the folders that they are in."""
    for name in dict.fromkeys(declared_files.names(plan)):
        for part in (*reversed(PurePosixPath(name).parents), PurePosixPath(name)):
            try:
                info = (project / part).stat()
            except OSError as error:
                raise UsageError(f"cannot read {project / part}: {error.strerror}") from None
            yield File(DEPENDENCIES, str(part), project / part, info)
    for name in dict.fromkeys(declared_files.placeholders(plan)):
        yield File(DEPENDENCIES, name, project / name, _GENERATED, "")
    for name in dict.fromkeys(declared_files.trees(plan)):
        yield from _walk(project, DEPENDENCIES, name)


def _walk(
    project: Path, folder: str, root: str, ignore: DockerIgnore | None = None
) -> Iterator[File]:
    """A file, or a directory and all that is in it; sockets, pipes and devices are not copied."""
    ignore = ignore or DockerIgnore("")
    # Folders that are left out, until something in them is taken back.
    waiting: dict[str, File] = {}
    # What the patterns say of folders.
    said = {"": ignore.top}

    def chosen(file: File) -> Iterator[File]:
        left_out, matches = ignore.check(file.name, said[posixpath.dirname(file.name)])
        if stat.S_ISDIR(file.info.st_mode):
            said[file.name] = matches
        if left_out:
            waiting[file.name] = file
            return
        if waiting:
            for parent in reversed(PurePosixPath(file.name).parents):
                if held := waiting.pop(str(parent), None):
                    yield held
        yield file

    top = project / root
    for part in (*reversed(PurePosixPath(root).parents), PurePosixPath(root)):
        file = File(folder, str(part), project / part, (project / part).stat())
        yield from [file] if file.name == "." else chosen(file)
        if file.name in waiting and not ignore.may_take_back(file.name):
            return
    if not top.is_dir():
        return
    for place, folders, names in os.walk(top, onerror=_unlisted):
        inside = Path(place).relative_to(project)
        prefix = "" if inside == Path() else f"{inside.as_posix()}/"
        folders[:] = sorted(name for name in folders if not _is_ignored(Path(place, name)))
        for name in (*folders, *sorted({*names} - _IGNORED_FILES)):
            path = Path(place, name)
            try:
                info = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_IFMT(info.st_mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                yield from chosen(File(folder, prefix + name, path, info))
        folders[:] = [
            name
            for name in folders
            if prefix + name not in waiting or ignore.may_take_back(prefix + name)
        ]


def _is_ignored(folder: Path) -> bool:
    try:
        return folder.name in _IGNORED_FOLDERS or any(
            (folder / name).is_file() for name in ("pyvenv.cfg", OUTPUTS_MARK)
        )
    except PermissionError:
        return False  # it is told of when its content is listed


def mode(file: File) -> int:
    """A file's permissions inside the image, where anybody may run the code and write beside it."""
    if stat.S_ISLNK(file.info.st_mode) or stat.S_ISDIR(file.info.st_mode):
        return 0o777
    return 0o777 if file.info.st_mode & stat.S_IXUSR else 0o666


def _unlisted(error: OSError) -> None:
    # What has gone since its folder was listed is no problem: somebody is at work there.
    if not isinstance(error, FileNotFoundError):
        unreadable(error)


def unreadable(error: OSError) -> NoReturn:
    """Says that a file of the project cannot be read."""
    raise UsageError(
        f"cannot read {error.filename}, which belongs to the code: {error.strerror}",
        "Make it readable, move it out of the project, or name it in .dockerignore.",
    ) from None
