"""What goes wrong on the way to Google, and at Google's, when a test wants it to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fault:
    """What becomes of a request.

    Attributes:
      accepted: whether it is carried out all the same.
      status: of HTTP, that is answered; 0 to answer as usual, unless it is lost.
      retry_after: seconds that the answer asks to wait for; 0 for none.
      lost: whether the connection is closed instead of an answer.
      delay: seconds before any of this.
      held: what is waited for before any of this; None for nothing.
      message: of the error.
      details: of the error, as programs read them.
      answer: JSON that is answered instead of what Google would; None for that.
    """

    accepted: bool = False
    status: int = 0
    retry_after: int = 0
    lost: bool = False
    delay: float = 0.0
    held: threading.Event | None = None
    message: str = "that is what the test wants"
    details: tuple[Mapping[str, Any], ...] = ()
    answer: Any = None


TOO_MANY = Fault(status=429, retry_after=2)
TOO_MANY_WITHOUT_ADVICE = Fault(status=429)
ALL_IN_USE = Fault(
    status=429,
    message="The following quotas are exceeded: CustomModelTrainingT4GPUsPerProjectPerRegion",
)
UNAVAILABLE = Fault(status=503)
ACCEPTED_BUT_UNAVAILABLE = Fault(accepted=True, status=503)
ANSWER_LOST = Fault(accepted=True, lost=True)
REQUEST_LOST = Fault(lost=True)
EXPIRED = Fault(status=401)


def disabled(service: str, project: str) -> Fault:
    """What Google answers where a project has not enabled a service."""
    title = f"{service} has not been used in project {project} before or it is disabled."
    detail = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "SERVICE_DISABLED",
        "domain": "googleapis.com",
        "metadata": {"service": service, "consumer": f"projects/{project}"},
    }
    return Fault(status=403, message=title, details=(detail,))


def slow(seconds: float) -> Fault:
    """An answer that comes late."""
    return Fault(accepted=True, delay=seconds)


# Says what becomes of the n-th request of a kind, counted from 1.
Plan = Callable[[int], "Fault | None"]


def every(number: int, fault: Fault, offset: int = 0) -> Plan:
    """The fault for each request of which the number, less `offset`, is a multiple of `number`."""
    return lambda count: fault if count % number == offset % number else None


def first(number: int, fault: Fault) -> Plan:
    """The fault for the first requests."""
    return lambda count: fault if count <= number else None


def told(event: threading.Event, number: int, fault: Fault) -> Plan:
    """The fault for each request; when that of this number has come, it is told."""

    def plan(count: int) -> Fault:
        if count == number:
            event.set()
        return fault

    return plan


@dataclass
class _Rule:
    method: str
    region: str
    plan: Plan
    count: int = 0


@dataclass
class Faults:
    """The faults of a server."""

    _rules: list[_Rule] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, method: str, plan: Plan | Fault, region: str = "") -> None:
        """Makes requests go wrong.

        Args:
          method: as in "customJobs.create".
          plan: what becomes of each, or of all of them.
          region: where; "" for all.
        """
        always: Plan = plan if not isinstance(plan, Fault) else lambda count: plan
        self._rules.append(_Rule(method, region, always))

    def clear(self) -> None:
        """Lets everything go well again."""
        self._rules.clear()

    def next(self, method: str, path: str) -> Fault | None:
        """The fault of this request, if it has one."""
        with self._lock:
            for rule in self._rules:
                if rule.method == method and (not rule.region or f"/{rule.region}/" in path):
                    rule.count += 1
                    if fault := rule.plan(rule.count):
                        return fault
        return None


class Quota:
    """So many requests a minute, for each key; as a bucket that is filled steadily."""

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._size = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> float:
        """Counts a request; returns for how many seconds it must wait, 0 if it may go."""
        with self._lock:
            now = self._clock()
            left, then = self._buckets.get(key, (self._size, now))
            left = min(self._size, left + (now - then) * self._size / 60)
            wait = max(0.0, (1 - left) * 60 / self._size)
            self._buckets[key] = (left if wait else left - 1, now)
            return wait
