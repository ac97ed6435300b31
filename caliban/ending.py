"""How a job comes to know that it is wanted to end."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable

from caliban import process
from caliban.model.job import Handle
from caliban.platform.local import LocalBackend

# How long to wait before a job is asked again whom the first question did not reach, in seconds.
_AGAIN = 0.5


class Ending:
    """Passes the wish that jobs end on to one of them.

    Attributes:
      asked: how often that was done.
      asked_at: when for the first time.
    """

    def __init__(self, backend: LocalBackend, handle: Handle, wishes: Callable[[], int]) -> None:
        self._backend = backend
        self._handle = handle
        self._wishes = wishes
        self._program: process.Child | None = None
        self._tried_at = 0.0
        self.asked = 0
        self.asked_at = datetime.datetime.now(datetime.UTC)

    def tick(self) -> None:
        """Asks the job to end, if that is wished; to be called several times a second."""
        wishes, now = self._wishes(), time.monotonic()
        # There is no container yet, or no engine that answers.
        has_failed = self._program is not None and self._program.poll() not in (None, 0)
        if wishes > self.asked or (has_failed and now - self._tried_at > _AGAIN):
            if not self.asked:
                self.asked_at = datetime.datetime.now(datetime.UTC)
            self.asked, self._tried_at = wishes, now
            self._program = self._backend.stop(self._handle, kill=wishes > 1)
