"""What caliban's own tests need to ask the cloud of this folder: credentials, and a clock."""

from __future__ import annotations

import datetime
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from caliban.platform.quota import Clock
from tests.google_cloud.cloud import GoogleCloud

if TYPE_CHECKING:
    from google.oauth2.credentials import Credentials


class FakeTime:
    """A clock on which waiting takes no time, for the cloud and for those who ask it.

    Attributes:
      now: seconds since the epoch.
      slept: for how long somebody has waited, each time.
    """

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Lets time go on."""
        with self._lock:
            self.slept.append(seconds)
            self.now += seconds

    @property
    def clock(self) -> Clock:
        """As caliban takes it."""
        return Clock(self, self.sleep)


def credentials(cloud: GoogleCloud) -> Credentials:
    """Credentials that get a new token of the cloud whenever they need one."""
    from google.oauth2.credentials import Credentials

    def refresh(request: object, scopes: object) -> tuple[str, datetime.datetime]:
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        return cloud.tokens.new(), now + datetime.timedelta(hours=1)

    return Credentials(None, refresh_handler=refresh)  # type: ignore[no-untyped-call]


def private_key() -> str:
    """A service account's private key, as its file has it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def write_key(cloud: GoogleCloud, file: Path, account: str, key: str) -> str:
    """Writes the key of a service account that the cloud gives tokens to; returns its path."""
    content = {
        "type": "service_account",
        "project_id": "p1",
        "private_key_id": "k",
        "private_key": key,
        "client_email": account,
        "token_uri": cloud.server.url() + "token",
    }
    file.write_text(json.dumps(content))
    return str(file)
