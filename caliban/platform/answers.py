"""What Google's APIs answer: errors in words, and what to do about them."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import re
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from caliban.errors import RefusedError, UnknownOutcomeError

if TYPE_CHECKING:
    from requests import Response

# What comes of reading an answer that has not the form which the API's description promises.
OTHER_FORM = (LookupError, TypeError, ValueError, AttributeError)


@contextlib.contextmanager
def understanding(url: str) -> Iterator[None]:
    """Reads an answer that may not have the form which the API's description promises.

    Raises:
      UnknownOutcomeError: it hasn't; what has become of the request isn't known then.
    """
    try:
        yield
    except OTHER_FORM as error:
        raise UnknownOutcomeError(
            f"{host(url)} answers what Google doesn't: {one_line(why(error))}",
            "Look after this machine's proxy, if it has one.",
        ) from None


def one_line(text: object) -> str:
    """A text of somebody else's in one line, without anything that a terminal would obey.

    Args:
      text: whatever else it is, it is no text: "".
    """
    letters = text if isinstance(text, str) else ""
    return " ".join("".join(each if each.isprintable() else " " for each in letters).split())


def host(url: str) -> str:
    """Who is asked, for people: the host and port of an address."""
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


def read(answer: Response, url: str, login: str) -> dict[str, Any]:
    """What an answer says.

    Args:
      answer: it.
      url: what was asked.
      login: what to do if Google doesn't know the user any more.

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
    message = f"{host(url)} answers {answer.status_code}: {said.rstrip('.')}"
    refused = 400 <= answer.status_code < 500
    kind = RefusedError if refused else UnknownOutcomeError
    reason, details = one_line(error.get("status")), error.get("details")
    what = hint(reason, details if isinstance(details, list) else (), login)
    raise kind(message, what, answer.status_code, reason)


def hint(reason: str, details: Sequence[Any], login: str) -> str:
    """What to do about an error, where there is something.

    Args:
      reason: Google's name for it.
      details: of it.
      login: see `read`.
    """
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
        return login
    return ""


def is_too_fast(answer: Response) -> bool:
    """Whether Google asks to wait: not for a GPU, which takes as long as somebody's job."""
    return answer.status_code == 429 and not _ALL_IN_USE.search(answer.text)


# What Vertex AI says when the project's quota of CPUs or GPUs is used up, or is 0.
_ALL_IN_USE = re.compile("quotas are exceeded|exceed quota limits")


def wish(until: datetime.datetime) -> str:
    """What Google has asked for by a 429, in words: "Google asks to wait until 14:32:10"."""
    return f"Google asks to wait until {until.astimezone():%H:%M:%S}"


def retry_after(answer: Response) -> float:
    """The seconds that an answer asks to wait for; 0 if it doesn't."""
    text = answer.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text)
    when = _moment(text)
    if when is None:
        return 0.0
    # By the clock of who answers: this machine's may be wrong.
    now = _moment(answer.headers.get("Date", ""))
    return max(0.0, when - (time.time() if now is None else now))


def _moment(text: str) -> float | None:
    """The time that a header tells, in seconds since the epoch; None if it tells none."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


def why(error: Exception) -> str:
    """The innermost reason of an error, which the libraries wrap in several others."""
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    # The other arguments of google-auth's errors are what was answered.
    text = inner.args[0] if inner.args and isinstance(inner.args[0], str) else str(inner)
    return (text or type(inner).__name__).splitlines()[0][:200]
