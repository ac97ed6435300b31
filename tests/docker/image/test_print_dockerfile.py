"""`caliban build --print_dockerfile`: a Dockerfile that an expert would be content to own."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from caliban.docker.image import dockerfile
from caliban.model.image import ImagePlan, Mode
from caliban.model.lock import Lock
from caliban.model.module import Kind, Module
from tests.conftest import Inline
from tests.docker.conftest import write

# Rules that the checker must not apply, and why.
IGNORED = {
    "DL3002": "caliban starts each container as the user who starts the job, by --user",
    "DL3003": "the directory is made and removed within the step",
    "DL3008": "distributions keep the newest version only; who wants another names it in the file",
}

EVERYTHING = ImagePlan(
    Mode.CPU,
    "python:3.12-slim-bookworm",
    "/project",
    Module(Kind.PYTHON_MODULE, "trainer.train", "trainer"),
    requirements=("requirements.txt",),
    project="pyproject.toml",
    extras=("plots",),
    apt_packages=("git", "libsm6=2.0"),
    directories=("data", "all & && more"),
    python="3.12",
    packages=("-e .[a && b]",),
    lock=str(Lock("3.12", "0123", "six==1.16.0 \\\n    --hash=sha256:12\n")),
    julia="1.10",
    secrets=("netrc",),
)
PLANS = {
    "everything": EVERYTHING,
    "before its dependencies are resolved": replace(EVERYTHING, lock=""),
    "notebooks": EVERYTHING.interactive("zsh", "notebook>=7,<8"),
    "no dependencies": ImagePlan(
        Mode.GPU, "nvidia/cuda:12.6.3-base", "/p", Module(Kind.PYTHON_FILE, "train.py", ".")
    ),
    "a shell script": ImagePlan(
        Mode.CPU, "debian:12", "/p", Module(Kind.SHELL_SCRIPT, "bin/go.sh", "bin")
    ),
}


def without_comments(text: str) -> str:
    """A Dockerfile as the builder reads it: one line for each instruction."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return re.sub(r" \\\n *", " ", "\n".join(lines) + "\n")


@pytest.mark.parametrize("buildkit", [True, False], ids=["BuildKit", "legacy"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_checker_finds_no_fault(plan: ImagePlan, buildkit: bool) -> None:
    checker = Path(sysconfig.get_path("scripts"), "hadolint")
    ignored = [word for rule in IGNORED for word in ("--ignore", rule)]
    text = dockerfile.annotated(plan, buildkit)
    done = subprocess.run(
        [checker, "--no-color", *ignored, "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("buildkit", [True, False], ids=["BuildKit", "legacy"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_it_is_what_is_built(plan: ImagePlan, buildkit: bool) -> None:
    text = dockerfile.annotated(plan, buildkit)
    assert without_comments(text) == dockerfile.render(plan, buildkit)


def test_it_says_what_each_part_is_for() -> None:
    paragraphs = dockerfile.annotated(EVERYTHING).split("\n\n")
    assert all(paragraph.startswith("# ") for paragraph in paragraphs)
    assert [each.title for each in dockerfile.sections(EVERYTHING)] == [
        re.split(r"\. |\n", paragraph.removeprefix("# "))[0] for paragraph in paragraphs[1:]
    ]
    assert "code/ is trainer" in paragraphs[0]
    assert "directory-1/ is data" in paragraphs[0]


@pytest.mark.parametrize("name", ["new\nRUN rm -rf /", "\x1b[31mred", "escape=`", "tab\tbed"])
def test_no_name_becomes_an_instruction_or_a_directive(name: str) -> None:
    plan = replace(EVERYTHING, directories=(name,))
    text = dockerfile.annotated(plan)
    assert without_comments(text) == dockerfile.render(plan)
    assert re.match(r"#\s*\w+\s*=", text) is None
    assert all(line.isprintable() for line in text.splitlines())


def test_the_command_prints_it_and_needs_no_engine(
    folder: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    write(folder, {"trainer/train.py": "", "requirements.txt": "six\n"})
    done = inline("build", "--nogpu", "--print_dockerfile", "trainer.train")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# Written by caliban")
    assert 'ENTRYPOINT ["python", "-m", "trainer.train"]\n' in done.stdout
    # Without a module, it is the environment's, with the code live.
    done = inline("build", "--nogpu", "--print_dockerfile")
    assert done.returncode == 0, done.stderr
    assert "ENTRYPOINT" not in done.stdout
    assert "Install the dependencies" in done.stdout


@pytest.mark.parametrize("other", ["--explain", "--devcontainer"])
def test_only_one_thing_is_done_at_a_time(inline: Inline, other: str) -> None:
    done = inline("build", "--nogpu", "--print_dockerfile", other)
    assert done.returncode == 2
    assert "not allowed with" in done.stderr


def test_json_is_for_what_is_explained(folder: Path, inline: Inline) -> None:
    done = inline("build", "--nogpu", "--json", "trainer.train")
    assert done.returncode == 2
    assert "--json goes with --explain" in done.stderr
