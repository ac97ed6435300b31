"""Which builder is used, and what is made of its output. The outputs are real ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from caliban import terminal
from caliban.docker import build
from caliban.docker.build import Builder
from caliban.docker.engine import Engine

DOCKER = [{"Name": "Engine", "Version": "20.10.24"}, {"Name": "runc"}]
PODMAN = [{"Name": "Podman Engine", "Version": "4.3.1"}, {"Name": "Conmon"}]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH for a `docker` that is nothing but a client."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "docker"


def answer(client: Path, version: str, buildx: bool) -> None:
    """Makes a `docker` that knows its version, and perhaps the plugin."""
    client.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f"  'buildx version') exit {0 if buildx else 1};;\n"
        f"  --version) echo '{version}';;\n"
        "  *) exit 125;;\n"
        "esac\n"
    )
    client.chmod(0o755)


def engine(components: list[dict[str, str]]) -> Engine:
    found = Engine()
    found.__dict__["client"] = SimpleNamespace(version=lambda: {"Components": components})
    return found


@pytest.mark.parametrize(
    ("version", "buildx", "components", "chosen"),
    [
        ("Docker version 28.2.2, build e6534b4", True, DOCKER, Builder.BUILDKIT),
        ("Docker version 28.2.2, build e6534b4", False, DOCKER, Builder.LEGACY),
        ("Docker version 23.0.0, build e92dd87", False, DOCKER, Builder.LEGACY),
        ("Docker version 22.06.0-beta.0, build 3e9117b", False, DOCKER, Builder.BUILDKIT),
        ("Docker version 20.10.24+dfsg1, build 297e128", False, DOCKER, Builder.BUILDKIT),
        ("Docker version 28.2.2, build e6534b4", True, PODMAN, Builder.LEGACY),
        ("Docker version 20.10.24+dfsg1, build 297e128", False, PODMAN, Builder.LEGACY),
        ("something else", False, DOCKER, Builder.LEGACY),
    ],
)
def test_the_best_builder_that_there_is_builds(
    client: Path, version: str, buildx: bool, components: list[dict[str, str]], chosen: Builder
) -> None:
    answer(client, version, buildx)
    assert build.detect_builder(engine(components)) is chosen


def test_whoever_wants_the_legacy_builder_gets_it(
    client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    answer(client, "Docker version 28.2.2, build e6534b4", buildx=True)
    assert build.detect_builder(engine(DOCKER)) is Builder.LEGACY


# What follows the output of a step that has failed, or stands in for it.
FAILURES = {
    "legacy": """\
Step 5/12 : RUN apt-get update && apt-get install nonsense
 ---> Running in 9b14ad3a17cc
Reading package lists...
\x1b[91mE: Unable to locate package nonsense
\x1b[0mRemoving intermediate container 9b14ad3a17cc
The command '/bin/sh -c apt-get update && ...' returned a non-zero code: 100
""",
    "BuildKit of 20.10": """\
#5 [stage-0 3/8] RUN apt-get update && apt-get install nonsense
#5 sha256:0c98a672435eb5f0c98a672435eb5f0c98a672435eb5f
#5 0.235 Reading package lists...
#5 1.250 E: Unable to locate package nonsense
#5 ERROR: executor failed running [/bin/sh -c apt-get update && ...]: exit code: 100
------
 > [stage-0 3/8] RUN apt-get update && apt-get install nonsense:
------
executor failed running [/bin/sh -c apt-get update && ...]: exit code: 100
""",
    "buildx": """\
#5 [stage-0 3/8] RUN apt-get update && apt-get install nonsense
#5 0.235 Reading package lists...
#5 1.250 E: Unable to locate package nonsense
#5 ERROR: process "/bin/sh -c apt-get ..." did not complete successfully: exit code: 100
------
 > [stage-0 3/8] RUN apt-get update && apt-get install nonsense:
0.235 Reading package lists...
1.250 E: Unable to locate package nonsense
------
ERROR: failed to solve: process "/bin/sh -c apt-get ..." did not complete: exit code: 100
""",
    "podman": """\
STEP 5/12: RUN apt-get update && apt-get install nonsense
Reading package lists...
E: Unable to locate package nonsense
building at STEP "RUN apt-get update && ...": while running runtime: exit status 100

""",
}


def show(output: str) -> tuple[int, list[str]]:
    """What the module makes of a program that prints this and fails."""
    command = [sys.executable, "-c", "import sys; sys.stdout.write(sys.argv[1]); sys.exit(1)"]
    with subprocess.Popen([*command, output], stdout=subprocess.PIPE) as child:
        return build._show(child)


@pytest.mark.parametrize("output", FAILURES.values(), ids=FAILURES)
def test_a_failure_is_told_in_the_words_of_the_step(output: str) -> None:
    code, lines = show(output)
    assert code == 1
    assert build._reason(lines) == "E: Unable to locate package nonsense"


def test_of_the_installer_its_error_counts_and_not_what_follows() -> None:
    output = (
        "Step 8/12 : RUN uv\nResolved 2 packages\nerror: The build backend returned an error\n"
        "  cause: Call to setuptools failed\n\n    [stderr]\n    setup(x y)\n            ^\n"
    )
    expected = "error: The build backend returned an error (cause: Call to setuptools failed)"
    assert build._reason(show(output)[1]) == expected


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("", "the program gave no reason"),
        ("permission denied\n\n", "permission denied"),
        (
            "Step 2/3 : RUN false\n ---> Running in 29e6\nThe command 'false' returned 1\n",
            "The command 'false' returned 1",
        ),
        (
            "#3 [internal] load metadata for x\n#3 DONE 0.0s\nfailed to solve: no such thing\n",
            "failed to solve: no such thing",
        ),
    ],
)
def test_without_such_words_it_is_told_in_the_builders(output: str, reason: str) -> None:
    assert build._reason(show(output)[1]) == reason


@pytest.mark.parametrize("output", FAILURES.values(), ids=FAILURES)
def test_steps_are_counted(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    class View(terminal.Folded):
        def line(self, text: str, begins: str = "") -> None:
            begun.extend(filter(None, [begins]))
            super().line(text, begins)

    monkeypatch.setattr(terminal, "Folded", View)
    show(output)
    assert [each in ("step 5/12", "step 3/8") for each in begun] == [True]


@pytest.mark.parametrize("prefix", ["", "#9 8.585 ", "\x1b[91m"])
def test_warnings_are_repeated_at_the_end(prefix: str, capsys: Any) -> None:
    show(f"{prefix}warning: this is not good\n{prefix}warnings: 3\nmore\n")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == ["more", "warning: this is not good"]
