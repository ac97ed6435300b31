"""What `caliban notebook` refuses, before it asks the engine for anything."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.conftest import Caliban, Inline


@pytest.fixture(autouse=True)
def _no_engine(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/socket")


def test_all_mistakes_are_told_together(inline: Inline) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = inline(
            *("notebook", "--nogpu", "-p", port, "-jv", "newest", "--cloud_key", "missing.json"),
            *("--docker_run_args", "--network none"),
        )
    assert (done.returncode, done.stdout) == (2, "")
    for line in (
        "caliban: error: 4 problems:",
        "- --jupyter_version newest is not a version",
        "- --docker_run_args must not take Jupyter's network away",
        f"- --port {port}: something else listens on that port already",
    ):
        assert line in done.stderr.splitlines()


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_port_is_a_number_that_a_program_can_listen_on(inline: Inline, port: str) -> None:
    done = inline("notebook", f"--port={port}")
    assert done.returncode == 2
    assert f"expected a port, 1 to 65535, found '{port}'" in done.stderr


def test_the_old_spellings_are_understood(inline: Inline, caliban: Caliban) -> None:
    for version in ("-jv", "--jupyter_version"):
        done = inline("notebook", "--nogpu", "--lab", "--bare", version, "3.0")
        assert done.returncode == 2
        assert "--jupyter_version 3.0: JupyterLab is supported from version 4 on" in done.stderr
    done = caliban("notebook", "--nogpu", "-jv", "7.4")
    assert "no Docker engine answers at unix:///no/such/socket" in done.stderr
