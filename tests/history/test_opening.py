"""A lock is found in a SQLite history without SQLAlchemy, and only there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from caliban.history import opening
from caliban.history.store import HistoryStore

ASK = """
import sys
from caliban.history import opening
print(opening.known_lock("one"), "sqlalchemy" in sys.modules)
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the history is, which is not there yet."""
    path = tmp_path / "a history's #1.db"
    monkeypatch.setenv("CALIBAN_DB_URL", f"sqlite:///{path}")
    return path


def test_a_lock_that_a_history_has_is_known(file: Path) -> None:
    with opening.open_history() as store:
        store.locks.keep("project", "one", "six==1.17.0\n")
        assert opening.known_lock("one") == "six==1.17.0\n"
        assert opening.known_lock("two") is None
        store.locks.keep("project", "one", "six==1.18.0\n", replaces="six==1.17.0\n")
    assert opening.known_lock("one") == "six==1.18.0\n"


def test_nothing_heavy_is_loaded_for_that(file: Path) -> None:
    with HistoryStore.open(f"sqlite:///{file}") as store:
        store.locks.keep("project", "one", "locked")
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "locked False\n"


def test_where_there_is_no_history_none_is_made(file: Path) -> None:
    assert opening.known_lock("one") is None
    assert not file.exists()


def test_what_is_no_history_is_left_to_whoever_opens_it(file: Path) -> None:
    file.write_text("something else")
    assert opening.known_lock("one") is None


def test_a_server_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIBAN_DB_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert opening.known_lock("one") is None
