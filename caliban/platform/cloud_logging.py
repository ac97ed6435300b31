"""What jobs in the cloud have printed, as Cloud Logging has it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caliban.platform.answers import understanding
from caliban.platform.rest import Session

URL = "https://logging.googleapis.com/"

# Lines arrive late, and not in their order: those of so many seconds are asked for again.
_OVERLAP = datetime.timedelta(seconds=60)

# Seconds between two looks at a log, and those that a job's last lines are waited for.
_INTERVAL = 5.0
PATIENCE = 15.0

_PAGE = 1000

# Before there was anything to log.
_BEGINNING = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class _Entry:
    id: str
    when: datetime.datetime
    line: bytes

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> _Entry:
        when = datetime.datetime.fromisoformat(entry["timestamp"])
        return cls(entry["insertId"], when, _line(entry))


@dataclass(frozen=True)
class Log:
    """The entries of a project's log that a filter lets through.

    Attributes:
      session: to ask with.
      url: of the API.
      project: whose log it is.
      query: the filter.
    """

    session: Session
    url: str
    project: str
    query: str

    def tail(self, lines: int) -> list[bytes]:
        """The last lines that there are; at most 1000 of them."""
        return [entry.line for entry in self._last(lines)]

    def read(self) -> Iterator[bytes]:
        """All lines that there are."""
        for entry in self._entries(self.query):
            yield entry.line

    def follow(self, is_over: Callable[[], bool], tail: int | None = None) -> Iterator[bytes]:
        """The lines that there are, and those that are added until it is over.

        Args:
          is_over: whether nothing is added any more, but for what is late.
          tail: how many of those that there are; None for all.
        """
        clock = self.session.clock
        seen: dict[str, datetime.datetime] = {}
        newest = earliest = _BEGINNING
        if tail is not None:
            for entry in self._last(max(tail, 1)):
                seen[entry.id] = newest = earliest = entry.when
                if tail:
                    yield entry.line
        ends: float | None = None
        while True:
            if ends is None and is_over():
                ends = clock.now() + PATIENCE
            since = max(newest - _OVERLAP, earliest)
            after = ">" if since == earliest else ">="
            for entry in self._entries(f'{self.query} timestamp{after}"{_text(since)}"'):
                if entry.id not in seen:
                    seen[entry.id] = entry.when
                    newest = max(newest, entry.when)
                    yield entry.line
            if ends is not None and clock.now() >= ends:
                return
            seen = {key: when for key, when in seen.items() if when >= since}
            clock.sleep(_INTERVAL)

    def _last(self, lines: int) -> list[_Entry]:
        body = self._request(self.query, "desc") | {"pageSize": min(lines, _PAGE)}
        found = self._read(self.session.post_again(f"{self.url}v2/entries:list", body))
        return list(reversed(found)) if lines else []

    def _entries(self, query: str) -> Iterator[_Entry]:
        body = self._request(query, "asc") | {"pageSize": _PAGE}
        for page in self.session.pages(f"{self.url}v2/entries:list", {}, body):
            yield from self._read(page)

    def _read(self, page: Mapping[str, Any]) -> Sequence[_Entry]:
        with understanding(self.url):
            return [_Entry.read(entry) for entry in page.get("entries", ())]

    def _request(self, query: str, order: str) -> dict[str, Any]:
        return {
            "resourceNames": [f"projects/{self.project}"],
            "filter": query,
            "orderBy": f"timestamp {order}",
        }


def _line(entry: Mapping[str, Any]) -> bytes:
    """The text of an entry; of one that a program has structured, its message, or else all."""
    found = entry.get("textPayload")
    if found is None:
        payload = entry.get("jsonPayload", {})
        found = payload.get("message", payload or "")
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    # JSON may have halves of letters, which UTF-8 has not.
    return text.removesuffix("\n").encode(errors="replace") + b"\n"


def _text(when: datetime.datetime) -> str:
    return when.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
