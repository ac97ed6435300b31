"""The cloud that its own tests ask, by the library that Google gives to everybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.google_cloud.cloud import GoogleCloud


@dataclass
class Clock:
    """A clock that goes on when a test says so."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


# Asks for a path of an API; returns the status of HTTP, and the answer.
Ask = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cloud(clock: Clock) -> Iterator[GoogleCloud]:
    with GoogleCloud(clock) as started:
        yield started


@pytest.fixture
def ask(cloud: GoogleCloud) -> Iterator[Ask]:
    """Asks with a valid token, unless a test says otherwise."""
    session = requests.Session()
    headers = {"Authorization": f"Bearer {cloud.tokens.new()}"}

    def request(
        verb: str,
        path: str,
        body: object = None,
        token: str | None = None,
        **query: str | int,
    ) -> tuple[int, dict[str, Any]]:
        sent = headers if token is None else {"Authorization": f"Bearer {token}"}
        url = cloud.server.url() + path
        answer = session.request(verb, url, json=body, params=query, headers=sent, timeout=10)
        return answer.status_code, answer.json()

    yield request
    session.close()
