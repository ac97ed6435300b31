"""Jupyter inside a container: what is installed, how it is started, where it answers."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
from collections.abc import Iterator, Sequence

from caliban.docker.image.dockerfile import JUPYTER_FOLDER, VENV
from caliban.errors import UsageError
from caliban.model.image import WORKING_DIRECTORY

FIRST_PORT = 8888

# The variable that brings the server its token.
TOKEN = "JUPYTER_TOKEN"

# What the environment of a container needs. The image's kernel and extensions come before those of
# the project, and these before any in the home directory. What describes the running server stays
# in the container: left behind in the home directory, it would lead nowhere.
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "JUPYTER_PATH": ":".join(
        f"{folder}/share/jupyter" for folder in (JUPYTER_FOLDER, f"{JUPYTER_FOLDER}/venv", VENV)
    ),
    # Without questions about news and updates, by labconfig/page_config.json there.
    "JUPYTER_CONFIG_PATH": JUPYTER_FOLDER,
    "JUPYTER_RUNTIME_DIR": "/tmp/jupyter-runtime",
}

# It brings JupyterLab along, so that one image serves both.
_DEFAULT = "notebook>=7.4,<8"

_OLDEST = {"notebook": 7, "jupyterlab": 4}
_NAMES = {"notebook": "Jupyter Notebook", "jupyterlab": "JupyterLab"}

# https://packaging.python.org/en/latest/specifications/version-specifiers
_VERSION = re.compile(
    r"(?P<release>(\d+)(\.\d+)*)(?P<rest>((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?)", re.ASCII
)

# Of a port that is taken.
_TAKEN = re.compile(
    r"port is already allocated|address already in use|because port \d+ is not available"
)

# On the command line, so that no settings in the home directory can take the server away from
# where it is expected, or open it to everybody. All other settings there are honoured.
_OPTIONS = (
    "--ServerApp.port_retries=0",
    "--ServerApp.open_browser=False",
    "--ExtensionApp.open_browser=False",
    f"--ServerApp.root_dir={WORKING_DIRECTORY}",
    f"--ServerApp.preferred_dir={WORKING_DIRECTORY}",
    "--ServerApp.base_url=/",
    "--ServerApp.sock=",
    "--ServerApp.certfile=",
    "--ServerApp.keyfile=",
    "--ServerApp.client_ca=",
    "--ServerApp.identity_provider_class=jupyter_server.auth.identity.PasswordIdentityProvider",
    # It listens on all of the container's addresses, but the name that people use is localhost.
    "--ServerApp.allow_remote_access=False",
    "--ServerApp.allow_root=True",
    "--MultiKernelManager.default_kernel_name=python3",
    # By files: a port would be everybody's where the container has no network of its own.
    "--ConnectionFileMixin.transport=ipc",
    "--Application.log_level=WARN",
)


def requirement(lab: bool, version: str | None) -> str:
    """What pip calls the Jupyter that is wanted.

    Args:
      lab: JupyterLab instead of Jupyter Notebook.
      version: of that; one of less than three numbers stands for the newest that begins so.

    Raises:
      UsageError: it is no version, or too old.
    """
    package = "jupyterlab" if lab else "notebook"
    if not version:
        return _DEFAULT
    name, oldest = _NAMES[package], _OLDEST[package]
    match = _VERSION.fullmatch(version)
    if match is None:
        raise UsageError(
            f"--jupyter_version {version} is not a version", "Versions look like 7.4 or 7.4.2."
        )
    if int(match[2]) < oldest:
        hint = "JupyterLab has such versions: add --lab." if match[2] == "4" else ""
        raise UsageError(
            f"--jupyter_version {version}: {name} is supported from version {oldest} on", hint
        )
    is_exact = match["rest"] or match["release"].count(".") >= 2
    return f"{package}=={version}" if is_exact else f"{package}=={version}.*"


def command(lab: bool, port: int, address: str, shell: Sequence[str]) -> tuple[str, ...]:
    """The argv of the server.

    Args:
      lab: JupyterLab instead of Jupyter Notebook.
      port: that it listens on.
      address: that it listens on.
      shell: what its terminals run.
    """
    return (
        f"{JUPYTER_FOLDER}/venv/bin/python",
        f"{JUPYTER_FOLDER}/serve.py",
        "lab" if lab else "notebook",
        f"--ServerApp.ip={address}",
        f"--ServerApp.port={port}",
        f"--ServerApp.terminado_settings=shell_command={' '.join(shell)}",
        *_OPTIONS,
    )


def url(lab: bool, port: int, token: str) -> str:
    """Where a browser finds the server."""
    return f"http://127.0.0.1:{port}/{'lab' if lab else 'tree'}?token={token}"


def shares_network(run_args: Sequence[str]) -> bool:
    """Whether a container has no network of its own, by the arguments of `docker run`.

    Raises:
      UsageError: it has none at all.
    """
    found = ""
    for flag, value in itertools.pairwise((*run_args, "")):
        name, equals, joined = flag.partition("=")
        if name in ("--network", "--net"):
            found = joined if equals else value
    if found == "none":
        raise UsageError("--docker_run_args must not take Jupyter's network away")
    return found == "host"


def is_taken(port: int) -> bool:
    """Whether something on this machine listens on a port."""
    with socket.socket() as probe:
        # Or connections that have ended just now would hold the port for another minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            return False  # below 1024; the engine may
        except OSError:
            return True
    return False


def free_ports() -> Iterator[int]:
    """The ports that seem to be free, from FIRST_PORT on."""
    return (port for port in range(FIRST_PORT, 1 << 16) if not is_taken(port))


def is_conflict(reason: str) -> bool:
    """Whether it did not start because its port is taken: in the engine's words, or Jupyter's."""
    return _TAKEN.search(reason) is not None


def answers(port: int, token: str) -> bool:
    """Whether a Jupyter answers on this machine that this token opens, and not another server."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/api/status", headers={"Authorization": f"token {token}"})
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
