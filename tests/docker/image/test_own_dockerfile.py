"""What the project's own Dockerfile needs of the project, and the name of the image it makes."""

from __future__ import annotations

import dataclasses
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from caliban.docker.image import lock, own_dockerfile
from caliban.errors import UsageError
from caliban.model.image import ImagePlan, Mode, ProjectDockerfile
from tests.docker.conftest import write

OWN = ProjectDockerfile("Dockerfile")


@pytest.mark.parametrize(
    ("text", "copied"),
    [
        ("FROM x", []),
        ("FROM x\nCOPY . /app", ["."]),
        ("FROM x\nCOPY a.txt b/c /app/", ["a.txt", "b/c"]),
        ("FROM x\ncopy ./a /app\nadd ../b /app", ["."]),
        ("FROM x\nCOPY /a/ /app", ["a"]),
        ('FROM x\nCOPY ["a b", "c", "/app"]', ["a b", "c"]),
        ('FROM x\nCOPY ["a b", "/app', ["."]),
        ("FROM x\nCOPY --chown=1:1 --chmod=755 a /app", ["a"]),
        ("FROM x\nCOPY --from=builder /a /b", []),
        ("FROM x\nCOPY --from=builder --chown=1:1 /a /b", []),
        ("FROM x\nCOPY requirements*.txt /app", ["."]),
        ("FROM x\nCOPY deps/r?.txt deps/[ab] /app", ["deps"]),
        ("FROM x\nARG A=b\nCOPY $A /app", ["."]),
        ("FROM x\nCOPY a${A}b /app", ["."]),
        ("FROM x\nCOPY a \\\n  # of it\n\n  b \\\n  /app\nCOPY c /d", ["a", "b", "c"]),
        ("# escape=`\nFROM x\nCOPY a `\n  b /app", ["a", "b"]),
        ("FROM x\n# COPY a /app", []),
        ("FROM x\nADD https://example.com/a.tar.gz git@github.com:a/b.git /app", []),
        ("FROM x\nCOPY <<EOF /app/a\nEOF", []),
        ("FROM x\nRUN cp a b && echo COPY", []),
        ("FROM x\nRUN --mount=type=cache,target=/c --mount=type=secret,id=a true", []),
        ("FROM x\nRUN --mount=type=bind,target=/src true", ["."]),
        ("FROM x\nRUN --mount=source=lib,target=/src true", ["lib"]),
        ("FROM x\nRUN --mount=type=bind,from=builder,source=/a,target=/src true", []),
        ("FROM x\nONBUILD COPY a /app", ["a"]),
        ("FROM x\nCOPY a \\", []),
    ],
)
def test_it_is_told_what_a_dockerfile_copies(text: str, copied: list[str]) -> None:
    assert own_dockerfile.sources(text) == copied


@pytest.fixture
def planned(folder: Path) -> Callable[..., ImagePlan]:
    """Names the base image of a project as it is now."""
    write(folder, {"Dockerfile": "FROM x\nCOPY a lib /app/\n", "a": "1", "lib/b.py": "", "c": ""})

    def name(own: ProjectDockerfile = OWN) -> ImagePlan:
        plan = ImagePlan(Mode.CPU, own_dockerfile.UNNAMED, str(folder), dockerfile=own)
        return own_dockerfile.current(plan)

    return name


def test_its_image_is_named_by_what_it_is_made_from(
    planned: Callable[..., ImagePlan], folder: Path
) -> None:
    first = planned().base_image
    assert first.startswith("caliban:base-")
    assert planned() == dataclasses.replace(planned(), base_image=first)

    def change(path: str, text: str) -> str:
        (folder / path).write_text(text)
        return planned().base_image

    assert change("c", "not copied") == first
    (folder / "lib" / "__pycache__").mkdir()
    assert change("lib/__pycache__/b.pyc", "made by Python") == first
    os.utime(folder / "a", (1, 1))
    assert planned().base_image == first
    names = [
        first,
        change("a", "2"),
        change("lib/d.py", "new"),
        change("Dockerfile", "FROM x\nCOPY a lib /app/\n# more\n"),
        planned(ProjectDockerfile("Dockerfile", "stage")).base_image,
        planned(ProjectDockerfile("Dockerfile", "", (("A", "1"),))).base_image,
    ]
    (folder / "a").chmod(0o755)
    names.append(planned().base_image)
    assert len({*names}) == len(names)
    (folder / "a").chmod(0o644)
    change("Dockerfile", "FROM x\nCOPY a lib /app/\n")
    (folder / "lib" / "d.py").unlink()
    assert change("a", "1") == first


