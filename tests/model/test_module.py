"""What a command line's `module` argument means."""

from __future__ import annotations

from pathlib import Path

import pytest

from caliban.errors import UsageError
from caliban.model.module import Kind, Module, find

MODULE, FILE, SCRIPT = Kind.PYTHON_MODULE, Kind.PYTHON_FILE, Kind.SHELL_SCRIPT

FILES = (
    "mycode.py",
    "script.sh",
    "UPPER.PY",
    "my-code.py",
    "bin/tool",
    "trainer/train.py",
    "trainer/deep/down.py",
    "with space/it's.py",
    "package/__main__.py",
    "package/inner/__main__.py",
    "twice.thing",
    "twice/thing.py",
)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A directory with code of every kind."""
    for name in FILES:
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "outside.py").touch()
    return tmp_path / "project"


@pytest.mark.parametrize(
    ("argument", "module", "command"),
    [
        # The examples of the documentation.
        (
            "trainer.train",
            Module(MODULE, "trainer.train", "trainer"),
            ("python", "-m", "trainer.train"),
        ),
        (
            "trainer/train.py",
            Module(FILE, "trainer/train.py", "trainer"),
            ("python", "trainer/train.py"),
        ),
        ("mycode.py", Module(FILE, "mycode.py", "."), ("python", "mycode.py")),
        ("mycode", Module(MODULE, "mycode", "."), ("python", "-m", "mycode")),
        ("script.sh", Module(SCRIPT, "script.sh", "."), ("/bin/bash", "script.sh")),
        # Only the top folder is copied.
        (
            "trainer.deep.down",
            Module(MODULE, "trainer.deep.down", "trainer"),
            ("python", "-m", "trainer.deep.down"),
        ),
        (
            "trainer/deep/down.py",
            Module(FILE, "trainer/deep/down.py", "trainer"),
            ("python", "trainer/deep/down.py"),
        ),
        # A path may be written in other ways.
        (
            "./trainer/train.py",
            Module(FILE, "trainer/train.py", "trainer"),
            ("python", "trainer/train.py"),
        ),
        (
            "bin/../trainer//train.py",
            Module(FILE, "trainer/train.py", "trainer"),
            ("python", "trainer/train.py"),
        ),
        # Anything that is not named .py is for bash.
        ("bin/tool", Module(SCRIPT, "bin/tool", "bin"), ("/bin/bash", "bin/tool")),
        ("UPPER.PY", Module(SCRIPT, "UPPER.PY", "."), ("/bin/bash", "UPPER.PY")),
        # Names that cannot be imported can still be run.
        ("my-code.py", Module(FILE, "my-code.py", "."), ("python", "my-code.py")),
        (
            "with space/it's.py",
            Module(FILE, "with space/it's.py", "with space"),
            ("python", "with space/it's.py"),
        ),
        # Packages that can be run.
        ("package", Module(MODULE, "package", "package"), ("python", "-m", "package")),
        (
            "package.inner",
            Module(MODULE, "package.inner", "package"),
            ("python", "-m", "package.inner"),
        ),
        # A file comes before a module.
        ("twice.thing", Module(SCRIPT, "twice.thing", "."), ("/bin/bash", "twice.thing")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_code_is_found_and_started(
    code: Path, argument: str, module: Module, command: tuple[str, ...]
) -> None:
    found = find(argument, code)
    assert found == module
    assert found.command == command


@pytest.mark.parametrize(("kind", "needed"), [(MODULE, True), (FILE, True), (SCRIPT, False)])
def test_only_a_shell_script_needs_no_python(kind: Kind, needed: bool) -> None:
    assert Module(kind, "name", ".").is_python is needed


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("", "the module to run is empty"),
        ("  ", "the module to run is empty"),
        ("/etc/passwd", "'/etc/passwd' is an absolute path"),
        ("../outside.py", "'../outside.py' lies outside the project"),
        ("trainer/../../outside.py", "'trainer/../../outside.py' lies outside the project"),
        ("..", "'..' lies outside the project"),
        ("trainer", "'trainer' is a package without a __main__.py"),
        ("trainer.deep", "'trainer.deep' is a package without a __main__.py"),
        ("trainer.test", "neither a file 'trainer.test' nor a Python module 'trainer/test.py' "),
        ("my-code", "no file 'my-code' exists in "),
        ("trainer/test.py", "no file 'trainer/test.py' exists in "),
        ("trainer/train", "no file 'trainer/train' exists in "),
        ("trainer/", "no file 'trainer/' exists in "),
        (".", "no file '.' exists in "),
        ("trainer..train", "no file 'trainer..train' exists in "),
        ("mycode.py.py", "no file 'mycode.py.py' exists in "),
    ],
)
def test_what_cannot_be_run_is_wrong_usage(code: Path, argument: str, problem: str) -> None:
    with pytest.raises(UsageError) as error:
        find(argument, code)
    assert error.value.message.startswith(problem)
    assert error.value.hint


def test_a_package_that_cannot_be_run_is_answered_with_what_would_help(code: Path) -> None:
    with pytest.raises(UsageError) as error:
        find("trainer", code)
    assert error.value.hint == (
        "Name a module in it, as in 'trainer.train', or add trainer/__main__.py."
    )
