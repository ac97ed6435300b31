"""Requests to Google's APIs: each carried out once, or known not to be known.

Google's own client sends a POST again when the connection breaks, and so makes two jobs of one.
Here nothing is sent again that may have been carried out.
"""

from __future__ import annotations

import contextlib
import email.utils
import random
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from caliban.errors import RefusedError, UnknownOutcomeError, UsageError
from caliban.platform.quota import Clock, TokenBucket

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from requests import PreparedRequest, Response

T = TypeVar("T")

# How many threads may have a connection each.
_THREADS = 32

# Seconds until there is a connection, and until there is an answer.
_TIMEOUT = (10, 60)

# How often a request that may be repeated is sent, and how long caliban obeys 429s, in seconds.
_ATTEMPTS = 5
_PATIENCE = 900

# When to look whether a request has arrived of which nothing was heard: seconds, one after another.
_LOOKS = (1.0, 2.0, 4.0)


def endpoint(api: str, url: str, environment: Mapping[str, str]) -> str:
    """Where an API is, which gcloud's variables can change, for a proxy of Google's for one.

    Args:
      api: its name: "aiplatform".
      url: where it is by default.
      environment: has CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM, if it is elsewhere.

    Returns:
      The address, with a slash at its end.

    Raises:
      UsageError: it is none, or an access token would be sent there in clear text.
    """
    variable = f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api.upper()}"
    found = environment.get(variable) or url
    try:
        parts = urllib.parse.urlsplit(found)
        is_here = parts.hostname in ("127.0.0.1", "::1", "localhost")
    except ValueError as error:
        raise UsageError(f"{variable} is '{found}', which is no address: {error}") from None
    if parts.scheme != "https" and not is_here:
        raise UsageError(
            f"{variable} is '{found}', where an access token would be sent without encryption",
            "Use an address that begins with https://.",
        )
    return found.rstrip("/") + "/"


