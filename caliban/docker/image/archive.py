"""The archive in which files are sent to the engine: of the same files, always the same."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterable
from typing import IO

from caliban.docker.image.context import File, mode, unreadable

# Time of every file: the second day that a zip archive can express, wherever on earth it is read.
_MTIME = 315619200


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
            _add(archive, os.path.normpath(f"{file.folder}/{file.name}"), file)


def _add(archive: tarfile.TarFile, name: str, file: File) -> None:
    header = tarfile.TarInfo(name)
    header.mode, header.mtime = mode(file), _MTIME
    if stat.S_ISDIR(file.info.st_mode):
        header.type = tarfile.DIRTYPE
        archive.addfile(header)
    elif stat.S_ISLNK(file.info.st_mode):
        header.type, header.linkname = tarfile.SYMTYPE, str(file.path.readlink())
        archive.addfile(header)
    elif file.text is not None:
        generated = file.text.encode()
        header.size = len(generated)
        archive.addfile(header, io.BytesIO(generated))
    else:
        with _open(file) as content:
            header.size = os.fstat(content.fileno()).st_size
            archive.addfile(header, content)


def _open(file: File) -> io.BufferedReader:
    try:
        return file.path.open("rb")
    except OSError as error:
        unreadable(error)
