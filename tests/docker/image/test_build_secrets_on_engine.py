"""A private index, a private repository, and an SSH agent: used by a build, and left nowhere."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from caliban.docker.engine import Engine
from caliban.docker.image.builder import Builder
from tests.conftest import Caliban
from tests.docker.conftest import Calls, saved, variables_for, write
from tests.docker.image import private_index
from tests.docker.image.private_index import USER, PrivateIndex
from tests.docker.wire import Wire
from tests.workshop import Workshop, docker

pytestmark = pytest.mark.takes(8)

# Odd on purpose: a URL and a shell read some of these characters in their own ways.
PASSWORD = "correct-horse/$HOME'battery%41"
QUOTED = urllib.parse.quote(PASSWORD, safe="")
ACCOUNT = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
HIDDEN = [each.encode() for each in ("correct-horse", ACCOUNT)]

CODE = """
import json
import fromgit, fromindex
print(json.dumps([fromindex.VALUE, fromgit.SEEN]))
"""


@pytest.fixture
def index(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateIndex]:
    folder = tmp_path_factory.mktemp("repository")
    with private_index.serving(workshop.base("plain"), PASSWORD, folder) as found:
        yield found


@pytest.fixture
def buildkit(
    engine: Engine, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Has caliban build by BuildKit."""
    (tmp_path / "client").mkdir()
    for name, value in variables_for(Builder.BUILDKIT, engine, tmp_path / "client").items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def agent(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An SSH agent without keys, of a user who knows a host."""
    socket = home / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        write(home, {".ssh/known_hosts": "example.com ssh-ed25519 AAAA\n"})
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        yield socket
        process.terminate()


@dataclass(frozen=True)
class Ran:
    """What a job printed, and what was left.

    Attributes:
      output: of the job.
      image: that it ran in.
      without: the image that the same project has for somebody who gives no secrets.
      asked: what the index and the repository were asked.
      remains: what was left on this machine, all that docker was told included.
    """

    output: str
    image: str
    without: str
    asked: str
    remains: bytes


@pytest.fixture
def ran(
    workshop: Workshop,
    index: PrivateIndex,
    buildkit: None,
    agent: Path,
    calls: Calls,
    caliban: Caliban,
    folder: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Ran:
    """A job whose packages nobody gets without the password."""

    def make() -> Ran:
        requirements = (
            f"--extra-index-url http://{USER}:${{INDEX_PASSWORD}}@{index.place}/simple\n"
            f"fromindex\nfromgit @ git+http://{index.place}/fromgit.git\n"
        )
        write(folder, {"job.py": CODE, "requirements.txt": requirements})
        write(home, {"git": f"http://{USER}:{QUOTED}@{index.host}:{private_index.PORT}\n"})
        monkeypatch.setenv("SECRET_OF_MINE", QUOTED)
        done = caliban(
            *("run", "--nogpu", "--secret", "id=INDEX_PASSWORD,env=SECRET_OF_MINE"),
            *("--secret", f"id=git-credentials,src={home}/git", "--secret", "id=ssh", "job.py"),
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        image = json.loads(caliban("status", "--json").stdout)[0]["image"]
        again = caliban("build", "--nogpu", "job.py")
        assert again.returncode == 0, again.stderr
        ours = [path for path in home.rglob("*") if path.is_file() and path.name != "git"]
        remains = [path.read_bytes() for path in ours]
        remains += [done.stderr.encode(), calls.log.read_bytes(), calls.context.read_bytes()]
        return Ran(done.stdout, image, again.stdout.strip(), index.asked, b"\n".join(remains))

    return workshop.once("ran with build secrets", make)


def test_a_build_is_lent_what_opens_its_packages(ran: Ran) -> None:
    value, seen = json.loads(ran.output)
    assert value == 42
    # 12: the agent's answer to the question which keys it has.
    assert seen == {"agent": 12, "ids": ["INDEX_PASSWORD", "git-credentials", "known_hosts", "ssh"]}
    assert re.search(r"/simple/fromindex/ HTTP/1.1. 200", ran.asked)
    assert re.search(r"/fromgit.git/info/refs\S* HTTP/1.1. 401", ran.asked)
    assert re.search(r"/fromgit.git/info/refs\S* HTTP/1.1. 200", ran.asked)


def test_no_layer_history_or_label_of_the_image_holds_it(ran: Ran) -> None:
    known = docker("history", "--no-trunc", ran.image) + docker("image", "inspect", ran.image)
    assert "/run/secrets/INDEX_PASSWORD" in known, "the search did not see the step"
    assert not [each for each in HIDDEN if each in known.encode()]
    seen = 0
    for name, content in saved(ran.image):
        seen += name.endswith("/fromindex.py")
        assert not [each for each in HIDDEN if each in content], name
    assert seen == 1, "the search did not see the packages"


def test_no_record_log_or_command_line_holds_it(ran: Ran) -> None:
    assert b"id=INDEX_PASSWORD,env=SECRET_OF_MINE" in ran.remains, "the search saw no command lines"
    assert b"${INDEX_PASSWORD}" in ran.remains, "the search did not see the lock"
    assert not [each for each in HIDDEN if each in ran.remains]


def test_the_folder_that_is_kept_between_builds_does_not_hold_it(
    ran: Ran, workshop: Workshop, buildkit: None
) -> None:
    check_cache(workshop, "fromindex")


def check_cache(workshop: Workshop, package: str) -> None:
    """Looks for the password in what a build has added to uv's cache, with a package of this name.

    Only what is new is looked through: all packages of all builds are in there.
    """
    new = "find /opt/uv -type f -mmin -15"
    text = (
        f"FROM {workshop.base('plain')}\nRUN --mount=type=cache,id=caliban-uv,target=/opt/uv "
        f"{new} | xargs grep -la {package} | grep -c . && "
        f'found=$({new} -exec grep -la correct-horse {{}} +); echo "found: <$found>"\n'
    )
    done = subprocess.run(
        ["docker", "build", "--no-cache", "--progress=plain", "-"],
        input=text,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r" found: <>$", done.stderr, re.MULTILINE), done.stderr


def test_an_image_that_is_there_needs_none(ran: Ran) -> None:
    assert ran.without == ran.image


@pytest.mark.parametrize("form", ["pip.conf", "netrc", "GIT_PASSWORD"])
def test_packages_are_opened_by_what_pip_and_git_have(
    form: str,
    index: PrivateIndex,
    workshop: Workshop,
    buildkit: None,
    calls: Calls,
    caliban: Caliban,
    folder: Path,
    home: Path,
) -> None:
    account = f"{USER}:{QUOTED}"
    secrets = {
        "pip.conf": f"[global]\nextra-index-url = http://{account}@{index.place}/simple\n",
        "netrc": f"machine {index.host} login {USER} password {PASSWORD}\n",
        "GIT_PASSWORD": f"{QUOTED}\n",
    }
    requirements = {
        "pip.conf": "fromindex\n",
        "netrc": f"--extra-index-url http://{index.place}/simple\nfromindex\n",
        "GIT_PASSWORD": f"fromgit @ git+http://{USER}:${{GIT_PASSWORD}}@{index.place}/fromgit.git\n",
    }
    locked = {"GIT_PASSWORD": f"fromgit @ git+http://{USER}:${{GIT_PASSWORD}}@{index.place}/"}
    code = "import fromgit" if form == "GIT_PASSWORD" else "import fromindex"
    write(folder, {"job.py": code, "requirements.txt": requirements[form]})
    write(home, {"secret": secrets[form]})
    done = caliban(
        *("run", "--nogpu", "--secret", f"id={form},src={home}/secret", "job.py"), timeout=300
    )
    assert done.returncode == 0, done.stderr
    ours = [path for path in (home / ".caliban").rglob("*") if path.is_file()]
    remains = b"\n".join([*(path.read_bytes() for path in ours), calls.log.read_bytes()])
    seen = locked.get(form, "fromindex==1.0").encode()
    assert seen in remains, "the search did not see the lock"
    assert not [each for each in HIDDEN if each in remains + done.stderr.encode()]
    check_cache(workshop, "fromgit" if form == "GIT_PASSWORD" else "fromindex")


def test_a_wrong_password_is_not_shown_either(
    index: PrivateIndex, buildkit: None, caliban: Caliban, folder: Path
) -> None:
    wrong = "wrong-horse-battery"
    options = f"--extra-index-url http://{USER}:${{INDEX_PASSWORD}}@{index.place}/simple\n"
    write(folder, {"job.py": "", "requirements.txt": f"{options}fromindex\n"})
    done = caliban(
        *("build", "--nogpu", "--secret", "id=INDEX_PASSWORD", "job.py"),
        env={"INDEX_PASSWORD": wrong},
        timeout=300,
    )
    assert done.returncode == 1
    assert "401 Unauthorized" in done.stderr and wrong not in done.stderr


def test_a_builder_without_secrets_is_told_of_before_anything_is_built(
    workshop: Workshop, wire: Wire, caliban: Caliban, folder: Path
) -> None:
    write(folder, {"job.py": "", "requirements.txt": "six\n"})
    done = caliban(
        *("build", "--nogpu", "--secret", "id=TOKEN", "job.py"),
        env={"TOKEN": PASSWORD, "DOCKER_BUILDKIT": "0"},
    )
    assert done.returncode == 2
    assert "the build needs secrets (TOKEN), and the builder cannot lend them" in done.stderr
    assert "DOCKER_BUILDKIT=0 asks for the legacy builder" in done.stderr
    assert wire.changes == []
