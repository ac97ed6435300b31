"""Requests to Google's APIs: each carried out once, or known not to be known.

Google's own client sends a POST again when the connection breaks, and so makes two jobs of one.
Here nothing is sent again that may have been carried out.
"""

from __future__ import annotations

import email.utils
import random
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from caliban.errors import CalibanError, RefusedError, UnknownOutcomeError
from caliban.platform.quota import Clock, TokenBucket

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from requests import Response

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
      CalibanError: an access token would be sent there in clear text.
    """
    variable = f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api.upper()}"
    found = environment.get(variable) or url
    parts = urllib.parse.urlsplit(found)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise CalibanError(
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
        from google.auth.transport.requests import AuthorizedSession
        from requests.adapters import HTTPAdapter

        self.clock = clock or Clock()
        # Of its own accord it sends a request again only after a 401, by which none is carried out.
        self._http: Any = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
        for scheme in ("https://", "http://"):
            self._http.mount(scheme, HTTPAdapter(max_retries=0, pool_maxsize=_THREADS))

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

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
            if not _is_too_fast(answer) or self.clock.now() > gives_up:
                return _read(answer, url)
            wait = _retry_after(answer) or _backoff(attempt)
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

        host = urllib.parse.urlsplit(url).netloc
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
    error = content.get("error", {}) if isinstance(content, dict) else {}
    error = error if isinstance(error, dict) else {"message": str(error)}
    host = urllib.parse.urlsplit(url).netloc
    said = error.get("message") or answer.reason or "no JSON"
    message = f"{host} answers {answer.status_code}: {said.strip().rstrip('.')}"
    refused = 400 <= answer.status_code < 500
    kind = RefusedError if refused else UnknownOutcomeError
    reason = error.get("status", "")
    raise kind(message, _hint(reason, error.get("details", ())), answer.status_code, reason)


def _hint(reason: str, details: Sequence[Any]) -> str:
    """What to do about an error, where there is something."""
    for detail in details:
        if isinstance(detail, dict) and detail.get("reason") == "SERVICE_DISABLED":
            metadata = detail.get("metadata", {})
            project = metadata.get("consumer", "").removeprefix("projects/")
            return f"Run: gcloud services enable {metadata.get('service')} --project {project}"
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
    if text.isdigit():
        return float(text)
    when = email.utils.parsedate_tz(text) if text else None
    return max(0.0, email.utils.mktime_tz(when) - time.time()) if when else 0.0


def _backoff(attempt: int) -> float:
    """Seconds to wait before the next attempt: longer each time, and not the same for everybody."""
    return min(30.0, 2.0**attempt) * random.uniform(0.75, 1.25)


def _why(error: Exception) -> str:
    """The innermost reason of an error, which the libraries wrap in several others."""
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    return (str(inner) or type(inner).__name__).splitlines()[0][:200]
