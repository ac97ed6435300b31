"""The text of Dockerfiles, and that the engine reads it the way it is meant."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caliban.config import Config
from caliban.docker.engine import Engine
from caliban.docker.image import context
from caliban.docker.image.archive import write as write_archive
from caliban.docker.image.declared import resolution
from caliban.docker.image.dockerfile import render
from caliban.model.image import ImagePlan, Mode
from caliban.model.module import Kind, Module

HEAD = """\
LABEL caliban=""
USER 0
SHELL ["/bin/sh", "-c"]
RUN mkdir -p /usr/app /home/caliban/.config/gcloud \
&& chmod 777 /usr/app && chmod -R 777 /home/caliban
"""
APT = (
    "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes "
    "--no-install-recommends {} && apt-get clean && rm -rf /var/lib/apt/lists/*"
)
SHARED = (
    "python3 -Ic 'import os, sys, sysconfig; "
    'ours = "/opt/venv/lib/python%d.%d/site-packages" % sys.version_info[:2]; '
    "sys.prefix != sys.base_prefix and os.path.isdir(ours) and "
    'open(ours + "/base-image.pth", "w").write(sysconfig.get_path("purelib"))'
    "'"
)


def python(needed: str) -> str:
    """Sees to a Python that has these modules, and makes the environment."""
    install = APT.format("python3 python3-venv ca-certificates")
    return (
        f"RUN {{ python3 -Ic 'import {needed}' 2>/dev/null || {{ {install}; }}; }} "
        f"&& python3 -I -m venv --without-pip --system-site-packages /opt/venv && {SHARED}\n"
    )


PIP_UV = (
    "-m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --upgrade "
    "--target /opt/uv/0.13.8 uv==0.13.8"
)
UV = (
    'RUN export PATH="$PATH:/opt/uv/0.13.8/bin" UV_CACHE_DIR=/opt/uv/cache UV_HTTP_TIMEOUT=180 '
    "PYC_INVALIDATION_MODE=CHECKED_HASH PIP_USER=0 && { uv --version 2>/dev/null || "
    f"PYTHONPATH=$(echo /usr/share/python-wheels/pip-*.whl) python3 {PIP_UV} 2>/dev/null || "
    f"{{ python3 -I -m venv /opt/uv/pip && /opt/uv/pip/bin/python {PIP_UV}; }}; }} && "
)
CLEAN = "rm -rf /tmp/uv-*.lock && rm -rf /opt/uv/*\n"
DEPENDENCIES = (
    "WORKDIR /opt/dependencies\n"
    "COPY lock/ ./\n"
    f"{UV}"
    """{ [ "$(/opt/venv/bin/python -c 'import sys; print("# Python %d.%d" % """
    """sys.version_info[:2])')" = "$(head -n 1 requirements.lock)" ] || """
    "{ echo 'error: the lock is for another version of Python'; exit 1; }; } && "
    "uv pip install --link-mode copy --python /opt/venv/bin/python --no-deps "
    "--index-strategy unsafe-best-match --requirement requirements.lock && "
    f"/opt/venv/bin/python -I -W ignore /opt/dependencies/compile.py /opt/venv/lib "
    f"/opt/uv/bytecode && {CLEAN}"
)
PACKAGES = (
    "WORKDIR /opt/dependencies\n"
    "COPY dependencies/ ./\n"
    f"{UV}"
    "mv /usr/app /usr/app.empty && cp -a . /usr/app && cd /usr/app && "
    f"export {resolution.VERSIONS} && "
    "uv pip install --link-mode copy --python /opt/venv/bin/python --no-deps --editable . "
    "./libs/metrics && /opt/venv/bin/python -I -W ignore /opt/dependencies/compile.py "
    "/opt/venv/lib /opt/uv/bytecode && cd / && rm -rf /usr/app && mv /usr/app.empty /usr/app && "
    f"{CLEAN}"
)
JUPYTER = (
    "COPY jupyter/ /opt/\n"
    f"{UV}/opt/venv/bin/python -m venv --without-pip /opt/jupyter/venv && "
    "uv pip install --link-mode copy --compile-bytecode --python /opt/jupyter/venv/bin/python "
    "--override /opt/jupyter/overrides.txt 'notebook>=7.4,<8' && "
    "/opt/jupyter/venv/bin/python /opt/jupyter/install_kernel.py /opt/venv/bin/python "
    f"uv pip install --link-mode copy --compile-bytecode && {CLEAN}"
)
ENVIRONMENT = "ENV HOME=/home/caliban PYTHONUNBUFFERED=1"
VENV = (
    " VIRTUAL_ENV=/opt/venv "
    "PATH=/opt/venv/bin:${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
)

SCRIPT = ImagePlan(Mode.CPU, "base", "/project", Module(Kind.SHELL_SCRIPT, "bin/go", "bin"))
CODE = ImagePlan(
    Mode.CPU, "base:1", "/project", Module(Kind.PYTHON_MODULE, "trainer.train", "trainer")
)
INTERACTIVE = ImagePlan(
    Mode.CPU, "base", "/project", None, project="pyproject.toml", extras=("cpu", "a b")
)
FULL = ImagePlan(
    mode=Mode.GPU,
    base_image="gcr.io/project/base@sha256:0123",
    directory="/project",
    module=Module(Kind.PYTHON_FILE, "mycode.py", "."),
    requirements=("requirements.txt", "more/base.txt"),
    project="setup.py",
    extras=("gpu", "dev"),
    apt_packages=("git", "libsm6"),
    directories=("data", "models/stored"),
    packages=("-e .", "./libs/metrics"),
)

TEXTS = {
    "a shell script": (
        SCRIPT,
        f"FROM base\n{HEAD}{ENVIRONMENT}\n"
        "WORKDIR /usr/app\n"
        'ENTRYPOINT ["/bin/bash", "bin/go"]\n'
        "COPY code/ ./\n",
    ),
    "a module without dependencies": (
        CODE,
        f"FROM base:1\n{HEAD}"
        f"{python('venv')}"
        f"{ENVIRONMENT}{VENV}\n"
        "WORKDIR /usr/app\n"
        'ENTRYPOINT ["python", "-m", "trainer.train"]\n'
        "COPY code/ ./\n",
    ),
    "an interactive image with a pyproject.toml": (
        INTERACTIVE,
        f"FROM base\n{HEAD}"
        f"{python('ensurepip, venv')}"
        f"{DEPENDENCIES}"
        f"{ENVIRONMENT}{VENV}\n"
        "WORKDIR /usr/app\n",
    ),
    "an image for notebooks": (
        INTERACTIVE.interactive(jupyter="notebook>=7.4,<8"),
        f"FROM base\n{HEAD}"
        f"{python('ensurepip, venv')}"
        f"{DEPENDENCIES}"
        f"{JUPYTER}"
        f"{ENVIRONMENT}{VENV}\n"
        "WORKDIR /usr/app\n",
    ),
    "an image for notebooks of a project without dependencies": (
        CODE.interactive(jupyter="notebook>=7.4,<8"),
        f"FROM base:1\n{HEAD}"
        f"{python('venv')}"
        "RUN python3 -c 'import ensurepip' 2>/dev/null || "
        f"{{ {APT.format('python3 python3-venv ca-certificates')}; }}\n"
        f"{JUPYTER}"
        f"{ENVIRONMENT}{VENV}\n"
        "WORKDIR /usr/app\n",
    ),
    "everything": (
        FULL,
        f"FROM gcr.io/project/base@sha256:0123\n{HEAD}"
        f"RUN {APT.format('git libsm6')}\n"
        f"{python('ensurepip, venv')}"
        f"{DEPENDENCIES}"
        f"{PACKAGES}"
        f"{ENVIRONMENT}{VENV}\n"
        "WORKDIR /usr/app\n"
        "COPY directory-1/ ./\n"
        "COPY directory-2/ ./\n"
        'ENTRYPOINT ["python", "mycode.py"]\n'
        "COPY code/ ./\n",
    ),
}
PLANS = [plan for plan, _ in TEXTS.values()]

# Names that mean something else to a shell, to JSON, to the builder's variables or its patterns.
AWKWARD = [
    *("plain", "with space", "it's", 'say "hi"', "a[0]", "[", "x]y", "st*r", "wh?t", "back\\slash"),
    *("$HOME", "a${b}c", "new\nline", "tab\tbed", "-dash", "--from=x", "#hash", "a,b", "ünï", "!x"),
]


@pytest.mark.parametrize(("plan", "text"), TEXTS.values(), ids=TEXTS)
def test_this_is_the_whole_text_for(plan: ImagePlan, text: str) -> None:
    assert render(plan) == text


@pytest.mark.parametrize("plan", PLANS, ids=TEXTS)
def test_buildkit_only_keeps_downloads_between_builds(plan: ImagePlan) -> None:
    text = render(plan, buildkit=True)
    mount = "--mount=type=cache,id=caliban-uv,target=/opt/uv,sharing=locked "
    steps = text.count("uv --version")
    assert steps == bool(plan.project) + bool(plan.packages) + bool(plan.jupyter)
    assert text.count("--mount") == text.count(mount) == steps
    assert text.replace(mount, "") == render(plan).replace(" && rm -rf /opt/uv/*", "")


@pytest.mark.parametrize("buildkit", [False, True])
@pytest.mark.parametrize("plan", PLANS, ids=TEXTS)
def test_nothing_is_used_that_some_builders_do_not_take(plan: ImagePlan, buildkit: bool) -> None:
    text = render(plan, buildkit)
    assert "<<" not in text
    assert "--link" not in text.replace("--link-mode", "")
    assert "syntax" not in text
    assert [line for line in text.splitlines() if line.startswith("#")] == []


def test_what_changes_most_comes_last() -> None:
    text = render(FULL)
    installed = ("lock/", "uv pip", "dependencies/", "./libs/metrics")
    parts = ("FROM", "libsm6", "/opt/venv", *installed, "directory-1", "code/")
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"module": Module(Kind.PYTHON_FILE, "other.py", ".")}, "ENTRYPOINT "),
        ({"directories": ("data",)}, "COPY directory-2/ "),
        ({"packages": ("-e .",)}, f"{UV}mv "),
        # The lock tells the difference.
        ({"extras": ("cpu",)}, ""),
        ({"requirements": ()}, ""),
        ({"apt_packages": ("git",)}, "RUN apt-get update "),
        ({"mode": Mode.CPU}, ""),
        ({"directory": "/elsewhere"}, ""),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_change_leaves_the_layers_before_it_alone(
    change: dict[str, object], touched: str
) -> None:
    before = render(FULL).splitlines()
    after = render(dataclasses.replace(FULL, **change)).splitlines()  # type: ignore[arg-type]
    different = [old for old, new in zip(before, after, strict=False) if old != new]
    assert different[:1] == [line for line in before if touched and line.startswith(touched)][:1]


