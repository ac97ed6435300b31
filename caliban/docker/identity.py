"""Who a container runs as, and which credentials it finds: known at run time, never in an image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from caliban import home
from caliban.errors import UsageError
from caliban.model import account
from caliban.model.image import HOME

KEY_PATH = "/.creds/credentials.json"
ADC_PATH = f"{HOME}/.config/gcloud/application_default_credentials.json"


@dataclass(frozen=True)
class Credentials:
    """Google Cloud credentials of the user, as files of this machine.

    Attributes:
      key: a service account's key; None without one.
      adc: the user's application default credentials; None without.
    """

    key: Path | None = None
    adc: Path | None = None

    @property
    def files(self) -> dict[Path, str]:
        """Where each file belongs inside a container."""
        pairs = ((self.key, KEY_PATH), (self.adc, ADC_PATH))
        return {path: target for path, target in pairs if path is not None}

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a container needs to find them."""
        return {"GOOGLE_APPLICATION_CREDENTIALS": KEY_PATH} if self.key else {}


def credentials(key: str | None, environment: Mapping[str, str]) -> Credentials:
    """Finds the user's credentials.

    Args:
      key: path of a service account key; None or "" for none.
      environment: variables; CLOUDSDK_CONFIG is where gcloud keeps its files.

    Raises:
      UsageError: the key is not a file that can be read.
    """
    found = None
    if key:
        found = home.expand(key).absolute()
        if not found.is_file() or not os.access(found, os.R_OK):
            raise UsageError(
                f"the service account key {found} is not a file that can be read",
                "It comes from --cloud_key, $GOOGLE_APPLICATION_CREDENTIALS or "
                '"gcloud": {"cloud_key": ...} in .calibanconfig.json, in this order.',
            )
    adc = gcloud_folder(environment) / "application_default_credentials.json"
    return Credentials(found, adc if os.access(adc, os.R_OK) else None)


def gcloud_folder(environment: Mapping[str, str]) -> Path:
    """Where gcloud keeps its files, the user's credentials among them."""
    return home.expand(environment.get("CLOUDSDK_CONFIG") or "~/.config/gcloud").absolute()


@dataclass(frozen=True)
class AccountFile:
    """A file that makes the user known inside a container.

    Attributes:
      path: where it lies on this machine, once it is written.
      target: where it belongs inside a container.
      content: its text.
    """

    path: Path
    target: str
    content: str

    def write(self) -> None:
        """Writes it, unless it is there already.

        Raises:
          CalibanError: it cannot be written.
        """
        home.directory(_FOLDER)
        if not self.path.exists() or self.path.read_text() != self.content:
            home.write_private(self.path, self.content)


_FOLDER = "accounts"


def account_name(uid: int, user: str) -> str:
    """What a user is called inside a container."""
    if uid == 0:
        return "root"
    return user if user.isidentifier() and user not in ("root", "nobody") else "caliban"


def account_files(uid: int, gid: int, user: str, home_directory: str = HOME) -> list[AccountFile]:
    """The passwd and group files of a user, for whatever image.

    With a bare number for a user, getpwuid fails, and with it whatever asks for the user's name or
    home directory. An image can't hold the entry, since it is made for everybody. Root needs none:
    every image knows it.
    """
    if uid == 0:
        return []
    name = account_name(uid, user)
    passwd = account.passwd(uid, gid, name, home_directory)
    group = account.group(gid, name)
    which = f"{uid}-{gid}-{name}" + ("" if home_directory == HOME else "-at-home")
    folder = home.path(_FOLDER)
    return [
        AccountFile(folder / f"{kind}-{which}", f"/etc/{kind}", text)
        for kind, text in (("passwd", passwd), ("group", group))
    ]
