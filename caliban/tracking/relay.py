"""A tracking server for jobs that is always there: it passes on what they say, now or later.

A job that uses MLflow by itself would wait for a server that is away, for minutes, and then fail.
The requests by which it writes something have answers that are known without asking, though. So
those are kept, and answered here; the run that they are about may even be made later.

Reference: https://mlflow.org/docs/latest/rest-api.html
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import http.server
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import IO, Any, Self

import requests

from caliban.errors import CalibanError
from caliban.model import tracking
from caliban.tracking import connections
from caliban.tracking.journal import SMALL, Request
from caliban.tracking.line import Line

_LOCAL = "127.0.0.1"

# How long a job waits for the server, in seconds: to accept a connection, to answer what could be
# answered here, to take a file, and to answer anything else.
_CONNECT, _SOON, _FILE, _LATE = 1.0, 1.0, 60.0, 300.0

# For how long a server is not waited for any more that was too slow once, in seconds; and one that
# has refused, which costs nothing to notice.
_REST, _AGAIN = 60.0, 2.0

# What goes from one connection to the other by itself, or not at all.
_OF_CONNECTION = frozenset(
    ("connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding")
)

_PIECE = 1 << 16

# How often it looks whether it is to end, in seconds.
_TICK = 0.05


class Relay:
    """Answers jobs of this machine, each at an address of its own.

    Attributes:
      port: where it does.
      secret: in the addresses, as others on this machine reach that port as well; "" for none.
      lost: what could not be kept, in words.
    """

    def __init__(
        self,
        url: str,
        environment: Mapping[str, str],
        notice: Callable[[], None],
        port: int = 0,
        secret: str = "",
        host: str = "",
    ) -> None:
        """Takes a port, and answers nobody yet.

        Args:
          url: of the server.
          environment: with the variables by which MLflow logs in.
          notice: called when something is kept, from any thread.
          port: that is wished for; 0 for any.
          secret: without which nobody is answered; "" for none.
          host: the name by which the server wants to be asked; "" for that in the address.
        """
        self.secret = secret
        self._url, self._host = url, host
        self._login = _login(environment)
        self._notice = notice
        self.lost: list[str] = []
        self._lines: dict[str, Line] = {}
        self._rests_until = 0.0
        handler = type("Handler", (_Handler,), {"relay": self})
        try:
            self._server = connections.Server((_LOCAL, port), handler)
        except OSError:
            self._server = connections.Server((_LOCAL, 0), handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_TICK,), daemon=True
        )

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answers nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def address(self, uid: str) -> str:
        """Where a job finds its tracking server."""
        return f"http://{_LOCAL}:{self.port}{self._path}{uid}"

    @property
    def _path(self) -> str:
        return f"/{self.secret}/" if self.secret else "/"

    def addressed(self, path: str) -> tuple[str, str]:
        """The uid of the job that asks for a path, "" for nobody's, and what it asks for."""
        known = self._path
        if not hmac.compare_digest(path[: len(known)].encode(), known.encode()):
            return "", ""
        uid, _, rest = path[len(known) :].partition("/")
        return uid, f"/{rest}"

    def add(self, line: Line) -> None:
        """From now on, a job is answered."""
        self._lines[line.uid] = line

    def remove(self, uid: str) -> Line | None:
        """From now on, a job is not answered any more; returns what is known of it."""
        return self._lines.pop(uid, None)

    def line(self, uid: str) -> Line | None:
        """What is known of a job; None if it was never added."""
        return self._lines.get(uid)

    def behind(self) -> list[Line]:
        """Those of whom there is something to be passed on."""
        return [line for line in [*self._lines.values()] if line.is_behind]

    def rest(self, seconds: float = _AGAIN) -> None:
        """Leaves the server alone for a while, as far as that is possible."""
        self._rests_until = max(self._rests_until, time.monotonic() + seconds)

    def answer(
        self,
        uid: str,
        request: Request,
        headers: Mapping[str, str],
        session: requests.Session,
    ) -> Answer:
        """The answer to what a job asks.

        Args:
          uid: of the job.
          request: what it asks.
          headers: of the request.
          session: by which the server is asked.
        """
        line = self._lines.get(uid)
        if line is None:
            return _NO_JOB
        known = line.answer(request) if self._is_theirs(headers) else None
        rests = line.is_behind or time.monotonic() < self._rests_until
        # Of a run that it has not made yet, the server would say that there is none.
        is_ahead = line.names is None and request.mentions(line.stand_in)
        if not rests or (known is None and not is_ahead):
            try:
                return self._ask(line, request, headers, session, known is not None)
            except requests.Timeout:
                self.rest(_REST)
            except requests.RequestException:
                self.rest()
        if known is None:
            message = {
                "message": "the tracking server is away",
                "error_code": "TEMPORARILY_UNAVAILABLE",
            }
            return Answer.of(HTTPStatus.SERVICE_UNAVAILABLE, message)
        if request.verb != "GET":
            self._keep(line, request)
        return Answer.of(HTTPStatus.OK, known)

    def _keep(self, line: Line, request: Request) -> None:
        """Keeps what a job has said; if that can't be, the job goes on all the same."""
        try:
            line.journal.write(request)
        except (OSError, CalibanError) as error:
            why = error.strerror if isinstance(error, OSError) else error.message
            what = PurePosixPath(request.file).name or request.method
            self.lost.append(f"'{what}' could not be kept: {why}")
        else:
            self._notice()

    def session(self) -> requests.Session:
        """A connection to the server, by the proxy and the certificates that the environment names.

        They are looked up once, as each request would take as long again for that. Logins of
        ~/.netrc are not: a job has its own.
        """
        found = requests.Session()
        settings = found.merge_environment_settings(self._url, {}, None, None, None)
        found.proxies, found.verify = settings["proxies"], settings["verify"]
        found.trust_env = False
        if self._host:
            found.headers["Host"] = self._host
        return found

    def _is_theirs(self, headers: Mapping[str, str]) -> bool:
        """Whether who asks may have written under the user's name what is then kept."""
        return not self._login or headers.get("Authorization") == self._login

    def _ask(
        self,
        line: Line,
        request: Request,
        headers: Mapping[str, str],
        session: requests.Session,
        is_known: bool,
    ) -> Answer:
        if line.names:
            request = request.renamed(line.stand_in, line.names)
        if not isinstance(request.content, bytes):
            request.content.seek(0)
        limit = (_FILE if request.file else _SOON) if is_known else _LATE
        response = session.request(
            request.verb,
            f"{self._url}{request.address}",
            data=request.content or None,
            headers={k: v for k, v in headers.items() if k.lower() not in _OF_CONNECTION},
            timeout=(_CONNECT, limit),
            allow_redirects=False,
            stream=True,
        )
        if is_known and (response.status_code >= 500 or response.status_code == 429):
            response.close()
            raise requests.ConnectionError
        return _passed_on(line, request, response)


