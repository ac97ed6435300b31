"""The file that experiments are in: the same bytes each time, and each of them checked."""

from __future__ import annotations

import bisect
import io
import json
import random
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caliban.bundle import archive
from caliban.bundle.archive import Archive
from caliban.bundle.spool import Content, Spool
from caliban.errors import UsageError

PARTS: dict[str, bytes | Content] = {
    "Dockerfile": b"FROM debian\n",
    "files/0a": b"x" * 1000,
    "files/0b": b"",
    "logs/1.log": bytes(range(256)) * 2,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiments.tar"
    archive.write(path, {"group": "tuning", "jobs": [{"job": 1}]}, PARTS)
    return path


def refusal(path: Path) -> str:
    """Why a file is refused; opening and checking it must refuse it."""
    with pytest.raises(UsageError) as caught, Archive(path) as opened:
        opened.check()
    return caught.value.message


def test_what_was_written_is_read(file: Path) -> None:
    with Archive(file) as opened:
        opened.check()
        assert opened.manifest["group"] == "tuning"
        assert {name: opened.read(name, 2000) for name in opened.parts} == PARTS


def test_the_same_content_is_the_same_bytes(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.tar"
    with Spool() as spool:
        content = spool.keep([b"x" * 400, b"x" * 600])
        assert content is not None
        backwards = dict(reversed({**PARTS, "files/0a": content}.items()))
        digest = archive.write(other, {"jobs": [{"job": 1}], "group": "tuning"}, backwards)
    assert other.read_bytes() == file.read_bytes()
    with Archive(file) as opened:
        assert opened.digest == digest


def test_any_tar_opens_it(file: Path, tmp_path: Path) -> None:
    with tarfile.open(file) as opened:
        names = opened.getnames()
        opened.extractall(tmp_path / "out", filter="data")
    assert names == ["digest", "manifest.json", *PARTS]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [each["name"] for each in manifest["parts"]] == [*PARTS]
    assert (tmp_path / "out" / "logs" / "1.log").read_bytes() == PARTS["logs/1.log"]


def test_every_changed_byte_is_noticed_and_the_part_is_named(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    other = tmp_path / "other.tar"
    with Archive(file) as opened:
        begins = [0, 1024, *(part.at - 512 for part in opened.parts.values()), len(whole) - 1024]
    names = ["digest", "manifest.json", *PARTS, "the end"]
    for at in range(len(whole)):
        name = names[bisect.bisect(begins, at) - 1]
        # A digest that does not fit is that of another manifest just as well.
        for bit in (at % 8, 0):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            other.write_bytes(changed)
            assert f"part '{name}'" in refusal(other), (at, bit)
    at = whole.index(b"FROM debian")
    other.write_bytes(whole[:at] + b"f" + whole[at + 1 :])
    assert "its part 'Dockerfile' is not as it was written" in refusal(other)


def test_what_is_cut_off_or_longer_is_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    other = tmp_path / "other.tar"
    for length in (0, 1, 511, 512, 600, 1024, 2000, len(whole) - 1024, len(whole) - 1):
        other.write_bytes(whole[:length])
        refusal(other)
    other.write_bytes(whole + b"\0")
    assert "too long" in refusal(other)


def forged(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Writes a file whose manifest says something else, with a digest that fits."""
    import hashlib

    with tarfile.open(path) as opened:
        members = {}
        for info in opened:
            stream = opened.extractfile(info)
            assert stream is not None
            members[info.name] = stream.read()
    manifest = json.loads(members["manifest.json"])
    changed = change(manifest)
    text = json.dumps(manifest if changed is None else changed).encode()
    members["manifest.json"] = text
    members["digest"] = f"sha256:{hashlib.sha256(text).hexdigest()}\n".encode()
    stream = io.BytesIO()
    for name, content in members.items():
        archive._put(stream, name, content)
    path.write_bytes(stream.getvalue() + archive._END)


def part(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["parts"][0].update(values)


@pytest.mark.parametrize(
    "change",
    [
        *(part(name=name) for name in (
            "../evil", "/etc/passwd", "a/../b", "a//b", ".hidden", "a/.b", "a\0b", "a\nb",
            "x" * 100, "ä", "a\\b", "", "C:x", "-x", "a/", 3, None, ["a"],
            "digest", "manifest.json", "files/0a",
        )),
        *(part(size=size) for size in (-1, 2**50, 10**400, 1.5, "12", None, True, 13, 11, 2**40)),
        *(part(sha256=digest) for digest in ("0" * 64, "x" * 64, "", None, 7, "A" * 64)),
        lambda manifest: manifest.update(parts=None),
        lambda manifest: manifest.update(parts=[]),
        lambda manifest: manifest.update(parts=[3]),
        lambda manifest: manifest["parts"].reverse(),
        lambda manifest: manifest["parts"].append(manifest["parts"][0]),
        lambda manifest: manifest["parts"].pop(),
        lambda manifest: manifest.update(parts=manifest["parts"] * 20_000),
        lambda manifest: manifest.update(version=2),
        lambda manifest: manifest.update(version="1"),
        lambda manifest: manifest.update(format="zip"),
        lambda _: [],
        lambda _: "text",
    ],
)  # fmt: skip
def test_a_manifest_that_lies_is_refused_in_no_time(
    file: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    forged(file, change)
    before = sorted(tmp_path.iterdir())
    began = time.process_time()
    assert str(file) in refusal(file)
    assert time.process_time() - began < 2
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, b"x", b"L", b"S"]
)
def test_members_that_are_no_files_are_refused(file: Path, kind: bytes) -> None:
    whole = bytearray(file.read_bytes())
    at = whole.index(b"Dockerfile\0")
    info = tarfile.TarInfo("Dockerfile")
    info.type, info.size, info.linkname = kind, 12, "/etc/passwd"
    whole[at : at + 512] = info.tobuf(tarfile.GNU_FORMAT)[:512]
    file.write_bytes(whole)
    assert "'Dockerfile'" in refusal(file)


def test_a_manifest_beyond_all_bounds_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar"
    with path.open("wb") as stream:
        archive._put(stream, "digest", b"sha256:" + b"0" * 64 + b"\n")
        stream.write(archive._header("manifest.json", 1 << 40))
        stream.truncate(1 << 41)  # of holes
    tracemalloc.start()
    refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_manifest_nested_without_end_is_no_crash(file: Path) -> None:
    whole = b"[" * 100_000
    import hashlib

    stream = io.BytesIO()
    archive._put(stream, "digest", f"sha256:{hashlib.sha256(whole).hexdigest()}\n".encode())
    archive._put(stream, "manifest.json", whole)
    file.write_bytes(stream.getvalue() + archive._END)
    assert "no JSON" in refusal(file)


def test_two_hundred_files_of_noise_are_refused(file: Path) -> None:
    whole = file.read_bytes()
    chance = random.Random(3)
    began = time.process_time()
    for _ in range(200):
        noise = bytearray(whole)
        for _ in range(chance.randrange(1, 400)):
            at = chance.randrange(len(noise))
            noise[at : at + chance.randrange(9)] = chance.randbytes(chance.randrange(9))
        if noise != whole:
            file.write_bytes(noise)
            refusal(file)
    assert time.process_time() - began < 20


@pytest.mark.parametrize("name", ["missing.tar", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    assert "cannot" in refusal(tmp_path / name)


def test_a_part_is_not_read_beyond_what_its_reader_takes(file: Path) -> None:
    with Archive(file) as opened, pytest.raises(UsageError, match="has 1000 bytes"):
        opened.read("files/0a", 999)
