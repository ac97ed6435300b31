"""Which project and region of Google Cloud are meant, and who has said so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caliban.config import FILE_NAME
from caliban.errors import UsageError

if TYPE_CHECKING:
    from caliban.config import Config

# Ids are parts of addresses that an access token is sent to.
_PROJECT = re.compile(r"([a-z0-9][a-z0-9.-]{0,252}:)?[a-z0-9][a-z0-9-]{0,62}")
_REGION = re.compile("[a-z][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class Found:
    """A project or region, and who has named it.

    Attributes:
      value: its id.
      source: who, for people: "$PROJECT_ID"; "" for the user's own command line.
    """

    value: str
    source: str = ""

    @property
    def remark(self) -> str:
        """Says where it is from, if not from the command line: " (from $PROJECT_ID)"."""
        return f" (from {self.source})" if self.source else ""


def project(
    flag: str | None,
    environment: Mapping[str, str],
    settings: Config,
    cloud_key: str | None = None,
) -> Found:
    """The project: of the flag, $PROJECT_ID, .calibanconfig.json, gcloud or the credentials.

    No network is asked, but for a machine of Google's own, which knows its project.

    Args:
      flag: the value of --project_id.
      environment: variables.
      settings: of the project's directory.
      cloud_key: the value of --cloud_key.

    Raises:
      UsageError: nobody names one, or it can't be one.
    """
    from caliban.platform import gcloud, google

    key = settings.cloud_key(cloud_key, environment)
    sources: tuple[tuple[str, Callable[[], str | None]], ...] = (
        ("", lambda: flag),
        ("$PROJECT_ID", lambda: environment.get("PROJECT_ID")),
        (FILE_NAME, lambda: settings.gcloud.project_id),
        ("gcloud's configuration", lambda: gcloud.settings(environment).project),
        ("your credentials", lambda: google.project(key, environment)),
    )
    found = _first(sources)
    if not found:
        raise UsageError(
            "no project of Google Cloud is named",
            "Pass --project_id PROJECT, or set $PROJECT_ID, or run: gcloud config set project "
            "PROJECT",
        )
    return _checked(found, _PROJECT, "the id of a project", "my-project-314")


def region(
    flag: str | None, environment: Mapping[str, str], settings: Config, default: str
) -> Found:
    """The region: of the flag, $REGION, .calibanconfig.json, gcloud, or else the default one.

    Args:
      flag: the value of --region.
      environment: variables.
      settings: of the project's directory.
      default: the region if nobody names one.

    Raises:
      UsageError: it can't be one.
    """
    from caliban.platform import gcloud

    found = _first(
        (
            ("", lambda: flag),
            ("$REGION", lambda: environment.get("REGION")),
            (FILE_NAME, lambda: settings.gcloud.region),
            ("gcloud's configuration", lambda: gcloud.settings(environment).region),
            ("caliban's default", lambda: default),
        )
    )
    assert found
    return _checked(found, _REGION, "a region", "us-central1")


def _first(sources: Iterable[tuple[str, Callable[[], str | None]]]) -> Found | None:
    """What the first source says that says anything; the ones after it aren't asked."""
    for source, ask in sources:
        if value := (ask() or "").strip():
            return Found(value, source)
    return None


def _checked(found: Found, pattern: re.Pattern[str], what: str, example: str) -> Found:
    if not pattern.fullmatch(found.value):
        raise UsageError(
            f"'{found.value}'{f', from {found.source},' if found.source else ''} can't be {what}",
            f"It looks like {example}.",
        )
    return found
