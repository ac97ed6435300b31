"""The files that jobs ran, as they were: from the project, where unchanged, or from the image."""

from __future__ import annotations

import contextlib
import hashlib
import io
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from caliban.docker.engine import Engine
from caliban.errors import EngineError, UsageError
from caliban.model.image import WORKING_DIRECTORY

# What begins the record of a link.
_LINK = "link "


@dataclass(frozen=True)
class SourceFile:
    """A file or link of a project.

    Attributes:
      path: in the project.
      is_executable: whether it can be run.
      content: what it holds; of a link, where it leads.
      is_link: whether it is a link.
    """

    path: str
    is_executable: bool
    content: bytes
    is_link: bool = False

    @property
    def recorded(self) -> str:
        """What stands for it; a record has the beginning, see docker.image.inputs."""
        digest = hashlib.sha256(self.content).hexdigest()
        mode = 0o777 if self.is_executable else 0o666
        return f"{_LINK}{digest}" if self.is_link else f"{mode:o} {digest}"


def find(files: Mapping[str, str], project: Path, image: str, engine: Engine) -> list[SourceFile]:
    """The files of a record, each as it was.

    Args:
      files: what stands for each, by its path; see model.provenance.Source.
      project: the directory that they were in.
      image: that has a copy of them, perhaps.
      engine: that has the image, perhaps.

    Raises:
      UsageError: some are nowhere any more as they were; the message names them.
    """
    found = _unchanged(files, _of_project(project, files))
    if changed := files.keys() - found.keys():
        found |= _unchanged({name: files[name] for name in changed}, _of_image(engine, image))
    if missing := sorted(files.keys() - found.keys()):
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UsageError(
            f"the code that ran is not there any more: {some}",
            f"It has changed in {project}, and the image {image} is not in the engine or has no "
            "copy of it. Check out what was committed and apply the diff (caliban show --diff).",
        )
    return [found[name] for name in sorted(found)]


def _unchanged(files: Mapping[str, str], there: Iterator[SourceFile]) -> dict[str, SourceFile]:
    return {
        each.path: each
        for each in there
        if each.path in files and each.recorded.startswith(files[each.path])
    }


def _of_project(project: Path, names: Mapping[str, str]) -> Iterator[SourceFile]:
    for name in names:
        path = project / name
        with contextlib.suppress(OSError):
            info = path.lstat()
            if stat.S_ISLNK(info.st_mode):
                yield SourceFile(name, False, bytes(path.readlink()), is_link=True)
            elif stat.S_ISREG(info.st_mode):
                yield SourceFile(name, bool(info.st_mode & stat.S_IXUSR), path.read_bytes())


def _of_image(engine: Engine, image: str) -> Iterator[SourceFile]:
    """What an image has in its working directory; nothing if there is no such image."""
    from docker.errors import DockerException

    if not image or engine.image_id(image) is None:
        return
    client = engine.client
    container = client.create_container(image, command=["true"])["Id"]
    try:
        pieces, _ = client.get_archive(container, f"{WORKING_DIRECTORY}/.")
        packed = io.BytesIO(b"".join(pieces))
    except DockerException as error:
        raise EngineError(f"the code in the image {image} cannot be read: {error}") from None
    finally:
        client.remove_container(container, force=True)
    with tarfile.open(fileobj=packed) as opened:
        for member in opened:
            name = str(PurePosixPath(member.name))
            if member.issym():
                yield SourceFile(name, False, member.linkname.encode(), is_link=True)
            elif member.isreg():
                stream = opened.extractfile(member)
                assert stream is not None
                yield SourceFile(name, bool(member.mode & stat.S_IXUSR), stream.read())
