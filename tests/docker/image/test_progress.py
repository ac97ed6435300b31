"""What is seen of a build, and why it failed. The outputs of builders are real ones."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from caliban.docker.image import progress
from caliban.docker.image.dockerfile import Section
from tests.test_terminal import open_terminal

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


SECTIONS = (
    Section("Start from base", ("FROM base", 'LABEL caliban=""', "USER root")),
    Section("Install git", ("RUN apt-get install git",)),
    Section("Install 7 packages", ("WORKDIR /opt", "COPY lock/ ./", "RUN uv pip install")),
    Section("Set the environment", ("ENV HOME=/home/caliban",)),
    Section("Copy the code", ("WORKDIR /usr/app", "COPY code/ ./", 'ENTRYPOINT ["python"]')),
)

# The same build, after an edit of the lock.
LEGACY = """\
Sending build context to Docker daemon  10.24kB
Step 1/12 : FROM base
 ---> 3fcadf24e60c
Step 2/12 : LABEL caliban=""
 ---> Using cache
 ---> a1d7b5f7d406
Step 3/12 : USER root
 ---> Using cache
 ---> 6979e3e4aa42
Step 4/12 : RUN apt-get install git
 ---> Using cache
 ---> 6979e3e4aa43
Step 5/12 : WORKDIR /opt
 ---> Using cache
 ---> 6979e3e4aa44
Step 6/12 : COPY lock/ ./
 ---> 517811a12cf6
Step 7/12 : RUN uv pip install
 ---> Running in e294af16d284
Installed 7 packages in 3ms
Removing intermediate container e294af16d284
 ---> 550e1733c5b8
Step 8/12 : ENV HOME=/home/caliban
 ---> Running in e294af16d285
Removing intermediate container e294af16d285
 ---> 550e1733c5b9
Step 9/12 : WORKDIR /usr/app
 ---> Running in e294af16d286
Removing intermediate container e294af16d286
 ---> 550e1733c5ba
Step 10/12 : COPY code/ ./
 ---> 550e1733c5bb
Step 11/12 : ENTRYPOINT ["python"]
 ---> Running in e294af16d287
Removing intermediate container e294af16d287
 ---> 550e1733c5bc
Step 12/12 : LABEL caliban.fingerprint="d28812a53cefe031"
 ---> Running in e51814e7b406
Removing intermediate container e51814e7b406
 ---> 1d065979f61e
Successfully built 1d065979f61e
Successfully tagged caliban:cpu-d28812a53cefe031
"""
BUILDKIT = """\
#1 [internal] load remote build context
#1 sha256:1fcb31799b63c1a7e1fb513671981cd56062cd78cbd0756f02f832751f452b87
#1 DONE 0.0s

#2 copy /context /
#2 DONE 0.1s

#3 [internal] load metadata for docker.io/library/base:latest
#3 DONE 0.0s

#4 [1/6] FROM docker.io/library/base:latest
#4 DONE 0.0s

#5 [2/6] RUN apt-get install git
#5 CACHED

#6 [3/6] WORKDIR /opt
#6 CACHED

#7 [4/6] COPY lock/ ./
#7 DONE 0.0s

#8 [5/6] RUN uv pip install
#8 sha256:14d0c23d5717153ab80a7d034edfd80186cb559744c3c0b0801b54087d0bf0ef
#8 0.235 Installed 7 packages in 3ms
#8 DONE 0.4s

#9 [6/6] WORKDIR /usr/app
#9 DONE 0.0s

#10 [7/6] COPY code/ ./
#10 DONE 0.0s