@given(st.lists(st.text(st.characters(exclude_characters="\0/"), min_size=1), max_size=3))
def test_names_of_files_are_nowhere_but_in_the_entry_point(names: list[str]) -> None:
    file = "/".join([*names, "x.py"])
    code = Module(Kind.PYTHON_FILE, file, names[0] if names else ".")
    *lines, entry_point, copy, end = render(
        dataclasses.replace(FULL, directories=tuple(names), module=code)
    ).split("\n")
    plain = dataclasses.replace(FULL, directories=("plain",) * len(names))
    assert lines == render(plain).split("\n")[:-3]
    assert (copy, end) == ("COPY code/ ./", "")
    assert json.loads(entry_point.removeprefix("ENTRYPOINT ")) == ["python", file]


@pytest.mark.parametrize("extra", ["a b", "$(rm -rf /)", "it's", "a;b"])
@pytest.mark.parametrize("declared", ["setup.py", "pyproject.toml"])
def test_extras_reach_the_resolver_as_they_are(declared: str, extra: str) -> None:
    plan = dataclasses.replace(INTERACTIVE, project=declared, extras=(extra,))
    words = shlex.split(resolution.script(plan, "python"))
    assert (f"-e .[{extra}]" if declared == "setup.py" else f"--extra={extra}") in words


