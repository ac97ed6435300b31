"""Short-lived access to Google's repositories, for builds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from caliban.docker.identity import Credentials
from caliban.errors import UsageError

# Google's repositories take an access token as the password of this user:
# https://cloud.google.com/artifact-registry/docs/python/authentication
USER = "oauth2accesstoken"

# Cloud Source Repositories.
REPOSITORIES = "source.developers.google.com"

# An index of the Artifact Registry: "europe-west4-python.pkg.dev".
_INDEX = re.compile(rb"(?<![\w.-])[a-z0-9-]+-python\.pkg\.dev(?![\w.-])")

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def index_hosts(texts: Iterable[bytes]) -> list[str]:
    """The hosts of the Artifact Registry that texts name, sorted: only they get a token."""
    return sorted({host.decode() for text in texts for host in _INDEX.findall(text)})


def access_token(credentials: Credentials) -> str:
    """Makes an access token of the user's credentials, which lives for an hour at most.

    Raises:
      UsageError: there are no credentials, they are not accepted, or google-auth is not installed.
    """
    wanted = '"build_time_credentials" in .calibanconfig.json'
    file = credentials.key or credentials.adc
    if file is None:
        raise UsageError(
            f"{wanted} asks for Google Cloud credentials, and there are none",
            "Log in with 'gcloud auth application-default login', or name a service account's key "
            "with --cloud_key.",
        )
    try:
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request
        from google.oauth2 import credentials as user
        from google.oauth2 import service_account
    except ImportError:
        raise UsageError(
            f"{wanted} needs the library google-auth, which is not installed",
            "pip install google-auth",
        ) from None
    load: Mapping[str, Any] = {
        "service_account": service_account.Credentials.from_service_account_info,
        "authorized_user": user.Credentials.from_authorized_user_info,
    }
    try:
        content = json.loads(file.read_bytes())
        found = load[content["type"]](content, scopes=[_SCOPE])
        found.refresh(Request())
    except (KeyError, TypeError):
        raise UsageError(
            f"the credentials in {file} are of a kind that no build can use",
            f"Known kinds: {', '.join(load)}.",
        ) from None
    except (OSError, GoogleAuthError, ValueError) as error:
        raise UsageError(
            f"no access with the Google Cloud credentials in {file}: {_first_line(error)}",
            "Log in anew: gcloud auth application-default login",
        ) from None
    return str(found.token)


def _first_line(error: Exception) -> str:
    # The rest, if there is any, is what the server answered.
    return str(error.args[0] if error.args else type(error).__name__).partition("\n")[0]
