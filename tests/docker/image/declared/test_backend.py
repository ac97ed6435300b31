"""The few files of a package that a build backend needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from caliban.docker.image.declared import backend
from caliban.errors import UsageError
from tests.conftest import Unprivileged
from tests.docker.image.test_project import write

CODE = {"digits/__init__.py": "", "digits/train.py": "", "digits/version.py": "V = '1'\n"}
SETUP = "from setuptools import setup\n"


def files(folder: Path, root: str = ".") -> set[str]:
    """The files, without their folders."""
    return {name for name in backend.files(folder, root) if (folder / name).is_file()}


@pytest.mark.parametrize(
    ("setup", "needed"),
    [
        ("setup(long_description=open('notes.md').read())", {"notes.md"}),
        ("open(os.path.join(here, 'digits', 'version.py'))", {"digits/version.py"}),
        ("(Path(__file__).parent / 'digits/version.py').read_text()", {"digits/version.py"}),
        ("name = 'digits'; open(f'{name}/version.py')", {"digits/version.py"}),
        ("glob.glob('reqs/*.txt')", {"reqs/a.txt", "reqs/b.txt", "needs-cpu.txt"}),
        ("[f'reqs/{each}.txt' for each in ('a', 'c')]", {"reqs/a.txt"}),
        ("open(kind + '-needs' + '.txt')", set()),
        ("open('needs-' + kind + '.txt')", {"needs-cpu.txt"}),
        (
            "from digits.version import V",
            {"digits/__init__.py", "digits/version.py", "digits/train.py"},
        ),
        ("import versioning", {"versioning.py"}),
        ("setup(package_data={'digits': ['data/*.bin']})", set()),
        ("open('large.txt')", set()),
        ("this is = for 'notes.md' another Python", {"notes.md"}),
    ],
)
def test_what_a_setup_py_reads_is_found_by_what_it_names(
    tmp_path: Path, setup: str, needed: set[str]
) -> None:
    others = {"notes.md": "", "reqs/a.txt": "", "reqs/b.txt": "", "versioning.py": ""}
    others["needs-cpu.txt"] = ""
    data = {"digits/data/x.bin": "", "data/y": "", "large.txt": "x" * ((1 << 20) + 1)}
    write(tmp_path, {"setup.py": f"{SETUP}{setup}\n", "README.md": "", **CODE, **others, **data})
    assert files(tmp_path) == {"setup.py", "README.md", *needed}


def test_beside_a_mere_setup_cfg_there_has_to_be_a_pyproject_toml(tmp_path: Path) -> None:
    declared = "[metadata]\nname = x\n"
    write(tmp_path, {"setup.cfg": declared, "libs/a/setup.cfg": declared})
    assert backend.placeholders(tmp_path, ".") == ["pyproject.toml"]
    assert backend.placeholders(tmp_path, "libs/a") == ["libs/a/pyproject.toml"]
    write(tmp_path, {"setup.py": ""})
    assert backend.placeholders(tmp_path, ".") == []


@pytest.mark.parametrize(
    ("declaring", "needed"),
    [
        (
            {"setup.cfg": "[metadata]\nversion = attr: digits.version.V\n"},
            {"digits/__init__.py", "digits/version.py"},
        ),
        (
            {"setup.cfg": "[options]\ninstall_requires = file: reqs/a.txt, b.txt\n"},
            {"reqs/a.txt", "b.txt"},
        ),
        (
            {"pyproject.toml": "[tool.setuptools]\ndynamic.version.attr = 'digits.version.V'\n"},
            {"digits/__init__.py", "digits/version.py"},
        ),
        (
            {"pyproject.toml": "[project]\nreadme = 'docs/index.md'\nlicense.file = 'COPYING'\n"},
            {"docs/index.md", "COPYING"},
        ),
    ],
)
def test_so_is_what_settings_name(
    tmp_path: Path, declaring: Mapping[str, str], needed: set[str]
) -> None:
    others = {"reqs/a.txt": "", "b.txt": "", "docs/index.md": "", "docs/x.md": "", "COPYING": ""}
    write(tmp_path, {**declaring, **CODE, **others})
    assert files(tmp_path) == {*declaring, *needed}


def test_folders_of_packages_are_there_without_their_code(tmp_path: Path) -> None:
    code = {"src/digits/sub/a.py": "", "src/digits/__init__.py": "", "src/space/b/c.py": ""}
    write(tmp_path, {"pyproject.toml": "[project]\n", **code})
    assert {*backend.files(tmp_path, ".")} == {
        *("pyproject.toml", "src/digits", "src/digits/sub", "src/space/b"),
    }
    assert backend.placeholders(tmp_path, ".") == ["src/digits/__init__.py"]


def test_a_package_in_a_folder_has_its_own(tmp_path: Path) -> None:
    inner = {f"libs/a/{name}": text for name, text in CODE.items()}
    write(tmp_path, {"libs/a/setup.py": "open('VERSION')", "libs/a/VERSION": "1", **inner})
    assert files(tmp_path, "libs/a") == {
        *("libs/a/setup.py", "libs/a/VERSION"),
    }
    assert backend.placeholders(tmp_path, "libs/a") == ["libs/a/digits/__init__.py"]


@pytest.mark.parametrize(
    ("declaring", "found"),
    [
        ({"setup.py": "setup()"}, []),
        ({"setup.py": "setup(packages=find_packages())"}, ["a", "b"]),
        ({"pyproject.toml": "[build-system]\nbuild-backend = 'setuptools.build_meta'\n"}, []),
        ({"pyproject.toml": "[build-system]\nbuild-backend = 'hatchling.build'\n"}, ["a", "b"]),
    ],
)
def test_setuptools_is_not_asked_to_choose_among_several_packages(
    tmp_path: Path, declaring: Mapping[str, str], found: list[str]
) -> None:
    write(tmp_path, {**declaring, "a/__init__.py": "", "b/__init__.py": "", "data/x": ""})
    assert backend.packages(tmp_path) == found


def test_what_is_edited_is_not_among_them(tmp_path: Path) -> None:
    write(tmp_path, {"setup.py": "setup(name='digits', packages=['digits'])", **CODE})
    assert files(tmp_path) == {"setup.py"}


@pytest.mark.parametrize(
    "declaring",
    [
        {"setup.py": "setup(version=open('digits/__init__.py').read())"},
        {"setup.cfg": "[metadata]\nversion = attr: digits.V\n"},
        {"pyproject.toml": "[tool.hatch.version]\npath = 'digits/__init__.py'\n"},
        {"pyproject.toml": "[build-system]\nbuild-backend = 'flit_core.buildapi'\n"},
    ],
)
def test_a_version_that_stands_in_the_package_is_read_there(
    tmp_path: Path, declaring: Mapping[str, str]
) -> None:
    write(tmp_path, {**declaring, **CODE})
    assert "digits/__init__.py" in files(tmp_path)
    assert "digits/__init__.py" not in backend.placeholders(tmp_path, ".")


@pytest.mark.parametrize("mode", [0, 0o444])
def test_a_folder_that_may_not_be_read_is_passed_over(
    unprivileged: Unprivileged, mode: int
) -> None:
    def attempt(folder: Path) -> str:
        data = {"data/notes.md": "", "data/__init__.py": ""}
        write(folder, {"setup.py": "open('data/notes.md')", **data})
        (folder / "data").chmod(mode)
        try:
            return " ".join(backend.files(folder, "."))
        finally:
            (folder / "data").chmod(0o777)

    assert unprivileged(attempt) == "setup.py data"


def test_a_setup_py_that_may_not_be_read_is_named(unprivileged: Unprivileged) -> None:
    def attempt(folder: Path) -> str:
        write(folder, {"setup.py": "setup()", "a/__init__.py": "", "b/__init__.py": ""})
        (folder / "setup.py").chmod(0)
        said = []
        for read in (
            backend.packages,
            backend.python_requires,
            lambda top: [*backend.files(top, ".")],
        ):
            try:
                read(folder)
            except UsageError as error:
                said.append(error.message.rpartition("/")[2])
        return " ".join(said)

    assert unprivileged(attempt) == " ".join(["setup.py: Permission denied"] * 3)
