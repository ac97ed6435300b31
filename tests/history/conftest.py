"""Databases to test with: SQLite always, PostgreSQL where a server can be had."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import create_engine, make_url, text

from tests.ports import free_port

# Read before the tests' environment is emptied of everything of caliban's.
_GIVEN = os.environ.get("CALIBAN_TEST_POSTGRESQL_URL", "")
_REQUIRED = "postgresql" in os.environ.get("CALIBAN_REQUIRE", "").split(",")


def _without_server(reason: str) -> NoReturn:
    if _REQUIRED:
        pytest.fail(f"CALIBAN_REQUIRE asks for PostgreSQL, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """URL of a PostgreSQL server: CALIBAN_TEST_POSTGRESQL_URL, or one that is started here."""
    if find_spec("psycopg") is None:
        _without_server("psycopg is not installed")
    if _GIVEN:
        yield _GIVEN
        return
    # Debian keeps the programs of the server off the PATH.
    found = [shutil.which("initdb"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if not any(found):
        _without_server("there is neither CALIBAN_TEST_POSTGRESQL_URL nor an initdb")
    programs = Path([each for each in found if each][-1]).parent
    user = group = None
    if os.geteuid() == 0:  # as which PostgreSQL refuses to run
        known = {entry.pw_name: entry for entry in pwd.getpwall()}
        entry = known.get("postgres") or known["nobody"]
        user, group = entry.pw_uid, entry.pw_gid
    directory = Path(tempfile.mkdtemp(prefix="caliban-postgresql-"))
    os.chown(directory, -1 if user is None else user, -1 if group is None else group)

    def call(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs / program, "-D", directory / "data", *arguments],
            user=user,
            group=group,
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            _without_server(f"PostgreSQL's {program} ended with {done.returncode}")

    try:
        call("initdb", "-U", "caliban", "--auth=trust", "--encoding=UTF8", "--no-sync")
        port = free_port()
        options = (
            f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        )
        call("pg_ctl", "-w", "-l", str(directory / "log"), "-o", options, "start")
        yield f"postgresql://caliban@127.0.0.1:{port}/postgres"
        call("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def postgresql(server: str) -> Iterator[str]:
    """URL of an empty database on that server."""
    name = f"caliban_test_{uuid.uuid4().hex}"
    url = make_url(server).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield url.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database that does not exist yet, or is empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/history/caliban.db"
    postgresql: str = request.getfixturevalue("postgresql")
    return postgresql
