"""A server on the loopback that speaks as Google's do: paths, checks, errors, tokens, faults."""

from __future__ import annotations

import json
import math
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.google_cloud import schema
from tests.google_cloud.discovery import Method, methods
from tests.google_cloud.faults import Fault, Faults
from tests.google_cloud.schema import Violation
from tests.google_cloud.tokens import Tokens

STATUSES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}
_REASONS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


class ApiError(Exception):
    """An error as Google answers it."""

    def __init__(
        self,
        status: str,
        message: str,
        violations: Sequence[Violation] = (),
        retry_after: float = 0,
        details: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.code = STATUSES[status]
        self.status = status
        self.message = message
        self.violations = violations
        self.retry_after = retry_after
        self.details = details

    @property
    def body(self) -> dict[str, Any]:
        """The envelope that all of Google's errors come in."""
        error: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "status": self.status,
        }
        if self.violations:
            found = [{"field": v.field, "description": v.description} for v in self.violations]
            kind = "type.googleapis.com/google.rpc.BadRequest"
            error["details"] = [{"@type": kind, "fieldViolations": found}]
        if self.details:
            error.setdefault("details", []).extend(self.details)
        return {"error": error}


@dataclass(frozen=True)
class Call:
    """A request that has been understood.

    Attributes:
      method: that it calls.
      path: its parameters in the path.
      query: its other parameters; of several with one name, the last.
      body: of it.
    """

    method: Method
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class Record:
    """A request as it came, and what was answered.

    Attributes:
      method: as in "customJobs.create".
      path: with its query.
      body: of it.
      status: of HTTP; 0 when nothing was answered.
    """

    method: str
    path: str
    body: dict[str, Any] = field(hash=False)
    status: int = 0


Handler = Callable[[Call], dict[str, Any]]


