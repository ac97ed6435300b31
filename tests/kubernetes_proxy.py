"""A proxy in front of a cluster's API, which loses answers, refuses requests, breaks streams."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.kubernetes_cluster import Cluster

# What is the connection's own, and not passed on.
_OWN = ("connection", "content-length", "transfer-encoding", "content-encoding")


class Proxy:
    """Passes requests on to a cluster, as whoever sends them.

    Attributes:
      kubeconfig: whose current context leads through the proxy.
      requests: method and path, with the query, of all that have come.
      lose: of how many POSTs one is carried out whose answer is lost; 0 for none.
      busy: how many POSTs in a row are still refused with 429 before they reach the cluster.
      breaks: after how many lines of a log its connection breaks, one after another.
      longest: how many characters of an address are taken; 0 for any number.
      delay: how long an answer to a POST takes, in seconds, so that there is time to do something.
    """

    def __init__(self, cluster: Cluster, folder: Path, kubeconfig: Path | None = None) -> None:
        """Opens it.

        Args:
          cluster: where it leads.
          folder: where the file goes.
          kubeconfig: of which that is a copy, with another address; None for the cluster's.
        """
        self.requests: list[tuple[str, str]] = []
        self.lose = 0
        self.busy = 0
        self.breaks: list[int] = []
        self.longest = 0
        self.delay = 0.0
        self._original = kubeconfig or cluster.kubeconfig
        self._cluster = cluster
        self._lock = threading.Lock()
        self._opened: list[socket.socket] = []
        self._posts = itertools.count(1)
        self._server = self._listen(0)
        self.port = self._server.server_port
        self.kubeconfig = folder / "proxied"
        self.kubeconfig.write_text(yaml.safe_dump(self._config()))

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Nobody answers any more."""
        self._server.shutdown()
        self._server.server_close()
        for each in self._opened:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._opened.clear()

    def start(self) -> None:
        """Somebody answers again."""
        self._server = self._listen(self.port)

    def asked(self, method: str, part: str) -> list[str]:
        """The paths of requests that have come, with the query."""
        return [path for each, path in self.requests if each == method and part in path]

    def _config(self) -> dict[str, Any]:
        """The cluster's own kubeconfig, with another address."""
        content = yaml.safe_load(self._original.read_text())
        for each in content["clusters"]:
            each["cluster"] = {"server": f"http://127.0.0.1:{self.port}"}
        config: dict[str, Any] = content
        return config

    def _listen(self, port: int) -> ThreadingHTTPServer:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                proxy._opened.append(self.request)
                super().setup()

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_POST = do_DELETE = do_PATCH = handle_any  # noqa: N815 - the server's names

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                pass  # whoever asked has gone

        server = Server(("127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        is_post = handler.command == "POST"
        with self._lock:
            self.requests.append((handler.command, handler.path))
            number = next(self._posts) if is_post else 0
            is_busy = is_post and self.busy > 0
            self.busy -= is_busy
        if self.longest and len(handler.path) > self.longest:
            _answer(handler, 414, b"<html>too long</html>", {})
            return
        if is_busy:
            _answer(
                handler, 429, b'{"message": "slow down", "reason": "Busy"}', {"Retry-After": "1"}
            )
            return
        connection = self._cluster.connection
        headers = dict(handler.headers.items())
        headers.pop("Host", None)
        upstream = connection._http.request(
            handler.command,
            f"{connection._configuration.host}{handler.path}",
            headers=headers,
            body=body or None,
            retries=False,
            preload_content=False,
        )
        if is_post:
            time.sleep(self.delay)
        try:
            if number and self.lose and number % self.lose == 0:
                upstream.read()
                handler.connection.shutdown(socket.SHUT_RDWR)
                handler.close_connection = True
            elif "follow=true" in handler.path and upstream.status == 200:
                self._stream(handler, upstream)
            else:
                kept = {k: v for k, v in upstream.headers.items() if k.lower() not in _OWN}
                _answer(handler, upstream.status, upstream.read(), kept)
        finally:
            upstream.close()

    def _stream(self, handler: BaseHTTPRequestHandler, upstream: Any) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        left = self.breaks.pop(0) if self.breaks else None
        for line in _lines(upstream):
            if left == 0:
                # In the middle of a line.
                _chunk(handler, line[: len(line) // 2])
                handler.connection.shutdown(socket.SHUT_RDWR)
                handler.close_connection = True
                return
            _chunk(handler, line)
            left = None if left is None else left - 1
        handler.wfile.write(b"0\r\n\r\n")


def _lines(upstream: Any) -> Iterator[bytes]:
    rest = b""
    for piece in upstream.stream(1 << 16):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


def _chunk(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    if data:
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def _answer(
    handler: BaseHTTPRequestHandler, status: int, data: bytes, headers: Mapping[str, str]
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def query(path: str) -> dict[str, str]:
    """The query of a path."""
    return {key: values[-1] for key, values in parse_qs(urlsplit(path).query).items()}
