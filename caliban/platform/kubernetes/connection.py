"""Requests to a cluster's API: each either carried out, or refused, or known not to be known."""

from __future__ import annotations

import contextlib
import json
import random
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from caliban.errors import CalibanError, PlatformError, RefusedError, UnknownOutcomeError
from caliban.platform.kubernetes import kubeconfig
from caliban.platform.kubernetes.place import Place
from caliban.platform.quota import Clock

if TYPE_CHECKING:
    from kubernetes.client import Configuration
    from urllib3 import BaseHTTPResponse

# The client's modules import one another: two threads that import it at a time wait for each other,
# or see a half of it.
_IMPORTING = threading.Lock()

# How many threads may have a connection each.
_THREADS = 32

# Seconds until there is a connection, and until there is an answer.
_CONNECT = 4.0
_READ = 15.0

# How often a request is sent that is put off or gets no answer, and the longest wait in between.
_ATTEMPTS = 8
_LONGEST_WAIT = 30.0

# Answers after which the same request may succeed later.
_LATER = (429, 500, 502, 503, 504)

# What an answer says of a user who may not do something.
_FORBIDDEN = re.compile(r'cannot (?P<verb>\w+) resource "(?P<kind>[\w./-]+)"')

# Objects of a list that come with one request. Jobs that have ended stay in the cluster until
# somebody deletes them, and all of them take one request as long as they are no more than these.
_PAGE = 2000


