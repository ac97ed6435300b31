"""What is kept on disk until a file of experiments is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from caliban.bundle.spool import Content, Spool
from caliban.errors import CalibanError
from tests.commands.test_parallel_on_engine import small_disk


def kept(spool: Spool, *pieces: bytes) -> Content:
    content = spool.keep(pieces)
    assert content is not None
    return content


def length(spool: Spool) -> int:
    return os.fstat(spool._file.fileno()).st_size


def test_what_was_kept_is_read_in_any_order() -> None:
    with Spool() as spool:
        first, nothing, last = kept(spool, b"a", b"bc"), kept(spool), kept(spool, b"x" * 3_000_000)
        assert max(map(len, last.pieces())) < 2_000_000
        assert (last.whole(), nothing.whole(), first.whole()) == (b"x" * 3_000_000, b"", b"abc")


def test_the_same_bytes_are_kept_once() -> None:
    with Spool() as spool:
        assert kept(spool, b"abc") == kept(spool, b"ab", b"c")
        kept(spool, b"d").whole()
        assert length(spool) == 4


def test_what_is_not_wanted_takes_no_room() -> None:
    with Spool() as spool:
        first = kept(spool, b"abc")
        assert spool.keep([b"x" * 100], lambda digest: digest == first.sha256) is None
        assert spool.keep([b"abc"], lambda digest: digest == first.sha256) == first
        assert spool.keep([b"abc"], lambda _: False) is None
        assert kept(spool, b"d").whole() == b"d"
        assert (length(spool), first.whole()) == (4, b"abc")


def test_nothing_lies_in_the_directory_and_a_full_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "small", "1m") as disk:
        monkeypatch.setattr("tempfile.tempdir", str(disk))
        with Spool() as spool:
            kept(spool, b"abc")
            assert list(disk.iterdir()) == []
            with pytest.raises(CalibanError) as caught:
                spool.keep([b"x" * 2_000_000])
        assert caught.value.message == f"cannot write to {disk}: No space left on device"
        assert "TMPDIR" in caught.value.hint
