"""So many requests a minute, and no more: what Google allows, kept on this side."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

# Seconds of the shortest wait: less, and a clock may not notice.
_SHORTEST = 0.001


@dataclass(frozen=True)
class Clock:
    """What waiting takes; tests have a clock of their own.

    Attributes:
      now: seconds on a clock that only goes forward.
      sleep: waits for so many seconds; whoever wants to end early raises from it.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class TokenBucket:
    """Lets requests pass at a steady rate; for several threads, in the order in which they come.

    It starts with one token, and keeps those of a few seconds that nobody takes: so an interruption
    is made up for, and no minute has many more requests than are allowed.
    """

    # Seconds of which the tokens are kept.
    _KEPT = 10.0

    def __init__(self, per_minute: float, clock: Clock | None = None) -> None:
        """Takes the rate.

        Args:
          per_minute: requests that are allowed.
          clock: for tests.
        """
        self.per_minute = per_minute
        self._clock = clock or Clock()
        self._tokens = 1.0
        self._filled = self._clock.now()
        self._paused_until = 0.0
        self._waiting: deque[object] = deque()
        self._lock = threading.Lock()

    def take(self) -> None:
        """Waits until a request may be sent."""
        me = object()
        with self._lock:
            self._waiting.append(me)
        try:
            while wait := self._attempt(me):
                self._clock.sleep(wait)
        except BaseException:
            with self._lock:
                self._waiting.remove(me)
            raise

    def give_back(self) -> None:
        """Returns the token of a request that has turned out not to have arrived."""
        with self._lock:
            self._tokens += 1

    def pause(self, seconds: float) -> None:
        """Lets nothing pass for a while: Google has said that it was too much."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock.now() + seconds)

    def seconds(self, requests: int) -> float:
        """How long so many requests will take from now on."""
        with self._lock:
            now = self._fill()
            pause = max(0.0, self._paused_until - now)
            return pause + max(0.0, requests - self._tokens) * 60 / self.per_minute

    def _attempt(self, who: object) -> float:
        """Takes a token if it is somebody's turn; otherwise says for how many seconds to wait."""
        with self._lock:
            now = self._fill()
            if now < self._paused_until:
                return self._paused_until - now
            wanted = self._waiting.index(who) + 1
            # Sums of small numbers: a hair less than a token is one.
            if self._tokens > wanted - 1e-6:
                self._tokens -= 1
                self._waiting.remove(who)
                return 0.0
            return max((wanted - self._tokens) * 60 / self.per_minute, _SHORTEST)

    def _fill(self) -> float:
        now = self._clock.now()
        grown = self._tokens + (now - self._filled) * self.per_minute / 60
        most = max(1.0, self._KEPT * self.per_minute / 60)
        self._tokens = max(self._tokens, min(grown, most))
        self._filled = now
        return now
