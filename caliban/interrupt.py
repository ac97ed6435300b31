"""The signals that ask for an end: ^C, SIGTERM, and SIGHUP when the terminal is closed."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def by_any_signal() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end the program the way ^C does, everything cleaned up."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt):
        yield


class Interruption:
    """Counts the signals that ask for an end, instead of raising in the middle of something.

    Attributes:
      count: how many have come since the block was entered.
    """

    def __init__(self) -> None:
        self.count = 0
        self._handled = _handled(self._notice)

    def __enter__(self) -> Interruption:
        self._handled.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._handled.__exit__(None, None, None)

    def _notice(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handles the signals in a block, but for those that are ignored, as under nohup."""
    previous = {
        number: signal.signal(number, handler)
        for number in _SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
