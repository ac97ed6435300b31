"""From a plan to the commands that resolve it, and from what they print to a lock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caliban import process
from caliban.docker.image.declared import resolution
from caliban.model.image import ImagePlan, Mode


def plan(**declared: Any) -> ImagePlan:
    return ImagePlan(Mode.CPU, "base", "/project", **declared)


@pytest.mark.parametrize(
    ("declared", "command"),
    [
        ({"requirements": ("requirements.txt", "more.txt")}, "requirements.txt"),
        (
            {"project": "pyproject.toml", "extras": ("cpu",), "groups": ("dev",)},
            "pyproject.toml --extra=cpu --group=dev",
        ),
        (
            {"groups": ("dev",), "requirements": ("requirements.txt",)},
            "--group=dev requirements.txt",
        ),
    ],
)
def test_uv_resolves_all_files_together(declared: dict[str, Any], command: str) -> None:
    script = resolution.script(plan(**declared), "/python")
    assert "uv pip compile --generate-hashes" in script
    assert script.endswith(f" {command}")
    assert "--python /python" in script


@pytest.mark.parametrize(
    ("declared", "lines"),
    [
        ({"project": "setup.py", "extras": ("cpu", "dev")}, "'-e .[cpu,dev]'"),
        ({"project": "setup.cfg"}, "'-e .'"),
        ({"pip": ("six<2", "-r more.txt")}, "'six<2' '-r more.txt'"),
    ],
)
def test_what_stands_in_no_requirements_file_is_given_on_stdin(
    declared: dict[str, Any], lines: str
) -> None:
    script = resolution.script(plan(**declared), "/python")
    assert f" && printf '%s\\n' {lines} | uv pip compile " in script
    assert script.endswith(" -")


@pytest.mark.parametrize(
    ("lock", "commands"),
    [
        ("uv.lock", ["uv export --quiet --locked", "--extra=a --group=dev"]),
        ("poetry.lock", ["[ -f poetry.lock ] || ", " export --extras=a --with=dev"]),
        ("Pipfile.lock", ["pipenv verify", "pipenv lock", " --categories=default,develop"]),
    ],
)
def test_a_lock_of_the_project_is_read_by_the_tool_that_made_it(
    lock: str, commands: list[str]
) -> None:
    planned = plan(project="x", lock_file=lock, extras=("a",), groups=("dev",))
    script = resolution.script(planned, "/python")
    assert [each for each in commands if each not in script] == []
    assert "uv pip compile" not in script


def test_a_lock_has_no_comments_local_packages_or_credentials() -> None:
    printed = """\
# made by hand
--index-url https://user:secret@example.org/simple
-i https://token@example.org/simple

-e .
-e libs/a
    # via -r requirements.txt
-e file:///usr/app/libs/a ; python_version >= "3.11"
./libs/b \\
    --hash=sha256:00
../c
c @ file:///usr/app/libs/c
c[x] @ ./libs/c
six==1.17.0 \\
    --hash=sha256:01 \\
    --hash=sha256:02
x @ git+ssh://git@example.org/x@0123
y @ git+https://user:secret@example.org/y@0123
"""
    assert (
        resolution.lock(printed)
        == """\
--index-url https://example.org/simple
-i https://example.org/simple
six==1.17.0 \\
    --hash=sha256:01 \\
    --hash=sha256:02
x @ git+ssh://git@example.org/x@0123
y @ git+https://example.org/y@0123
"""
    )


def test_the_hashes_that_the_project_gives_count_and_not_those_of_the_index() -> None:
    printed = """\
Zope.Interface==7.0 ; python_version >= "3" \\
    --hash=sha256:01 \\
    --hash=sha256:02
six==1.17.0 \\
    --hash=sha256:03
"""
    given = {"zope-interface": ["sha256:02", "sha512:04"], "other": ["sha256:05"]}
    assert (
        resolution.lock(printed, given)
        == """\
Zope.Interface==7.0 ; python_version >= "3" \\
    --hash=sha256:02 \\
    --hash=sha512:04
six==1.17.0 \\
    --hash=sha256:03
"""
    )


def test_options_that_pip_takes_in_one_word_are_taken_apart_for_uv(tmp_path: Path) -> None:
    lines = "-rmore.txt\n-e.\n  -f./wheels\n-r more.txt\n--find-links=x\n-c=c.txt\nx==1 --hash=y\n"
    (tmp_path / "my requirements.txt").write_text(lines)
    script = resolution.script(plan(requirements=("my requirements.txt",)), "/python")
    before, _, _ = script.rpartition(" && uv pip compile ")
    assert process.run(["sh", "-c", f"cd {tmp_path} && {before}"]).exit_code == 0
    assert (tmp_path / "my requirements.txt").read_text() == (
        "-r more.txt\n-e .\n  -f ./wheels\n-r more.txt\n--find-links=x\n-c=c.txt\nx==1 --hash=y\n"
    )


def test_local_packages_are_installed_without_what_they_depend_on() -> None:
    planned = plan(packages=("./libs/a b[x]", "-e ./libs/c", "-e ."))
    assert resolution.install_packages(planned) == (
        "--no-deps './libs/a b[x]' --editable ./libs/c --editable ."
    )


@pytest.mark.parametrize(
    ("declared", "needs"),
    [
        ({}, False),
        ({"packages": ("-e .",), "conda": ("numpy",)}, False),
        ({"requirements": ("requirements.txt",)}, True),
        ({"project": "setup.py"}, True),
        ({"groups": ("dev",)}, True),
        ({"pip": ("six",)}, True),
    ],
)
def test_there_is_something_to_resolve_where_packages_are_declared(
    declared: dict[str, Any], needs: bool
) -> None:
    assert resolution.needs_resolution(plan(**declared)) is needs


def test_the_indexes_of_a_uv_lock_stand_before_what_uv_exports(tmp_path: Path) -> None:
    sources = ("https://b.example/simple", "https://a.example/x", "https://b.example/simple")
    lock = "".join(f'source = {{ registry = "{each}" }}\n' for each in sources)
    (tmp_path / "uv.lock").write_text(f'{lock}source = {{ virtual = "." }}\n')
    script = resolution.script(plan(project="pyproject.toml", lock_file="uv.lock"), "/python")
    before, _, _ = script.rpartition(" && uv export ")
    assert process.run(["sh", "-c", f"cd {tmp_path} && {before}"]).stdout.splitlines() == [
        "--index-url https://a.example/x",
        "--extra-index-url https://b.example/simple",
    ]
