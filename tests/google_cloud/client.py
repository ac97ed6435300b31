"""What caliban's own tests need to ask the cloud of this folder: credentials, and a clock."""

from __future__ import annotations

import datetime
import functools
import heapq
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


class SharedTime:
    """A clock for several threads: it goes on when all of them wait, to when the first wakes up.

    Attributes:
      now: seconds since the epoch.
    """

    def __init__(self, threads: int) -> None:
        self.now = 1_800_000_000.0
        self._working = threads
        self._wake_ups: list[float] = []
        self._changed = threading.Condition()

    def __call__(self) -> float:
        return self.now

    @property
    def clock(self) -> Clock:
        """As caliban takes it."""
        return Clock(self, self.sleep)

    def sleep(self, seconds: float) -> None:
        """Waits, together with the others."""
        with self._changed:
            until = self.now + seconds
            heapq.heappush(self._wake_ups, until)
            self._working -= 1
            self._go_on()
            while self.now < until:
                self._changed.wait()

    def leave(self) -> None:
        """A thread waits no more: it has ended."""
        with self._changed:
            self._working -= 1
            self._go_on()

    def _go_on(self) -> None:
        if not self._working and self._wake_ups:
            self.now = self._wake_ups[0]
            while self._wake_ups and self._wake_ups[0] <= self.now:
                heapq.heappop(self._wake_ups)
                self._working += 1
            self._changed.notify_all()


def credentials(cloud: GoogleCloud) -> Credentials:
    """Credentials that get a new token of the cloud whenever they need one."""
    from google.oauth2.credentials import Credentials

    def refresh(request: object, scopes: object) -> tuple[str, datetime.datetime]:
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        return cloud.tokens.new(), now + datetime.timedelta(hours=1)

    return Credentials(None, refresh_handler=refresh)  # type: ignore[no-untyped-call]


@functools.cache
def private_key() -> str:
    """A service account's private key, as its file has it; always the same one."""
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
