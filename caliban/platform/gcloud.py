"""What gcloud has been told on this machine: account, project, region; and its access token."""

from __future__ import annotations

import configparser
import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from caliban import home, process
from caliban.errors import CalibanError

LOGIN = "Run: gcloud auth login"

# For how many seconds a token is valid at least.
_LEAST = 600


@dataclass(frozen=True)
class Settings:
    """The properties of gcloud's active configuration that concern jobs; "" for those not set."""

    account: str = ""
    project: str = ""
    region: str = ""


def folder(environment: Mapping[str, str]) -> Path:
    """Where gcloud keeps its files."""
    return home.expand(environment.get("CLOUDSDK_CONFIG") or "~/.config/gcloud").absolute()


def settings(environment: Mapping[str, str]) -> Settings:
    """Reads gcloud's configuration, without starting gcloud, which would take a second.

    Variables like CLOUDSDK_CORE_PROJECT win over the file, as they do for gcloud.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(_active(folder(environment), environment), encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        # A damaged file is as good as none here: gcloud itself will say so.
        parser.clear()

    def read(section: str, option: str) -> str:
        variable = environment.get(f"CLOUDSDK_{section}_{option}".upper())
        return variable or parser.get(section, option, fallback="") or ""

    return Settings(
        account=read("core", "account"),
        project=read("core", "project"),
        region=read("ai", "region") or read("compute", "region"),
    )


def _active(base: Path, environment: Mapping[str, str]) -> Path:
    """The file of the active configuration."""
    name = environment.get("CLOUDSDK_ACTIVE_CONFIG_NAME", "")
    if not name:
        try:
            name = (base / "active_config").read_text().strip()
        except OSError:
            name = ""
    return base / "configurations" / f"config_{name or 'default'}"


@dataclass(frozen=True)
class Token:
    """An access token, and when it expires (UTC, without a zone, as google-auth wants it)."""

    value: str
    expiry: datetime.datetime

    def __repr__(self) -> str:
        """Without the token: no log and no traceback shall have it."""
        return f"Token(expiry={self.expiry})"


def token() -> Token:
    """Asks gcloud for an access token of its account.

    Raises:
      CalibanError: gcloud has none, or is not installed.
    """
    command = ["gcloud", "config", "config-helper", "--format=json", f"--min-expiry={_LEAST}s"]
    ended = process.run(command)
    if ended.exit_code:
        # Of stderr the error alone: it never has the token, which is on stdout.
        lines = [line for line in ended.stderr.splitlines() if line.startswith("ERROR:")]
        reason = lines[0].partition(") ")[2] if lines else f"exit code {ended.exit_code}"
        raise CalibanError(f"gcloud gives no access token: {reason}", LOGIN)
    try:
        credential = json.loads(ended.stdout)["credential"]
        if credential["token_expiry"]:
            expiry = datetime.datetime.fromisoformat(credential["token_expiry"])
        else:
            expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=_LEAST)
        utc = expiry.astimezone(datetime.UTC).replace(tzinfo=None)
        return Token(credential["access_token"], utc)
    except (ValueError, KeyError, TypeError):
        raise CalibanError("gcloud gives no access token that caliban understands", LOGIN) from None
