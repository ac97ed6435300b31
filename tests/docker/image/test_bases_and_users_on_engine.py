"""Any base image will do, and whoever starts a job is at home in its container."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Caliban
from tests.docker.conftest import Built, Somebody, inside, inspect, write
from tests.workshop import Workshop, docker

# Tells what a job finds: who it is, and where it may write.
PROBE = """
import getpass
import json
import os
import pwd
import subprocess
from pathlib import Path


def attempt(action):
    try:
        action()
    except OSError as error:
        return str(error)
    return "done"


here, home = Path(__file__).parent, Path.home()
new = here / "new.py"
print(json.dumps({
    "uid": os.getuid(),
    "id": subprocess.check_output(["id", "-u"], text=True).strip(),
    "whoami": subprocess.check_output(["whoami"], text=True).strip(),
    "getuser": getpass.getuser(),
    "pw_dir": pwd.getpwuid(os.getuid()).pw_dir,
    "home": str(home),
    "write": [
        attempt(lambda: (home / "file").write_text("x")),
        attempt(lambda: (home / ".config/tool").mkdir()),
        attempt(lambda: (home / ".cache").mkdir()),
        attempt(lambda: Path("beside").write_text("x")),
        attempt(lambda: (here / "output").mkdir()),
        attempt(lambda: (new.write_text("x"), new.replace(__file__))),
        attempt(lambda: (here / "data.txt").write_text("x")),
    ],
    "six": __import__("six").__version__,
    "umask": subprocess.check_output(["sh", "-c", "umask"], text=True).strip(),
}))
"""

PYPROJECT = """\
[project]
name = "x"
version = "1"
readme = "missing.md"
dependencies = ["six==1.15.0"]
[project.optional-dependencies]
gpu = ["no-such-thing"]
extra = ["iniconfig"]
"""

RUN = ("run", "--nogpu", "-e", "extra", "trainer.probe")


def awkward_base(workshop: Workshop) -> str:
    """A base image without PATH, useradd or venv, whose user is not root and has the uid 1000."""
    steps = (
        "RUN useradd --uid 1000 --create-home ubuntu && rm -f /usr/sbin/useradd /usr/sbin/adduser "
        "&& (dpkg --purge --force-all $(dpkg-query --show -f '${Package} ' 'python3*-venv') || :) "
        "&& rm -rf $(python3 -c 'import ensurepip as e; print(e.__path__[0])' 2>/dev/null)\n"
    )
    original = workshop.base("reduced", steps)

    def make() -> str:
        name = original.replace(":reduced", ":awkward")
        keep = [line for line in inspect(original)["Config"]["Env"] if not line.startswith("PATH=")]
        changes = ["USER ubuntu", f"LABEL {workshop.label}", *(f"ENV {line}" for line in keep)]
        options = [word for change in changes for word in ("--change", change)]
        container = docker("create", original, "true").strip()
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as exported:
            command = ["docker", "import", *options, "-", name]
            subprocess.run(command, stdin=exported.stdout, stdout=subprocess.DEVNULL, check=True)
        docker("rm", container)
        return name

    return workshop.once("awkward", make)


@pytest.fixture
def awkward(
    workshop: Workshop,
    caliban: Caliban,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Built:
    """An image on such a base, for which Python's venv has to be installed first."""
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", awkward_base(workshop))

    def make() -> Built:
        folder = tmp_path_factory.mktemp("awkward")
        write(folder, {"pyproject.toml": PYPROJECT, "setup.py": "This is not Python."})
        write(folder, {"trainer/probe.py": PROBE, "trainer/data.txt": ""})
        built = caliban("build", *RUN[1:], cwd=folder, timeout=300)
        assert built.returncode == 0, built.stderr
        return Built(built.stdout.strip(), folder, built.stderr)

    return workshop.once("image on awkward base", make)


