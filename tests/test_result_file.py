"""The file that a user names for a result: replaced as a whole, whatever is there."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from caliban import result_file
from caliban.errors import CalibanError, UsageError


def test_a_file_is_replaced_when_all_of_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "result"
    file.write_text("before")
    with result_file.writing(file) as stream:
        stream.write(b"after")
        stream.flush()
        assert file.read_text() == "before"
    assert file.read_text() == "after"
    assert list(tmp_path.iterdir()) == [file]


def test_what_fails_halfway_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "result"
    file.write_text("before")
    with pytest.raises(KeyboardInterrupt), result_file.writing(file) as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "result"
    with result_file.writing(file) as first:
        first.write(b"first")
        with result_file.writing(file) as second:
            second.write(b"the second one")
    assert file.read_text() == "first"


def test_who_may_read_a_file_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "result"
    file.touch(mode=0o600)
    with result_file.writing(file) as stream:
        assert stat.S_IMODE(os.fstat(stream.fileno()).st_mode) == 0o600
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link, target = tmp_path / "link", tmp_path / "folder" / "target"
    link.symlink_to(target)
    with result_file.writing(link) as stream:
        stream.write(b"x")
    assert link.is_symlink()
    assert target.read_text() == "x"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with result_file.writing(pipe) as stream:
        stream.write(b"x")
    reader.join()
    assert read == [b"x"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_that_a_shell_opens_is_written_to() -> None:
    reader, writer = os.pipe()  # as for `-o >(ssh ...)`
    with os.fdopen(reader, "rb") as end:
        with os.fdopen(writer, "wb"), result_file.writing(Path(f"/dev/fd/{writer}")) as stream:
            stream.write(b"all of it")
        assert end.read() == b"all of it"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "has no name"),
        (".", "has no name"),
        ("folder", "Is a directory"),
        ("missing/file", "No such file or directory"),
        ("n" * 300, "File name too long"),
    ],
)
def test_a_name_that_no_file_can_have_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=why), result_file.writing(Path(name)):
        pytest.fail("there is nothing to write to")


def test_a_reader_that_has_gone_is_no_wrong_usage() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb"), pytest.raises(CalibanError) as caught:  # noqa: SIM117
        with result_file.writing(Path(f"/dev/fd/{writer}")) as stream:
            stream.write(b"x")
    assert (caught.value.exit_code, "Broken pipe" in caught.value.message) == (1, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_no_wrong_usage(tmp_path: Path) -> None:
    for path, code in ((Path("/dev/full"), 1), (tmp_path / "none" / "x", 2), (tmp_path, 2)):
        with pytest.raises(CalibanError) as caught, result_file.writing(path) as stream:
            stream.write(b"x")
        assert caught.value.exit_code == code
        assert caught.value.message.startswith(f"cannot write {path}: ")