class Session:
    """Speaks with Google's APIs; for several threads."""

    def __init__(self, credentials: Credentials, clock: Clock | None = None) -> None:
        """Takes who is asking.

        Args:
          credentials: see google.access.
          clock: for tests.
        """
        from google.auth.transport.requests import AuthorizedSession, Request
        from requests import Session as HttpSession
        from requests.adapters import HTTPAdapter

        from caliban.platform.bearer import Bearer

        self.clock = clock or Clock()
        self._for_tokens = HttpSession()
        self._for_tokens.auth = as_it_is
        # Of its own accord it sends a request again only after a 401, by which none is carried out.
        self._http: Any = AuthorizedSession(  # type: ignore[no-untyped-call]
            Bearer(credentials), auth_request=Request(self._for_tokens)
        )
        self._http.auth = as_it_is
        for scheme in ("https://", "http://"):
            self._http.mount(scheme, HTTPAdapter(max_retries=0, pool_maxsize=_THREADS))

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()
        self._for_tokens.close()

    def get(self, url: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Reads something; tries again if that might help.

        Raises:
          RefusedError: Google won't have it.
          UnknownOutcomeError: it can't be reached, or is out of order.
        """
        return self._repeated(lambda: self._send("GET", url, params=params))

    def pages(
        self, url: str, params: Mapping[str, str], body: Mapping[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Reads a list, page by page, as `get` does it.

        Args:
          url: of the list.
          params: its filter, for one.
          body: for a list that is asked for by POST, where `params` go into it.
        """
        token = ""
        while True:
            more = {"pageToken": token} if token else {}
            if body is None:
                page = self.get(url, {**params, **more})
            else:
                page = self.post_again(url, {**body, **params, **more})
            yield page
            token = page.get("nextPageToken", "")
            if not token:
                return

    def post(
        self,
        url: str,
        body: Mapping[str, Any],
        bucket: TokenBucket | None = None,
        params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Makes something. It is sent again only after Google has said that it was too much.

        Args:
          url: where.
          body: what.
          bucket: which the request is counted in.
          params: of the query.

        Raises:
          RefusedError: it was not made.
          UnknownOutcomeError: it may have been made, or may not.
        """
        return self._send("POST", url, params, body, bucket)

    def post_again(self, url: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A POST that may be carried out twice without harm: it reads, or ends something."""
        return self._repeated(lambda: self._send("POST", url, body=body))

    def delete(self, url: str) -> dict[str, Any]:
        """Deletes something; a second time is refused without harm."""
        return self._repeated(lambda: self._send("DELETE", url))

    def _repeated(self, send: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        for attempt in range(_ATTEMPTS - 1):
            try:
                return send()
            except UnknownOutcomeError:
                self.clock.sleep(_backoff(attempt))
        return send()

    def _send(
        self,
        method: str,
        url: str,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        bucket: TokenBucket | None = None,
    ) -> dict[str, Any]:
        """Sends a request, and after a 429, by which it is not carried out, once more."""
        gives_up = self.clock.now() + _PATIENCE
        attempt = 0
        while True:
            if bucket:
                bucket.take()
            answer = self._exchange(method, url, params, body)
            wait = _retry_after(answer) or _backoff(attempt)
            if not _is_too_fast(answer) or self.clock.now() + wait > gives_up:
                return _read(answer, url)
            attempt += 1
            if bucket:
                bucket.give_back()  # it wasn't carried out, nor counted
                bucket.pause(wait)
            else:
                self.clock.sleep(wait)

    def _exchange(
        self,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
    ) -> Response:
        from google.auth import exceptions
        from requests.exceptions import InvalidHeader

        host = _host(url)
        try:
            answer: Response = self._http.request(
                method,
                url,
                params=params,
                json=body,
                timeout=_TIMEOUT,
                allow_redirects=False,  # which would make a GET of a POST, elsewhere
            )
            return answer
        except InvalidHeader:  # whose message has the token
            raise UnknownOutcomeError("no access token: that of Google is none") from None
        except OSError as error:  # all of requests' own are, and that of a missing CA bundle is
            raise UnknownOutcomeError(
                f"no answer from {host}: {_why(error)}",
                "Look after this machine's network, and its proxy if it has one.",
            ) from None
        except exceptions.GoogleAuthError as error:
            if isinstance(error, exceptions.TransportError) or error.retryable:
                raise UnknownOutcomeError(f"no access token: {_why(error)}") from None
            raise RefusedError(
                f"Google gives no access token any more: {_why(error)}",
                "Log in again: gcloud auth application-default login",
                401,
            ) from None
        except _OTHER_FORM:
            raise UnknownOutcomeError(
                "no access token: what was asked for one doesn't answer as Google does",
                "Look after this machine's network, and its proxy if it has one.",
            ) from None


def once(
    send: Callable[[], T],
    find: Callable[[], T | None],
    clock: Clock,
    absent: Callable[[], None] = lambda: None,
    attempts: int = 6,
) -> T:
    """Makes something exactly once, although answers get lost.

    Whenever it is not known whether a request has arrived, what it makes is looked for, several
    times, since it may take a moment to be there. Only if it is not, the request is sent again.

    Args:
      send: makes it.
      find: looks for it; None if it is not there.
      clock: to wait by.
      absent: called each time when it was looked for in vain.
      attempts: how often it is sent at the most.

    Raises:
      RefusedError: it was not made.
      UnknownOutcomeError: it still isn't known whether it was.
    """
    for attempt in range(attempts):
        try:
            return send()
        except UnknownOutcomeError:
            for wait in _LOOKS:
                clock.sleep(wait)
                found = find()
                if found is not None:
                    return found
            absent()
            if attempt == attempts - 1:
                raise
            clock.sleep(_backoff(attempt))
    raise AssertionError("unreachable")


# What comes of reading an answer that has not the form which the API's description promises.
_OTHER_FORM = (LookupError, TypeError, ValueError, AttributeError)


@contextlib.contextmanager
def understanding(url: str) -> Iterator[None]:
    """Reads an answer that may not have the form which the API's description promises.

    Raises:
      UnknownOutcomeError: it hasn't; what has become of the request isn't known then.
    """
    try:
        yield
    except _OTHER_FORM as error:
        raise UnknownOutcomeError(
            f"{_host(url)} answers what Google doesn't: {one_line(_why(error))}",
            "Look after this machine's proxy, if it has one.",
        ) from None


def one_line(text: object) -> str:
    """A text of somebody else's in one line, without anything that a terminal would obey.

    Args:
      text: whatever else it is, it is no text: "".
    """
    letters = text if isinstance(text, str) else ""
    return " ".join("".join(each if each.isprintable() else " " for each in letters).split())


def as_it_is(request: PreparedRequest) -> PreparedRequest:
    """An `auth` of requests, which would put what ~/.netrc has for a host in a token's place."""
    return request


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


def _read(answer: Response, url: str) -> dict[str, Any]:
    """What an answer says.

    Raises:
      RefusedError: an error of the caller's.
      UnknownOutcomeError: an error of Google's.
    """
    import requests

    try:
        content = answer.json() if answer.content else {}
    except requests.JSONDecodeError:
        content = None
    if 200 <= answer.status_code < 300 and isinstance(content, dict):
        return content
    error = content.get("error") if isinstance(content, dict) else None
    error = error if isinstance(error, dict) else {"message": error}
    said = one_line(error.get("message")) or one_line(answer.reason) or "no JSON"
    message = f"{_host(url)} answers {answer.status_code}: {said.rstrip('.')}"
    refused = 400 <= answer.status_code < 500
    kind = RefusedError if refused else UnknownOutcomeError
    reason, details = one_line(error.get("status")), error.get("details")
    hint = _hint(reason, details if isinstance(details, list) else ())
    raise kind(message, hint, answer.status_code, reason)


def _hint(reason: str, details: Sequence[Any]) -> str:
    """What to do about an error, where there is something."""
    for detail in details:
        if isinstance(detail, dict) and detail.get("reason") == "SERVICE_DISABLED":
            found = detail.get("metadata")
            metadata = found if isinstance(found, dict) else {}
            project = one_line(metadata.get("consumer")).removeprefix("projects/")
            service = one_line(metadata.get("service"))
            return f"Run: gcloud services enable {service} --project {project}"
    if reason == "PERMISSION_DENIED":
        return (
            "Your account needs a role there: roles/aiplatform.user for jobs on Vertex AI, "
            "roles/artifactregistry.admin to make a repository, roles/logging.viewer for logs."
        )
    if reason == "RESOURCE_EXHAUSTED":
        return (
            "Quotas are shown, and asked for, at https://console.cloud.google.com/iam-admin/quotas."
        )
    if reason == "UNAUTHENTICATED":
        return "Log in again: gcloud auth application-default login"
    return ""


def _is_too_fast(answer: Response) -> bool:
    """Whether Google asks to wait: not for a GPU, which takes as long as somebody's job."""
    return answer.status_code == 429 and not _ALL_IN_USE.search(answer.text)


# What Vertex AI says when the project's quota of CPUs or GPUs is used up, or is 0.
_ALL_IN_USE = re.compile("quotas are exceeded|exceed quota limits")


def _retry_after(answer: Response) -> float:
    """The seconds that an answer asks to wait for; 0 if it doesn't."""
    text = answer.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, when.timestamp() - time.time())


def _backoff(attempt: int) -> float:
    """Seconds to wait before the next attempt: longer each time, and not the same for everybody."""
    return min(30.0, 2.0**attempt) * random.uniform(0.75, 1.25)


def _why(error: Exception) -> str:
    """The innermost reason of an error, which the libraries wrap in several others."""
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    # The other arguments of google-auth's errors are what was answered.
    text = inner.args[0] if inner.args and isinstance(inner.args[0], str) else str(inner)
    return (text or type(inner).__name__).splitlines()[0][:200]