class Server:
    """Serves the methods of APIs that handlers are given for, each API below a path of its own.

    Attributes:
      tokens: who has access.
      faults: what goes wrong.
      records: the requests so far.
      bugs: of this server itself.
      authorizations: as what the requests came, those for tokens included; "" without.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.faults = Faults()
        self.records: list[Record] = []
        self.bugs: list[Exception] = []
        self.authorizations: list[str] = []
        self._handlers: dict[str, dict[str, Handler]] = {}
        self._versions: dict[str, str] = {}
        self._http = _Http(self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    def serve(self, api: str, version: str, handlers: Mapping[str, Handler]) -> None:
        """Serves methods of an API, by the part of their id that follows the name of the API."""
        self._versions[api] = version
        self._handlers[api] = {f"{api}.{name}": each for name, each in handlers.items()}

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, and closes what is open."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def url(self, api: str = "") -> str:
        """Where an API is, with a slash at the end."""
        root = f"http://127.0.0.1:{self._http.server_port}/"
        return f"{root}{api}/" if api else root

    def calls(self, method: str) -> list[Record]:
        """The requests so far for a method, as in "customJobs.create"."""
        return [each for each in self.records if each.method == method]

    def find(self, verb: str, path: str) -> tuple[str, Method, Mapping[str, str]]:
        """The API and the method that a path means, and the parameters in it.

        Raises:
          ApiError: there is none.
        """
        api, _, rest = path.lstrip("/").partition("/")
        # Not before they are needed: a document may be of several megabytes.
        known = methods(api, self._versions[api]) if api in self._versions else ()
        for method in known:
            match = method.path.fullmatch(urllib.parse.unquote(rest))
            if match and method.verb == verb:
                return api, method, match.groupdict()
        raise ApiError("NOT_FOUND", f"The requested URL {verb} {path} was not found.")

    def handle(self, call: Call, api: str) -> dict[str, Any]:
        """Checks a request and carries it out.

        Raises:
          ApiError: it is refused.
        """
        handler = self._handlers[api].get(call.method.id)
        if handler is None:
            raise ApiError("UNIMPLEMENTED", f"{call.method.id} is not served here")
        if found := [*_query_violations(call), *_body_violations(call)]:
            problems = "; ".join(f"{each.field}: {each.description}" for each in found)
            raise ApiError("INVALID_ARGUMENT", f"Invalid JSON payload received. {problems}", found)
        answer = handler(call)
        wrong = call.method.schemas.response(call.method.response, answer)
        assert not wrong, f"the answer of {call.method.id} is none: {wrong}"
        return answer


def _query_violations(call: Call) -> list[Violation]:
    found = []
    for name, text in call.query.items():
        if name not in call.method.query:
            problem = f'Unknown name "{name}": Cannot bind query parameter.'
        else:
            problem = schema.parameter(call.method.query[name], text)
        if problem:
            found.append(Violation(name, problem))
    required = (name for name, each in call.method.query.items() if each.get("required"))
    found += [Violation(name, "is required") for name in required if name not in call.query]
    return found


def _body_violations(call: Call) -> list[Violation]:
    if not call.method.request:
        return [Violation("", "no body is expected")] if call.body else []
    return call.method.schemas.request(call.method.request, call.body)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, server: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.owner = server

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that have gone away."""


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what came is in the records."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        owner = self.server.owner
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        owner.authorizations.append(self.headers.get("Authorization", ""))
        if self.path == "/token" and self.command == "POST":
            self._send(*owner.tokens.issue(data.decode()))
            return
        name, body = "", {}
        try:
            split = urllib.parse.urlsplit(self.path)
            api, method, path = owner.find(self.command, split.path)
            name = method.name
            body = json.loads(data or b"{}")
            query = dict(urllib.parse.parse_qsl(split.query, keep_blank_values=True))
            call = Call(method, path, query, body)
            status, answer = self._carry_out(call, api, owner.faults.next(name, self.path))
            retry_after = 0.0
        except ApiError as error:
            status, answer, retry_after = error.code, error.body, error.retry_after
        except json.JSONDecodeError:
            wrong = ApiError("INVALID_ARGUMENT", "Invalid JSON payload received.")
            status, answer, retry_after = wrong.code, wrong.body, 0
        except Exception as error:  # noqa: BLE001 - a bug of this server, which fails the test
            owner.bugs.append(error)
            status, answer, retry_after = 500, ApiError("INTERNAL", repr(error)).body, 0
        # First, so that whoever has the answer finds the record.
        owner.records.append(Record(name, self.path, body, status))
        if status:
            self._send(status, answer, retry_after)
        else:
            self._hang_up()

    def _carry_out(self, call: Call, api: str, fault: Fault | None) -> tuple[int, dict[str, Any]]:
        """Returns what is answered: a status of HTTP, 0 for none, and a body."""
        owner = self.server.owner
        fault = fault or Fault(accepted=True)
        if fault.held:
            fault.held.wait(60)
        time.sleep(fault.delay)
        if fault.status == 401:
            owner.tokens.expire(self._token())
        if not owner.tokens.is_valid(self._token()):
            raise ApiError(
                "UNAUTHENTICATED",
                "Request had invalid authentication credentials. Expected OAuth 2 access token.",
            )
        answer = owner.handle(call, api) if fault.accepted else {}
        if fault.lost:
            return 0, {}
        if fault.answer is not None:
            return fault.status or 200, fault.answer
        if fault.status:
            reason = _REASONS[fault.status]
            raise ApiError(
                reason, fault.message, retry_after=fault.retry_after, details=fault.details
            )
        return 200, answer

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _send(self, status: int, answer: Any, retry_after: float = 0) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(data)))
        if retry_after:
            self.send_header("Retry-After", str(math.ceil(retry_after)))
        self.end_headers()
        self.wfile.write(data)

    def _hang_up(self) -> None:
        """Closes the connection as a network does that breaks: by a reset, without an answer."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
