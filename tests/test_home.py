"""Files of ~/.caliban are replaced as a whole, whoever writes them at the same time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from caliban import home
from caliban.errors import CalibanError
from caliban.tracking import outbox
from caliban.tracking.outbox import Entry
from caliban.tracking.place import Place


def test_a_reader_sees_one_content_or_the_other_while_several_threads_write(tmp_path: Path) -> None:
    file, contents = tmp_path / "file", ["a" * 1000, "b" * 1000]
    home.write_private(file, contents[0])
    errors: list[Exception] = []

    def write(content: str) -> None:
        try:
            for _ in range(300):
                home.write_private(file, content)
        except Exception as error:  # noqa: BLE001 - it is looked at below
            errors.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert file.read_text() in contents
    assert errors == []
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(CalibanError, match=r"cannot write .*/file: Is a directory"):
        home.write_private(tmp_path / "file", "x")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_two_threads_say_of_a_job_is_both_kept(home: Path) -> None:
    outbox.expect([Entry("a1", Place("http://localhost:5000"), "group")])
    for number in range(50):
        threads = [
            threading.Thread(target=outbox.tell, args=("a1", f"run{number}")),
            threading.Thread(target=outbox.tell, args=("a1", "", number + 1)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entry = outbox.find("a1")
        assert entry is not None
        assert (entry.run_id, entry.port) == (f"run{number}", number + 1)
