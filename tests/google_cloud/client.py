"""What caliban's own tests need to ask the cloud of this folder: credentials, and a clock."""

from __future__ import annotations

import datetime
import threading
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
