"""Where runs are kept: a tracking server, a database, or an instance of Cloud SQL."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

from caliban.config import FILE_NAME, MLFlow
from caliban.errors import UsageError
from caliban.model import tracking

# The variable with the password of a database.
PASSWORD = "MLFLOW_DB_PASSWORD"

_HINT = (
    'A server is "http://mlflow.example.com:5000", a database "sqlite:///mlflow.db" or '
    '"postgresql://user@host/database".'
)

_DATABASES = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?")


@dataclass(frozen=True)
class Place:
    """Where runs are kept, without any password.

    Attributes:
      url: of the server or the database; "" for Cloud SQL.
      artifacts: where a server of caliban's own for a database keeps files.
      instance: of Cloud SQL: "project:region:name"; "" for none.
      user: of its database.
      database: its name.
      debug: whether it is said what is sent.
    """

    url: str = ""
    artifacts: str = ""
    instance: str = ""
    user: str = ""
    database: str = ""
    debug: bool = field(default=False, compare=False)

    @property
    def is_server(self) -> bool:
        """Whether it is asked over HTTP as it is; a database needs a server first."""
        return self.url.startswith(("http://", "https://"))

    @property
    def is_on_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if not self.is_server:
            return bool(self.instance) or self.url.startswith("sqlite") or _is_loopback(self.url)
        return _is_loopback(self.url)

    def __str__(self) -> str:
        return self.url or f"Cloud SQL's {self.instance}"

    def to_json(self) -> dict[str, Any]:
        """The place as JSON; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
          TypeError: it was not written by that.
        """
        return cls(**value)


def find(settings: MLFlow | None, project: Path, environment: Mapping[str, str]) -> Place | None:
    """Where the jobs of a project are kept; None if it has no "mlflow_config".

    $MLFLOW_TRACKING_URI wins over the file.

    Args:
      settings: of the project.
      project: its directory, from which the path of a database counts.
      environment: the variables.

    Raises:
      UsageError: there is no such place, or a password is in its address.
    """
    if settings is None:
        return None
    variable = environment.get(tracking.URI, "")
    url = (variable or settings.tracking_uri).rstrip("/")
    source = f"${tracking.URI}" if variable else f'"mlflow_config" in {FILE_NAME}'
    if not url:
        return _cloud_sql(settings, project)
    try:
        parts = urlsplit(url)
        has_password = parts.password is not None
    except ValueError:
        raise UsageError(f"{source}: the tracking server's address can't be read", _HINT) from None
    if has_password:
        names = f"${tracking.CREDENTIALS[0]} and ${tracking.CREDENTIALS[1]}"
        raise UsageError(
            f"{source}: a password is in the address of the tracking server or database",
            f"Take it out, and set {names} for a server, or ${PASSWORD} for a database.",
        )
    if parts.scheme in ("http", "https") and parts.hostname:
        return Place(url, debug=settings.debug)
    if not _DATABASES.fullmatch(parts.scheme):
        raise UsageError(f"{source}: there can't be a tracking server at '{url}'", _HINT)
    artifacts = settings.artifact_root or str(project / "mlartifacts")
    if parts.scheme.startswith("sqlite"):
        name = parts.path.removeprefix("/")
        if not name or parts.netloc:
            raise UsageError(f"{source}: '{url}' is no file of SQLite", _HINT)
        file = project / name  # sqlite:////tmp/x is absolute
        url = f"{parts.scheme}:///{file}"
        artifacts = settings.artifact_root or str(file.parent / "mlartifacts")
    return Place(url, artifacts, debug=settings.debug)


def _cloud_sql(settings: MLFlow, project: Path) -> Place:
    instance = ":".join((settings.project, settings.region, settings.db))
    artifacts = settings.artifact_root or str(project / "mlartifacts")
    return Place("", artifacts, instance, settings.user, settings.db, settings.debug)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost") or host.endswith(".localhost")


def with_password(url: str, environment: Mapping[str, str]) -> str:
    """The address of a database with the password from the environment, if there is one."""
    password = environment.get(PASSWORD)
    parts = urlsplit(url)
    if not password or not parts.username:
        return url
    user, at, rest = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}{at}{rest}").geturl()
