"""Google's repositories of packages, and how a build logs in to them."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Google's repositories take an access token as the password of this user:
# https://cloud.google.com/artifact-registry/docs/python/authentication
USER = "oauth2accesstoken"

# Cloud Source Repositories.
REPOSITORIES = "source.developers.google.com"

# An index of the Artifact Registry: "europe-west4-python.pkg.dev".
_INDEX = re.compile(rb"(?<![\w.-])[a-z0-9-]+-python\.pkg\.dev(?![\w.-])")


def index_hosts(texts: Iterable[bytes]) -> list[str]:
    """The hosts of the Artifact Registry that texts name, sorted: only they get a token."""
    return sorted({host.decode() for text in texts for host in _INDEX.findall(text)})
