from __future__ import annotations

import datetime
import os
import resource
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import caliban
from caliban.errors import HistoryError
from caliban.history.store import DEFAULT_URL, HistoryStore
from caliban.model.experiment import Experiment
from caliban.model.job import JobRequest, Status, Submission
from tests.history.recent import recent_jobs

NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)

SETTLE = """
import sys
from caliban.history.store import HistoryStore
from caliban.model.job import Outcome, Status
with HistoryStore.open(sys.argv[1]) as store:
    for uid in sys.argv[2].split(","):
        store.settle({uid: Outcome(Status.SUCCEEDED, 0)})
        print(uid, flush=True)
"""


def record(store: HistoryStore, count: int, start: int = 0) -> list[str]:
    uids = [f"uid-{number}" for number in range(start, start + count)]
    submission = Submission("local", "", {})
    store.record(
        "totoro",
        "g",
        "",
        {},
        [JobRequest(uid, Experiment((), {}), "", "g", 0) for uid in uids],
        lambda *_: (submission, None),
    )
    return uids


def python(code: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=Path(caliban.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def failure(url: str) -> HistoryError:
    """The error of opening a history, which must not have a traceback's looks."""
    with pytest.raises(HistoryError) as caught:
        HistoryStore.open(url)
    assert "\n" not in caught.value.message
    assert "sqlalche.me" not in caught.value.message
    return caught.value


@pytest.fixture
def lax_umask() -> Iterator[None]:
    previous = os.umask(0)
    yield
    os.umask(previous)


def test_the_history_is_in_the_home_directory_unless_it_is_named(home: Path) -> None:
    HistoryStore.open().close()
    assert DEFAULT_URL == "sqlite:///~/.caliban/caliban.db"
    assert (home / ".caliban" / "caliban.db").is_file()


def test_a_relative_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with HistoryStore.open("sqlite:///relative.db") as store:
        monkeypatch.chdir("/")
        assert recent_jobs(store, "totoro") == []
    assert (tmp_path / "relative.db").is_file()


def test_nobody_else_can_read_the_files_of_a_history(tmp_path: Path, lax_umask: None) -> None:
    directory = tmp_path / "new"
    with HistoryStore.open(f"sqlite:///{directory}/caliban.db") as store:
        record(store, 1)
        assert mode(directory) == 0o700
        names = sorted(path.name for path in directory.iterdir())
        assert names == [f"caliban.db{end}" for end in ("", "-reserve", "-shm", "-wal")]
        assert {mode(path) for path in directory.iterdir()} == {0o600}


def test_what_others_could_read_is_made_private(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/caliban.db"
    with HistoryStore.open(url) as store:
        record(store, 1)
        for path in tmp_path.iterdir():
            path.chmod(0o644)
        HistoryStore.open(url).close()
        assert {mode(path) for path in tmp_path.iterdir()} == {0o600}


def test_a_commit_is_on_the_disk_and_readers_do_not_wait(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/caliban.db"
    with HistoryStore.open(url) as store, HistoryStore.open(url) as reader:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        with store._database.writing() as connection:
            values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]
            assert recent_jobs(reader, "totoro", 8) == []
        assert values == ["wal", 2, 1, 60_000]  # 2: FULL


def test_many_processes_write_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/caliban.db"
    with HistoryStore.open(url) as store:
        uids = record(store, 8 * 200)
        writers = [python(SETTLE, url, ",".join(uids[number::8])) for number in range(8)]
        for writer in writers:
            _, errors = writer.communicate(timeout=300)
            assert (writer.returncode, errors) == (0, "")
        assert {job.outcome.status for job in recent_jobs(store, "totoro")} == {Status.SUCCEEDED}


def test_many_processes_make_one_history_at_once(url: str) -> None:
    code = """
import datetime, sys
from caliban.history.store import HistoryStore
with HistoryStore.open(sys.argv[1]) as store:
    print(store.group("totoro", None, datetime.datetime(2026, 3, 1)))
"""
    processes = [python(code, url) for _ in range(6)]
    results = [process.communicate(timeout=120) for process in processes]
    assert [errors for _, errors in results] == [""] * 6
    assert len({name for name, _ in results}) == 6


def test_what_was_committed_survives_the_death_of_the_writer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/caliban.db"
    committed: set[str] = set()
    with HistoryStore.open(url) as store:
        uids = record(store, 4000)
    for attempt in range(5):
        writer = python(SETTLE, url, ",".join(uids[attempt * 800 : (attempt + 1) * 800]))
        assert writer.stdout and writer.stdout.readline()
        time.sleep(0.01 * attempt)
        writer.send_signal(signal.SIGKILL)
        output, _ = writer.communicate()
        committed.update(output.split())
        with HistoryStore.open(url) as store:
            done = {
                job.uid
                for job in recent_jobs(store, "totoro")
                if job.outcome.status is Status.SUCCEEDED
            }
        assert committed <= done
    assert len(committed) > 5
    with closing(sqlite3.connect(tmp_path / "caliban.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("Buy acorns.\n" * 100)
    file.chmod(0o644)
    error = failure(f"sqlite:///{file}")
    assert error.message == f"the history {file}: file is not a database"
    assert error.hint == "Nothing was changed. Move that file away, or set CALIBAN_DB_URL."
    assert file.read_text() == "Buy acorns.\n" * 100
    assert mode(file) == 0o644
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("place", ["file/caliban.db", "file/deeper/caliban.db", "directory"])
def test_a_place_where_no_file_can_be_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    error = failure(f"sqlite:///{tmp_path / place}")
    assert str(tmp_path / place) in error.message
    assert "CALIBAN_DB_URL" in error.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    error = failure(f"sqlite:///{tmp_path}/caliban.db")
    assert (
        error.message
        == f"the history {tmp_path}/caliban.db: {tmp_path}/caliban.db: Permission denied"
    )
    assert "permissions" in error.hint


def test_a_full_disk_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/caliban.db"
    with HistoryStore.open(url) as store:
        uids = record(store, 100)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Python ignores SIGXFSZ, so that a write beyond the limit fails, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        try:
            with pytest.raises(HistoryError) as caught:
                record(store, 5000, start=100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert str(tmp_path / "caliban.db") in caught.value.message
        assert "What was committed before is safe." in caught.value.hint
        assert [job.uid for job in recent_jobs(store, "totoro")] == uids
        record(store, 1, start=100)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "'' is not the URL of a database"),
        ("caliban.db", "'caliban.db' is not the URL of a database"),
        ("sqlite://", "'sqlite://' names no file"),
        ("sqlite:///:memory:", "'sqlite:///:memory:' names no file"),
        ("mysql://u:s3cret@h/d", "caliban keeps no history in mysql: 'mysql://***@h/d'"),
        (
            "sqlite+aiosqlite:///a.db",
            "caliban keeps no history in sqlite+aiosqlite: 'sqlite+aiosqlite:///a.db'",
        ),
        (
            "sqlite:///a.db?mode=ro",
            "'sqlite:///a.db?mode=ro' has options, which SQLite's URL can't have here",
        ),
        (
            "postgresql://u:s3cret@h:port/d",
            "'postgresql://***@h:port/d' is not the URL of a database",
        ),
    ],
)
def test_a_wrong_url_is_shown_without_its_password(url: str, message: str) -> None:
    error = failure(url)
    assert error.message == message
    assert error.hint.startswith("CALIBAN_DB_URL is like ")


def test_a_home_directory_that_does_not_exist_is_named() -> None:
    assert "~nobody-of-that-name" in failure("sqlite:///~nobody-of-that-name/caliban.db").message


def test_a_missing_driver_can_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    error = failure("postgresql://u:s3cret@h/d")
    assert (
        error.message == "the driver for postgresql+psycopg://u:***@h/d is not installed: psycopg"
    )
    assert error.hint == "Install it with: pip install 'psycopg[binary]'"
    (tmp_path / "pipx_metadata.json").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    error = failure("postgresql://u:s3cret@h/d")
    assert error.hint == "Install it with: pipx inject caliban 'psycopg[binary]'"


def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    pytest.importorskip("psycopg")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = failure(f"postgresql://totoro:s3cret@127.0.0.1:{port}/history?application_name=s3cret")
    assert f"totoro:***@127.0.0.1:{port}/history" in error.message
    assert "s3cret" not in error.message
    assert error.hint == "See that the server runs and that CALIBAN_DB_URL is right."


def test_a_name_that_no_database_takes_is_an_error_and_no_crash(url: str) -> None:
    with HistoryStore.open(url) as store, pytest.raises(HistoryError):
        store.group("totoro", "\udcff", NOW)
