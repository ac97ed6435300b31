"""Who is asking: the user's credentials for Google Cloud, tried before they are needed."""

from __future__ import annotations

import datetime
import functools
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import home, process
from caliban.errors import CalibanError, UsageError
from caliban.platform import answers, gcloud
from caliban.platform.rest import LOGIN, NETWORK, as_it_is

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)

_NEW_KEY = "Make a new key: gcloud iam service-accounts keys create KEY.json --iam-account ACCOUNT"

# Seconds for an answer of Google's when a token is asked for.
_PATIENCE = 20


@dataclass(frozen=True)
class Access:
    """Credentials that Google has accepted.

    Attributes:
      credentials: which refresh themselves.
      source: where they are from, for people.
      remedy: what to do if Google doesn't accept them any more.
      project: that they belong to; "" if they don't say.
    """

    credentials: Credentials = field(repr=False)
    source: str
    remedy: str
    project: str = ""

    def token(self) -> str:
        """An access token that is valid now; a new one only if the last has nearly expired.

        Raises:
          CredentialsError: Google doesn't accept the credentials any more.
        """
        if not self.credentials.valid:
            _tried(self)
        return str(self.credentials.token)


class CredentialsError(CalibanError):
    """There are no credentials, or Google doesn't accept them."""


def access(key: str | None, environment: Mapping[str, str]) -> Access:
    """Finds the user's credentials, and gets a token with them.

    The first that there are count: a key; application default credentials, by gcloud or by the
    machine; gcloud's own account.

    Args:
      key: path of a key, or of other credentials as a file, that the user has named; None or ""
        for none.
      environment: variables, by which gcloud's files and GOOGLE_APPLICATION_CREDENTIALS are found.

    Raises:
      UsageError: the key is no file.
      CredentialsError: there are none, or Google doesn't accept them. The hint has the one command
        that mends it.
    """
    named = key or environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        return _from_file(home.expand(named).absolute(), _NEW_KEY)
    adc = gcloud.folder(environment) / "application_default_credentials.json"
    if adc.is_file():
        return _from_file(adc, LOGIN)
    if process.find("gcloud") and gcloud.settings(environment).account:
        return _from_gcloud(environment)
    found = _from_machine(environment)
    if found is None:
        raise CredentialsError("no credentials for Google Cloud were found", LOGIN)
    return found


def project(key: str | None, environment: Mapping[str, str]) -> str:
    """The project that the user's credentials belong to, or are paid by; "" if they don't say.

    Nobody is asked, except, on a machine of Google's own, that machine.

    Args:
      key: see `access`.
      environment: see `access`.
    """
    named = key or environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    adc = gcloud.folder(environment) / "application_default_credentials.json"
    file = home.expand(named) if named else adc
    try:
        content = json.loads(file.read_bytes())
        return str(content.get("project_id") or content.get("quota_project_id") or "")
    except FileNotFoundError:
        return "" if named else _project_of_machine(environment)
    except (OSError, ValueError, AttributeError):
        return ""  # `access` says what is wrong with it


