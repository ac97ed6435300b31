"""A Google Cloud on this machine, and a session with it that doesn't wait for real."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from caliban.platform.rest import Session
from tests.google_cloud.client import FakeTime, credentials
from tests.google_cloud.cloud import GoogleCloud


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def cloud(time: FakeTime) -> Iterator[GoogleCloud]:
    with GoogleCloud(time) as started:
        yield started


@pytest.fixture
def session(cloud: GoogleCloud, time: FakeTime) -> Iterator[Session]:
    opened = Session(credentials(cloud), time.clock)
    yield opened
    opened.close()
