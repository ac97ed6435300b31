"""Requests to Google's APIs: each carried out once, or known not to be known.

Google's own client sends a POST again when the connection breaks, and so makes two jobs of one.
Here nothing is sent again that may have been carried out.
"""

from __future__ import annotations

import datetime
import random
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from caliban.errors import RefusedError, UnknownOutcomeError, UsageError
from caliban.platform import answers
from caliban.platform.quota import Clock, TokenBucket

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from requests import PreparedRequest, Response

T = TypeVar("T")

# How many threads may have a connection each.
_THREADS = 32

# Seconds until there is a connection, and until there is an answer.
_TIMEOUT = (10, 60)

# How often a request that may be repeated is sent, and for how many seconds: somebody waits for
# what it reads. And for how many caliban obeys 429s.
_ATTEMPTS = 5
_REPEATED = 60
_PATIENCE = 900

# What to do if Google doesn't accept the credentials of most people any more.
LOGIN = "Run: gcloud auth application-default login"

# What to do if Google can't be reached, or somebody else answers in its place.
NETWORK = "Look after this machine's network, and its proxy if it has one."

# When to look for something that may have been made: seconds, one after another. A request of which
# nothing was heard may still be on its way. One that the API itself has answered has ended: what it
# has made is there then, by https://google.aip.dev/121#strong-consistency.
_LOOKS = (1.0, 2.0, 4.0)
_LOOKS_AFTER_ANSWER = (0.5, 1.0)


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
    """Speaks with Google's APIs; for several threads.

    Attributes:
      clock: what it waits by.
    """

    def __init__(
        self, credentials: Credentials, clock: Clock | None = None, login: str = LOGIN
    ) -> None:
        """Takes who is asking.

        Args:
          credentials: see google.access.
          clock: for tests.
          login: what to do if Google doesn't accept the credentials any more.
        """
        from google.auth.transport.requests import AuthorizedSession, Request
        from requests import Session as HttpSession
        from requests.adapters import HTTPAdapter

        from caliban.platform.bearer import Bearer

        self.clock = clock or Clock()
        self._login = login
        self._held_up = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        self._for_tokens = HttpSession()
        self._for_tokens.auth = as_it_is
        # Of its own accord it sends a request again only after a 401, by which none is carried out.
        self._http: Any = AuthorizedSession(  # type: ignore[no-untyped-call]
            Bearer(credentials), auth_request=Request(self._for_tokens)
        )
        self._http.auth = as_it_is
        for scheme in ("https://", "http://"):
            self._http.mount(scheme, HTTPAdapter(max_retries=0, pool_maxsize=_THREADS))

    @property
    def held_up(self) -> datetime.datetime | None:
        """Until when Google wants nothing to be sent, as it has said by a 429; None if it does."""
        until = self._held_up
        return until if until > datetime.datetime.now(datetime.UTC) else None

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
        gives_up = self.clock.now() + _REPEATED
        for attempt in range(_ATTEMPTS - 1):
            try:
                return send()
            except UnknownOutcomeError:
                if self.clock.now() >= gives_up:
                    raise
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
            wait = answers.retry_after(answer) or _backoff(attempt)
            if not answers.is_too_fast(answer) or self.clock.now() + wait > gives_up:
                return answers.read(answer, url, self._login)
            attempt += 1
            until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=wait)
            self._held_up = max(self._held_up, until)
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

        host = answers.host(url)
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
                f"no answer from {host}: {answers.why(error)}",
                NETWORK,
            ) from None
        except exceptions.GoogleAuthError as error:
            if isinstance(error, exceptions.TransportError) or error.retryable:
                raise UnknownOutcomeError(f"no access token: {answers.why(error)}") from None
            raise RefusedError(
                f"Google gives no access token any more: {answers.why(error)}",
                self._login,
                401,
            ) from None
        except answers.OTHER_FORM:
            raise UnknownOutcomeError(
                "no access token: what was asked for one doesn't answer as Google does",
                NETWORK,
            ) from None


def once(
    send: Callable[[], T],
    find: Callable[[], T | None],
    clock: Clock,
    absent: Callable[[], None] = lambda: None,
    attempts: int = 7,
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
        except UnknownOutcomeError as error:
            looks = _LOOKS_AFTER_ANSWER if error.is_answer else _LOOKS
            for wait in looks:
                clock.sleep(wait)
                found = find()
                if found is not None:
                    return found
            absent()
            if attempt == attempts - 1:
                raise
            # To look has taken its time already.
            clock.sleep(max(0.0, _backoff(attempt) - sum(looks)))
    raise AssertionError("unreachable")


def as_it_is(request: PreparedRequest) -> PreparedRequest:
    """An `auth` of requests, which would put what ~/.netrc has for a host in a token's place."""
    return request


def _backoff(attempt: int) -> float:
    """Seconds to wait before the next attempt: longer each time, and not the same for everybody."""
    return min(30.0, 2.0**attempt) * random.uniform(0.75, 1.25)
