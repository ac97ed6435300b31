"""Where the files of jobs go on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from caliban.errors import CalibanError
from caliban.model.image import OUTPUTS_MARK
from caliban.platform.outputs import GroupOutputs, group_directory, make
from tests.conftest import Unprivileged


def below(folder: Path) -> set[str]:
    """All that is in a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("night", "night"),
        ("the 2nd, 'new' one", "the 2nd, 'new' one"),
        ("a/b", "a_b"),
        ("../../etc", ".._.._etc"),
        ("/", "_"),
        (".", "_."),
        ("..", "_.."),
        ("x" * 300, "x" * 200),
        ("日" * 100, "日" * 66),
    ],
)
def test_any_name_of_a_group_makes_a_directory(tmp_path: Path, group: str, name: str) -> None:
    found = group_directory(tmp_path, group)
    assert found == tmp_path / name
    make(found / "1")
    assert (found / "1").resolve().relative_to(tmp_path).parts == (name, "1")


def test_a_job_is_never_given_what_is_there_already(tmp_path: Path) -> None:
    assert GroupOutputs.find(tmp_path, "g").of_job(7, "abcdef0123") == tmp_path / "g/7"
    (tmp_path / "g/7").mkdir(parents=True)
    found = GroupOutputs.find(tmp_path, "g")
    assert found.of_job(7, "abcdef0123") == tmp_path / "g/7-abcdef"
    assert found.of_job(8, "abcdef0123") == tmp_path / "g/8"
    with pytest.raises(CalibanError, match="File exists"):
        make(tmp_path / "g/7")


class TestMake:
    def test_makes_all_that_is_missing_and_marks_the_top_of_it_once(self, tmp_path: Path) -> None:
        make(tmp_path / "a/b/night/7")
        make(tmp_path / "a/b/night/8")
        make(tmp_path / "a/b/day/9")
        assert {each for each in below(tmp_path) if each.endswith(OUTPUTS_MARK)} == {
            f"a/{OUTPUTS_MARK}"
        }
        assert list((tmp_path / "a/b/day/9").iterdir()) == []

    def test_marks_the_group_where_the_directory_was_there_before(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        make(tmp_path / "mine/night/7")
        make(tmp_path / "mine/night/8")
        assert below(tmp_path / "mine") == {
            *("night", f"night/{OUTPUTS_MARK}", "night/7", "night/8"),
        }

    def test_never_marks_what_it_has_not_made(self, tmp_path: Path) -> None:
        (tmp_path / "trainer").mkdir()  # code, and a group of the same name
        make(tmp_path / "trainer/7")
        assert below(tmp_path / "trainer") == {"7", f"7/{OUTPUTS_MARK}"}

    def test_says_why_it_cannot(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path, reason in (
            (tmp_path / "file/g/7", "Not a directory"),
            (tmp_path / ("x" * 256) / "g/7", "File name too long"),
        ):
            with pytest.raises(CalibanError) as error:
                make(path)
            assert error.value.message == f"cannot make the output directory {path}: {reason}"

    def test_says_that_it_may_not(self, unprivileged: Unprivileged) -> None:
        def attempt(folder: Path) -> str:
            folder.chmod(0o500)
            try:
                make(folder / "g/7")
            except CalibanError as error:
                return error.message
            finally:
                folder.chmod(0o700)
            return "it was made"

        assert unprivileged(attempt).endswith("/g/7: Permission denied")
