"""From the files of a project to the plan of its image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from caliban.docker import project
from caliban.errors import UsageError
from caliban.model.image import ImagePlan, Mode
from caliban.model.module import Kind, Module

CODE = Module(Kind.PYTHON_FILE, "train.py", ".")


def write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def plan(
    folder: Path,
    mode: Mode = Mode.CPU,
    extras: tuple[str, ...] = (),
    apt_packages: tuple[str, ...] = (),
    directories: tuple[str, ...] = (),
) -> tuple[ImagePlan, list[str]]:
    return project.plan(folder, mode, "base", CODE, extras, apt_packages, directories)


def test_a_project_need_not_declare_anything(tmp_path: Path) -> None:
    assert plan(tmp_path) == (ImagePlan(Mode.CPU, "base", str(tmp_path), CODE), [])


def test_all_that_is_given_is_in_the_plan(tmp_path: Path) -> None:
    write(tmp_path, {"requirements.txt": "tqdm\n", "setup.py": "", "data/x": "", "models/y": ""})
    planned, warnings = plan(
        tmp_path, Mode.GPU, ("dev", "gpu"), ("b", "a", "b"), ("models", "data")
    )
    assert planned == ImagePlan(
        mode=Mode.GPU,
        base_image="base",
        directory=str(tmp_path),
        module=CODE,
        requirements=("requirements.txt",),
        project="setup.py",
        extras=("gpu", "dev"),
        apt_packages=("a", "b"),
        directories=("models", "data"),
    )
    assert warnings == []


class TestRequirements:
    def of(self, folder: Path) -> tuple[str, ...]:
        return plan(folder)[0].requirements

    @pytest.mark.parametrize(
        "line",
        [
            "-r other.txt",
            "-c other.txt",
            "--requirement other.txt",
            "--requirement=other.txt",
            "--constraint other.txt",
            "--constraint=other.txt",
            "  -r   other.txt  # the rest",
            "-r ./other.txt",
            "-r folder/../other.txt",
            "-rother.txt",
        ],
    )
    def test_a_file_that_they_name_comes_with_them(self, tmp_path: Path, line: str) -> None:
        write(tmp_path, {"requirements.txt": f"tqdm\n{line}\n", "other.txt": ""})
        assert self.of(tmp_path) == ("requirements.txt", "other.txt")

    @pytest.mark.parametrize(
        "line", ["# -r other.txt", "tqdm -r other.txt", "-e other.txt", "--no-index", "-i other"]
    )
    def test_other_lines_name_no_file(self, tmp_path: Path, line: str) -> None:
        write(tmp_path, {"requirements.txt": f"{line}\n"})
        assert self.of(tmp_path) == ("requirements.txt",)

    def test_files_name_others_relative_to_themselves_and_each_comes_once(
        self, tmp_path: Path
    ) -> None:
        write(
            tmp_path,
            {
                "requirements.txt": "-r parts/base.txt\n-c limits.txt\n",
                "parts/base.txt": "-r more.txt\n-c ../limits.txt\n",
                "parts/more.txt": "-r base.txt\n-r ../requirements.txt\n",
                "limits.txt": "tqdm<5\n",
            },
        )
        assert self.of(tmp_path) == (
            *("requirements.txt", "parts/base.txt", "limits.txt", "parts/more.txt"),
        )

    @pytest.mark.parametrize(
        "line", ["-r https://example.org/more.txt", "-c http://example.org/limits.txt"]
    )
    def test_one_on_the_web_is_left_to_the_installer(self, tmp_path: Path, line: str) -> None:
        write(tmp_path, {"requirements.txt": f"{line}\n"})
        assert self.of(tmp_path) == ("requirements.txt",)

    @pytest.mark.parametrize("named", ["missing.txt", "../outside.txt", "folder", "{}/outside.txt"])
    def test_one_that_cannot_be_copied_is_refused(self, tmp_path: Path, named: str) -> None:
        write(tmp_path, {"outside.txt": "", "project/folder/x": ""})
        named = named.format(tmp_path)
        write(tmp_path / "project", {"requirements.txt": f"-r {named}\n"})
        with pytest.raises(UsageError) as error:
            plan(tmp_path / "project")
        file = tmp_path / "project" / "requirements.txt"
        assert error.value.message == f"{file}: '{named}' is not a file inside the project"

    def test_they_must_be_text(self, tmp_path: Path) -> None:
        write(tmp_path, {"requirements.txt": b"\xff\xfe"})
        with pytest.raises(UsageError, match=r"cannot read .*/requirements\.txt"):
            plan(tmp_path)


class TestExtras:
    PYPROJECT = "[project]\nname = 'x'\n[project.optional-dependencies]\ngpu = []\ndev = []\n"

    def test_the_mode_and_those_asked_for_are_installed_once_each(self, tmp_path: Path) -> None:
        write(tmp_path, {"pyproject.toml": self.PYPROJECT})
        planned, warnings = plan(tmp_path, Mode.GPU, ("dev", "gpu", "dev"))
        assert (planned.project, planned.extras) == ("pyproject.toml", ("gpu", "dev"))
        assert warnings == []

    def test_those_that_are_not_declared_are_left_out_with_a_warning(self, tmp_path: Path) -> None:
        write(tmp_path, {"pyproject.toml": self.PYPROJECT})
        planned, warnings = plan(tmp_path, Mode.CPU, ("dev", "test"))
        assert planned.extras == ("dev",)
        assert warnings == [
            f"pyproject.toml declares no extra '{extra}'; nothing more is installed"
            for extra in ("cpu", "test")
        ]

    def test_what_a_setup_py_declares_is_not_known_beforehand(self, tmp_path: Path) -> None:
        write(tmp_path, {"setup.py": "import setuptools\n"})
        planned, warnings = plan(tmp_path, Mode.CPU, ("anything",))
        assert (planned.project, planned.extras) == ("setup.py", ("cpu", "anything"))
        assert warnings == []

    def test_without_a_declaration_they_have_no_effect(self, tmp_path: Path) -> None:
        write(tmp_path, {"requirements.txt": "tqdm\n"})
        planned, warnings = plan(tmp_path, extras=("a", "b"))
        assert (planned.project, planned.extras) == ("", ())
        assert warnings == ["--extras a b has no effect: there is no setup.py or pyproject.toml"]


class TestDeclaration:
    def test_a_pyproject_for_tools_only_declares_nothing(self, tmp_path: Path) -> None:
        write(tmp_path, {"pyproject.toml": "[tool.ruff]\nline-length = 100\n"})
        assert plan(tmp_path) == (ImagePlan(Mode.CPU, "base", str(tmp_path), CODE), [])

    def test_beside_a_pyproject_for_tools_only_the_setup_py_counts(self, tmp_path: Path) -> None:
        write(tmp_path, {"pyproject.toml": "[tool.ruff]\n", "setup.py": ""})
        assert plan(tmp_path)[0].project == "setup.py"

    def test_a_pyproject_comes_before_a_setup_py(self, tmp_path: Path) -> None:
        write(tmp_path, {"pyproject.toml": "[project]\nname = 'x'\n", "setup.py": ""})
        assert plan(tmp_path)[0].project == "pyproject.toml"

    @pytest.mark.parametrize(
        "content",
        [
            b"[project",
            b"\xff",
            b"project = 3\n",
            b"[project]\noptional-dependencies = 3\n",
            b"[project]\noptional-dependencies = ['a']\n",
        ],
    )
    def test_a_pyproject_that_is_none_is_refused(self, tmp_path: Path, content: bytes) -> None:
        write(tmp_path, {"pyproject.toml": content})
        with pytest.raises(UsageError) as error:
            plan(tmp_path)
        assert str(tmp_path / "pyproject.toml") in error.value.message

    def test_a_setup_py_in_another_encoding_is_read(self, tmp_path: Path) -> None:
        text = "# -*- coding: latin-1 -*-\nauthor = 'Jos\xe9'\nurl = 'git+https://example.org/x'\n"
        write(tmp_path, {"setup.py": text.encode("latin-1")})
        planned, _ = plan(tmp_path)
        assert (planned.project, planned.apt_packages) == ("setup.py", ("git",))

    def test_an_environment_yml_is_said_to_have_no_effect(self, tmp_path: Path) -> None:
        write(tmp_path, {"environment.yml": "name: x\n"})
        _, warnings = plan(tmp_path)
        assert warnings == ["environment.yml is not used: conda environments are not supported yet"]


@pytest.mark.parametrize(
    ("files", "packages"),
    [
        ({"requirements.txt": "x @ git+https://example.org/x\n"}, ("a", "git")),
        (
            {"requirements.txt": "-r y.txt\n", "y.txt": "git+ssh://git@example.org/x\n"},
            ("a", "git"),
        ),
        ({"setup.py": "install_requires=['x @ git+https://example.org/x']\n"}, ("a", "git")),
        (
            {"pyproject.toml": "[project]\ndependencies = ['x @ git+https://example.org/x']\n"},
            ("a", "git"),
        ),
        ({"requirements.txt": "gitpython\n"}, ("a",)),
        ({"other.txt": "git+https://example.org/x\n"}, ("a",)),
    ],
)
def test_git_is_installed_when_a_dependency_comes_from_there(
    tmp_path: Path, files: Mapping[str, str], packages: tuple[str, ...]
) -> None:
    write(tmp_path, files)
    assert plan(tmp_path, apt_packages=("a",))[0].apt_packages == packages


class TestDirectories:
    @pytest.mark.parametrize(
        ("given", "copied"),
        [
            ("data", "data"),
            ("data/", "data"),
            ("./data", "data"),
            ("models/../data", "data"),
            ("models/stored", "models/stored"),
            ("..data", "..data"),
            ("with space", "with space"),
            (".", "."),
        ],
    )
    def test_those_inside_the_project_are_copied(
        self, tmp_path: Path, given: str, copied: str
    ) -> None:
        for name in ("data", "models/stored", "..data", "with space"):
            (tmp_path / name).mkdir(parents=True)
        assert plan(tmp_path, directories=(given,))[0].directories == (copied,)

    def test_one_may_be_given_by_its_whole_path(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        planned, _ = plan(tmp_path, directories=(str(tmp_path / "data"),))
        assert planned.directories == ("data",)

    @pytest.mark.parametrize("given", ["..", "../other", "/", "/etc", "data/../.."])
    def test_those_outside_are_refused(self, tmp_path: Path, given: str) -> None:
        (tmp_path / "other").mkdir()
        (tmp_path / "project" / "data").mkdir(parents=True)
        with pytest.raises(UsageError) as error:
            plan(tmp_path / "project", directories=(given,))
        assert error.value.message == f"--dir {given} lies outside the project"

    @pytest.mark.parametrize("given", ["missing", "file", "data/missing"])
    def test_what_is_no_directory_is_refused(self, tmp_path: Path, given: str) -> None:
        write(tmp_path, {"file": "", "data/x": ""})
        with pytest.raises(UsageError) as error:
            plan(tmp_path, directories=(given,))
        expected = f"--dir {given}: there is no directory '{given}' in {tmp_path}"
        assert error.value.message == expected