#11 exporting to image
#11 exporting layers 0.0s done
#11 writing image sha256:abe0dbef155e done
#11 naming to docker.io/library/caliban:cpu-0a2ede116199ea69 done
#11 DONE 0.0s
"""


def show(output: str, exit_code: int = 1, *args: Any, **more: Any) -> tuple[int, list[str]]:
    """What the module makes of a program that prints this and fails."""
    script = "import sys; sys.stdout.write(sys.argv[1]); sys.exit(int(sys.argv[2]))"
    command = [sys.executable, "-c", script, output, str(exit_code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        return progress.show(child, *args, **more)


def seen(output: str, exit_code: int = 0, *args: Any, **more: Any) -> list[str]:
    """What remains on a terminal, with "T" in the place of times."""
    with open_terminal() as tty:
        show(output, exit_code, *args, **more)
        text = tty.look().text
    return re.sub(r"^ +\d+\.\d s  ", "T ", text, flags=re.MULTILINE).splitlines()


@pytest.mark.parametrize(
    "output", [LEGACY, BUILDKIT.replace("/6]", "/7]")], ids=["legacy", "BuildKit"]
)
def test_on_a_terminal_a_line_remains_of_what_was_not_cached(output: str) -> None:
    expected = ["T Install 7 packages", "T Copy the code"]
    found = seen(output, sections=SECTIONS)
    # BuildKit has no step for what does not change files.
    assert [each for each in found if each != "T Set the environment"] == expected
    assert ("T Set the environment" in found) == (output is LEGACY)


@pytest.mark.parametrize("output", [LEGACY, BUILDKIT], ids=["legacy", "BuildKit"])
def test_elsewhere_everything_remains_under_these_names(
    output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show(output, 0, sections=SECTIONS)
    lines = capsys.readouterr().err.splitlines()
    titles = {section.title for section in SECTIONS} | {progress.SEND, progress.STORE}
    assert [line for line in lines if line not in titles] == output.splitlines()
    at = lines.index("Install 7 packages")
    assert "WORKDIR /opt" in lines[at + 1]


def test_what_is_no_step_of_a_dockerfile_is_worth_a_line_if_it_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_LEAST", {})
    found = seen(LEGACY, sections=SECTIONS)
    assert (found[0], found[-1]) == ("T Send the files", "T Store the image")


def test_steps_of_a_foreign_dockerfile_go_by_their_own_text() -> None:
    assert "T RUN uv pip install" in seen(LEGACY)
    assert "T RUN uv pip install" in seen(BUILDKIT)


@pytest.mark.parametrize("output", FAILURES.values(), ids=FAILURES)
def test_of_a_failure_the_output_of_the_step_remains(output: str) -> None:
    found = seen(output, 1)
    assert found[0].startswith("T failed: RUN apt-get")
    # Without what the builder says of it, which is mostly the command again.
    assert "".join(found[1:]) == "Reading package lists...E: Unable to locate package nonsense"


def test_the_layers_of_a_pull_are_counted() -> None:
    output = (
        "12: Pulling from library/python\n0123456789ab: Already exists\n"
        "0123456789ac: Pulling fs layer\n0123456789ad: Pulling fs layer\n"
        "0123456789ac: Pull complete\n"
    )
    layers = progress._Layers()
    told = [layers.count(line) for line in output.splitlines()]
    assert told == ["", "1 of 1 layers", "1 of 2 layers", "1 of 3 layers", "2 of 3 layers"]
    assert seen(output, 0, "Pull the base image x") == ["T Pull the base image x"]


def test_what_nobody_may_see_is_hidden() -> None:
    def mask(text: str) -> str:
        return text.replace("planted", "***")

    found = seen("Step 1/1 : RUN x\nhas planted in it\n", 1, mask=mask)
    assert "has *** in it" in found


@pytest.mark.parametrize("output", FAILURES.values(), ids=FAILURES)
def test_a_failure_is_told_in_the_words_of_the_step(output: str) -> None:
    code, lines = show(output)
    assert code == 1
    assert progress.reason(lines) == "E: Unable to locate package nonsense"


def test_of_the_installer_its_error_counts_and_not_what_follows() -> None:
    output = (
        "Step 8/12 : RUN uv\nResolved 2 packages\nerror: The build backend returned an error\n"
        "  cause: Call to setuptools failed\n\n    [stderr]\n    setup(x y)\n            ^\n"
    )
    expected = "error: The build backend returned an error (cause: Call to setuptools failed)"
    assert progress.reason(show(output)[1]) == expected


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
    assert progress.reason(show(output)[1]) == reason


@pytest.mark.parametrize("prefix", ["", "#9 8.585 ", "\x1b[91m"])
def test_warnings_are_repeated_at_the_end(prefix: str, capsys: Any) -> None:
    show(f"{prefix}warning: this is not good\n{prefix}warnings: 3\nmore\n")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == ["more", "warning: this is not good"]


def test_stages_are_counted_each_by_itself() -> None:
    sections = (
        Section("Start", ("FROM base AS resolver",)),
        Section("Resolve", ("RUN resolve",)),
        Section("Take it out", ("FROM scratch", "COPY --from=resolver /x /")),
    )
    output = (
        "#4 [resolver 1/2] FROM base\n#4 CACHED\n#5 [resolver 2/2] RUN resolve\n#5 DONE 1.0s\n"
        "#6 [stage-1 1/1] COPY --from=resolver /x /\n#6 DONE 0.0s\n"
    )
    assert seen(output, sections=sections) == ["T Resolve", "T Take it out"]
    output = output.replace("[resolver", "[linux/amd64 resolver")
    assert seen(output, sections=sections) == ["T Resolve", "T Take it out"]


def test_where_only_the_builder_says_something_that_remains() -> None:
    output = "Step 7/13 : COPY lock/ ./\nCOPY failed: file not found\n"
    assert seen(output, 1)[1:] == ["COPY failed: file not found"]
    output = "#3 [internal] load metadata\n#3 ERROR: no such thing\n------\nfailed to solve: it\n"
    assert "failed to solve: it" in seen(output, 1)
