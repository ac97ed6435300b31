"""Builds by the engine's own API, which needs no program: neither its start nor its plugins."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import IO, Any

from caliban.docker.engine import Engine
from caliban.docker.image.builder import sending
from caliban.docker.image.trace import Trace

_BLOCK = 1 << 16

# The legacy builder and podman say the id of what they have built in words.
_BUILT = re.compile(r"Successfully built ([0-9a-f]+)")


@contextlib.contextmanager
def running(
    engine: Engine, parameters: Mapping[str, str], send: Callable[[IO[bytes]], None]
) -> Iterator[EngineBuild]:
    """Has an engine build an image, whose context is sent to it while its answer is read.

    Args:
      engine: one that has a socket.
      parameters: of the request, see https://docs.docker.com/reference/api/engine/.
      send: writes the context, a tar archive, to a stream.

    Yields:
      The build, whose output is still to be read. It is ended with the block.

    Raises:
      EngineError: the engine does not answer.
      Exception: what `send` raised; a BuildError in the place of an OSError.
    """
    with (
        contextlib.closing(EngineBuild(engine.connect(), parameters)) as build,
        sending(send, build) as problems,
    ):
        yield build
    if problems:
        raise problems[0]


class EngineBuild:
    """A build under way, which can be watched as if it were a program.

    Attributes:
      stdin: takes the context, a tar archive.
      stdout: what `docker build` would print of it.
      image: id of the image, once it has ended well.
    """

    def __init__(self, connection: HTTPConnection, parameters: Mapping[str, str]) -> None:
        """Begins one.

        Args:
          connection: to the engine, for this alone.
          parameters: see `running`.
        """
        from urllib.parse import urlencode

        self.image = ""
        self._connection = connection
        self._socket: socket.socket = connection.sock
        self._path = f"/build?{urlencode(parameters)}"
        self._code: int | None = None
        self._is_killed = False
        context, stdin = os.pipe()
        stdout, output = os.pipe()
        self.stdin: IO[bytes] = open(stdin, "wb")  # noqa: SIM115 - closed by `close`
        self.stdout: IO[bytes] = open(stdout, "rb")  # noqa: SIM115
        self._thread = threading.Thread(target=self._run, args=(context, output), daemon=True)
        self._thread.start()

    def poll(self) -> int | None:
        """0 if the image was built, 1 if it was not; None as long as that is open."""
        return None if self._thread.is_alive() else self._code

    def wait(self) -> int:
        """Waits for the end; returns as `poll` does."""
        self._thread.join()
        assert self._code is not None
        return self._code

    def kill(self) -> None:
        """Ends it: the engine goes on with no build whose client has gone."""
        self._is_killed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends it, if it still runs, and closes its pipes."""
        if self.poll() is None:
            self.kill()
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._thread.join()
        self._connection.close()

    def _run(self, context: int, output: int) -> None:
        self._code = 1
        with (
            contextlib.suppress(BrokenPipeError),  # nobody reads it any more
            open(output, "wb", buffering=0) as told,
            open(context, "rb", buffering=0) as sent,
        ):
            try:
                self._code = 0 if self._build(sent, told) else 1
            except (OSError, HTTPException, ValueError) as error:
                if not self._is_killed:
                    told.write(f"the engine stopped answering: {error}\n".encode())

    def _build(self, context: IO[bytes], output: IO[bytes]) -> bool:
        """Sends the request, and tells of the answer; returns whether the image was built."""

        def body() -> Iterator[bytes]:
            while data := context.read(_BLOCK):
                yield data
            if self._is_killed:  # or the engine would take this for the end of the context
                raise ConnectionAbortedError

        headers = {"Content-Type": "application/x-tar", "Transfer-Encoding": "chunked"}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it says why
            self._connection.request(
                "POST", self._path, body=body(), headers=headers, encode_chunked=True
            )
        answer = self._connection.getresponse()
        if answer.status != 200:
            message = json.loads(answer.read())["message"]
            output.write(f"{message}\n".encode())
            return False
        return self._follow(answer, output)

    def _follow(self, answer: HTTPResponse, output: IO[bytes]) -> bool:
        trace = Trace()
        for line in answer:
            message: dict[str, Any] = json.loads(line)
            if "error" in message:
                output.write(f"{message['error']}\n".encode())
                return False
            if message.get("id") == "moby.buildkit.trace":
                for told in trace.lines(base64.b64decode(message["aux"])):
                    output.write(told + b"\n")
            elif "aux" in message:
                self.image = message["aux"].get("ID", self.image)
            elif text := message.get("stream"):
                if built := _BUILT.search(text):
                    self.image = self.image or built[1]
                output.write(text.encode())
        if not self.image:
            output.write(b"the engine stopped answering\n")
        return bool(self.image)
