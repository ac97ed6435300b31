"""`caliban build --explain` after one build, and what is said when it is built again."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caliban.docker.image import dockerfile
from caliban.history.store import DEFAULT_URL, HistoryStore
from caliban.model.lock import Lock
from tests.conftest import Inline
from tests.docker.conftest import write
from tests.workshop import Workshop, docker

PYPROJECT = """\
[project]
name = "explained"
version = "1"
dependencies = ["six"]

[project.optional-dependencies]
plots = ["iniconfig"]
"""
FILES = {
    "trainer/__init__.py": "",
    "trainer/train.py": "import six\n",
    "trainer/go.sh": "true\n",
    "trainer/notes.log": "",
    "data/numbers": "1\n",
    "pyproject.toml": PYPROJECT,
    ".dockerignore": "**/*.tmp\n",
}
COMMAND = ("build", "--nogpu", "-d", "data", "trainer.train")
CODE, INSTALL = "Copy the code", "Install the dependencies"


@pytest.fixture
def built(workshop: Workshop, folder: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the image of a project; the working directory is that one."""
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", workshop.base("explained"))
    write(folder, FILES)
    done = inline(*COMMAND)
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(docker("inspect", done.stdout.strip()))[0]["RepoTags"]
    return next(name for name in names if name.startswith("caliban:cpu-"))


def explained(inline: Inline, *command: str) -> dict[str, Any]:
    done = inline("build", "--explain", "--json", *(command or COMMAND)[1:])
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def upgrade(home: Path) -> None:
    """Gives the project's dependencies another lock, as --upgrade_deps does."""
    [file] = (home / ".caliban/images").iterdir()
    version = json.loads(gzip.decompress(file.read_bytes()))["packages"]["six"]
    with HistoryStore.open(DEFAULT_URL) as store, store._database.reading() as connection:
        (text,) = connection.exec_driver_sql("SELECT lock FROM locks").scalars()
    with HistoryStore.open(DEFAULT_URL) as store:
        other = text.replace(f"six=={version}", "six==9.9")
        store.locks.keep("", Lock.parse(text).declaration, other, replaces=text)


