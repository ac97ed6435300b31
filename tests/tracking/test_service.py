"""The server that a database is asked by, as long as caliban is there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from caliban.errors import CalibanError
from caliban.tracking.place import PASSWORD, Place
from caliban.tracking.service import Service

SECRET = "hunter2hunter2"

# Leads to a database as cloud-sql-proxy does, and takes the same arguments.
PROXY = """#!{python}
import argparse, socket, threading

parser = argparse.ArgumentParser()
parser.add_argument("--address")
parser.add_argument("--port", type=int)
parser.add_argument("instance")
arguments = parser.parse_args()
assert arguments.instance == "p:r:{database}", arguments.instance

def pass_on(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)

server = socket.create_server((arguments.address, arguments.port))
while True:
    here, there = server.accept()[0], socket.create_connection(("127.0.0.1", {port}))
    for pair in ((here, there), (there, here)):
        threading.Thread(target=pass_on, args=pair, daemon=True).start()
"""


def commands() -> dict[int, bytes]:
    """The command lines of all processes, by number."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(file.parent.name)] = file.read_bytes()
        except OSError:
            continue
    return found


def of_port(url: str) -> list[bytes]:
    port = url.rpartition(":")[2].encode()
    return [command for command in commands().values() if port in command.split(b"\0")]


def wait_until_gone(url: str) -> None:
    deadline = time.monotonic() + 30
    while left := of_port(url):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.fixture
def on_path(mlflow_program: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder on PATH, which MLflow is on as well."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{Path(mlflow_program).parent}", prepend=":")
    return folder


def test_cloud_sql_is_reached_by_its_proxy_and_no_command_has_the_password(
    on_path: Path, postgresql: str, tmp_path: Path
) -> None:
    there = urlsplit(postgresql)
    database = there.path.removeprefix("/")
    program = on_path / "cloud-sql-proxy"
    program.write_text(PROXY.format(python=sys.executable, database=database, port=there.port))
    program.chmod(0o755)
    place = Place("", str(tmp_path / "files"), f"p:r:{database}", "caliban", database)
    service = Service(place, {**os.environ, PASSWORD: SECRET})
    try:
        service.start()
        service.wait(time.monotonic() + 90)
        address = f"{service.url}/api/2.0/mlflow/experiments/create"
        # Whoever else is on this machine may connect, but does not know the name.
        assert requests.post(address, json={"name": "e"}, timeout=30).status_code == 403
        named = {"Host": service.host}
        made = requests.post(address, json={"name": "e"}, headers=named, timeout=30)
        assert made.ok, made.text
        found = commands().values()
        assert [command for command in found if service.host.encode() in command] == []
        assert any(b"cloud-sql-proxy" in command for command in found)
        assert [command for command in found if SECRET.encode() in command] == []
        log = Path.home() / ".caliban" / "mlflow" / "server.log"
        assert SECRET not in log.read_text()
        assert log.stat().st_mode & 0o077 == 0
    finally:
        service.close()
    wait_until_gone(service.url)


def test_it_ends_with_caliban_whatever_ends_that(on_path: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time, os\n"
        "from caliban.tracking.place import Place\n"
        "from caliban.tracking.service import Service\n"
        f"service = Service(Place('sqlite:///{tmp_path}/m.db', '{tmp_path}'), os.environ)\n"
        "service.start(); print(service.url, flush=True); time.sleep(300)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout
        url = child.stdout.readline().decode().strip()
        deadline = time.monotonic() + 30
        while not of_port(url):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.kill()
    wait_until_gone(url)


def test_two_that_begin_with_one_new_database_get_both_in(on_path: Path, tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path}/m.db", str(tmp_path))
    services = [Service(place, os.environ) for _ in range(3)]
    try:
        for each in services:
            each.start()
        for each in services:
            each.wait(time.monotonic() + 90)
    finally:
        for each in services:
            each.close()


def test_a_server_that_ends_by_itself_is_said_to_have_ended(on_path: Path, tmp_path: Path) -> None:
    (on_path / "mlflow").write_text("#!/bin/sh\necho no such driver\nexit 1\n")
    (on_path / "mlflow").chmod(0o755)
    service = Service(Place(f"sqlite:///{tmp_path}/m.db", str(tmp_path)), os.environ)
    try:
        service.start()
        with pytest.raises(CalibanError, match=r"has ended: see .*/server\.log"):
            service.wait(time.monotonic() + 30)
        log = Path.home() / ".caliban" / "mlflow" / "server.log"
        assert "no such driver" in log.read_text()
    finally:
        service.close()
