"""From the files of a project to the plan of its image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from caliban.docker.image import project
from caliban.docker.image.project import Messages
from caliban.errors import UsageError
from caliban.model.image import DEFAULT_BASE_IMAGES, ImagePlan, Mode
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
) -> tuple[ImagePlan, Messages]:
    return project.plan(folder, mode, "base", CODE, extras, apt_packages, directories)


def test_a_project_need_not_declare_anything(tmp_path: Path) -> None:
    assert plan(tmp_path) == (ImagePlan(Mode.CPU, "base", str(tmp_path), CODE), Messages())


def test_all_that_is_given_is_in_the_plan(tmp_path: Path) -> None:
    write(tmp_path, {"requirements.txt": "tqdm\n", "setup.py": "", "data/x": "", "models/y": ""})
    planned, said = plan(tmp_path, Mode.GPU, ("dev", "gpu"), ("b", "a", "b"), ("models", "data"))
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
        packages=("-e .",),
    )
    assert said == Messages(
        [
            "Dependencies: setup.py; requirements.txt",
            "Installed from the project itself: -e .",
        ]
    )


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
        "line", ["# -r other.txt", "tqdm -r other.txt", "--no-index", "-i other"]
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
        assert error.value.message == f"{file}:1: '{named}' is not a file inside the project"


class TestExtras:
    PYPROJECT = "[project]\nname = 'x'\n[project.optional-dependencies]\ngpu = []\ndev = []\n"

    def test_the_mode_and_those_asked_for_are_installed_once_each(self, tmp_path: Path) -> None:
        write(tmp_path, {"pyproject.toml": self.PYPROJECT})
        planned, said = plan(tmp_path, Mode.GPU, ("dev", "gpu", "dev"))
        assert (planned.project, planned.extras) == ("pyproject.toml", ("gpu", "dev"))
        assert said == Messages(["Dependencies: pyproject.toml with gpu, dev"])

    def test_that_of_the_mode_is_left_out_with_a_warning_where_there_is_none(
        self, tmp_path: Path
    ) -> None:
        write(tmp_path, {"pyproject.toml": self.PYPROJECT})
        planned, said = plan(tmp_path, Mode.CPU, ("dev",))
        assert planned.extras == ("dev",)
        assert said.warnings == [
            "pyproject.toml declares no extra 'cpu'; nothing more is installed"
        ]

    def test_another_that_is_not_declared_is_refused_with_those_that_are(
        self, tmp_path: Path
    ) -> None:
        write(tmp_path, {"pyproject.toml": f"{self.PYPROJECT}[dependency-groups]\ntest = []\n"})
        with pytest.raises(UsageError) as error:
            plan(tmp_path, extras=("tests",))
        assert error.value.message == (
            f"{tmp_path}/pyproject.toml declares no extra 'tests' (--extras tests)"
        )
        assert error.value.hint == (
            "It declares the extras dev, gpu and the dependency groups test."
        )

    def test_a_dependency_group_is_asked_for_in_the_same_way(self, tmp_path: Path) -> None:
        groups = "[dependency-groups]\ncpu = []\nDev_Tools = [{include-group = 'cpu'}]\n"
        write(tmp_path, {"pyproject.toml": f"[project]\nname = 'x'\n{groups}"})
        planned, said = plan(tmp_path, extras=("dev-tools",))
        assert (planned.extras, planned.groups) == ((), ("cpu", "Dev_Tools"))
        assert said.warnings == []

    def test_groups_need_no_project(self, tmp_path: Path) -> None:
        write(tmp_path, {"pyproject.toml": "[dependency-groups]\ncpu = ['six']\ndev = []\n"})
        planned, said = plan(tmp_path)
        assert (planned.project, planned.groups) == ("", ("cpu",))
        assert said.notes == ["Dependencies: pyproject.toml with cpu"]

    def test_categories_of_a_pipfile_are_such_sets(self, tmp_path: Path) -> None:
        write(tmp_path, {"Pipfile": "[packages]\n[dev-packages]\n[gpu]\n[docs]\n"})
        assert plan(tmp_path, Mode.GPU, ("dev",))[0].groups == ("gpu", "dev")
        with pytest.raises(UsageError, match=r"Pipfile declares no extra 'packages'"):
            plan(tmp_path, extras=("packages",))

    def test_where_only_the_backend_knows_them_those_that_are_named_count(
        self, tmp_path: Path
    ) -> None:
        dynamic = "[project]\nname = 'x'\ndynamic = ['optional-dependencies']\n"
        write(tmp_path, {"pyproject.toml": dynamic})
        assert plan(tmp_path, extras=("dev",))[0].extras == ("dev",)

    def test_what_a_setup_py_declares_is_not_known_beforehand(self, tmp_path: Path) -> None:
        write(tmp_path, {"setup.py": "import setuptools\n"})
        planned, said = plan(tmp_path, Mode.CPU, ("anything",))
        assert (planned.project, planned.extras) == ("setup.py", ("cpu", "anything"))
        assert said.warnings == []

    def test_without_a_declaration_they_have_no_effect(self, tmp_path: Path) -> None:
        write(tmp_path, {"requirements.txt": "tqdm\n"})
        planned, said = plan(tmp_path, extras=("a", "b"))
        assert (planned.project, planned.extras) == ("", ())
        assert said.warnings == [
            "--extras a b has no effect: there is no pyproject.toml, setup.py, setup.cfg or "
            "Pipfile that declares them"
        ]


class TestDeclaration:
    def test_a_pyproject_for_tools_only_declares_nothing(self, tmp_path: Path) -> None:
        write(tmp_path, {"pyproject.toml": "[tool.ruff]\nline-length = 100\n"})
        assert plan(tmp_path) == (ImagePlan(Mode.CPU, "base", str(tmp_path), CODE), Messages())

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

    @pytest.mark.parametrize(
        ("files", "found"),
        [
            (("uv.lock", "poetry.lock", "pyproject.toml"), ("pyproject.toml", "uv.lock")),
            (("poetry.lock", "pyproject.toml", "setup.py"), ("pyproject.toml", "poetry.lock")),
            (("pyproject.toml", "Pipfile", "Pipfile.lock"), ("Pipfile", "Pipfile.lock")),
            (("pyproject.toml", "Pipfile"), ("pyproject.toml", "")),
            (("Pipfile", "setup.py"), ("Pipfile", "Pipfile.lock")),
            (("setup.py", "setup.cfg", "uv.lock"), ("setup.py", "")),
            (("setup.cfg", "Pipfile.lock"), ("setup.cfg", "")),
            (("uv.lock", "poetry.lock", "Pipfile.lock"), ("", "")),
        ],
    )
    def test_one_file_declares_the_project_and_others_are_said_to_be_ignored(
        self, tmp_path: Path, files: tuple[str, ...], found: tuple[str, str]
    ) -> None:
        contents = {
            "pyproject.toml": "[project]\nname = 'x'\n",
            "setup.cfg": "[metadata]\nname = x\n",
            "uv.lock": "version = 1\npackage = []\n",
            "Pipfile.lock": '{"_meta": {"hash": {"sha256": "0"}}}',
        }
        write(tmp_path, {name: contents.get(name, "") for name in files})
        planned, said = plan(tmp_path)
        assert (planned.project, planned.lock_file) == found
        ignored = {
            line.removeprefix("Ignored: ").partition(",")[0]
            for line in said.notes
            if line.startswith("Ignored: ")
        }
        # What is installed itself is built with all of them.
        assert ignored == {*files} - {*found} - {"setup.cfg", "pyproject.toml"}

    def test_poetrys_own_way_of_declaring_needs_poetry(self, tmp_path: Path) -> None:
        write(tmp_path, {"pyproject.toml": "[tool.poetry.dependencies]\npython = '^3.11'\n"})
        planned, said = plan(tmp_path)
        assert (planned.project, planned.lock_file) == ("pyproject.toml", "poetry.lock")
        assert planned.python == ">=3.11,<4"
        assert said.notes == ["Dependencies: pyproject.toml (there is no poetry.lock)"]

    def test_a_setup_cfg_for_tools_only_declares_nothing(self, tmp_path: Path) -> None:
        write(tmp_path, {"setup.cfg": "[flake8]\nmax-line-length = 100\n"})
        assert plan(tmp_path)[0].project == ""

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("name = x\n[metadata]\n", "line 1 stands before the first section"),
            ("[metadata]\nname = x\n\n[metadata\n", "neither a section .* in line 4"),
            ("[metadata]\nname = x\nnonsense\n", "neither a section nor name = value in line 3"),
            ("[metadata]\nname = x\n[metadata]\n", "section \\[metadata\\] comes again in line 3"),
            ("[metadata]\nname = x\nname = y\n", "'name' of \\[metadata\\] comes again in line 3"),
            ("[metadata\nname = x\n", "line 1 stands before the first section"),
            (b"[metadata]\nname = \xff\n", "line 2 is not UTF-8"),
        ],
    )
    @pytest.mark.parametrize("beside", [{}, {"setup.py": ""}, {"requirements.txt": "six\n"}])
    def test_a_setup_cfg_that_nobody_can_read_is_an_error(
        self, tmp_path: Path, content: str | bytes, reason: str, beside: Mapping[str, str]
    ) -> None:
        write(tmp_path, {"setup.cfg": content, **beside})
        with pytest.raises(UsageError, match=rf"{tmp_path}/setup.cfg.*: .*{reason}"):
            plan(tmp_path)

    DECLARING = (
        *("requirements.txt", "pyproject.toml", "setup.py", "setup.cfg", "Pipfile"),
        *("uv.lock", "poetry.lock", "Pipfile.lock"),
        *("environment.yml", "environment.yaml", ".python-version"),
    )

    @pytest.mark.parametrize("name", DECLARING)
    def test_a_link_to_nowhere_does_not_count_as_absent(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).symlink_to("../gone/file")
        with pytest.raises(UsageError) as error:
            plan(tmp_path)
        assert error.value.message == (
            f"{tmp_path / name} is a link to ../gone/file, which does not exist"
        )

    @pytest.mark.parametrize("name", DECLARING)
    def test_a_folder_does_not_count_as_absent(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()
        with pytest.raises(UsageError) as error:
            plan(tmp_path)
        assert error.value.message == f"{tmp_path / name} is not a file"

    def test_a_link_to_a_file_is_that_file(self, tmp_path: Path) -> None:
        write(tmp_path, {"deps/all.txt": "six\n"})
        (tmp_path / "requirements.txt").symlink_to("deps/all.txt")
        assert plan(tmp_path)[0].requirements == ("requirements.txt",)

    def test_requirements_are_ignored_where_a_lock_counts(self, tmp_path: Path) -> None:
        lock = {"uv.lock": "version = 1\npackage = []\n"}
        pyproject = {"pyproject.toml": "[project]\nname = 'x'\n"}
        write(tmp_path, {"requirements.txt": "six\n", **lock, **pyproject})
        planned, said = plan(tmp_path)
        assert planned.requirements == ()
        assert said.notes == [
            "Dependencies: pyproject.toml, locked by uv.lock",
            "Ignored: requirements.txt, because uv.lock says what is installed",
        ]

    @pytest.mark.parametrize("name", ["pdm.lock", "pylock.toml", "pixi.toml", "conda-lock.yml"])
    def test_files_of_tools_that_are_not_used_are_told(self, tmp_path: Path, name: str) -> None:
        write(tmp_path, {name: ""})
        [line] = plan(tmp_path)[1].notes
        assert line.startswith(f"Ignored: {name}, because caliban does not read it")

    @pytest.mark.parametrize("name", ["environment.yml", "environment.yaml"])
    def test_a_conda_environment_goes_with_everything_else(self, tmp_path: Path, name: str) -> None:
        environment = (
            "channels: [bioconda]\nvariables: {A: b}\n"
            "dependencies:\n- python=3.11\n- pip:\n  - idna\n  - -r more.txt\n  - -e .\n"
        )
        write(
            tmp_path,
            {
                name: environment,
                "requirements.txt": "six\n",
                "more.txt": "tqdm\n",
                "pyproject.toml": "[project]\nname = 'x'\nrequires-python = '>=3.12'\n",
            },
        )
        planned, said = plan(tmp_path)
        assert planned.conda == ("--channel", "bioconda", "python=3.11")
        assert planned.pip == ("idna", "-r more.txt", "-e .")
        assert planned.requirements == ("requirements.txt", "more.txt")
        # conda's Python is the one that there is.
        assert (planned.project, planned.packages, planned.python) == (
            *("pyproject.toml", ("-e .",), ""),
        )
        assert said == Messages(
            [
                f"Dependencies: {name}; pyproject.toml; requirements.txt with more.txt",
                "Installed from the project itself: -e .",
            ],
            [f"'variables' in {name} has no effect"],
        )


class TestPackages:
    BUILT = "[project]\nname = 'x'\n[build-system]\nrequires = ['setuptools']\n"

    @pytest.mark.parametrize(
        ("files", "packages", "directories"),
        [
            ({"pyproject.toml": BUILT, "x/a.py": ""}, (), ()),
            ({"pyproject.toml": BUILT, "src/x/a.py": ""}, ("-e .",), ("src",)),
            ({"pyproject.toml": "[project]\nname = 'x'\n", "src/x/a.py": ""}, (), ()),
            (
                {"pyproject.toml": f"[project.scripts]\nx = 'x:a'\n{BUILT}", "x/__init__.py": ""},
                ("-e .",),
                ("x",),
            ),
            (
                {"pyproject.toml": "[project]\nname = 'x'\n", "requirements.txt": ".[a]\n"},
                ("-e .[a]",),
                (),
            ),
            (
                {
                    "requirements.txt": "-e ./libs/x\n./libs/y\n",
                    "libs/x/setup.py": "",
                    "libs/y/setup.py": "",
                },
                ("-e ./libs/x", "./libs/y"),
                ("libs/x",),
            ),
            (
                {"setup.py": "packages=['x', 'y']", "x/__init__.py": "", "y/__init__.py": ""},
                ("-e .",),
                ("x", "y"),
            ),
        ],
    )
    def test_the_projects_own_are_installed_and_the_code_of_editable_ones_is_copied(
        self,
        tmp_path: Path,
        files: Mapping[str, str],
        packages: tuple[str, ...],
        directories: tuple[str, ...],
    ) -> None:
        write(tmp_path, {"trainer/train.py": "", **files})
        code = Module(Kind.PYTHON_FILE, "trainer/train.py", "trainer")
        planned, _ = project.plan(tmp_path, Mode.CPU, "base", code)
        assert (planned.packages, planned.directories) == (packages, directories)
        assert project.plan(tmp_path, Mode.CPU, "base", None)[0].directories == ()
        whole, _ = project.plan(tmp_path, Mode.CPU, "base", CODE)
        assert whole.directories == ()

    def test_a_module_in_src_needs_the_project_to_be_installed(self, tmp_path: Path) -> None:
        write(tmp_path, {"src/x/train.py": ""})
        code = Module(Kind.PYTHON_MODULE, "x.train", "src")
        with pytest.raises(UsageError, match=r"finds it only once the project is installed"):
            project.plan(tmp_path, Mode.CPU, "base", code)
        write(tmp_path, {"pyproject.toml": self.BUILT})
        assert project.plan(tmp_path, Mode.CPU, "base", code)[0].packages == ("-e .",)


class TestPython:
    DEFAULT = DEFAULT_BASE_IMAGES[Mode.CPU]

    @pytest.mark.parametrize(
        ("files", "base", "python"),
        [
            ({}, "3.12", ""),
            ({".python-version": "3.11.4\n"}, "3.11", "3.11"),
            ({".python-version": "# ours\ncpython-3.13\n"}, "3.13", "3.13"),
            ({"pyproject.toml": "[project]\nrequires-python = '>=3.9'\n"}, "3.12", ">=3.9"),
            ({"pyproject.toml": "[project]\nrequires-python = '<3.12'\n"}, "3.11", "<3.12"),
            ({"pyproject.toml": "[project]\nrequires-python = '>=3.13.1'\n"}, "3.14", ">=3.13.1"),
            ({"setup.py": "setup(python_requires='~=3.10.0')\n"}, "3.10", "~=3.10.0"),
            ({"setup.cfg": "[options]\npython_requires = >=3.13,<3.14\n"}, "3.13", ">=3.13,<3.14"),
            ({"Pipfile": "[requires]\npython_full_version = '3.11.2'\n"}, "3.11", "3.11"),
        ],
    )
    def test_the_default_base_image_has_what_is_asked_for_and_others_get_it(
        self, tmp_path: Path, files: Mapping[str, str], base: str, python: str
    ) -> None:
        write(tmp_path, files)
        planned, _ = project.plan(tmp_path, Mode.CPU, self.DEFAULT, CODE)
        assert (planned.base_image, planned.python) == (f"python:{base}-slim-bookworm", "")
        other, _ = project.plan(tmp_path, Mode.CPU, "base", CODE)
        assert (other.base_image, other.python) == ("base", python)

    def test_the_default_one_gets_what_no_such_image_has(self, tmp_path: Path) -> None:
        write(tmp_path, {".python-version": "3.8\n"})
        planned, _ = project.plan(tmp_path, Mode.CPU, self.DEFAULT, CODE)
        assert (planned.base_image, planned.python) == (self.DEFAULT, "3.8")

    def test_a_request_that_says_nothing_is_warned_of(self, tmp_path: Path) -> None:
        write(tmp_path, {".python-version": "my-environment\n"})
        planned, said = plan(tmp_path)
        assert planned.python == ""
        assert said.warnings == [
            ".python-version is ignored: 'my-environment' is not a version like 3.12"
        ]

    def test_what_decides_is_said(self, tmp_path: Path) -> None:
        write(tmp_path, {".python-version": "3.11\n"})
        assert plan(tmp_path)[1].notes == ["Python: 3.11, as .python-version says"]
        _, said = project.plan(tmp_path, Mode.CPU, self.DEFAULT, CODE)
        assert said.notes == ["Python: 3.11, as .python-version says, on python:3.11-slim-bookworm"]

    @pytest.mark.parametrize(
        ("named", "required", "problem"),
        [
            (
                "3.9",
                ">=3.10",
                "asks for Python 3.9, and requires-python of pyproject.toml for >=3.10",
            ),
            ("", ">=4", "no version of Python satisfies requires-python of pyproject.toml, >=4"),
            ("", "newest", "'newest' does not say which versions of Python are wanted"),
        ],
    )
    def test_contradictions_are_refused(
        self, tmp_path: Path, named: str, required: str, problem: str
    ) -> None:
        write(tmp_path, {"pyproject.toml": f"[project]\nrequires-python = '{required}'\n"})
        if named:
            write(tmp_path, {".python-version": named})
        with pytest.raises(UsageError) as error:
            plan(tmp_path)
        assert problem in error.value.message


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
