"""What is sent to the engine, written down on the way."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from pathlib import Path
from urllib.parse import unquote_plus

_REQUEST = re.compile(rb"^([A-Z]+) (/\S*) HTTP/1\.[01]\r$", re.MULTILINE)


class Wire:
    """A socket that passes on to the engine's.

    Attributes:
      host: for $DOCKER_HOST.
      sent: all bytes that have gone to the engine.
    """

    def __init__(self, path: Path, engine: str) -> None:
        """Listens at a path, and passes on to an engine's socket."""
        self.host, self.sent = f"unix://{path}", b""
        self._engine = engine.removeprefix("unix://")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def requests(self) -> list[str]:
        """Method and path of each request."""
        return [unquote_plus(b" ".join(found).decode()) for found in _REQUEST.findall(self.sent)]

    @property
    def builds(self) -> list[str]:
        """Those that built an image of caliban's."""
        return [each for each in self.requests if re.search(r"/build\?.*\bt=caliban:[cg]pu-", each)]

    @property
    def changes(self) -> list[str]:
        """Those that ask for more than an answer."""
        return [each for each in self.requests if not each.startswith(("GET ", "HEAD "))]

    def close(self) -> None:
        """Takes no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(self._engine)
                for pair in ((client, engine), (engine, client)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        to_engine = target.getpeername() == self._engine
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if to_engine:
                    self.sent += data
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        if not to_engine:
            source.close()
            target.close()
