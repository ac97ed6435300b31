"""Several questions to platforms at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

# How many are asked at a time.
THREADS = 8


def for_each(things: Iterable[T], action: Callable[[T], None], seconds: float) -> None:
    """Does something for each of several things, several at a time.

    Args:
      things: of which those that there is no time for are passed over.
      action: what is done, in threads; it deals with its errors itself.
      seconds: how long it may take. What is not done by then may go on, but nobody waits for it.
    """
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    for thing in things:
        waiting.put(thing)
    until = time.monotonic() + seconds
    unforeseen: list[Exception] = []

    def work() -> None:
        try:
            while time.monotonic() < until:
                action(waiting.get_nowait())
        except queue.Empty:
            pass
        except Exception as error:  # noqa: BLE001 - it is raised where somebody sees it
            unforeseen.append(error)

    number = min(THREADS, waiting.qsize())
    # Daemons: a platform that never answers must not keep the program from ending.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    if unforeseen:
        raise unforeseen[0]
