"""What a .dockerignore leaves out. That Docker does the same, test_dockerignore_on_engine holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from caliban.docker.image import dockerignore
from caliban.docker.image.dockerignore import DockerIgnore
from caliban.errors import UsageError


def left_out(text: str, path: str) -> bool:
    """Whether a path is left out, judged as a walk from the top judges it."""
    ignore = DockerIgnore(text)
    matches, is_out = ignore.top, False
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        folder = "/".join(parts[:depth])
        is_out, matches = ignore.check(folder, matches)
        if is_out and depth < len(parts) and not ignore.may_take_back(folder):
            return True
    return is_out


@pytest.mark.parametrize(
    ("text", "out", "left"),
    [
        ("data", ["data", "data/a/b"], ["a/data", "database"]),
        ("data/", ["data", "data/a"], ["a/data"]),
        ("/data", ["data"], ["a/data"]),
        ("./a//b/../c", ["a/c", "a/c/d"], ["a/b"]),
        ("*.py", ["x.py", ".py"], ["a/x.py", "x.pyc"]),
        ("*/*.py", ["a/x.py"], ["x.py", "a/b/x.py"]),
        ("**/*.py", ["x.py", "a/x.py", "a/b/x.py"], ["x.pyc"]),
        ("**.py", ["x.py", "a/b/x.py"], ["x.pyc"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "b"]),
        ("a/**/b", ["a/b", "a/x/y/b"], ["a/xb", "b"]),
        ("**", ["a", "a/b", ".hidden"], []),
        ("a?c", ["abc"], ["ac", "a/c"]),
        ("[a-c]x", ["ax", "bx/y"], ["dx"]),
        ("[^a]x", ["bx"], ["ax"]),
        (r"a\*", ["a*"], ["ab"]),
        (r"\#x", ["#x"], ["x"]),
        (r"\!x", ["!x"], ["x"]),
        ("[[]x", ["[x"], ["x"]),
        ("a+(b){c}$", ["a+(b){c}$"], ["aab"]),
        ("*+b", ["a+b"], ["aab"]),
        ("A", ["A"], ["a"]),
        ("é", ["é"], ["e"]),
        ("a b", ["a b"], ["a"]),
        ("  a  \r\n\tb\t\r\n", ["a", "b"], ["c"]),
        ("\ufeffa\nb", ["a", "b"], []),
        ("#a\n #b\n\n", ["#b"], ["a", "b", "#a"]),
        (".\n..\n../a\n/", [], ["a", "b/c"]),
        ("*\n!a", ["b"], ["a", "a/b"]),
        ("*\n! a", ["b"], ["a"]),
        ("!a\n*", ["a"], []),
        ("a\n!a/b", ["a", "a/c"], ["a/b", "a/b/c"]),
        ("a\n!a/b/c\na/b/c/d", ["a", "a/b", "a/b/c/d"], ["a/b/c"]),
        # What lies in there is not even looked at.
        ("a\n!**/b\n!*/b", ["a/b"], ["b"]),
        ("*\n!**/b", ["a", "a/b"], ["b"]),
        ("**/*.txt\n!keep.txt\n!a/keep.txt", ["a/b/keep.txt"], ["keep.txt", "a/keep.txt"]),
    ],
)
def test_patterns_mean_what_they_mean_to_docker(text: str, out: list[str], left: list[str]) -> None:
    assert [path for path in out if not left_out(text, path)] == []
    assert [path for path in left if left_out(text, path)] == []


@pytest.mark.parametrize("pattern", ["[a", "a[]", "[]a]", "[a-]", "[-a]", "x/[", "a\\", "!", " ! "])
def test_what_docker_refuses_is_refused_with_its_line(pattern: str) -> None:
    with pytest.raises(UsageError) as error:
        DockerIgnore(f"# one\n{pattern}\n", "/project/.dockerignore")
    assert error.value.message == (
        f"/project/.dockerignore, line 2: {pattern.strip()!r} is not a pattern that Docker "
        "understands"
    )


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert dockerignore.load(tmp_path / ".dockerignore") is None
    (tmp_path / ".dockerignore").write_bytes(b"\xff\n")
    found = dockerignore.load(tmp_path / ".dockerignore")
    assert found is not None
    assert found.check("\udcff", found.top)[0]
