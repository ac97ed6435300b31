"""The build context: just the files that an image needs, in a form that is the same everywhere."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from caliban.docker.dockerfile import PROJECT_FOLDER, render
from caliban.errors import UsageError
from caliban.model.image import ImagePlan

# Never part of an image: what Python and git write beside the code changes without the code.
_IGNORED_FOLDERS = frozenset({"__pycache__", ".git"})


@dataclass(frozen=True)
class File:
    """A file, folder or link of the context.

    Attributes:
      name: its path inside the project, with forward slashes.
      path: where it is on this machine.
      info: its lstat.
    """

    name: str
    path: Path
    info: os.stat_result


def files(plan: ImagePlan, excluded: Iterable[Path] = ()) -> list[File]:
    """Lists what an image needs of the project, sorted by name, each once.

    The project's .dockerignore is honoured. Folders named __pycache__ and .git are left out.

    Args:
      plan: the image.
      excluded: files that are never copied: credentials that happen to lie inside the project.

    Raises:
      UsageError: the .dockerignore leaves out what the image needs.
    """
    project = Path(plan.directory)
    secrets = {path.resolve() for path in excluded}
    kept = _kept(project)
    found: dict[str, File] = {}
    for name in (*plan.requirements, *filter(None, [plan.project])):
        found[name] = File(name, project / name, (project / name).stat())
    roots = [*plan.directories, *([plan.module.copied] if plan.module else [])]
    for root in roots:
        for file in _walk(project, root):
            if (kept is None or file.name in kept) and file.path.resolve() not in secrets:
                found[file.name] = file
    if plan.module and not any(
        name == root or name.startswith(f"{root}/") or root == "."
        for root in [plan.module.copied]
        for name in found
    ):
        raise UsageError(f".dockerignore leaves out {plan.module.copied}, which holds the code")
    return [found[name] for name in sorted(found)]


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
        total.update(f"{file.name}\0{_mode(file):o}\0".encode(errors="surrogateescape"))
        if stat.S_ISLNK(file.info.st_mode):
            total.update(os.fsencode(file.path.readlink()))
        elif stat.S_ISREG(file.info.st_mode):
            with _open(file) as content:
                total.update(hashlib.file_digest(content, "sha256").digest())
        total.update(b"\0")
    return total.hexdigest()[:16]


def write(dockerfile: str, context: Iterable[File], stream: IO[bytes]) -> None:
    """Writes the context as a tar archive.

    Owners and times are left out, so that the same files are the same archive for everybody.

    Args:
      dockerfile: text of the Dockerfile, which the archive holds as "Dockerfile".
      context: the files, which it holds under PROJECT_FOLDER.
      stream: where the archive is written, which need not be seekable.

    Raises:
      UsageError: a file cannot be read.
    """
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        text = dockerfile.encode()
        header = tarfile.TarInfo("Dockerfile")
        header.size = len(text)
        archive.addfile(header, io.BytesIO(text))
        folder = tarfile.TarInfo(PROJECT_FOLDER)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o777
        archive.addfile(folder)
        for file in context:
            header = tarfile.TarInfo(f"{PROJECT_FOLDER}/{file.name}")
            header.mode = _mode(file)
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


def _walk(project: Path, root: str) -> Iterator[File]:
    """A file, or a folder and all that is in it; sockets, pipes and devices are not copied."""
    top = project / root
    if root != ".":
        for parent in reversed(PurePosixPath(root).parents[:-1]):
            yield File(str(parent), project / parent, (project / parent).stat())
        yield File(root, top, top.stat())
    if not top.is_dir():
        return
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if name not in _IGNORED_FOLDERS)
        for name in (*folders, *sorted(names)):
            path = Path(folder, name)
            info = path.lstat()
            if (
                stat.S_ISREG(info.st_mode)
                or stat.S_ISDIR(info.st_mode)
                or stat.S_ISLNK(info.st_mode)
            ):
                yield File(path.relative_to(project).as_posix(), path, info)


def _mode(file: File) -> int:
    """Permissions inside the image, where any user may run the code and write beside it."""
    if stat.S_ISLNK(file.info.st_mode) or stat.S_ISDIR(file.info.st_mode):
        return 0o777
    return 0o777 if file.info.st_mode & stat.S_IXUSR else 0o666


def _open(file: File) -> BinaryIO:
    try:
        return file.path.open("rb")
    except OSError as error:
        raise UsageError(
            f"cannot copy {file.path} into the image: {error.strerror}",
            "Make it readable, move it out of the project, or name it in .dockerignore.",
        ) from None


def _kept(project: Path) -> set[str] | None:
    """The paths that .dockerignore leaves in; None without such a file."""
    ignore = project / ".dockerignore"
    if not ignore.is_file():
        return None
    # The docker package follows the engine's own rules, which are not those of .gitignore.
    from docker.utils.build import exclude_paths

    lines = ignore.read_text(errors="replace").splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return {Path(path).as_posix() for path in exclude_paths(str(project), patterns)}