@dataclass(frozen=True)
class Answer:
    """What a job gets.

    Attributes:
      code: of HTTP.
      headers: without those of the connection.
      pieces: the content.
      size: of the content, in bytes; None if that is not known ahead.
    """

    code: int
    headers: Mapping[str, str]
    pieces: Iterable[bytes]
    size: int | None

    @classmethod
    def of(cls, code: int, value: Mapping[str, Any]) -> Self:
        """JSON."""
        content = json.dumps(value).encode()
        return cls(code, {"Content-Type": "application/json"}, [content], len(content))


_NO_JOB = Answer.of(HTTPStatus.NOT_FOUND, {"message": "there is no such job"})


def _passed_on(line: Line, request: Request, response: requests.Response) -> Answer:
    """What the server has answered, of which notice is taken."""
    headers = {k: v for k, v in response.headers.items() if k.lower() not in _OF_CONNECTION}
    if not request.method:

        def pieces() -> Iterator[bytes]:
            with response:
                yield from response.raw.stream(_PIECE, decode_content=False)

        size = response.headers.get("Content-Length")
        return Answer(response.status_code, headers, pieces(), int(size) if size else None)
    content = response.content
    headers.pop("Content-Encoding", None)
    if response.ok:
        with contextlib.suppress(ValueError, AttributeError, KeyError):
            answer = json.loads(content)
            if line.names and line.stand_in.run in line.runs:
                # Who was told of the one name goes on with it.
                answer = line.names.replace(line.stand_in, answer)
                content = json.dumps(answer).encode()
            line.learn(answer)
    return Answer(response.status_code, headers, [content], len(content))


