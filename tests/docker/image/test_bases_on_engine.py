"""Whatever the base image is like, by whichever builder: caliban's own steps work on top of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from caliban.docker import debris
from caliban.docker.engine import Engine
from caliban.docker.image import own_dockerfile
from caliban.docker.image.builder import Builder
from tests.conftest import Caliban
from tests.docker.conftest import inside, inspect, variables_for, write
from tests.docker.image.test_julia import mirror
from tests.workshop import Workshop

BUILT = "Building the base image caliban:base-"

# Each line of it has broken somebody's build on top.
AWKWARD = """\
ARG BASE
FROM $BASE AS wanted
WORKDIR /srv/work
COPY stop.py ./venv.py
COPY stop.py ./ensurepip.py
RUN mkdir /srv/lib && echo 'WORD = "found"' >/srv/lib/ownlib.py && useradd app
ENV PIP_USER=1 PYTHONPATH=/srv/lib WORD=kept
ENTRYPOINT ["/bin/false"]
CMD ["nothing"]
ONBUILD COPY nowhere /srv
SHELL ["/bin/bash", "-eux", "-o", "pipefail", "-c"]
USER app
FROM wanted AS unwanted
RUN exit 1
"""
CODE = "import os, six, ownlib\nprint(six.__name__, ownlib.WORD, os.environ['WORD'], os.getcwd())\n"


def configure(folder: Path, **settings: object) -> None:
    (folder / ".calibanconfig.json").write_text(json.dumps(settings))


@pytest.fixture
def own(workshop: Workshop, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose own Dockerfile makes an awkward base image."""
    monkeypatch.delenv("CALIBAN_BASE_IMAGE")
    write(folder, {"Dockerfile": AWKWARD, "stop.py": "raise SystemExit('not this one')\n"})
    write(folder, {"requirements.txt": "six\n", "train.py": CODE})
    args = {"BASE": workshop.base("plain")}
    configure(folder, dockerfile={"path": "Dockerfile", "target": "wanted", "build_args": args})
    return folder


