"""A .dockerignore leaves out for caliban what it leaves out for `docker build`."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from caliban.docker.engine import Engine
from caliban.docker.image import context
from caliban.docker.image.builder import Builder
from caliban.docker.image.dockerfile import CODE
from caliban.errors import UsageError
from caliban.model.image import ImagePlan, Mode
from caliban.model.module import Kind, Module
from tests.docker.conftest import inside, variables_for
from tests.workshop import Workshop, docker

RANDOM = random.Random(7)

NAMES = (
    *("a", "b", "ab", "A", "foo", "foo.py", "b.py", ".hid", "x y", "[a]", "a*b", "#c", "!d", "é"),
    *("a+b", "a{b", "a(b", "b$", "a.b"),
)
PARTS = (
    *(
        "a",
        "b",
        "ab",
        "A",
        "foo",
        "foo.py",
        "*.py",
        "*",
        "?",
        "**",
        "fo*",
        "[ab]",
        "[^a]",
        "[a-c]*",
    ),
    *("\\#c", "\\!d", "a\\*b", "x y", ".*", "é", "*.b", "\\[a\\]", "foo*d", ".", "b**", "**b"),
    *("a+b", "a{b", "*+*", "a(*", "*$"),
)


def pattern(folder: str) -> str:
    """A pattern for what lies in a folder."""
    parts = [folder, *RANDOM.choices(PARTS, k=RANDOM.choice((1, 1, 2, 2, 3)))]
    text = RANDOM.choice(("/", "/", "/", "//")).join(parts)
    text = RANDOM.choice(("", "", "", "/")) + text + RANDOM.choice(("", "", "", "/", "  "))
    return RANDOM.choice(("", "", "", " ")) + RANDOM.choice(("", "", "!", "! ")) + text


# Many at once, each for a folder of its own.
MANY = "\n".join(
    pattern(f"set{number}") for number in range(16) for _ in range(RANDOM.choice((1, 2, 3, 4)))
)

ALL = {
    "many": MANY,
    "marks": "\ufeff# comment\r\n*\r\n!foo\r\n!set1/*\r\n\r\n  set1/a  \r\n",
    "anywhere": "**/*.py\n**/foo\n!set2/**/foo\nset3\n!**/ab\n",
    "nothing else": "**\n!set1/foo\n!set2\nset2/a\n",
    "odd paths": ".\n..\n/\n./a\nset1/../b\n//set2///a\n #c\n#c\n\\!d\n../foo\n",
}

# What BuildKit of 2022 reads in another way than all that came later.
NEWER = ("+", "{", "(", "$", "b**", "**b", "!")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with many names."""

    def fill(place: Path, depth: int) -> None:
        place.mkdir()
        for name in NAMES:
            chance = RANDOM.random()
            if depth and chance < 0.12:
                fill(place / name, depth - 1)
            elif chance < 0.65:
                (place / name).write_text("")

    RANDOM.seed(11)
    fill(tmp_path / "context", 1)
    for number in range(16):
        fill(tmp_path / "context" / f"set{number}", 2)
    return tmp_path / "context"


def ours(folder: Path) -> set[str]:
    """What caliban would copy."""
    plan = ImagePlan(Mode.CPU, "base", str(folder), Module(Kind.PYTHON_FILE, "main.py", "."))
    found = {file.name for file in context.files(plan) if file.folder == CODE}
    return found - {".", ".dockerignore"}


def theirs(folder: Path, base: str, variables: dict[str, str]) -> set[str] | str:
    """What `docker build` copies, or what it says is wrong."""
    dockerfile = folder.parent / "Dockerfile"
    dockerfile.write_text(f"FROM {base}\nWORKDIR /context\nCOPY . .\n")
    done = subprocess.run(
        ["docker", "build", "--no-cache", "--quiet", "--file", dockerfile, folder],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return done.stderr
    listed = inside(done.stdout.strip(), "cd /context && find . -mindepth 1").splitlines()
    docker("rmi", "--force", done.stdout.strip())
    names = {name.removeprefix("./") for name in listed}
    # The client puts a Dockerfile from elsewhere beside the files.
    return {each for each in names if not each.startswith((".dockerignore", ".dockerfile."))}


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_the_legacy_builder_copies_the_same(workshop: Workshop, folder: Path, text: str) -> None:
    (folder / ".dockerignore").write_bytes(text.encode())
    found = theirs(folder, workshop.base("plain"), {"DOCKER_BUILDKIT": "0"})
    assert isinstance(found, set), found
    assert 0 < len(found) < sum(1 for _ in folder.rglob("*"))
    assert ours(folder) == found


@pytest.mark.parametrize("name", ["many", "marks", "odd paths"])
def test_buildkit_copies_the_same(
    engine: Engine, workshop: Workshop, tmp_path: Path, folder: Path, name: str
) -> None:
    (tmp_path / "client").mkdir()
    variables = dict(variables_for(Builder.BUILDKIT, engine, tmp_path / "client"))
    text = ALL[name]
    if name == "many":
        lines = text.splitlines()
        text = "\n".join(line for line in lines if not any(each in line for each in NEWER))
    (folder / ".dockerignore").write_bytes(text.encode())
    found = theirs(folder, workshop.base("plain"), {"DOCKER_BUILDKIT": "1", **variables})
    assert isinstance(found, set), found
    assert ours(folder) == found


def test_both_refuse_the_same(workshop: Workshop, tmp_path: Path) -> None:
    folder = tmp_path / "context"
    folder.mkdir()
    base = workshop.base("plain")
    for pattern in ("[a", "!", "a\\"):
        (folder / ".dockerignore").write_text(f"{pattern}\n")
        (folder / "file").touch()
        assert "pattern" in theirs(folder, base, {"DOCKER_BUILDKIT": "0"})
        with pytest.raises(UsageError, match="not a pattern that Docker understands"):
            ours(folder)
    shutil.rmtree(folder)
