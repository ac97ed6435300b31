"""A container as editors make it from a project's devcontainer.json.

It is made here by `docker run` and entered by `docker exec`, as the Dev Containers CLI 0.89 does.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from caliban.docker import devcontainer, identity
from caliban.model.image import Mode
from tests.docker.conftest import Build, inspect, write
from tests.docker.test_devcontainer import parse
from tests.workshop import Workshop, docker

PROBE = """
import getpass, json, os, pwd, sys
from pathlib import Path

import six

account = pwd.getpwuid(os.getuid())
Path("written.txt").write_text("x")
Path("made").mkdir()
(Path.home() / ".vscode-server").mkdir()
(Path.home() / ".config/tool").mkdir()
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "names": [getpass.getuser(), account.pw_name],
    "homes": [str(Path.home()), account.pw_dir],
    "working directory": os.getcwd(),
    "python": sys.executable,
    "code": Path("trainer/train.py").read_text(),
    "has an init process": "init" in Path("/proc/1/cmdline").read_text().split("\\0")[0],
    "passwd can be written": os.access("/etc/passwd", os.W_OK),
}))
"""


@dataclass(frozen=True)
class Opened:
    """A project that an editor has opened.

    Attributes:
      project: its directory.
      owner: whose it is, uid and gid.
      container: id of the container.
      config: what is in the devcontainer.json.
    """

    project: Path
    owner: tuple[int, int]
    container: str
    config: dict[str, Any]


@pytest.fixture
def owner() -> tuple[int, int]:
    """An ordinary user, with a group whose number is another one if possible."""
    return (os.getuid(), os.getgid()) if os.getuid() else (12345, 23456)


@pytest.fixture
def image(workshop: Workshop, build: Build, project: Path) -> str:
    """The name of an image of the project."""
    write(project, {"requirements.txt": "six==1.16.0\n"})
    [name] = inspect(build("trainer.train"))["RepoTags"]
    return str(name)


@pytest.fixture(params=["project", "my project, no. 2"])
def opened(
    image: str, project: Path, home: Path, owner: tuple[int, int], request: pytest.FixtureRequest
) -> Iterator[Opened]:
    """The project in a container, under several names."""
    project = project.rename(project.with_name(request.param))
    accounts = identity.account_files(*owner, "ada")
    for file in accounts:
        file.write()
    mounts = {file.path: file.target for file in accounts}
    text = devcontainer.render(image, Mode.CPU, project, *owner, home, mounts)
    config = parse(devcontainer.write(project, text).read_text())
    for path in (project, *project.rglob("*"), *mounts):
        os.chown(path, *owner)
    container = docker(*command(config, project, home)).strip()
    yield Opened(project, owner, container, config)
    docker("rm", "--force", container)


def command(config: dict[str, Any], project: Path, home: Path) -> list[str]:
    """The arguments of `docker` that make a container."""
    assert config["updateRemoteUserUID"] is False, "another image would be built"
    words = ["run", "--detach", "--network", "none", "--mount", config["workspaceMount"]]
    words += [word for mount in config["mounts"] for word in ("--mount", mount)]
    words += [*config["runArgs"], *(["--init"] if config["init"] else [])]
    words += ["--entrypoint", "/bin/sh", config["image"], "-c", "while sleep 1; do :; done"]
    values = {"${localWorkspaceFolder}": str(project), "${localEnv:HOME}": str(home)}
    for name, value in values.items():
        words = [word.replace(name, value) for word in words]
    return words


def test_the_user_is_at_home_in_it_and_owns_what_is_written(opened: Opened) -> None:
    (opened.project / "trainer/train.py").write_text("edited")
    workdir = ("--workdir", opened.config["workspaceFolder"])
    settings = opened.config["customizations"]["vscode"]["settings"]
    python = settings["python.defaultInterpreterPath"]
    assert json.loads(docker("exec", *workdir, opened.container, python, "-c", PROBE)) == {
        "ids": list(opened.owner),
        "names": ["ada", "ada"],
        "homes": ["/home/caliban", "/home/caliban"],
        "working directory": "/usr/app",
        "python": python,
        "code": "edited",
        "has an init process": True,
        "passwd can be written": False,
    }
    for name in ("written.txt", "made"):
        info = (opened.project / name).stat()
        assert (info.st_uid, info.st_gid) == opened.owner


def test_the_terminal_has_the_shell_and_the_python_of_the_settings(opened: Opened) -> None:
    settings = opened.config["customizations"]["vscode"]["settings"]
    shell = settings["terminal.integrated.defaultProfile.linux"]
    found = docker("exec", opened.container, shell, "-c", "command -v python").strip()
    assert found == settings["python.defaultInterpreterPath"]


@pytest.mark.parametrize("missing", [False, True])
def test_the_machine_is_asked_for_the_image_first(image: str, home: Path, missing: bool) -> None:
    name = f"{image}0" if missing else image
    text = devcontainer.render(name, Mode.CPU, Path.cwd(), os.getuid(), os.getgid(), home, {})
    check = ["/bin/sh", "-c", parse(text)["initializeCommand"]]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == int(missing)
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1:]
    assert bool(last) is missing
    assert all(line.startswith(f"The image {name} is not here") for line in last)