@pytest.mark.parametrize("builder", Builder, ids=lambda builder: builder.name)
def test_a_dockerfile_of_the_project_makes_the_base_whatever_is_in_it(
    own: Path,
    engine: Engine,
    caliban: Caliban,
    builder: Builder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bin").mkdir()
    for name, value in variables_for(builder, engine, tmp_path / "bin").items():
        monkeypatch.setenv(name, value)
    (own / "stop.py").write_text(f"raise SystemExit('{builder.name}')\n")
    ran = caliban("run", "--nogpu", "train.py", timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "six found kept /usr/app\n"
    assert BUILT in ran.stderr
    assert "Its ONBUILD instructions are not carried out." in ran.stderr
    (own / "train.py").write_text(f"# another text\n{CODE}")
    ran = caliban("run", "--nogpu", "train.py", timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "six found kept /usr/app\n"
    assert BUILT not in ran.stderr


def test_resubmit_builds_the_dockerfile_as_it_is_by_then(
    own: Path, caliban: Caliban, home: Path
) -> None:
    (own / "stop.py").write_text("raise SystemExit('resubmit')\n")
    write(own, {"train.py": "import os\nprint(os.environ['WORD'])\nraise SystemExit(1)\n"})
    (own / "requirements.txt").unlink()
    ran = caliban("run", "--nogpu", "--xgroup", "again", "train.py", timeout=300)
    assert ran.stdout == "kept\n", ran.stderr
    with sqlite3.connect(home / ".caliban" / "caliban.db") as database:
        [(text,)] = database.execute("SELECT spec FROM container_specs").fetchall()
    spec = json.loads(text)
    assert spec["base_image"].startswith("caliban:base-")
    assert (spec["dockerfile"]["path"], spec["dockerfile"]["target"]) == ("Dockerfile", "wanted")
    (own / "Dockerfile").write_text(AWKWARD.replace("WORD=kept", "WORD=changed"))
    ran = caliban("resubmit", "--xgroup", "again", "--yes", timeout=300)
    assert ran.stdout == "changed\n", ran.stderr
    assert BUILT in ran.stderr
    (own / "Dockerfile").unlink()
    ran = caliban("resubmit", "--xgroup", "again", "--yes")
    assert ran.returncode == 2
    assert "Dockerfile, which job" in ran.stderr


def test_a_dockerfile_that_fails_is_said_to_be_the_projects_own(
    own: Path, caliban: Caliban
) -> None:
    (own / "Dockerfile").write_text(AWKWARD.replace("&& useradd app", "&& echo sorry && false"))
    built = caliban("build", "--nogpu", "train.py", timeout=100)
    assert built.returncode == 1
    assert "sorry" in built.stderr
    assert "the project's own Dockerfile could not be built: " in built.stderr
    assert "'docker build --file Dockerfile .' builds it, before caliban's own" in built.stderr


def test_a_key_that_a_dockerfile_copies_stops_it(own: Path, caliban: Caliban) -> None:
    key = (
        "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ\n" * 3
    )
    write(own, {"Dockerfile": "ARG BASE\nFROM $BASE AS wanted\nCOPY . /srv\n", "id.pem": key})
    built = caliban("build", "--nogpu", "train.py", timeout=100)
    assert built.returncode == 2
    assert "id.pem, line 1: a private key" in built.stderr
    assert BUILT not in built.stderr


def test_the_variable_wins_over_the_dockerfile_and_says_so(
    own: Path, workshop: Workshop, caliban: Caliban, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", workshop.base("plain"))
    ran = caliban("run", "--nogpu", "--dry_run", "train.py")
    assert ran.returncode == 0
    assert "Dockerfile is not built: $CALIBAN_BASE_IMAGE says what to build on" in ran.stderr


@pytest.fixture
def run(
    workshop: Workshop, folder: Path, caliban: Caliban, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """Runs train.py on a base image and returns what it prints."""

    def runs(base: str) -> str:
        monkeypatch.setenv("CALIBAN_BASE_IMAGE", base)
        ran = caliban("run", "--nogpu", "train.py", timeout=300)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return runs


# How Python comes to be somewhere else, first on the PATH: as an environment, or as conda's own.
ENVIRONMENT = "python3 -m venv --without-pip {place}"
CONDA = (
    "mkdir -p {place}/bin {place}/lib && cp -L $(command -v python3) {place}/bin && cp -r "
    "$(python3 -c 'import os; print(os.path.dirname(os.__file__))') {place}/lib"
)


@pytest.mark.parametrize(
    ("place", "make"),
    [("/srv/env", ENVIRONMENT), ("/opt/venv", ENVIRONMENT), ("/opt/conda", CONDA)],
    ids=["environment", "environment in the place of ours", "conda"],
)
def test_the_packages_of_a_base_are_seen_wherever_its_python_is(
    workshop: Workshop, folder: Path, run: Callable[[str], str], place: str, make: str
) -> None:
    steps = (
        f"RUN {make.format(place=place)} && site=$({place}/bin/python3 -c 'import site; "
        'print(site.getsitepackages()[0])\') && mkdir -p "$site" '
        '&& echo "WORD = 1" >"$site/theirs.py" && echo "WORD = 2" >"$site/six.py"\n'
        f"ENV PATH={place}/bin:$PATH\n"
    )
    base = workshop.base(f"python-{place.rpartition('/')[2]}", steps)
    assert inside(base, "command -v python3") == f"{place}/bin/python3\n"
    write(folder, {"train.py": "import six, theirs\nprint(theirs.WORD, six.__name__, six.PY3)\n"})
    write(folder, {"requirements.txt": "six\n"})
    assert run(base) == "1 six True\n"  # the project's own six, and not theirs


def test_a_system_without_apt_will_do_as_long_as_nothing_of_it_is_needed(
    workshop: Workshop, folder: Path, run: Callable[[str], str], caliban: Caliban
) -> None:
    write(folder, {"train.py": "print('here')\n"})
    assert run(workshop.base("aptless", "RUN rm /usr/bin/apt-get\n")) == "here\n"
    configure(folder, apt_packages=["libsm6"])
    built = caliban("build", "--nogpu", "train.py", timeout=100)
    assert built.returncode == 1
    assert "the base image has no apt-get, as Debian and Ubuntu have it: " in built.stderr


def test_a_base_image_with_triggers_is_refused(
    workshop: Workshop, folder: Path, caliban: Caliban, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = workshop.base("triggers", "ONBUILD COPY requirements.txt /srv\n")
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", base)
    write(folder, {"train.py": ""})
    built = caliban("build", "--nogpu", "train.py")
    assert built.returncode == 2
    assert "its ONBUILD instructions need what caliban doesn't send, like 'COPY req" in built.stderr
    assert '"dockerfile" in .calibanconfig.json' in built.stderr


@pytest.mark.parametrize("builder", Builder, ids=lambda builder: builder.name)
def test_julia_is_in_the_image(
    workshop: Workshop,
    engine: Engine,
    folder: Path,
    caliban: Caliban,
    builder: Builder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bin").mkdir()
    for name, value in variables_for(builder, engine, tmp_path / "bin").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CALIBAN_BASE_IMAGE")
    mirror(folder / "mirror", {})
    text = (
        f"FROM {workshop.base('plain')}\nCOPY mirror /mirror\nENV JULIAUP_SERVER=file:///mirror\n"
    )
    write(
        folder, {"Dockerfile": f"{text}ENV BUILDER={builder.name}\n", "run.sh": "julia --version"}
    )
    configure(folder, dockerfile="Dockerfile", julia_version="1.10")
    ran = caliban("run", "--nogpu", "run.sh", timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "julia version 1.10.10\n"
    configure(folder, dockerfile="Dockerfile", julia_version="1.12")
    built = caliban("build", "--nogpu", "run.sh", timeout=100)
    assert built.returncode == 1
    assert "could not be built: error: there is no Julia 1.12 for " in built.stderr


def test_what_a_dockerfile_has_made_is_pruned_like_other_images(
    own: Path, workshop: Workshop, engine: Engine, caliban: Caliban
) -> None:
    base = workshop.base("plain")
    write(own, {"Dockerfile": f"FROM {base}\nRUN echo pruned >/pruned\n"})
    configure(own, dockerfile="Dockerfile")
    (own / "requirements.txt").unlink()
    built = caliban("build", "--nogpu", "train.py", timeout=300)
    assert built.returncode == 0, built.stderr
    labels = inspect(built.stdout.strip())["Config"]["Labels"]
    name = labels["caliban.base"]
    assert name == f"{own_dockerfile.UNNAMED}-{labels[own_dockerfile.BASE_LABEL]}"
    assert inside(name, "cat /pruned") == "pruned\n"
    assert name in {image.name for image in debris.find(engine).images}
