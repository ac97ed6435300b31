"""A project's .devcontainer/devcontainer.json: editors open the project in the image of its jobs.

The format is the one of https://containers.dev, which VS Code and others read.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from caliban.errors import CalibanError, UsageError
from caliban.model.image import WORKING_DIRECTORY, Mode

COMMAND = "caliban build --devcontainer"

# Begins every file that caliban has written. Whoever changes one removes it, and keeps the file.
MARKER = f"// Written by {COMMAND}"

_HEADER = f"""\
{MARKER}, for this user of this machine.
// It is replaced whenever that is run again. Remove the first line to keep your own changes.
"""

_PYTHON = "/opt/venv/bin/python"

_FOLDER = ".devcontainer"
_NAME = "devcontainer.json"

# The other place where editors look for a project's file: only if the first one is not there.
_OTHER_NAME = ".devcontainer.json"

# What would end a field of --mount, which is a line of CSV.
_SPECIAL = frozenset(',"')


def render(
    image: str,
    mode: Mode,
    project: Path,
    uid: int,
    gid: int,
    home_directory: Path,
    mounts: Mapping[Path, str],
    gpu_arguments: Sequence[str] = (),
) -> str:
    """Writes the text of a devcontainer.json.

    The container is like that of a job, with the project live at /usr/app. Paths are relative to
    the project and the user's home directory; the format has no variable for who the user is.

    Args:
      image: name of the project's image, without its code, which is mounted.
      mode: of the image.
      project: the directory that the editor will open.
      uid: number of the user, to whom new files will belong.
      gid: number of the user's group.
      home_directory: the user's own on this machine.
      mounts: files of this machine that the container sees, read-only, and their places in it;
        among them the user's passwd and group entries, see identity.account_files.
      gpu_arguments: what makes `docker run` give a container the GPUs. In GPU mode without them,
        the editor itself looks for GPUs whenever it makes the container, and does without if
        there are none.
    """
    content: dict[str, Any] = {
        "name": "${localWorkspaceFolderBasename} (caliban)",
        "image": image,
        "workspaceMount": _bind(project, project, "${localWorkspaceFolder}", WORKING_DIRECTORY),
        "workspaceFolder": WORKING_DIRECTORY,
        "initializeCommand": _check_here(image, uid, home_directory, list(mounts)),
        "init": True,
        "runArgs": ["--ipc", "host", *_user(uid, gid), *gpu_arguments],
        "mounts": [
            f"{_bind(path, home_directory, '${localEnv:HOME}', target)},readonly"
            for path, target in mounts.items()
        ],
        # It would build another image, to give an account in it another number. Ours have none.
        "updateRemoteUserUID": False,
    }
    if mode is Mode.GPU and not gpu_arguments:
        content["hostRequirements"] = {"gpu": "optional"}
    content["customizations"] = {
        "vscode": {
            "extensions": ["ms-python.python"],
            "settings": {
                "python.defaultInterpreterPath": _PYTHON,
                # Otherwise it is that of the passwd entry, which is the one that all images have.
                "terminal.integrated.defaultProfile.linux": "bash",
            },
        }
    }
    return f"{_HEADER}{json.dumps(content, indent=2)}\n"


def _user(uid: int, gid: int) -> list[str]:
    """The arguments that make the user the container's user; root is that of the image already.

    The editor's processes run as the user that the container was started with, by number: names
    are looked up in the image, which has none, and a number without a group's means root's group.
    """
    return ["--user", f"{uid}:{gid}"] if uid else []


def _bind(path: Path, base: Path, variable: str, target: str) -> str:
    """A bind mount, as `docker run --mount` takes it, of a path that is relative to the base."""
    source = f"source={path}"
    # A variable's value can't be quoted, so that such a path is written out.
    if _SPECIAL & set(source):
        source = '"' + source.replace('"', '""') + '"'
    elif path.is_relative_to(base):
        source = f"source={PurePosixPath(variable, path.relative_to(base))}"
    return f"type=bind,{source},target={target}"


def _check_here(image: str, uid: int, home_directory: Path, files: Sequence[Path]) -> str:
    """A command for the machine's shell, which says what to do where the file won't work.

    Otherwise a colleague who got the file with the project would read of a failing `docker pull`,
    or of mounts, or find that new files belong to somebody else.
    """
    conditions = [f'test "$(id -u)" = {uid}']
    for file in files:
        if file.is_relative_to(home_directory):
            name = f'"$HOME"/{shlex.quote(str(file.relative_to(home_directory)))}'
        else:
            name = shlex.quote(str(file))
        conditions.append(f"test -e {name}")
    # An editor can be told to use another program instead, which this can't ask.
    no_docker = "! command -v docker >/dev/null"
    conditions.append(f"{{ {no_docker} || docker image inspect {shlex.quote(image)} >/dev/null; }}")
    message = f"The image {image} is not here, or it was another user who ran {COMMAND}. Run it."
    return f"{' && '.join(conditions)} || {{ echo {shlex.quote(message)} >&2; exit 1; }}"


def check(project: Path) -> Path:
    """Finds the place of the file, and makes sure that nobody else's would be replaced or hidden.

    Args:
      project: the directory of the project.

    Returns:
      The path of .devcontainer/devcontainer.json, whether it exists or not.

    Raises:
      UsageError: the project has such a file that is not caliban's.
      CalibanError: that cannot be found out.
    """
    file = project / _FOLDER / _NAME
    try:
        for link in (file.parent, file):
            # What lies behind it may belong to other projects as well.
            if link.is_symlink():
                raise UsageError(
                    f"{link} is a symbolic link, which caliban does not follow",
                    "Remove the link, or put what it leads to in its place.",
                )
        for each in (file, project / _OTHER_NAME):
            if os.path.lexists(each) and not _is_ours(each):
                raise UsageError(
                    f"there is a {each} already, which caliban did not write",
                    f"Move it away, and run {COMMAND} again. What you need of it can be added to "
                    "the new file.",
                )
    except OSError as error:
        raise CalibanError(f"cannot read {error.filename or file}: {error.strerror}") from None
    return file


def _is_ours(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.readline().startswith(MARKER.encode())


def write(project: Path, text: str) -> Path:
    """Writes .devcontainer/devcontainer.json.

    Args:
      project: the directory of the project.
      text: the content, see render.

    Returns:
      The path of the file.

    Raises:
      UsageError: the project has such a file that is not caliban's.
      CalibanError: it cannot be written.
    """
    file = check(project)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(exist_ok=True)
        # "x" follows no link, and neither does the replacement.
        with partial.open("x", encoding="utf-8") as stream:
            try:
                stream.write(text)
                stream.flush()
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise CalibanError(f"cannot write {file}: {error.strerror}") from None
    return file
