"""A history whose file is damaged: the message says so, and the file stays as it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from caliban.history.store import HistoryStore
from tests.conftest import Inline


@pytest.fixture
def file(home: Path) -> Path:
    """The file of a history with thousands of rows, all of them in the file itself."""
    path = home / ".caliban" / "caliban.db"
    HistoryStore.open().close()
    with closing(sqlite3.connect(path)) as database, database:
        database.executemany(
            "INSERT INTO experiment_groups (user, name, created) VALUES ('tester', ?, ?)",
            [(f"group {number}", "2026-11-21 00:00:00") for number in range(5000)],
        )
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (0, "file is not a database\nNothing was changed. Move that file away"),
        (100, "malformed\nThe file is damaged; nothing was changed. Move it aside"),
    ],
)
def test_what_is_wrong_and_where_is_said_and_nothing_is_touched(
    inline: Inline, file: Path, at: int, said: str
) -> None:
    content = bytearray(file.read_bytes())
    content[at : at + 4000] = b"\xa5" * 4000
    file.write_bytes(content)
    for words in (("status",), ("status", "--xgroup", "group 1"), ("prune", "--logs", "--yes")):
        answer = inline(*words)
        assert (answer.returncode, answer.stdout) == (1, "")
        assert f"caliban: error: the history {file}: " in answer.stderr
        assert said in answer.stderr
    assert file.read_bytes() == bytes(content)