def test_what_the_base_image_lacks_is_installed(awkward: Built, workshop: Workshop) -> None:
    base = "id -u; command -v useradd; python3 -c 'import ensurepip' 2>/dev/null || echo without"
    assert inside(awkward_base(workshop), base) == "1000\nwithout\n"
    assert not any(
        line.startswith("PATH=") for line in inspect(awkward_base(workshop))["Config"]["Env"]
    )
    config = inspect(awkward.image)["Config"]
    path = next(line for line in config["Env"] if line.startswith("PATH="))
    assert path.split(":")[0] == "PATH=/opt/venv/bin"
    assert "/usr/bin" in path.split(":")
    assert inside(awkward.image, "python -c 'import six, iniconfig; print(six.__version__)'") == (
        "1.15.0\n"
    )


def test_an_extra_that_a_pyproject_lacks_is_told_of(awkward: Built, caliban: Caliban) -> None:
    built = caliban("build", "--nogpu", "-e", "nope", "trainer.probe", cwd=awkward.project)
    assert built.returncode == 2
    assert "pyproject.toml declares no extra 'nope'" in built.stderr


def test_root_is_at_home_in_its_container(awkward: Built, caliban: Caliban) -> None:
    if os.getuid() != 0:
        pytest.skip("the tests are not run by root")
    ran = caliban(*RUN, cwd=awkward.project)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found.pop("write") == ["done"] * 7
    assert {found[key] for key in ("whoami", "pw_dir", "home")} == {
        *("root", "/root", "/home/caliban"),
    }
    assert (found["uid"], found["id"], found["six"]) == (0, "0", "1.15.0")


@pytest.mark.parametrize("uid", [1000, 12345])
def test_an_ordinary_user_is_at_home_in_the_same_image(
    awkward: Built, somebody: Somebody, public: Path, uid: int
) -> None:
    project, home = public / "project", public / "home"
    subprocess.run(["cp", "-r", awkward.project, project], check=True)
    project.chmod(0o755)
    home.mkdir()
    os.chown(home, uid, uid)
    # The project belongs to root: nothing in it can be written, and nothing needs to be.
    before = state(project)
    ran = somebody(uid, *RUN, cwd=project, home=home)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "uid": uid,
        "id": str(uid),
        **dict.fromkeys(["whoami", "getuser"], f"user{uid}"),
        **dict.fromkeys(["pw_dir", "home"], "/home/caliban"),
        "write": ["done"] * 7,
        "six": "1.15.0",
        "umask": "0022",
    }
    assert state(project) == before
    history = somebody(uid, "status", "--json", cwd=project, home=home)
    assert json.loads(history.stdout)[0]["image"] == awkward.image


def state(folder: Path) -> list[tuple[Any, ...]]:
    """Whatever a write to the folder or to something in it would change."""
    found = [(path, path.lstat()) for path in sorted([folder, *folder.rglob("*")])]
    return [(path, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns) for path, at in found]


def test_a_base_image_that_cannot_be_had_is_a_mistake_with_advice(
    workshop: Workshop, caliban: Caliban, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, {"train.py": ""})
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", "registry.invalid/no/such:image")
    built = caliban("build", "--nogpu", "train.py")
    assert built.returncode == 2
    message = built.stderr[built.stderr.index("caliban: error: ") :].splitlines()
    assert "the base image registry.invalid/no/such:image cannot be pulled: " in message[0]
    assert '"base_image" in .calibanconfig.json' in message[1]
    assert "$CALIBAN_BASE_IMAGE" in message[1]
    assert len(message) == 2


def test_a_base_image_without_python_or_apt_says_so(
    workshop: Workshop, caliban: Caliban, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = workshop.base("bare", "RUN rm -f /usr/bin/apt-get $(command -v python3)\n")
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", bare)
    write(folder, {"train.py": ""})
    built = caliban("build", "--nogpu", "train.py")
    assert built.returncode == 1
    assert "caliban: error: the image could not be built: " in built.stderr
    assert "apt-get" in built.stderr.splitlines()[-2]