@pytest.mark.parametrize("package", ["g++", "libc6=2.36-9", "vim/bookworm", "libx:arm64"])
def test_packages_reach_apt_as_they_are(package: str) -> None:
    text = render(dataclasses.replace(SCRIPT, apt_packages=(package,)))
    assert f" --no-install-recommends {package} && " in text


def test_the_engine_copies_directories_whatever_their_names(engine: Engine, project: Path) -> None:
    for name in AWKWARD:
        (project / name).mkdir()
        (project / name / "file").write_text(name)
    base = Config().base_image(Mode.CPU, os.environ)
    plan = ImagePlan(Mode.CPU, base, str(project), directories=tuple(AWKWARD))
    wanted = ("FROM ", "WORKDIR ", "COPY ")
    lines = [line for line in render(plan).splitlines() if line.startswith(wanted)]
    archive = io.BytesIO()
    write_archive("\n".join(lines), context.files(plan), archive)
    built = subprocess.run(
        ["docker", "build", "--no-cache", "--quiet", "-"],
        input=archive.getvalue(),
        capture_output=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr.decode()
    image = built.stdout.decode().strip()
    try:
        listing = "import json, pathlib; print(json.dumps({p.parent.name: p.read_text()"
        listing += " for p in pathlib.Path('.').glob('*/file')}))"
        shown = subprocess.run(
            ["docker", "run", "--rm", image, "python3", "-c", listing],
            capture_output=True,
            check=True,
        )
    finally:
        subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True, check=True)
    assert json.loads(shown.stdout) == {name: name for name in AWKWARD}