def test_a_change_of_what_it_copies_resolves_no_dependencies_anew(
    planned: Callable[..., ImagePlan], folder: Path
) -> None:
    before = planned()
    (folder / "a").write_text("2")
    after = planned()
    assert after.base_image != before.base_image
    assert lock.declaration(after, "linux/amd64") == lock.declaration(before, "linux/amd64")
    other = planned(ProjectDockerfile("Dockerfile", "stage"))
    assert lock.declaration(other, "linux/amd64") != lock.declaration(after, "linux/amd64")


def test_an_image_by_name_keeps_it(tmp_path: Path) -> None:
    plan = ImagePlan(Mode.CPU, "python:3.12", str(tmp_path))
    assert own_dockerfile.current(plan) is plan


def sent(folder: Path, own: ProjectDockerfile = OWN, *excluded: Path) -> list[str]:
    return [file.name for file in own_dockerfile.files(folder, own, excluded)]


def test_only_what_it_copies_is_sent(folder: Path) -> None:
    write(folder, {"docker/own": "FROM x\nCOPY lib gone /app/\n", "lib/a.py": "", "data/big": ""})
    own = ProjectDockerfile("docker/own")
    assert sent(folder, own) == [".", "docker", "docker/own", "lib", "lib/a.py"]


def test_the_dockerignore_is_honoured_and_its_own_one_comes_first(folder: Path) -> None:
    write(folder, {"Dockerfile": "FROM x\nCOPY . /app\n", "a.txt": "", "b.log": "", "c.csv": ""})
    write(folder, {".dockerignore": "*.log\nDockerfile\n"})
    everything = sent(folder)
    assert {"a.txt", "c.csv", "Dockerfile"} <= {*everything}
    assert "b.log" not in everything
    write(folder, {"Dockerfile.dockerignore": "*.csv\n"})
    everything = sent(folder)
    assert {"a.txt", "b.log", "Dockerfile"} <= {*everything}
    assert "c.csv" not in everything


def test_neither_keys_nor_the_settings_are_sent(folder: Path) -> None:
    write(folder, {"Dockerfile": "FROM x\nCOPY . /app\n", "key.json": "secret"})
    write(folder, {".calibanconfig.json": "{}"})
    (folder / "link.json").symlink_to("key.json")
    assert sent(folder, OWN, folder / "key.json") == [".", "Dockerfile"]


def test_a_dockerfile_that_is_not_there_is_a_mistake(folder: Path) -> None:
    with pytest.raises(UsageError, match=r'"dockerfile" in \.calibanconfig\.json names no/such'):
        sent(folder, ProjectDockerfile("no/such"))


def test_the_archive_keeps_permissions_and_nobody(folder: Path) -> None:
    write(folder, {"Dockerfile": "FROM x\nCOPY bin /bin\n", "bin/run": "x", "bin/data": "y"})
    (folder / "bin" / "run").chmod(0o750)
    (folder / "bin" / "data").chmod(0o600)
    (folder / "bin" / "link").symlink_to("run")
    stream = io.BytesIO()
    own_dockerfile._write(own_dockerfile.files(folder, OWN), stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        found = {member.name: member for member in archive}
    assert oct(found["bin/run"].mode) == "0o750"
    assert oct(found["bin/data"].mode) == "0o600"
    assert found["bin/link"].linkname == "run"
    assert {(each.uid, each.gid, each.uname) for each in found.values()} == {(0, 0, "")}
