"""A tracking server of caliban's own for a database, there as long as caliban is."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from caliban import home, process
from caliban.errors import CalibanError
from caliban.tracking.place import PASSWORD, Place, with_password
from caliban.tracking.server import AwayError

# How often something that waits looks up, in seconds.
_TICK = 0.1

# After so many seconds one that is not ready holds up no other one.
_LONGEST_START = 30.0

_LOCAL = "127.0.0.1"

# Runs a program with its output in a file until it ends, or the standard input does: that is when
# caliban has ended, whatever ended it. All that the program has started ends with it. The signal
# for that also ends a `wait`.
_GUARD = """
exec 3<&0 </dev/null >>"$1" 2>&1; shift
trap : TERM
"$@" 3<&- &
child=$!
(trap '' TERM; cat <&3 >/dev/null; kill -TERM 0; sleep 3; kill -KILL 0) &
exec 3<&-
wait $child
wait $child
"""


class Service:
    """The way to a place. For a server, there is nothing to do.

    Attributes:
      url: where it answers, or will.
      host: the name by which a server of caliban's own wants to be asked, from MLflow 3.5 on. It is
        a secret, as everybody on this machine reaches the port. "" for any other server.
    """

    def __init__(self, place: Place, environment: Mapping[str, str]) -> None:
        """Starts nothing yet.

        Args:
          place: where runs are kept.
          environment: with the password of a database.
        """
        self._place = place
        self._environment = environment
        self._children: list[process.Child] = []
        self._lock = contextlib.ExitStack()
        self._began = 0.0
        self.url = place.url if place.is_server else f"http://{_LOCAL}:{_free_port()}"
        self.host = "" if place.is_server else secrets.token_hex(16)

    @property
    def why_late(self) -> str:
        """What there is to say of one that is not ready in time, in words."""
        return f"the server for {self._place} has not started yet: see {_log()}"

    def start(self) -> None:
        """Starts what is needed, and waits for nothing.

        Raises:
          CalibanError: a program is not installed.
        """
        if not self._place.is_server:
            home.directory("mlflow")
            _program("mlflow", f"for the database {self._place}", "pip install 'caliban[mlflow]'")
            if self._place.instance:
                _program("cloud-sql-proxy", "for Cloud SQL")
            self._begin()

    def _begin(self) -> None:
        """Starts it, unless another one is just being started.

        Two that make the tables of a new database at the same time get in each other's way.
        """
        mark = hashlib.sha256(str(self._place).encode()).hexdigest()[:16]
        file = self._lock.enter_context(home.path("mlflow", f"starting.{mark}").open("ab"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            return
        self._began = time.monotonic()
        address = self._place.url
        if self._place.instance:
            port = _free_port()
            self._spawn(
                [
                    _program("cloud-sql-proxy", "for Cloud SQL"),
                    *("--address", _LOCAL, "--port", str(port), self._place.instance),
                ],
                self._environment,
            )
            name, user = self._place.database, self._place.user
            address = f"postgresql://{user}@{_LOCAL}:{port}/{name}"
        elif address.startswith("sqlite"):
            Path(address.partition(":///")[2]).parent.mkdir(parents=True, exist_ok=True)
        command = [
            _program("mlflow", f"for the database {self._place}"),
            *("server", "--host", _LOCAL, "--port", self.url.rpartition(":")[2], "--workers", "1"),
            *("--artifacts-destination", self._place.artifacts),
        ]
        self._spawn(
            command,
            {
                # In no command, which anybody could read.
                "MLFLOW_BACKEND_STORE_URI": with_password(address, self._environment),
                "MLFLOW_SERVER_ALLOWED_HOSTS": self.host,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "PYTHONWARNINGS": "ignore",
            },
        )

    def is_ready(self) -> bool:
        """Whether it can be asked.

        Raises:
          CalibanError: what was started has ended.
        """
        if self._place.is_server:
            return True
        if not self._children:
            self._begin()
            return False
        if any(child.poll() is not None for child in self._children):
            hint = f"${PASSWORD} holds its password, if it has one." if self._place.user else ""
            raise CalibanError(f"the server for {self._place} has ended: see {_log()}", hint)
        import requests

        try:
            found = requests.get(f"{self.url}/health", timeout=1).status_code == 200
        except requests.RequestException:
            found = False
        if found or time.monotonic() - self._began > _LONGEST_START:
            self._lock.close()
        return found

    def wait(self, until: float) -> None:
        """Waits for it to be ready, until a time by time.monotonic.

        Raises:
          AwayError: it isn't by then.
          CalibanError: what was started has ended.
        """
        while not self.is_ready():
            if time.monotonic() > until:
                raise AwayError(self.why_late)
            time.sleep(_TICK)

    def close(self) -> None:
        """Ends what was started."""
        self._lock.close()
        for child in self._children:
            with contextlib.suppress(BrokenPipeError):
                if child.stdin:
                    child.stdin.close()
            process.ended(child, 5)
            process.close(child)
        self._children.clear()

    def _spawn(self, command: list[str], environment: Mapping[str, str]) -> None:
        guarded = ["sh", "-c", _GUARD, "caliban", str(_log()), *command]
        _log().touch(mode=0o600)
        self._children.append(process.spawn(guarded, process.PIPE, environment))


def _log() -> Path:
    return home.path("mlflow", "server.log")


def _free_port() -> int:
    with socket.create_server((_LOCAL, 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _program(name: str, purpose: str, hint: str = "") -> str:
    """Where a program is: beside this Python, or on PATH.

    Raises:
      CalibanError: it is not installed.
    """
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=beside) or shutil.which(name)
    if found is None:
        raise CalibanError(f"'{name}' is needed {purpose}, and is not installed", hint)
    return found
