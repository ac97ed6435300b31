"""The Docker engine that the `docker` program talks to, reached by its API."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caliban import home, process
from caliban.docker.image.dockerfile import LABEL
from caliban.errors import EngineAwayError, EngineError

# How engines call processors, and how platforms of images do.
_PROCESSORS = {"x86_64": "amd64", "aarch64": "arm64"}

if TYPE_CHECKING:
    from docker import APIClient
    from docker.tls import TLSConfig

# One of these is there where a driver is: on Linux, and in Windows' subsystem for it.
_DRIVER = ("/proc/driver/nvidia/version", "/dev/dxg")

# How long an engine may think about an answer, in seconds.
_TIMEOUT = 60

_DEFAULT_HOST = "unix:///var/run/docker.sock"


class Engine:
    """An engine; it is contacted when it is first asked something.

    Attributes:
      host: its address: $DOCKER_HOST, that of the current docker context, or the default socket.
    """

    def __init__(self) -> None:
        self.host = os.environ.get("DOCKER_HOST") or _context_host() or _DEFAULT_HOST

    @property
    def is_local(self) -> bool:
        """Whether the engine sees this machine's files, so that they can be mounted."""
        return self.host.startswith(("unix://", "npipe://"))

    @property
    def has_socket(self) -> bool:
        """Whether the engine listens on a Unix socket, as engines on this machine do."""
        return self.host.startswith("unix://")

    def connect(self) -> socket.socket:
        """A connection for one request to an engine that has a socket; it never times out.

        Raises:
          EngineError: no engine answers.
        """
        try:
            return self._connected(None)
        except OSError as error:
            raise self._unreachable(error) from None

    def _connected(self, timeout: float | None) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        try:
            connection.connect(self.host.removeprefix("unix://"))
        except OSError:
            connection.close()
            raise
        return connection

    def load(self) -> None:
        """Loads what `client` needs, which takes a while, at a time when there is time for it."""
        import docker.errors  # noqa: F401

    @functools.cached_property
    def client(self) -> APIClient:
        """The connection.

        Raises:
          EngineError: no engine answers.
        """
        from docker import APIClient
        from docker.errors import DockerException

        tls: TLSConfig | bool = False
        if os.environ.get("DOCKER_TLS_VERIFY"):
            from docker.utils import kwargs_from_env

            tls = kwargs_from_env().get("tls", False)
        try:
            return APIClient(
                base_url=self.host,
                version="auto",
                timeout=_TIMEOUT,
                tls=tls,
                use_ssh_client=self.host.startswith("ssh://"),
            )
        except DockerException as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> EngineError:
        if "Permission denied" in str(error) or "PermissionError" in str(error):
            return EngineError(
                f"you may not use the Docker engine at {self.host} (permission denied)",
                "Add yourself to the group 'docker' (sudo usermod -a -G docker $USER) and log in "
                "again.",
            )
        return EngineAwayError(
            f"no Docker engine answers at {self.host}",
            "Start Docker (Docker Desktop on a Mac; 'sudo systemctl start docker' on Linux), or "
            "install it: https://docs.docker.com/engine/install/",
        )

    @contextlib.contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turns failures of the engine's API into an EngineError that says what was being done.

        It is an EngineAwayError if the same may succeed a little later.
        """
        from docker.errors import APIError, DockerException
        from requests.exceptions import RequestException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except APIError as error:
            # While it stops, an engine answers with errors of its own.
            kind = EngineAwayError if error.is_server_error() else EngineError
            raise kind(f"the Docker engine failed at {doing}: {error.explanation}") from None
        except (DockerException, RequestException, HTTPError, struct.error) as error:
            # The last two: an answer that comes in pieces was cut off.
            raise EngineAwayError(
                f"the Docker engine at {self.host} stopped answering while {doing}: {error}",
                "Check it with 'docker info'.",
            ) from None

    def image(self, reference: str) -> dict[str, Any] | None:
        """What the engine knows of an image (`docker image inspect`); None if it hasn't got it."""
        from urllib.parse import quote

        with contextlib.suppress(OSError, ValueError):
            status, _, answer = self._ask(f"/images/{quote(reference, safe='/:@')}/json")
            # The last one: no image can have such a name.
            if status in (200, 404, 400):
                return dict(json.loads(answer)) if status == 200 else None
        from docker.errors import APIError, ImageNotFound

        with self.errors(f"looking up the image {reference}"):
            try:
                found: dict[str, Any] = self.client.inspect_image(reference)  # type: ignore[no-untyped-call]
            except ImageNotFound:
                return None
            except APIError as error:
                if error.status_code != 400:
                    raise
                return None
        return found

    def containers(self, label: str) -> list[dict[str, Any]]:
        """The containers with a label, running or not (`docker ps --all`)."""
        from urllib.parse import urlencode

        query = {"all": "true", "filters": json.dumps({"label": [label]})}
        with contextlib.suppress(OSError, ValueError):
            status, _, answer = self._ask(f"/containers/json?{urlencode(query)}")
            if status == 200:
                return list(json.loads(answer))
        with self.errors(f"looking for the containers with the label {label}"):
            return list(self.client.containers(all=True, filters={"label": label}))

    def container(self, name: str) -> dict[str, Any] | None:
        """What the engine knows of a container (`docker inspect`); None if there is none."""
        from urllib.parse import quote

        with contextlib.suppress(OSError, ValueError):
            status, _, answer = self._ask(f"/containers/{quote(name)}/json")
            if status in (200, 404):
                return dict(json.loads(answer)) if status == 200 else None
        from docker.errors import NotFound

        with self.errors(f"asking for the container {name}"):
            try:
                return dict(self.client.inspect_container(name))
            except NotFound:
                return None

    def remove_container(self, name: str) -> None:
        """Removes a container with its anonymous volumes; it is no error if there is none."""
        from urllib.parse import quote

        with contextlib.suppress(OSError, ValueError):
            path = f"/containers/{quote(name)}?force=true&v=true"
            if self._ask(path, method="DELETE")[0] in (204, 404):
                return
        from docker.errors import APIError

        with self.errors(f"removing the container {name}"):
            try:
                self.client.remove_container(name, v=True, force=True)
            except APIError as error:
                # Of two that remove it, the engine tells one that the other is at it.
                is_under_way = error.status_code == 409 and "already in progress" in str(error)
                if error.status_code != 404 and not is_under_way:
                    raise

    def _ask(self, path: str, method: str = "GET") -> tuple[int, bytes, bytes]:
        """Asks an engine on this machine for something, with nothing but a socket.

        To import http.client takes as long as to ask ten times, and the docker package ten times as
        long. An unchanged project has no more to ask for from its start to its end.

        Returns:
          The status of the answer, its headers in small letters, and what it says.

        Raises:
          OSError: there is no such engine.
          ValueError: that is no answer.
        """
        if not self.has_socket:
            raise OSError(f"{self.host} is not on this machine")
        with self._connected(_TIMEOUT) as connection, connection.makefile("rb") as answer:
            # The answer to HTTP/1.0 comes in one piece, which ends with the connection.
            connection.sendall(f"{method} {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            head, _, content = answer.read().partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.\d (\d{3})", head)
        if status is None:
            raise ValueError(f"{self.host} answers {head[:80]!r}")
        return int(status[1]), head.lower(), content

    def image_id(self, reference: str) -> str | None:
        """The id ("sha256:...") of an image that the engine has; None if it hasn't."""
        found = self.image(reference)
        return None if found is None else str(found["Id"])

    def image_name(self, image_id: str) -> str:
        """The name of an image that caliban has built; its id if it has none."""
        names = (self.image(image_id) or {}).get("RepoTags") or []
        return next((name for name in names if name.startswith(f"{LABEL}:")), image_id)

    def labels(self, image: str) -> dict[str, str] | None:
        """The labels of an image; None if the engine hasn't got it."""
        found = self.image(image)
        return None if found is None else dict(found["Config"].get("Labels") or {})

    def platform(self, image: str) -> str:
        """What an image that is there runs on: "linux/amd64", or "linux/arm/v7"."""
        found = self.image(image) or {}
        return "/".join(
            found[name] for name in ("Os", "Architecture", "Variant") if found.get(name)
        )

    def own_platform(self) -> str:
        """What it builds for unless it is told something else: "linux/amd64".

        Raises:
          EngineError: no engine answers.
        """
        if named := os.environ.get("DOCKER_DEFAULT_PLATFORM"):
            return named
        info = self.info()
        machine = str(info.get("Architecture"))
        return f"{info.get('OSType', 'linux')}/{_PROCESSORS.get(machine, machine)}"

    def is_ours(self, image: str) -> bool:
        """Whether caliban has built an image, so that it has the folders that jobs write to."""
        return LABEL in (self.labels(image) or {})

    def is_podman(self) -> bool:
        """Whether it is podman, which has an API like Docker's.

        Raises:
          EngineError: no engine answers.
        """
        if self.has_socket:  # by a request that makes Docker start no program
            with contextlib.suppress(OSError, ValueError):
                return b"\nlibpod-api-version:" in self._ask("/_ping")[1]
        with self.errors("asking the engine for its version"):
            components = self.client.version().get("Components") or []
        return any("Podman" in str(component.get("Name")) for component in components)

    def proxies(self) -> dict[str, str]:
        """The variables by which the user's docker tells builds and containers of proxies."""
        known = _settings().get("proxies") or {}
        found = known.get(self.host) or known.get("default") or {}
        names = {"httpProxy": "http_proxy", "httpsProxy": "https_proxy", "noProxy": "no_proxy"}
        lower = {names[key]: str(value) for key, value in found.items() if key in names}
        return lower | {name.upper(): value for name, value in lower.items()}

    def info(self) -> dict[str, Any]:
        """What the engine says of itself (`docker info`)."""
        with self.errors("asking the engine for its properties"):
            answer: dict[str, Any] = self.client.info()
        return answer

    def version(self) -> str:
        """The version of the engine: "28.0.1"; "" if it does not answer."""
        with contextlib.suppress(OSError, ValueError):
            status, _, answer = self._ask("/version")
            return str(json.loads(answer).get("Version", "")) if status == 200 else ""
        from docker.errors import DockerException

        with contextlib.suppress(EngineError, DockerException, OSError):
            return str(self.client.version().get("Version", ""))
        return ""

    def check_program(self) -> None:
        """Makes sure that the `docker` program is there, which starts containers.

        Raises:
          EngineError: it is not.
        """
        if process.find("docker") is None:
            raise EngineError(
                "the program 'docker' is not installed, or not on PATH",
                "Install Docker's command line: https://docs.docker.com/engine/install/",
            )

    def gpu_arguments(self) -> tuple[str, ...]:
        """The arguments of `docker run` that give a container all GPUs.

        The engine does it by the NVIDIA Container Toolkit, whose hook or runtime it finds by
        itself, or by the Container Device Interface (CDI), where a file describes the devices:
        https://docs.docker.com/build/building/cdi/.

        Raises:
          EngineError: it cannot; the message says which part is missing.
        """
        info = self.info()
        has_driver = any(Path(each).exists() for each in _DRIVER) or process.find("nvidia-smi")
        hint = 'Pass --nogpu to use the CPU, or set "default_mode": "cpu" in .calibanconfig.json.'
        if self.is_local and not has_driver:
            raise EngineError(
                "the GPU driver is missing: this machine has no NVIDIA GPU, or no driver for it",
                hint,
            )
        hook = self.is_local and process.find("nvidia-container-runtime-hook")
        if hook or "nvidia" in info.get("Runtimes", {}):
            return ("--gpus", "all")
        devices = info.get("DiscoveredDevices") or []
        if any("nvidia.com/gpu" in str(device.get("ID", "")) for device in devices):
            return ("--device", "nvidia.com/gpu=all")
        if self.is_local and process.find("nvidia-ctk"):
            message = "it is not set up for the NVIDIA Container Toolkit, which is installed"
            mend = "sudo nvidia-ctk runtime configure --runtime=docker, then restart Docker"
        else:
            message = "the NVIDIA Container Toolkit is missing"
            mend = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit"
        raise EngineError(
            f"the Docker engine cannot give a container a GPU: {message}",
            f"Mend it: {mend}\n{hint}",
        )


def _context_host() -> str:
    """Address of the engine that `docker context use` chose; "" for the default one."""
    name = os.environ.get("DOCKER_CONTEXT") or _configured_context()
    if name in ("", "default"):
        return ""
    from docker.context import ContextAPI

    context = ContextAPI.get_context(name)
    if context is None:
        raise EngineError(
            f"there is no docker context '{name}'", "'docker context ls' lists those that exist."
        )
    return str(context.Host or "")


def _configured_context() -> str:
    return str(_settings().get("currentContext", ""))


def _settings() -> dict[str, Any]:
    """The user's settings of the `docker` program; none if they cannot be read."""
    folder = os.environ.get("DOCKER_CONFIG") or "~/.docker"
    try:
        content = json.loads((home.expand(folder) / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
