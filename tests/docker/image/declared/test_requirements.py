"""Requirements files: which packages of the project they name, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from caliban.docker.image.declared import requirements
from caliban.errors import UsageError
from tests.docker.image.test_project import write

PACKAGES = {
    "-e .": "-e .",
    # The code of the project itself changes all the time.
    ".": "-e .",
    ".[dev]": "-e .[dev]",
    "-e.": "-e .",
    "--editable=./libs/a": "-e ./libs/a",
    "--editable libs/a": "-e ./libs/a",
    "-e ./libs/a[x, y]": "-e ./libs/a[x, y]",
    "libs/../libs/a": "./libs/a",
    "./with space/a": "./with space/a",
    './libs/a ; python_version < "3.12"': './libs/a ; python_version < "3.12"',
    "a @ ./libs/a": "./libs/a",
    "a[x]@file:libs/with%20space": "./libs/with space[x]",
    "file:./libs/a#egg=a": "./libs/a",
    "./wheels/a-1-py3-none-any.whl --hash=sha256:00": "./wheels/a-1-py3-none-any.whl",
    "a-1.tar.gz": "./a-1.tar.gz",
    "../a": "../a",
    "file:///srv/a": "/srv/a",
}
NOT_OF_THE_PROJECT = (
    "numpy",
    "numpy[x]>=1,<2 ; sys_platform == 'linux'",
    "numpy==1 --hash=sha256:00",
    "git+https://example.org/x@v1#subdirectory=./y",
    "-e git+ssh://git@example.org/x.git#egg=x",
    "x @ https://example.org/x-1-py3-none-any.whl",
    "https://example.org/x.zip",
    "--index-url https://example.org/simple",
    "--no-binary :all:",
    "-r more.txt",
    "",
)


@pytest.mark.parametrize(("line", "package"), PACKAGES.items())
def test_a_package_of_the_project_is_told_by_its_path(line: str, package: str) -> None:
    assert requirements.package(line) == package


@pytest.mark.parametrize("line", NOT_OF_THE_PROJECT)
def test_other_lines_are_left_to_the_installer(line: str) -> None:
    assert requirements.package(line) == ""


@pytest.mark.parametrize(
    "content",
    [
        b"./a\n-r more.txt\n",
        b"./a  # ours\r\n-r more.txt\r\n",
        b"\xef\xbb\xbf./a\n-r more.txt\n",
        "./a\n-r more.txt # \u00fc\n".encode("utf-16"),
        b"./a \\\n  --hash=sha256:00 \\\n  --hash=sha256:01\n-r more.txt",
    ],
)
def test_encodings_comments_and_continued_lines_are_read_as_pip_reads_them(
    tmp_path: Path, content: bytes
) -> None:
    write(tmp_path, {"requirements.txt": content, "more.txt": "six\n", "a/setup.py": ""})
    found = requirements.read(tmp_path, "requirements.txt")
    assert (found.files, found.packages) == (["requirements.txt", "more.txt"], ["./a"])


def test_each_package_is_named_once_and_paths_are_those_of_the_project(tmp_path: Path) -> None:
    lines = {"requirements.txt": "-e ./a\n-r sub/more.txt\n", "sub/more.txt": "-e a\n./b\n"}
    write(tmp_path, {**lines, "a/pyproject.toml": "", "b/setup.cfg": ""})
    assert requirements.read(tmp_path, "requirements.txt").packages == ["-e ./a", "./b"]


def test_the_hashes_of_a_package_are_those_of_all_its_lines(tmp_path: Path) -> None:
    lines = (
        "Six_x==1 ; python_version < '3' \\\n --hash=sha256:0a \\\n --hash sha512:0B\n-c more.txt"
    )
    (tmp_path / "requirements.txt").write_text(lines)
    (tmp_path / "more.txt").write_text("six.x==1 --hash=sha256:0c\nidna==3  # --hash=sha256:0d")
    found = requirements.read(tmp_path, "requirements.txt")
    assert found.hashes == {"six-x": ["sha256:0a", "sha512:0B", "sha256:0c"]}


def test_directories_of_packages_are_found(tmp_path: Path) -> None:
    options = "--find-links wheels\n-f https://example.org/wheels\n"
    write(tmp_path, {"requirements.txt": options, "wheels/a-1-py3-none-any.whl": ""})
    assert requirements.read(tmp_path, "requirements.txt").links == ["wheels"]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"requirements.txt": "six\n\n./missing\n"}, ":3: 'missing' is not in the project"),
        ({"requirements.txt": "../outside\n"}, ":1: '../outside' is not in the project"),
        ({"requirements.txt": "-e /srv/x\n"}, ":1: '/srv/x' is not in the project"),
        ({"requirements.txt": "./a\n", "a/x.py": ""}, ":1: 'a' cannot be installed: it has no "),
        ({"requirements.txt": "-f ./wheels\n"}, ":1: 'wheels' is not in the project"),
        ({"requirements.txt": "six \\\n\n-r no.txt\n"}, ":3: 'no.txt' is not a file inside"),
        ({"requirements.txt": b"six\n# caf\xe9\n"}, ": line 2 is not UTF-8"),
        ({"requirements.txt": b"\xff\xfe\x00"}, ": line 1 is not UTF-16"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    tmp_path: Path, files: Mapping[str, str | bytes], problem: str
) -> None:
    write(tmp_path, files)
    with pytest.raises(UsageError) as error:
        requirements.read(tmp_path, "requirements.txt")
    assert f"{tmp_path}/requirements.txt{problem}" in error.value.message
    assert not error.value.message.endswith("-")
