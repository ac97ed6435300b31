"""Builds by the engine's own API, which needs no program: neither its start nor its plugins."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

from caliban.docker.engine import Engine
from caliban.docker.image.builder import sending

_BLOCK = 1 << 16

# The legacy builder and podman say the id of what they have built in words.
_BUILT = r"Successfully built ([0-9a-f]+)"


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

    def __init__(self, connection: socket.socket, parameters: Mapping[str, str]) -> None:
        """Begins one.

        Args:
          connection: to the engine, for this alone.
          parameters: see `running`.
        """
        self.image = ""
        self._connection = connection
        self._code: int | None = None
        self._is_killed = False
        self.stdin: IO[bytes] = io.BufferedWriter(_Request(connection, parameters), _BLOCK)
        stdout, output = os.pipe()
        self.stdout: IO[bytes] = open(stdout, "rb")  # noqa: SIM115 - closed by `close`
        self._thread = threading.Thread(target=self._run, args=(output,), daemon=True)
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
        self._hang_up()

    def close(self) -> None:
        """Ends it, if it still runs, and closes its pipes."""
        if self.poll() is None:
            self.kill()
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._thread.join()
        self._connection.close()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _run(self, output: int) -> None:
        self._code = 1
        with (
            contextlib.suppress(BrokenPipeError),  # nobody reads it any more
            open(output, "wb", buffering=0) as told,
        ):
            try:
                self._code = 0 if self._answer(told) else 1
            except (OSError, ValueError) as error:
                if not self._is_killed:
                    told.write(f"the engine stopped answering: {error}\n".encode())
            finally:
                self._hang_up()  # whoever still sends would wait for a reader

    def _answer(self, output: IO[bytes]) -> bool:
        """Tells of the answer; returns whether the image was built."""
        self._connection.recv(1, socket.MSG_PEEK)  # waits until the request has been sent
        # Slow to load, and not needed for the request: the engine is at work by now.
        from http.client import HTTPException, HTTPResponse

        with contextlib.closing(HTTPResponse(self._connection, method="POST")) as answer:
            try:
                answer.begin()
                if answer.status == 200:
                    return self._follow(answer, output)
                message = json.loads(answer.read())["message"]
            except HTTPException as error:
                raise ValueError(str(error)) from None
        output.write(f"{message}\n".encode())
        return False

    def _follow(self, answer: Iterable[bytes], output: IO[bytes]) -> bool:
        from caliban.docker.image.trace import Trace

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
                if built := re.search(_BUILT, text):
                    self.image = self.image or built[1]
                output.write(text.encode())
        if not self.image:
            output.write(b"the engine stopped answering\n")
        return bool(self.image)


class _Request(io.RawIOBase):
    """The request, which is sent as its body is written."""

    def __init__(self, connection: socket.socket, parameters: Mapping[str, str]) -> None:
        from urllib.parse import urlencode

        self._connection = connection
        self._head = (
            f"POST /build?{urlencode(parameters)} HTTP/1.1\r\nHost: docker\r\n"
            "Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n"
        ).encode()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Sends some more of the body.

        Raises:
          BrokenPipeError: the engine has ended the build, and says why.
        """
        self._send(b"%x\r\n%b\r\n" % (len(data), data))
        return len(data)

    def close(self) -> None:
        """Sends the end of the body, which reaches nobody if the build was killed before."""
        if not self.closed:
            super().close()
            self._send(b"0\r\n\r\n")

    def _send(self, data: bytes) -> None:
        data, self._head = self._head + data, b""
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise BrokenPipeError from error
