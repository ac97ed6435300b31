"""Logs of jobs: written as output comes, compressed at the end, read in either form."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import re
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caliban import joblog
from caliban.errors import CalibanError
from caliban.joblog import JobLog, Reader

TEXT = b"one\ntwo\n\xff\xfe no text\nthree"


def write(uid: str = "u", data: bytes = TEXT) -> None:
    with JobLog(uid) as log:
        log.write(data)


def test_a_log_is_plain_while_the_job_runs_and_compressed_afterwards(home: Path) -> None:
    with JobLog("u") as log:
        log.write(TEXT)
        assert joblog.path("u").read_bytes() == TEXT
        assert joblog.find("u") == joblog.path("u")
    assert joblog.find("u") == joblog.compressed("u")
    assert gzip.decompress(joblog.compressed("u").read_bytes()) == TEXT
    (only,) = (home / ".caliban" / "logs").iterdir()
    assert stat.S_IMODE(only.stat().st_mode) == 0o600


def test_a_log_that_was_cut_off_is_not_compressed(home: Path) -> None:
    with pytest.raises(TimeoutError), JobLog("u") as log:
        log.write(TEXT)
        raise TimeoutError
    # There may be no time for that: half a file would be left.
    assert [*(home / ".caliban" / "logs").iterdir()] == [joblog.path("u")]
    assert b"".join(joblog.read("u")) == TEXT


@pytest.mark.parametrize("tail", [None, 0, 1, 2, 100])
def test_a_log_reads_the_same_in_both_forms(tail: int | None) -> None:
    lines = TEXT.splitlines(keepends=True)
    expected = b"".join(lines if tail is None else lines[len(lines) - min(tail, len(lines)) :])
    with JobLog("u") as log:
        log.write(TEXT)
        assert b"".join(joblog.read("u", tail)) == expected
    assert b"".join(joblog.read("u", tail)) == expected


def test_a_job_without_a_log_has_printed_nothing() -> None:
    assert joblog.find("u") is None
    assert list(joblog.read("u")) == []
    with contextlib.closing(Reader("u")) as reader:
        assert reader.read() == b""


def test_a_log_that_is_written_anew_has_nothing_of_the_old_one() -> None:
    write(data=b"old, and longer")
    write(data=b"new")
    assert b"".join(joblog.read("u")) == b"new"
    assert not joblog.path("u").exists()


def test_a_reader_sees_what_comes_also_when_the_log_is_compressed_meanwhile() -> None:
    with contextlib.closing(Reader("u", 1)) as reader:
        assert reader.read() == b""
        with JobLog("u") as log:
            log.write(b"before\nlast\n")
            assert reader.read() == b"last\n"
            assert reader.read() == b""
            log.write(b"during\n")
            assert reader.read() == b"during\n"
            log.write(b"end\n")
        assert not joblog.path("u").exists()
        assert reader.read() == b"end\n"
        assert reader.read() == b""
        assert reader.at == len(b"before\nlast\nduring\nend\n")


@given(
    st.lists(st.sampled_from([b"a", b"\n", b"word " * 3, b"\r"]), max_size=30).map(b"".join),
    st.integers(0, 12),
    st.booleans(),
)
@settings(deadline=None)
def test_the_last_lines_are_found_wherever_the_pieces_end(
    data: bytes, number: int, is_compressed: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joblog, "_PIECE", 4)
        with JobLog("u") as log:
            log.write(data)
            found = b"" if is_compressed else b"".join(joblog.read("u", number))
        if is_compressed:
            found = b"".join(joblog.read("u", number))
    lines = re.findall(rb"[^\n]*\n|[^\n]+", data)
    assert found == b"".join(lines[len(lines) - min(number, len(lines)) :])


def test_a_damaged_log_is_named() -> None:
    write(data=TEXT * 1000)
    file = joblog.compressed("u")
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(CalibanError, match=f"{file} is damaged"):
        list(joblog.read("u"))
    file.write_bytes(b"something else")
    with pytest.raises(CalibanError, match=f"{file} is damaged"):
        list(joblog.read("u"))


@pytest.mark.parametrize("file", [joblog.path, joblog.compressed])
def test_a_log_that_cannot_be_read_is_named(file: Callable[[str], Path]) -> None:
    file("u").mkdir(parents=True)
    with pytest.raises(CalibanError, match=f"cannot read the log {file('u')}: Is a directory"):
        list(joblog.read("u"))


def test_the_last_bytes_are_at_hand() -> None:
    with JobLog("u") as log:
        for number in range(10_000):
            log.write(b"line %d\n" % number)
        assert log.tail.endswith(b"line 9998\nline 9999\n")
        assert len(log.tail) == 8192


def test_a_large_log_costs_no_memory() -> None:
    piece = b"some output of a job\n" * 3000
    tracemalloc.start()
    with JobLog("u") as log:
        for _ in range(500):
            log.write(piece)
    total = sum(map(len, joblog.read("u")))
    assert len(b"".join(joblog.read("u", 3))) == 63
    assert sum(map(len, joblog.read("u", 1_000_000))) == 21 * 1_000_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 500 * len(piece)
    assert peak < 3_000_000


def test_a_line_as_long_as_the_log_costs_no_memory_either() -> None:
    with JobLog("u") as log:
        for _ in range(300):
            log.write(b"\rframe" * 10_000)
        tracemalloc.start()
        assert sum(map(len, joblog.read("u", 1))) == 300 * 60_000
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_log_that_cannot_be_written_costs_the_log_only(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / ".caliban").mkdir()
    (home / ".caliban" / "logs").write_text("in the way")
    with JobLog("u") as log:
        log.write(TEXT)
        log.write(TEXT)
    assert log.tail == TEXT + TEXT
    assert capsys.readouterr().err.count("is not kept any more") == 1


@given(st.lists(st.sampled_from([b"a", b"\xff", b"\xe2\x82", "\u20ac".encode(), b"\xed\xa0\x80"])))
@settings(deadline=None)
def test_the_length_as_text_is_that_of_a_log_in_which_each_strange_byte_is_replaced(
    words: list[bytes],
) -> None:
    data = b"".join(words) + b"."
    write(data=data)
    text = data.decode(errors="surrogateescape")
    replaced = re.sub("[\udc80-\udcff]", "\N{REPLACEMENT CHARACTER}", text)
    assert joblog.length_as_text("u", len(data)) == len(replaced.encode())
    assert joblog.length_as_text("u", 0) == 0


def test_what_could_not_be_written_is_remembered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with JobLog("u") as log:
        log.write(b"kept\n")
        with monkeypatch.context() as patch:
            patch.setattr(joblog, "_check_room", full)
            log.write(b"lost\n")
        log.write(b"lost, too\n")
    assert "No space left on device" in capsys.readouterr().err
    assert b"".join(joblog.read("u")) == b"kept\n"
    assert joblog.is_cut("u")
    assert log.tail == b"kept\nlost\nlost, too\n"
    write()
    assert not joblog.is_cut("u")
