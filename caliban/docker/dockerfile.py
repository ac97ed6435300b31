"""From an ImagePlan to the text of a Dockerfile."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from caliban.docker.identity import ADC_PATH
from caliban.model.image import HOME, WORKING_DIRECTORY, ImagePlan

# Label of every image that caliban makes.
LABEL = "caliban"

# Folders of the build context, each of which one COPY takes whole. A Dockerfile that named the
# user's own files would fail for some of their names: the builders read brackets, quotes and
# dollars in them differently, and BuildKit copies nothing, silently, where it finds nothing.
DEPENDENCIES = "dependencies"
CODE = "code"
JUPYTER = "jupyter"

_DEPENDENCIES_FOLDER = "/opt/dependencies"
VENV = "/opt/venv"
# Where an image has its Jupyter: the files of resources/jupyter, and what they install there.
JUPYTER_FOLDER = "/opt/jupyter"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The installer is needed for one step only, and stays out of the image: BuildKit lends that step a
# folder that is kept between builds, elsewhere the step empties the folder that it has made.
_UV = "uv==0.13.8"
_UV_FOLDER = "/opt/uv"
_PIP_UV = (
    "-m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --upgrade "
    f"--target {_UV_FOLDER} {_UV}"
)
# Not every Python has a pip. A virtual environment has one, but takes seconds to make.
_GET_UV = (
    f"python3 {_PIP_UV} 2>/dev/null || "
    f"{{ python3 -m venv {_UV_FOLDER}/pip && {_UV_FOLDER}/pip/bin/python {_PIP_UV}; }}"
)

_UV_INSTALL = ("uv", "pip", "install")
# Without bytecode, every container would compile what it imports, and throw it away.
_UV_OPTIONS = ("--compile-bytecode", "--link-mode", "copy", "--cache-dir", f"{_UV_FOLDER}/cache")
_UV_PATIENCE = "UV_HTTP_TIMEOUT=180"

_APT_INSTALL = (
    "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes "
    "--no-install-recommends {packages} && apt-get clean && rm -rf /var/lib/apt/lists/*"
)
_INSTALL_PYTHON = _APT_INSTALL.format(packages="python3 python3-venv ca-certificates")


def directory_folder(index: int) -> str:
    """The folder of the build context that holds an extra directory, the first one being 0."""
    return f"directory-{index + 1}"


def render(plan: ImagePlan, buildkit: bool = False) -> str:
    """Writes the Dockerfile of a plan.

    The order keeps the build cache warm: distribution packages, the Python environment, the
    dependencies, extra directories and, last because it changes most, the code. The text has no
    `# syntax` line, heredoc or COPY --link, which not every builder takes.

    Args:
      plan: what the image holds.
      buildkit: whether the builder knows `RUN --mount`; downloads are then kept between builds.
        The image's content is the same either way.
    """
    return "\n".join(_lines(plan, buildkit)) + "\n"


def _lines(plan: ImagePlan, buildkit: bool) -> Iterator[str]:
    yield f"FROM {plan.base_image}"
    # So early, it marks what a build that fails leaves behind as well.
    yield f'LABEL {LABEL}=""'
    yield "USER root"
    # Jobs run as the user who started them, whose number no image knows beforehand: where a job
    # may write, everybody may. That includes the folders that the mounted credentials lie in,
    # which the engine would otherwise make for root alone.
    credentials = PurePosixPath(ADC_PATH).parent
    yield (
        f"RUN mkdir -p {WORKING_DIRECTORY} {credentials} "
        f"&& chmod 777 {WORKING_DIRECTORY} && chmod -R 777 {HOME}"
    )
    environment = f"ENV HOME={HOME} PYTHONUNBUFFERED=1"
    if plan.apt_packages:
        packages = " ".join(map(shlex.quote, plan.apt_packages))
        yield f"RUN {_APT_INSTALL.format(packages=packages)}"
    needs_python = plan.live or plan.module is None or plan.module.is_python
    if needs_python or _has_dependencies(plan):
        yield from _python(plan, buildkit)
        environment += f" VIRTUAL_ENV={VENV} PATH={VENV}/bin:${{PATH:-{_PATH}}}"
    # After the dependencies, so that images with and without these share those layers.
    if plan.shell:
        install = _APT_INSTALL.format(packages=shlex.quote(plan.shell))
        yield f"RUN command -v {shlex.quote(plan.shell)} || {{ {install}; }}"
    if plan.jupyter:
        yield from _jupyter(plan, buildkit)
    # Only now, so that nothing that was executed wrote root's files into the jobs' home directory.
    yield environment
    yield f"WORKDIR {WORKING_DIRECTORY}"
    if plan.live:
        return
    for index, _ in enumerate(plan.directories):
        yield f"COPY {directory_folder(index)}/ ./"
    if plan.module is not None:
        yield f"COPY {CODE}/ ./"
        yield f"ENTRYPOINT {json.dumps(plan.module.command)}"


def _python(plan: ImagePlan, buildkit: bool) -> Iterator[str]:
    """An environment over the base image's own Python, whose packages stay importable."""
    needed = "ensurepip, venv" if _has_dependencies(plan) else "venv"
    yield (
        f"RUN {{ python3 -c 'import {needed}' 2>/dev/null || {{ {_INSTALL_PYTHON}; }}; }} "
        f"&& python3 -m venv --without-pip --system-site-packages {VENV}"
    )
    if not _has_dependencies(plan):
        return
    yield f"WORKDIR {_DEPENDENCIES_FOLDER}"
    yield f"COPY {DEPENDENCIES}/ ./"
    yield _run_with_uv(_install(plan), buildkit)


