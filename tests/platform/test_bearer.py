"""Whoever has a service account's key asks Google for tokens and for what is wanted, no more."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from caliban.platform import google
from caliban.platform.rest import Session
from tests.google_cloud import client
from tests.google_cloud.cloud import GoogleCloud

_ROBOT = "robot@p1.iam.gserviceaccount.com"


def test_nobody_is_asked_but_the_api_and_who_gives_tokens(
    cloud: GoogleCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: list[Any] = []
    find = socket.getaddrinfo

    def record(host: Any, *args: Any, **more: Any) -> Any:
        hosts.append(host)
        return find(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", record)
    key = client.write_key(cloud, tmp_path / "key.json", _ROBOT, client.private_key())
    session = Session(google.access(key, {}).credentials)
    before = threading.active_count()
    url = cloud.server.url("aiplatform") + "v1/projects/p1/locations/us-central1/customJobs"
    try:
        assert session.get(url) == {}
        cloud.tokens.issued.clear()  # as if it had expired: a new one is asked for
        assert session.get(url) == {}
    finally:
        session.close()
    assert set(hosts) <= {"127.0.0.1", "localhost"}
    assert threading.active_count() <= before + 1  # the server's own, for the connection
