"""A web server for jobs that somebody who holds connections can't keep from answering."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator
from typing import Any

# How many connections there may be: each takes three files at the most, of the 1,024 that a process
# usually may open.
_MOST = 256

# How long a client may be silent, in seconds.
SILENCE = 60.0


class Server(http.server.ThreadingHTTPServer):
    """Answers several clients at a time.

    Of too many connections, the one is closed that has been waiting for a request for longest: that
    a client with something to say opens again.
    """

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        """Takes the port.

        Args:
          args: see socketserver.TCPServer.
        """
        self._most = _MOST
        self._lock = threading.Lock()
        self._busy: set[socket.socket] = set()
        self._waiting: dict[socket.socket, None] = {}  # in the order in which they began to
        super().__init__(*args)

    @contextlib.contextmanager
    def answering(self, connection: socket.socket) -> Iterator[None]:
        """Leaves a connection open meanwhile, on which there is a request."""
        with self._lock:
            self._waiting.pop(connection, None)
            self._busy.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(connection)
                self._waiting[connection] = None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begins to serve a new connection, if need be in the place of another one."""
        with self._lock:
            if len(self._busy) + len(self._waiting) >= self._most:
                oldest = next(iter(self._waiting), request)
                self._waiting.pop(oldest, None)
                # Wakes the thread that reads from it, which closes it.
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._waiting[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection."""
        with self._lock:
            self._waiting.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, *_: object) -> None:
        """A job that is killed in the middle of a request is nothing to tell."""
