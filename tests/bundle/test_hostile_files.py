"""Files of experiments that mean harm: refused in no time and little memory, nothing written."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caliban.bundle import archive
from caliban.model.image import ImagePlan
from tests.bundle import forgery
from tests.bundle.forgery import Change, Manifest
from tests.conftest import Inline

MEMORY = 600_000  # KiB, for the largest; caliban itself takes a tenth of it
SECONDS = 10.0


def code(*entries: tuple[str, str, bytes]) -> Change:
    """Adds files to the code."""

    def change(manifest: Manifest, parts: dict[str, bytes]) -> None:
        for path, kind, content in entries:
            parts[forgery.part_of(content)] = content
            part = {} if kind == "folder" else {"part": forgery.part_of(content)}
            manifest["launches"][0]["code"].append({"path": path, "kind": kind, **part})

    return change


def launch(**values: Any) -> Change:
    return lambda manifest, _: manifest["launches"][0].update(values)


def plan(**values: Any) -> Change:
    return lambda manifest, _: manifest["launches"][0]["plan"].update(values)


def job(**values: Any) -> Change:
    return lambda manifest, _: manifest["jobs"][0].update(values)


def top(**values: Any) -> Change:
    return lambda manifest, _: manifest.update(values)


def module(**values: str) -> Change:
    return lambda manifest, _: manifest["launches"][0]["plan"]["module"].update(values)


def image(**values: str) -> Change:
    return lambda manifest, _: manifest["launches"][0]["image"].update(values)


def images(name: str) -> Change:
    """Names the id of an image that is in the file."""

    def change(manifest: Manifest, parts: dict[str, bytes]) -> None:
        parts["images/0.tar.gz"] = b""
        manifest["images"] = {name: "images/0.tar.gz"}

    return change


PATHS = [
    *("../evil", "/evil", "//evil", "a/../../evil", "..", ".", "", "a//b", "a/./b", "a/..", "a/"),
    *("trainer/../../evil", "./evil", "a/../b", "../" * 30 + "tmp/evil", "/etc/cron.d/evil"),
    *("a\0b", "..\0", "\0", "x" * 256, "é" * 128, "/".join("a" * 65), "a/" * 5000 + "b"),
    *(".git/config", "a/.git/hooks/post-checkout", ".GIT/config", ".git", "a/.Git"),
    *(".calibanconfig.json", ".CALIBANCONFIG.JSON", "a/.calibanconfig.json"),
    *("trainer/train.py", "trainer", "trainer/train.py/x", "trainer/start/evil", "trainer/data"),
    *("\ud800", "a/\udfff\ud800"),
]

TARGETS = [
    *(b"/etc/passwd", b"../..", b"../../etc/passwd", b"/", b"/tmp", b"../trainer/../.."),
    *(b"a/../../../x", b"./../../x", b"", b"\0", b"x\0/etc", b"x" * 5000, b"evil", b"./evil"),
    *(b"../trainer/evil", b"data/../../..", b"start/../../../x", b"//etc", b"../" * 999),
]

CHAINS = [
    # Each leads nowhere bad by itself, as far as its text says.
    [("a", b"."), ("b", b"a/.."), ("c", b"b/..")],
    [("d/l", b"."), ("x", b"d/l/../..")],
    [("d/e/f", b"../.."), ("g", b"d/e/f/../x")],
    [("p", b"q"), ("q", b"p")],
    [("l0", b"."), *((f"l{n}", f"l{n - 1}/l{n - 1}".encode()) for n in range(1, 40))],
    [("in", b"trainer"), ("out", b"in/../../x")],
]


HOSTILE: dict[str, Change] = {
    **{f"path {path[:40]!r}": code((path, "file", b"evil")) for path in PATHS},
    **{f"folder {path[:40]!r}": code((path, "folder", b"")) for path in PATHS[:28]},
    **{f"link {path[:40]!r}": code((path, "link", b"x")) for path in PATHS[:20]},
    **{f"target {at[:40]!r}": code(("trainer/evil", "link", at)) for at in TARGETS},
    **{
        f"chain {number}": code(*((name, "link", target) for name, target in links))
        for number, links in enumerate(CHAINS)
    },
    "twice": code(("evil", "file", b"1"), ("evil", "file", b"2")),
    "file and link": code(("evil", "link", b"trainer"), ("evil", "file", b"2")),
    "through a link": code(("evil", "link", b"trainer"), ("evil/x", "file", b"2")),
    "file as folder": code(("evil", "file", b"1"), ("evil/x", "file", b"2")),
    "device": code(("evil", "device", b"")),
    "hard link": code(("evil", "hardlink", b"/etc/passwd")),
    "fifo": code(("evil", "fifo", b"")),
    "many files": lambda manifest, parts: manifest["launches"][0]["code"].extend(
        {"path": f"{n}", "kind": "folder"} for n in range(250_000)
    ),
    "many folders": lambda manifest, parts: manifest["launches"][0]["code"].extend(
        {"path": "/".join(f"{n}-{d}" for d in range(60)), "kind": "folder"} for n in range(5000)
    ),
    "one part a thousand times": lambda manifest, parts: (
        parts.update({"files/big": bytes(1 << 20)}),
        manifest["launches"][0]["code"].extend(
            {"path": f"copy{n}", "kind": "file", "part": "files/big"} for n in range(1000)
        ),
    ),
    "part that is not there": launch(dockerfile="launches/9/Dockerfile"),
    "part outside": launch(dockerfile="../../etc/passwd"),
    "absolute part": launch(experiments="/etc/passwd"),
    "code without a part": launch(code=[{"path": "evil", "kind": "file"}]),
    "code that is none": launch(code="everything"),
    "no code": lambda manifest, _: manifest["launches"][0].pop("code"),
    "image that is not there": top(images={"sha256:0": "images/0.tar.gz"}),
    "images that are none": top(images=["images/0.tar.gz"]),
    **{
        f"image {name!r}": images(name)
        for name in ("python:3.12", "debian", "", "0" * 64, f"sha256:{'0' * 64}\n")
    },
    **{
        f"plan {name} {value!r}"[:70]: plan(**{name: value})
        for name, value in [
            *(("directories", [path]) for path in ("/etc", "../x", "a/../../x", "..", "a/..")),
            *(("requirements", [path]) for path in ("/etc/passwd", "../../x", "/dev/zero")),
            *(("packages", [each]) for each in ("-e /", "../x", "-e ../..", "/opt/x[fast]")),
            *(("project", path) for path in ("/etc/pyproject.toml", "../pyproject.toml")),
            *(("lock_file", path) for path in ("/etc/uv.lock", "../uv.lock")),
            ("dockerfile", {"path": "/etc/passwd", "target": "", "build_args": {}}),
            ("dockerfile", {"path": "../Dockerfile", "target": "", "build_args": {}}),
            ("dockerfile", {"path": "Dockerfile", "target": "", "build_args": {"a": 3}}),
            ("dockerfile", "Dockerfile"),
            *(("base_image", name) for name in ("--help", "-v", "a b", "a\nRUN x", "", None, 3)),
            ("mode", "tpu"),
            ("mode", None),
            ("module", "trainer"),
            ("live", "yes"),
            ("apt_packages", "x"),
            ("secrets", [3]),
        ]
    },
    **{
        f"module {values}"[:70]: module(**values)
        for values in (
            {"copied": "/"}, {"copied": ".."}, {"copied": "a/../.."}, {"name": "../../x"},
            {"name": "a b"}, {"name": ""}, {"name": "a/b"}, {"kind": "binary"},
            {"kind": "python file", "name": "/etc/x.py"},
            {"kind": "shell script", "name": "../x.sh"},
        )
    },
    **{
        f"job {values}"[:70]: job(**values)
        for values in (
            {"launch": 1}, {"launch": -1}, {"launch": 10**30}, {"launch": "0"}, {"launch": None},
            {"args": "--x"}, {"args": [3]}, {"args": ["a\0b"]}, {"args": ["\ud800"]},
            {"params": {"a": 1}}, {"params": [["a"]]}, {"params": [["a", 1, 2]]},
            {"params": [["a b", 1]]}, {"params": [["-a", 1]]}, {"params": [["", 1]]},
            {"params": [["a", 1], ["a", 2]]}, {"params": [["a", {"b": 1}]]},
            {"params": [["a", None]]}, {"params": [["a", "\0"]]}, {"params": [["a", float("nan")]]},
            {"params": [["a", float("inf")]]}, {"params": [[3, 1]]}, {"params": None},
            {"status": "RUNNING"}, {"status": "gone"}, {"status": 3}, {"metrics": [1]},
            {"metrics": {"a": {"b": 1}}}, {"metrics": {"a": None}}, {"exit_code": "0"},
            {"exit_code": 1.5}, {"job": -1}, {"job": "1"}, {"platform": 3}, {"log": "../x"},
        )
    },
    **{
        f"{name} that moves the cursor": image(**{name: "x\x1b[2J"})
        for name in ("id", "name", "digest", "base", "base_id", "base_digest")
    },
    "base image that moves the cursor": plan(base_image="x\x1b[2J"),
    "module that moves the cursor": module(kind="python file", name="\x1b]0;x\a.py"),
    "lock that is no text": lambda _, parts: parts.update(
        {"launches/0/requirements.lock": b"\xff\xfe==1\n"}
    ),
    "no jobs": lambda manifest, _: manifest.pop("jobs"),
    "jobs that are none": top(jobs={"1": 2}),
    "launches that are none": top(launches=[3]),
    "a group that is none": top(group=["x"]),
}  # fmt: skip


def bombs(path: Path) -> Iterator[str]:
    """Writes one file after another that would take all memory or time; yields what each is."""
    manifest, parts = forgery.honest()
    text = forgery.dumped(manifest, parts)
    ordered = dict(sorted(parts.items()))
    begun = text.rstrip(b"}")
    for name, content in {
        "nested lists": b"[" * (1 << 24),
        "nested objects": b'{"a":' * (1 << 22),
        "a list of lists": b"[" + b"[]," * (1 << 23) + b"[]]",
        "a list of texts": b"[" + b'"ab",' * (1 << 22) + b'"ab"]',
        "a long text": b'"' + "\N{SNOWMAN}".encode() * (10 << 20) + b'"',
        "a long number": begun + b', "x": ' + b"9" * (1 << 24) + b"}",
        "a list of numbers": begun + b', "x": [' + b"0.1," * (1 << 21) + b"1]}",
        "all lists that may be": begun + b', "x": [' + b"[]," * 1_048_000 + rb'"\ud800"]}',
        "all texts that may be": begun + b', "x": [' + b'"ab",' * 2_097_000 + rb'"\ud800"]}',
        "all of a text": begun + b', "x": "\xf0\x9f\x98\x80' + b"a" * 33_000_000 + rb'\ud800"}',
        "keys": begun + b", " + b",".join(b'"%d":0' % n for n in range(2 << 20)) + b"}",
    }.items():
        forgery.raw(path, content, ordered)
        yield name
    for name in ("huge manifest", "huge part"):
        with path.open("wb") as stream:
            if name == "huge manifest":
                archive._put(stream, "digest", b"sha256:" + b"0" * 64 + b"\n")
                stream.write(archive._header("manifest.json", 1 << 40))
            else:
                entries = [{"name": "files/0", "size": 1 << 45, "sha256": "0" * 64}]
                whole = {"format": archive.FORMAT, "version": 1, "parts": entries}
                lie = json.dumps({**manifest, **whole}).encode()
                archive._put(
                    stream, "digest", f"sha256:{hashlib.sha256(lie).hexdigest()}\n".encode()
                )
                archive._put(stream, "manifest.json", lie)
            stream.truncate(1 << 42)  # of holes
        yield name


def everything_in(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*"))


def test_an_honest_file_is_taken(tmp_path: Path, home: Path, inline: Inline) -> None:
    forgery.write(tmp_path / "tries.tar")
    done = inline("replay", str(tmp_path / "tries.tar"), "--extract", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/out/0\n"
    found = tmp_path / "out" / "0" / "code"
    assert (found / "trainer" / "train.py").read_bytes() == forgery.TRAIN
    assert os.access(found / "trainer" / "run.sh", os.X_OK)
    assert not os.access(found / "trainer" / "train.py", os.X_OK)
    assert (found / "trainer" / "start").readlink() == Path("run.sh")
    assert list((found / "trainer" / "data").iterdir()) == []
    assert json.loads((found.parent / "experiments.json").read_text()) == [
        {"rate": 0.1},
        {"rate": 0.2},
    ]
    again = inline("replay", str(tmp_path / "tries.tar"), "--extract", str(tmp_path / "out"))
    assert again.returncode == 2
    assert "not empty" in again.stderr


def test_there_are_two_hundred_hostile_files() -> None:
    assert len(HOSTILE) >= 200


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_nothing_is_written(
    name: str, tmp_path: Path, home: Path, inline: Inline
) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    file, target = tmp_path / "evil.tar", tmp_path / "a" / "b" / "c" / "out"
    manifest, parts = forgery.honest()
    HOSTILE[name](manifest, parts)
    forgery.raw(file, forgery.dumped(manifest, parts), dict(sorted(parts.items())))
    before = everything_in(tmp_path)
    began = time.process_time()
    done = inline("replay", str(file), "--extract", str(target))
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert time.process_time() - began < SECONDS
    assert f"{file} cannot be used: " in done.stderr
    assert "\0" not in done.stderr and len(done.stderr) < 1000
    after = [each for each in everything_in(tmp_path) if ".caliban" not in each[0]]
    assert [path for path, _ in after if not path.startswith(str(home))] == [
        path for path, _ in before if not path.startswith(str(home))
    ]


# Linux's own figure, as what a process had before it became another program does not count.
MEASURED = """
import re, sys
from pathlib import Path
from caliban.main import main
try:
    code = main(sys.argv[1:])
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""


def peak(*args: str) -> tuple[int, str, int, float]:
    """Runs caliban; its exit code, what it said, its memory in KiB, and the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *args], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr, int(done.stdout), time.monotonic() - began


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
def test_bombs_are_refused_in_little_memory(tmp_path: Path, home: Path) -> None:
    file, target = tmp_path / "bomb.tar", tmp_path / "out"
    for name in bombs(file):
        code, said, memory, seconds = peak("replay", str(file), "--extract", str(target))
        assert code == 2, (name, said)
        assert "cannot be used" in said, name
        assert memory < MEMORY, (name, memory)
        assert seconds < SECONDS, (name, seconds)
        assert not target.exists()


def test_the_plan_of_the_forgeries_is_one() -> None:
    manifest, _ = forgery.honest()
    assert ImagePlan.from_json(manifest["launches"][0]["plan"]).module