def _from_file(path: Path, remedy: str) -> Access:
    """Credentials as a file: a service account's key, a user's own, or those of a federation."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    if not path.is_file():
        raise UsageError(
            f"the credentials {path} are not a file",
            "They are named by --cloud_key, $GOOGLE_APPLICATION_CREDENTIALS or "
            '"gcloud": {"cloud_key": ...} in .calibanconfig.json, in this order.',
        )
    try:
        with warnings.catch_warnings():
            # It warns of files from strangers; this one the user has named.
            warnings.simplefilter("ignore", DeprecationWarning)
            credentials, project = google.auth.load_credentials_from_file(  # type: ignore[no-untyped-call]
                str(path), scopes=SCOPES
            )
    except (LookupError, TypeError, AttributeError):
        raise CredentialsError(
            f"{path} has no credentials for Google Cloud: it is JSON of another form", remedy
        ) from None
    except (GoogleAuthError, ValueError, OSError) as error:
        raise CredentialsError(
            f"{path} has no credentials for Google Cloud: {_reason(error)}", remedy
        ) from None
    quota_project = getattr(credentials, "quota_project_id", None)
    return _tried(Access(credentials, str(path), remedy, project or quota_project or ""))


def _from_gcloud(environment: Mapping[str, str]) -> Access:
    """The account that gcloud itself works with."""
    from google.oauth2.credentials import Credentials

    def refresh(request: object, scopes: object) -> tuple[str, object]:
        token = gcloud.token()
        return token.value, token.expiry

    known = gcloud.settings(environment)
    credentials = Credentials(None, refresh_handler=refresh, scopes=SCOPES)  # type: ignore[no-untyped-call]
    return _tried(
        Access(credentials, f"gcloud's account {known.account}", gcloud.LOGIN, known.project)
    )


def _from_machine(environment: Mapping[str, str]) -> Access | None:
    """The service account of a machine of Google Cloud's; None on any other machine."""
    import google.auth

    if not _is_googles(environment):
        return None
    try:
        credentials, project = google.auth.default(scopes=SCOPES)
    except google.auth.exceptions.DefaultCredentialsError:
        return None
    return _tried(Access(credentials, "this machine's service account", LOGIN, project or ""))


def _project_of_machine(environment: Mapping[str, str]) -> str:
    import google.auth

    if not _is_googles(environment):
        return ""
    try:
        return google.auth.default(scopes=SCOPES)[1] or ""
    except google.auth.exceptions.DefaultCredentialsError:
        return ""


def _is_googles(environment: Mapping[str, str]) -> bool:
    """Whether this is a machine of Compute Engine's.

    On any other one, google.auth.default() looks for its server for many seconds.
    """
    if "GCE_METADATA_HOST" in environment:
        return True
    try:
        return Path("/sys/class/dmi/id/product_name").read_text().startswith("Google")
    except OSError:
        return False


def _tried(found: Access) -> Access:
    """Gets a token, so that what is wrong is said now and not in the middle of a sweep."""
    from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError

    try:
        found.credentials.refresh(_request())  # type: ignore[no-untyped-call]
    except (TransportError, OSError) as error:
        raise CredentialsError(
            f"Google can't be reached, to try {found.source}: {answers.why(error)}", NETWORK
        ) from None
    except (RefreshError, GoogleAuthError, ValueError) as error:
        if _is_of_a_stranger(error):
            raise _not_googles(found) from None
        reason = _reason(error)
        remedy = _clock() if "reasonable timeframe" in reason else found.remedy
        raise CredentialsError(f"Google doesn't accept {found.source}: {reason}", remedy) from None
    except (LookupError, TypeError, AttributeError):
        raise _not_googles(found) from None
    return found


def _is_of_a_stranger(error: Exception) -> bool:
    """Whether it comes of an error as Google's token server has none: empty, a page, or a 5xx."""
    said = str(error.args[0]).strip() if error.args else ""
    return not said or said.startswith("<") or getattr(error, "retryable", False)


def _not_googles(found: Access) -> CredentialsError:
    what = "what was asked for a token doesn't answer as Google does"
    return CredentialsError(f"{found.source} can't be tried: {what}", NETWORK)


def _clock() -> str:
    """What to do where Google takes a key's signature for one of another time."""
    now = datetime.datetime.now(datetime.UTC)
    return f"Set this machine's clock: it says {now:%Y-%m-%d %H:%M} UTC."


def _request() -> Callable[..., object]:
    """What google-auth asks for tokens with: over TLS that is always verified."""
    from google.auth.transport.requests import Request
    from requests import Session

    session = Session()
    session.auth = as_it_is
    return functools.partial(Request(session), timeout=_PATIENCE)


def _reason(error: Exception) -> str:
    """The first line of an error of google-auth's, whose other arguments may be a whole answer."""
    first = error.strerror if isinstance(error, OSError) else error.args[0] if error.args else ""
    text = str(first or error).strip() or type(error).__name__
    return text.splitlines()[0][:300].rstrip(".")
