"""Notes of jobs whose runs are not complete yet."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from caliban.tracking import outbox
from caliban.tracking.place import Place

# Nobody listens there.
NOWHERE = Place("http://127.0.0.1:9")


def test_another_history_has_notes_of_its_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox.expect([outbox.Entry("0123", NOWHERE, "g")])
    monkeypatch.setenv("CALIBAN_DB_URL", "sqlite:////somewhere/else.db")
    assert outbox.entries() == []


def test_a_damaged_note_is_passed_over(home: Path) -> None:
    outbox.expect([outbox.Entry(uid, NOWHERE, "g") for uid in ("0123", "4567")])
    [folder] = (home / ".caliban" / "mlflow").iterdir()
    (folder / "0123").write_text("{")
    assert [entry.uid for entry in outbox.entries()] == ["4567"]


def test_who_sends_a_job_keeps_others_from_it_whatever_becomes_known_meanwhile(home: Path) -> None:
    entry = outbox.Entry("0123", NOWHERE, "g")
    outbox.expect([entry])
    second: list[bool] = []

    def send() -> None:
        with outbox.sending(entry) as is_wanted:
            second.append(is_wanted)

    other = threading.Thread(target=send)
    with outbox.sending(entry) as is_wanted:
        assert is_wanted
        outbox.tell(entry.uid, "run")  # which replaces its file
        other.start()
        other.join(0.5)
        assert second == []
    other.join()
    assert second == [False]
    [folder] = (home / ".caliban" / "mlflow").iterdir()
    assert [*folder.iterdir()] == []