def _has_dependencies(plan: ImagePlan) -> bool:
    return bool(plan.requirements or plan.project)


def _run_with_uv(commands: Iterable[str], buildkit: bool) -> str:
    """A step whose commands find the installer on their PATH."""
    steps = [
        f'PATH="$PATH:{_UV_FOLDER}/bin"',
        f"{{ uv --version 2>/dev/null || {_GET_UV}; }}",
        *commands,
    ]
    mount = ""
    if buildkit:
        mount = f"--mount=type=cache,id=caliban-uv,target={_UV_FOLDER},sharing=locked "
    else:
        steps.append(f"rm -rf {_UV_FOLDER}/*")
    return f"RUN {mount}{' && '.join(steps)}"


def _install(plan: ImagePlan) -> Iterator[str]:
    """The commands that install the dependencies, all that are declared in one resolution."""
    words = [*_UV_INSTALL, "--python", f"{VENV}/bin/python", *_UV_OPTIONS]
    if plan.requirements:
        words += ["--requirement", plan.requirements[0]]
    if plan.project == "setup.py":
        words.append(f".[{','.join(plan.extras)}]" if plan.extras else ".")
    elif plan.project:
        words += ["--requirement", plan.project]
        words += [word for extra in plan.extras for word in ("--extra", extra)]
    yield f"{_UV_PATIENCE} {shlex.join(words)}"
    # What setuptools leaves beside a setup.py, and uv wherever it has built something.
    yield "rm -rf build ./*.egg-info /tmp/uv-*.lock"


def _jupyter(plan: ImagePlan, buildkit: bool) -> Iterator[str]:
    """Jupyter, with packages of its own, so that those of the project stay what they are.

    The server sees none of the project's. The kernel does, see resources/jupyter/install_kernel.py.
    """
    if not _has_dependencies(plan):
        yield f"RUN python3 -c 'import ensurepip' 2>/dev/null || {{ {_INSTALL_PYTHON}; }}"
    yield f"COPY {JUPYTER}/ /opt/"
    python = f"{JUPYTER_FOLDER}/venv/bin/python"
    server = [*_UV_INSTALL, "--python", python, *_UV_OPTIONS]
    server += ["--override", f"{JUPYTER_FOLDER}/overrides.txt", plan.jupyter]
    kernel = [python, f"{JUPYTER_FOLDER}/install_kernel.py", f"{VENV}/bin/python"]
    kernel += [*_UV_INSTALL, *_UV_OPTIONS]
    commands = (
        f"{VENV}/bin/python -m venv --without-pip {JUPYTER_FOLDER}/venv",
        f"{_UV_PATIENCE} {shlex.join(server)}",
        f"{_UV_PATIENCE} {shlex.join(kernel)}",
        "rm -rf /tmp/uv-*.lock",
    )
    yield _run_with_uv(commands, buildkit)
