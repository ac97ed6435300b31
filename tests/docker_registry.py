"""Debian's docker-registry on loopback, which images are pushed to, and a way to it that breaks."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.workshop import docker

PROGRAM = "docker-registry"

# Who may use a registry that asks for a login, with the hash of the password that bcrypt makes.
USER, PASSWORD = "tester", "correct horse"
_ACCOUNTS = f"{USER}:$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n"

# Seconds that it may take to start.
_PATIENCE = 20


class DockerRegistry:
    """A registry of its own, on a free port.

    Attributes:
      host: its address, which the names of its images begin with.
    """

    def __init__(self, asks_for_login: bool = False) -> None:
        """Starts it.

        Args:
          asks_for_login: whether only USER may use it.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="caliban-registry-"))
        self.host = f"127.0.0.1:{free_port()}"
        (self._folder / "accounts").write_text(_ACCOUNTS)
        login = {"htpasswd": {"realm": "tests", "path": str(self._folder / "accounts")}}
        # JSON is YAML.
        settings = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._folder / "data")}},
            "http": {"addr": self.host},
            **({"auth": login} if asks_for_login else {}),
        }
        (self._folder / "settings.yml").write_text(json.dumps(settings))
        self._log = (self._folder / "log").open("wb")
        self.start()

    def start(self) -> None:
        """Starts it again, with what it had."""
        self._child = subprocess.Popen(
            [PROGRAM, "serve", str(self._folder / "settings.yml")],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            assert self._child.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "docker-registry does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        """Stops it; it keeps what it has."""
        self._child.kill()
        self._child.wait()

    def close(self) -> None:
        """Ends it."""
        self.stop()
        self._log.close()
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://{self.host}/v2/", timeout=5).close()
        except urllib.error.HTTPError as error:
            with error:
                return error.code == 401
        except OSError:
            return False
        return True

    def tags(self, image: str) -> list[str]:
        """The tags that there are of an image, in a registry that asks for no login."""
        try:
            with urllib.request.urlopen(f"http://{self.host}/v2/{image}/tags/list") as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return []
        return found["tags"] or []


def forget(host: str) -> None:
    """Takes the names of images in a registry from the engine; the images may have others."""
    pattern = f"{host}/**"
    listed = docker("images", "--format", "{{.Repository}}:{{.Tag}}", pattern, check=False)
    if names := [name for name in listed.split() if "<none>" not in name]:
        docker("rmi", "--no-prune", *names, check=False)


class Gate:
    """A way to a server, where connections are cut as a test says.

    Attributes:
      host: its address.
      seen: what has come from clients, piece by piece.
    """

    def __init__(self, server: str, cuts: Callable[[bytes], bool] = lambda _: False) -> None:
        """Opens it.

        Args:
          server: the address behind it.
          cuts: whether to cut a connection at this piece of what its client sends, which doesn't
            arrive then.
        """
        self.seen: list[bytes] = []
        host, _, port = server.partition(":")
        self._server = (host, int(port))
        self._cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Lets nobody in any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(self._server)
            except OSError:
                return
            with server:
                back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
                back.start()
                with contextlib.suppress(OSError):
                    while data := client.recv(1 << 16):
                        self.seen.append(data)
                        if self._cuts(data):
                            break
                        server.sendall(data)
                for each in (server, client):
                    with contextlib.suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)
                back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