class Connection:
    """Speaks with one cluster; for several threads."""

    def __init__(
        self, place: Place, environment: Mapping[str, str], cloud_key: str | None, clock: Clock
    ) -> None:
        """Finds out how the cluster is reached.

        Args:
          place: which cluster.
          environment: variables, by which Google's credentials are found.
          cloud_key: a key of Google's, see google.access.
          clock: to wait by.

        Raises:
          CalibanError: nobody knows how.
        """
        with _IMPORTING:
            from kubernetes.client import ApiClient

        self._place = place
        self._clock = clock
        self._hint = (
            f"'{place.kubectl} version' tells whether that reaches it. Look after this machine's "
            "network, and its proxy if it has one."
        )
        if place.gke:
            self._configuration = self._of_gke(place.gke, environment, cloud_key)
        else:
            self._configuration = kubeconfig.configuration(place)
        self._configuration.connection_pool_maxsize = _THREADS
        try:
            self._client = ApiClient(self._configuration)
        except ImportError:
            raise CalibanError(
                f"the cluster {place.cluster} is reached by a SOCKS proxy, which takes PySocks",
                "Install it beside caliban: pip install PySocks",
            ) from None
        except ValueError:  # whose text has the address, and maybe a password
            raise CalibanError(
                f"the address of the proxy of the cluster {place.cluster} can't be used",
                "It is proxy-url in the kubeconfig, or else $HTTPS_PROXY: "
                "http://proxy.example.com:3128, for one.",
            ) from None
        # Of its own accord it would send requests again, and follow redirects.
        self._http = self._client.rest_client.pool_manager
        self._authentication = threading.Lock()

    def _of_gke(
        self, gke: tuple[str, str, str], environment: Mapping[str, str], cloud_key: str | None
    ) -> Configuration:
        from kubernetes.client import Configuration

        from caliban.platform.gke import access

        way = access.connection(*gke, environment, cloud_key)
        found = Configuration(host=way.server)
        found.ca_cert_data = way.certificate or None

        def refresh(configuration: Configuration) -> None:
            configuration.api_key["authorization"] = f"Bearer {way.token()}"

        refresh(found)
        found.refresh_api_key_hook = refresh  # type: ignore[assignment]
        self._hint = way.hint
        return found

    @property
    def server(self) -> str:
        """The address of the cluster's API."""
        return str(self._configuration.host)

    def close(self) -> None:
        """Closes what is idle of it."""
        self._http.clear()

    def get(
        self, path: str, params: Mapping[str, str] | None = None, accept: str = "application/json"
    ) -> dict[str, Any]:
        """Reads something.

        Args:
          path: of it.
          params: of the request.
          accept: in which form.

        Raises:
          RefusedError: the cluster won't have it.
          UnknownOutcomeError: it can't be reached, or is out of order.
        """
        # A connection that has been idle may be closed just when it is used again.
        return self._repeated("GET", path, params, accept=accept, attempts=2)

    def items(
        self, path: str, params: Mapping[str, str] | None = None, accept: str = "application/json"
    ) -> list[dict[str, Any]]:
        """Reads a list, all pages of it.

        Args:
          path: of the list.
          params: such as labelSelector.
          accept: in which form.

        Raises:
          PlatformError: see `get`.
        """
        found: list[dict[str, Any]] = []
        query = {**(params or {}), "limit": str(_PAGE)}
        while True:
            try:
                page = self._repeated("GET", path, query, accept=accept, attempts=2)
            except RefusedError as error:
                if error.status != 410 or "continue" not in query:
                    raise
                # So much time has passed since the first page that the next one is forgotten.
                found, page = [], self._repeated("GET", path, params, accept=accept, attempts=2)
            items, metadata = page.get("items", 0), page.get("metadata")
            # An empty list is null in some answers. Without any, this isn't a cluster's: a portal's
            # that wants a login, for one. Jobs must not be taken for deleted then.
            if not (isinstance(items, list | None) and isinstance(metadata, dict)):
                raise self._nonsense("something that isn't a list")
            found += items or ()
            more = metadata.get("continue")
            if not more:
                return found
            query["continue"] = more

    def create(
        self, path: str, body: Mapping[str, Any], params: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Makes an object that has a name; without an answer, tries again.

        Raises:
          RefusedError: it was not made; status 409 if there is one of that name, perhaps made by an
            earlier request of this very call.
          UnknownOutcomeError: nobody knows.
        """
        made = self._repeated("POST", path, params, body, attempts=_ATTEMPTS)
        # Who says yes to everything is no cluster.
        if not isinstance(made.get("metadata"), dict):
            raise self._nonsense("something that isn't what was to be made")
        return made

    def delete(self, path: str, params: Mapping[str, str]) -> dict[str, Any]:
        """Deletes an object.

        Raises:
          PlatformError: see `get`.
        """
        return self._repeated("DELETE", path, params, attempts=3)

    @contextlib.contextmanager
    def stream(
        self, path: str, params: Mapping[str, str], patience: float
    ) -> Iterator[BaseHTTPResponse]:
        """Reads something that comes bit by bit.

        Args:
          path: of it.
          params: as they are.
          patience: seconds without a bit after which reading fails.

        Raises:
          PlatformError: see `get`.
        """
        answer = self._send("GET", path, params, None, "*/*", patience)
        try:
            if answer.status != 200:
                raise self._problem(answer)
            yield answer
        finally:
            answer.close()

    def _repeated(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        accept: str = "application/json",
        attempts: int = 1,
    ) -> dict[str, Any]:
        """Sends a request until it is answered; names make it harmless to send one again."""
        for attempt in range(attempts):
            asked = 0.0
            try:
                answer = self._send(method, path, params, body, accept, _READ)
                if 200 <= answer.status < 300:
                    return self._content(answer)
                problem = self._problem(answer)
                # Another request has just been counted against the same quota.
                is_busy = answer.status == 409 and problem.reason == "Conflict"
                if answer.status not in _LATER and not is_busy:
                    raise problem
                asked = _retry_after(answer)
            except UnknownOutcomeError as error:
                problem = error
            if attempt < attempts - 1:
                self._clock.sleep(min(max(asked, _backoff(attempt)), _LONGEST_WAIT))
        raise problem

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        accept: str,
        patience: float,
    ) -> BaseHTTPResponse:
        """Sends one request.

        Raises:
          UnknownOutcomeError: there was no answer.
        """
        import urllib3

        headers = {"Accept": accept, "User-Agent": "caliban", **self._credentials()}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        try:
            answer: BaseHTTPResponse = self._http.request(
                method,
                f"{self._configuration.host}{path}?{urlencode(params or {})}",
                headers=headers,
                body=data,
                timeout=urllib3.Timeout(connect=_CONNECT, read=patience),
                retries=False,
                redirect=False,
                preload_content=accept != "*/*",
            )
            return answer
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(_cause(error), ssl.SSLCertVerificationError):
                raise RefusedError(
                    f"the certificate of the cluster {self._place.cluster} can't be verified: "
                    f"{_why(error)}",
                    "Its kubeconfig has the certificate-authority of another cluster, or of an "
                    "older one. Get a new one from where the cluster comes from.",
                    401,
                ) from None
            raise UnknownOutcomeError(
                f"the cluster {self._place.cluster} doesn't answer: {_why(error)}", self._hint
            ) from None

    def _credentials(self) -> dict[str, str]:
        """The headers that say who asks.

        Raises:
          RefusedError: there are none any more.
        """
        try:
            with self._authentication:
                return kubeconfig.credentials(self._configuration)
        except ValueError as error:
            raise RefusedError(
                f"there are no credentials for the cluster {self._place.cluster}: {error}",
                f"'{self._place.kubectl} get jobs' shows whether others work with it.",
                401,
            ) from None

    def _content(self, answer: BaseHTTPResponse) -> dict[str, Any]:
        try:
            found: Any = json.loads(answer.data)
        except ValueError:
            raise self._nonsense("something that isn't JSON") from None
        if not isinstance(found, dict):
            raise self._nonsense("something that isn't an object")
        return found

    def _nonsense(self, what: str) -> UnknownOutcomeError:
        """Somebody answers who can't be the cluster."""
        return UnknownOutcomeError(f"the cluster {self._place.cluster} answers {what}", self._hint)

    def _problem(self, answer: BaseHTTPResponse) -> PlatformError:
        """What an answer says that isn't what was asked for."""
        try:
            content = json.loads(answer.data)
            said, reason = str(content["message"]), str(content.get("reason", ""))
        except (ValueError, KeyError, TypeError):
            said, reason = answer.data.decode(errors="replace").strip()[:300], ""
        said = said or answer.reason or "no reason given"
        kind = RefusedError if 400 <= answer.status < 500 else UnknownOutcomeError
        return kind(
            f"the cluster {self._place.cluster} answers {answer.status}: {said.rstrip('.')}",
            _hint(answer.status, said, self._place),
            answer.status,
            reason,
        )


def _hint(status: int, said: str, place: Place) -> str:
    """What to do about an error, where there is something."""
    command = place.kubectl
    if status == 401:
        return f"Your credentials have expired, or are wrong: '{command} get jobs' tells as well."
    if "exceeded quota" in said:
        return (
            "The namespace may not have more: wait until jobs have ended, or delete old ones "
            f"('{command} describe quota --namespace {place.namespace}')."
        )
    if status == 403 and '"system:anonymous"' in said:
        return (
            "It knows no credentials of yours: "
            f"'{command} config view --minify' shows what the context has."
        )
    if status == 403:
        match = _FORBIDDEN.search(said)
        what = f"{match['verb']} {match['kind']}" if match else "create jobs"
        return (
            f"Ask the cluster's administrator for the right: '{command} auth can-i {what} "
            f"--namespace {place.namespace}' tells whether you have it."
        )
    if status == 404 and said.startswith("namespaces "):
        return f"Make it: {command} create namespace {place.namespace}"
    return ""


def _retry_after(answer: BaseHTTPResponse) -> float:
    """The seconds that an answer asks to wait for; 0 if it doesn't."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0


def _backoff(attempt: int) -> float:
    """Seconds to wait before the next attempt: longer each time, and not the same for everybody."""
    return min(_LONGEST_WAIT, 0.1 * 3.0**attempt) * random.uniform(0.75, 1.25)


def _why(error: BaseException) -> str:
    """The innermost reason of an error in one line."""
    cause = _cause(error)
    return (str(cause) or type(cause).__name__).splitlines()[0][:200]


def _cause(error: BaseException) -> BaseException:
    """The innermost of the errors that the libraries wrap in one another."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
