"""The build context: just the files that an image needs, in a form that is the same everywhere."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from caliban.docker.dockerfile import CODE, DEPENDENCIES, JUPYTER, directory_folder, render
from caliban.errors import UsageError
from caliban.model.image import OUTPUTS_MARK, ImagePlan

# Never part of an image: what Python, git and editors write beside the code changes without it.
_IGNORED_FOLDERS = frozenset({"__pycache__", ".devcontainer", ".git"})

# caliban's own settings, among them perhaps the password of a database; jobs don't read them.
_SETTINGS = ".calibanconfig.json"

# What caliban itself puts into images.
RESOURCES = Path(__file__).parents[1] / "resources"

# What a setup.py may read while it tells the project's dependencies.
_READ_BY_SETUP = ("setup.cfg", "pyproject.toml", "README.md", "README.rst", "README")

# Time of every file: the second day that a zip archive can express, wherever on earth it is read.
_MTIME = 315619200


@dataclass(frozen=True)
class File:
    """A file, folder or link of the context.

    Attributes:
      folder: the folder of the context that it lies in, see the module `dockerfile`.
      name: its path in that folder and in the project, with forward slashes; "." is the folder.
      path: where it is on this machine.
      info: its lstat.
    """

    folder: str
    name: str
    path: Path
    info: os.stat_result


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
    found = {(file.folder, file.name): file for file in _declarations(plan, project)}
    if plan.jupyter:
        for file in _walk(RESOURCES, JUPYTER, "jupyter"):
            found[file.folder, file.name] = file
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
    identities = (_followed(path) for path in excluded)
    secrets = {(each.st_dev, each.st_ino) for each in identities if each}
    kept = _kept(project)
    taken: set[str] = set()
    for folder, root in roots.items():
        for file in _walk(project, folder, root):
            if (kept is not None and file.name not in kept) or file.name in taken:
                continue
            if file.name == _SETTINGS:
                continue
            # By identity: a key has other names as well, by links of both kinds.
            info = _followed(file.path) if secrets else None
            if info and (info.st_dev, info.st_ino) in secrets:
                continue
            found[folder, file.name] = file
            if not stat.S_ISDIR(file.info.st_mode):
                taken.add(file.name)
    if plan.module and not _is_there(plan.module.copied, taken):
        raise UsageError(f".dockerignore leaves out {plan.module.copied}, which holds the code")
    return [found[key] for key in sorted(found)]


def _followed(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None  # a link to nowhere


def _is_there(root: str, names: Iterable[str]) -> bool:
    """Whether there is anything of what the code needs."""
    return any(root == "." or name == root or name.startswith(f"{root}/") for name in names)


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
            _unreadable(error)
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
        _unreadable(error)
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
        for file in files(replace(plan, live=False), excluded):
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                total.update(_identity(file))
    except OSError as error:
        _unreadable(error)
    return f"sha256:{total.hexdigest()}"


def _identity(file: File) -> bytes:
    """Stands for a file's place, permissions and content."""
    content = b""
    if stat.S_ISLNK(file.info.st_mode):
        content = os.fsencode(file.path.readlink())
    elif stat.S_ISREG(file.info.st_mode):
        with file.path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
    place = f"{file.folder}/{file.name}\0{_mode(file):o}\0"
    return place.encode(errors="surrogateescape") + content + b"\0"