def test_just_the_touched_input_is_named(
    built: str,
    folder: Path,
    home: Path,
    inline: Inline,
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = workshop.base("explained")
    edits: dict[str, tuple[Callable[[], object], str, str]] = {
        "trainer/train.py edited": (
            lambda: write(folder, {"trainer/train.py": "print()\n"}), "trainer/train.py", CODE),
        "trainer/new.py added": (
            lambda: write(folder, {"trainer/new.py": ""}), "trainer/new.py", CODE),
        "trainer/go.sh removed": ((folder / "trainer/go.sh").unlink, "trainer/go.sh", CODE),
        "trainer/go.sh made executable": (
            lambda: (folder / "trainer/go.sh").chmod(0o755), "trainer/go.sh", CODE),
        "pyproject.toml edited": (
            lambda: write(folder, {"pyproject.toml": PYPROJECT.replace("six", "toml")}),
            "pyproject.toml", INSTALL),
        "apt packages + sl": (
            lambda: write(folder, {".calibanconfig.json": '{"apt_packages": ["sl"]}'}),
            "apt packages", "Install sl"),
        f"base image {base} is another image of this name": (
            lambda: docker("tag", workshop.base("moved", "RUN touch /moved\n"), base),
            "base image", f"Start from {base}"),
        "data/numbers edited": (
            lambda: write(folder, {"data/numbers": "2\n"}), "data/numbers", "Copy data"),
        "Python none -> 3.11": (
            lambda: write(folder, {".python-version": "3.11\n"}), "Python",
            "Make a virtual environment"),
        ".dockerignore edited": (
            lambda: write(folder, {".dockerignore": "**/*.tmp\n**/*.log\n"}),
            ".dockerignore", CODE),
    }  # fmt: skip
    original = docker("inspect", "--format", "{{.Id}}", base).strip()
    for expected, (edit, name, first) in edits.items():
        assert explained(inline)["changes"] == []
        edit()
        found = explained(inline)
        assert [f"{each['input']} {each['change']}" for each in found["changes"]] == [expected]
        assert found["changes"][0]["input"].startswith(name)
        assert next(each["title"] for each in found["layers"] if each["rebuilt"]) == first
        assert found["last_image"] == built
        assert not found["exists"]
        for extra in ("trainer/new.py", ".calibanconfig.json", ".python-version"):
            (folder / extra).unlink(missing_ok=True)
        write(folder, FILES)
        (folder / "trainer/go.sh").chmod(0o644)
        docker("tag", original, base)
    found = explained(inline, "build", "-e", "plots", *COMMAND[1:])
    assert [(each["input"], each["change"]) for each in found["changes"]] == [("extras", "+ plots")]
    upgrade(home)
    [change] = explained(inline)["changes"]
    assert change["input"] == "the lock"
    assert change["change"].endswith(" -> 9.9")
    (folder / "pyproject.toml").write_text(PYPROJECT + "\n")  # its own lock is none of the old one
    assert [each["input"] for each in explained(inline)["changes"]] == ["pyproject.toml"]
    write(folder, FILES)
    monkeypatch.setattr(dockerfile, "WORKING_DIRECTORY", "/elsewhere")
    assert "caliban's own rules" in [each["input"] for each in explained(inline)["changes"]]


def test_an_edit_that_makes_no_difference_is_named_until_the_next_build(
    built: str, folder: Path, inline: Inline
) -> None:
    write(folder, {"pyproject.toml": f"# A comment.\n{PYPROJECT}"})
    (change,) = explained(inline)["changes"]
    assert (change["input"], change["change"]) == ("pyproject.toml", "edited")
    done = inline(*COMMAND)
    assert done.returncode == 0, done.stderr
    found = explained(inline)
    assert (found["changes"], found["last_image"], found["exists"]) == ([], built, True)


def test_it_can_be_read_and_builds_nothing(
    built: str, folder: Path, inline: Inline, home: Path, workshop: Workshop
) -> None:
    images = ("images", "--all", "--quiet", "--filter", f"label={workshop.label}")
    done = inline("build", "--explain", *COMMAND[1:])
    assert f"Nothing has changed since the last image, {built}." in done.stdout
    assert "nothing is to be built" in done.stdout
    write(folder, {"trainer/train.py": f"print({built!r})\n"})
    before = sorted(docker(*images).split())
    done = inline("build", "--explain", *COMMAND[1:])
    assert done.returncode == 0
    assert sorted(docker(*images).split()) == before
    lines = done.stdout.splitlines()
    assert lines[0] == f"Changed since the last image, {built}:"
    assert lines[1].split() == ["trainer/train.py", "edited", *CODE.split()]
    assert lines[-1] == f"The first layer that must be rebuilt: {CODE}"
    assert "  rebuilt  Copy the code" in lines
    # What is built then is told in the same words.
    done = inline(*COMMAND)
    assert ": trainer/train.py edited\n" in done.stderr
    [file] = (home / ".caliban/images").iterdir()
    write(folder, FILES)
    assert f"The image {built} is there" in inline("build", "--explain", *COMMAND[1:]).stdout
    inline(*COMMAND)
    [other] = (home / ".caliban/images").iterdir()
    assert other != file


def test_an_own_dockerfile_that_is_edited_leaves_the_dependencies_as_they_were(
    workshop: Workshop, folder: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"FROM {workshop.base('explained')}\nCOPY word /word\n"
    monkeypatch.delenv("CALIBAN_BASE_IMAGE")
    write(folder, {"Dockerfile": text, "word": f"{folder}\n", "requirements.txt": "six\n"})
    write(folder, {"train.py": "", ".calibanconfig.json": '{"dockerfile": "Dockerfile"}'})
    command = ("build", "--nogpu", "train.py")
    done = inline(*command)
    assert done.returncode == 0, done.stderr
    assert "Resolve the dependencies" in done.stderr
    for name, content in {"Dockerfile": f"{text}RUN touch /x\n", "word": f"not {folder}\n"}.items():
        write(folder, {name: content})
        done = inline("build", "--explain", *command[1:])
        assert f"{name}  edited" in done.stdout
        assert "are resolved anew" not in done.stdout
        found = explained(inline, *command)
        assert (found["image"], found["exists"]) == (None, False), "the base image is unknown"
        done = inline(*command)
        assert done.returncode == 0, done.stderr
        assert "Resolve the dependencies" not in done.stderr
    write(folder, {"Dockerfile": text, "requirements.txt": "six\ntoml\n"})
    assert "are resolved anew" in inline("build", "--explain", *command[1:]).stdout


def test_without_an_earlier_image_every_layer_is_built(
    workshop: Workshop, folder: Path, inline: Inline
) -> None:
    write(folder, {"go.sh": "true\n"})
    done = inline("build", "--nogpu", "--explain", "go.sh")
    assert "There is no earlier image" in done.stdout
    assert "kept" not in done.stdout
    assert "name a module" not in done.stdout
    shell = inline("build", "--nogpu", "--explain").stdout
    assert "This is about the image of `caliban shell`" in shell


def test_a_base_image_that_is_not_there_is_not_pulled(
    workshop: Workshop, folder: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, {"go.sh": "true\n"})
    assert inline("build", "--nogpu", "go.sh").returncode == 0
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", "nobody/has:this")
    done = inline("build", "--nogpu", "--explain", "go.sh")
    assert done.returncode == 0, done.stderr
    assert "-> nobody/has:this" in done.stdout


def test_an_image_that_has_gone_is_built_again_and_that_is_said(
    workshop: Workshop, folder: Path, inline: Inline, home: Path
) -> None:
    write(folder, {"go.sh": "# to be removed\n"})
    assert inline("build", "--nogpu", "go.sh").returncode == 0
    [file] = (home / ".caliban/images").iterdir()
    fingerprint = file.name.split("-")[1].split(".")[0]
    docker("rmi", f"caliban:cpu-{fingerprint}")
    done = inline("build", "--nogpu", "--explain", "go.sh")
    assert "does not have the image any more" in done.stdout
    done = inline("build", "--nogpu", "go.sh")
    assert ": the engine does not have it any more\n" in done.stderr