class _Handler(http.server.BaseHTTPRequestHandler):
    relay: Relay
    server: connections.Server
    timeout = connections.SILENCE
    protocol_version = "HTTP/1.1"
    # An answer is sent in one piece, if it is small. Large ones don't wait for their last one.
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._session = self.relay.session()

    def finish(self) -> None:
        self._session.close()
        super().finish()

    def _respond(self) -> None:
        uid, path = self.relay.addressed(self.path)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.server.answering(self.connection))
            try:
                content = self._content(stack, uid)
            except ValueError as error:
                self._send(Answer.of(HTTPStatus.BAD_REQUEST, {"message": str(error)}), is_last=True)
                return
            except LookupError:
                self._send(_NO_JOB, is_last=True)
                return
            kind = self.headers.get("Content-Type", "")
            request = Request(self.command, path, kind, content)
            headers = dict(self.headers.items())
            self._send(self.relay.answer(uid, request, headers, self._session))

    def _send(self, answer: Answer, is_last: bool = False) -> None:
        self.send_response(answer.code)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.size is not None:
            self.send_header("Content-Length", str(answer.size))
        if answer.size is None or is_last:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            for piece in answer.pieces:
                self.wfile.write(piece)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _respond  # noqa: N815

    def _content(self, stack: contextlib.ExitStack, uid: str) -> bytes | IO[bytes]:
        """What is sent along: in memory, or in a file of its own.

        Raises:
          ValueError: it is no proper request.
          LookupError: there is no such job; whoever knows of none gets no memory, and no disk.
        """
        if any("\n" in value or "\r" in value for value in self.headers.values()):
            raise ValueError("a header has several lines")
        is_chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        size = 0 if is_chunked else _size(self.headers.get("Content-Length") or "0", 10)
        if self.relay.line(uid) is None:
            self.rfile.read(min(size, _PIECE))  # else, it may not see the answer
            raise LookupError
        if size <= SMALL and not is_chunked:
            return self.rfile.read(size)
        file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the stack closes it
        stack.callback(file.close)
        while size or is_chunked:
            if is_chunked and not size:
                size = _size(self.rfile.readline(_PIECE).partition(b";")[0].decode("latin-1"), 16)
                if not size:
                    while self.rfile.readline(_PIECE).strip():
                        pass
                    break
            piece = self.rfile.read(min(size, _PIECE))
            if not piece:
                raise ConnectionError
            file.write(piece)
            size -= len(piece)
            if is_chunked and not size:
                self.rfile.readline(_PIECE)
        if file.tell() > SMALL:
            return file
        file.seek(0)
        return file.read()

    def log_message(self, *_: object) -> None:
        """Nobody is told of each request."""


def _size(text: str, base: int) -> int:
    """A number of bytes.

    Raises:
      ValueError: it is none.
    """
    size = int(text, base)
    if size < 0:
        raise ValueError("a size is negative")
    return size


def _login(environment: Mapping[str, str]) -> str:
    """The header by which a client of MLflow logs in with these variables; "" for none."""
    user, password, token = (environment.get(name, "") for name in tracking.CREDENTIALS)
    if user:
        return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    return f"Bearer {token}" if token else ""