def write(dockerfile: str, context: Iterable[File], stream: IO[bytes]) -> None:
    """Writes the context as a tar archive.

    Owners and times are left out, so that the same files are the same archive for everybody.

    Args:
      dockerfile: text of the Dockerfile, which the archive holds as "Dockerfile".
      context: the files.
      stream: where the archive is written, which need not be seekable.

    Raises:
      UsageError: a file cannot be read.
      BrokenPipeError: nobody reads the stream any more.
    """
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        text = dockerfile.encode()
        header = tarfile.TarInfo("Dockerfile")
        header.size = len(text)
        archive.addfile(header, io.BytesIO(text))
        for file in context:
            header = tarfile.TarInfo(os.path.normpath(f"{file.folder}/{file.name}"))
            header.mode, header.mtime = _mode(file), _MTIME
            if stat.S_ISDIR(file.info.st_mode):
                header.type = tarfile.DIRTYPE
                archive.addfile(header)
            elif stat.S_ISLNK(file.info.st_mode):
                header.type, header.linkname = tarfile.SYMTYPE, str(file.path.readlink())
                archive.addfile(header)
            else:
                with _open(file) as content:
                    header.size = os.fstat(content.fileno()).st_size
                    archive.addfile(header, content)


def _declarations(plan: ImagePlan, project: Path) -> Iterator[File]:
    """The files that declare the dependencies, with the folders that they are in."""
    names = [*plan.requirements, *filter(None, [plan.project])]
    if plan.project == "setup.py":
        names += [name for name in _READ_BY_SETUP if (project / name).is_file()]
    for name in names:
        for part in (*reversed(PurePosixPath(name).parents), PurePosixPath(name)):
            yield File(DEPENDENCIES, str(part), project / part, (project / part).stat())


def _walk(project: Path, folder: str, root: str) -> Iterator[File]:
    """A file, or a directory and all that is in it; sockets, pipes and devices are not copied."""
    top = project / root
    for part in (*reversed(PurePosixPath(root).parents), PurePosixPath(root)):
        yield File(folder, str(part), project / part, (project / part).stat())
    if not top.is_dir():
        return
    for place, folders, names in os.walk(top, onerror=_unlisted):
        folders[:] = sorted(name for name in folders if not _is_ignored(Path(place, name)))
        for name in (*folders, *sorted(names)):
            path = Path(place, name)
            try:
                info = path.lstat()
            except FileNotFoundError:
                continue
            if (
                stat.S_ISREG(info.st_mode)
                or stat.S_ISDIR(info.st_mode)
                or stat.S_ISLNK(info.st_mode)
            ):
                yield File(folder, path.relative_to(project).as_posix(), path, info)


def _is_ignored(folder: Path) -> bool:
    try:
        return folder.name in _IGNORED_FOLDERS or any(
            (folder / name).is_file() for name in ("pyvenv.cfg", OUTPUTS_MARK)
        )
    except PermissionError:
        return False  # it is told of when its content is listed


def _mode(file: File) -> int:
    """Permissions inside the image, where any user may run the code and write beside it."""
    if stat.S_ISLNK(file.info.st_mode) or stat.S_ISDIR(file.info.st_mode):
        return 0o777
    return 0o777 if file.info.st_mode & stat.S_IXUSR else 0o666


def _open(file: File) -> io.BufferedReader:
    try:
        return file.path.open("rb")
    except OSError as error:
        _unreadable(error)


def _unlisted(error: OSError) -> None:
    # What has gone since its folder was listed is no problem: somebody is at work there.
    if not isinstance(error, FileNotFoundError):
        _unreadable(error)


def _unreadable(error: OSError) -> NoReturn:
    raise UsageError(
        f"cannot read {error.filename}, which belongs to the code: {error.strerror}",
        "Make it readable, move it out of the project, or name it in .dockerignore.",
    ) from None


def _kept(project: Path) -> set[str] | None:
    """The paths that .dockerignore leaves in, with their folders; None without such a file."""
    ignore = project / ".dockerignore"
    if not ignore.is_file():
        return None
    # The docker package follows the engine's own rules, which are not those of .gitignore.
    from docker.utils.build import exclude_paths

    lines = ignore.read_text(errors="replace").splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    try:
        paths = [PurePosixPath(path) for path in exclude_paths(str(project), patterns)]
    except OSError as error:
        _unreadable(error)
    return {str(each) for path in paths for each in (path, *path.parents)}
