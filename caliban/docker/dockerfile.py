"""From an ImagePlan to the text of a Dockerfile."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import PurePosixPath

from caliban.model.image import HOME, WORKING_DIRECTORY, ImagePlan

# The build context holds the project's files in a folder of their own, beside the Dockerfile, so
# that "everything" never includes the Dockerfile.
PROJECT_FOLDER = "project"

_VENV = "/opt/venv"
_UV = "/opt/uv"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_APT_INSTALL = (
    "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes "
    "--no-install-recommends {packages} && rm -rf /var/lib/apt/lists/*"
)


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
    # Jobs run as the user who started them, whose number no image knows beforehand: where a job
    # may write, everybody may.
    yield "USER root"
    yield f"RUN mkdir -p {WORKING_DIRECTORY} {HOME} && chmod 1777 {WORKING_DIRECTORY} {HOME}"
    yield f"ENV HOME={HOME} PYTHONUNBUFFERED=1"
    yield f"WORKDIR {WORKING_DIRECTORY}"
    if plan.apt_packages:
        packages = " ".join(map(shlex.quote, plan.apt_packages))
        yield f"RUN {_APT_INSTALL.format(packages=packages)}"
    if plan.module is None or plan.module.is_python or plan.requirements or plan.project:
        yield from _python(plan, buildkit)
    for directory in plan.directories:
        yield _copy(directory, directory)
    if plan.module is not None:
        yield _copy(plan.module.copied, plan.module.copied)
        yield f"ENTRYPOINT {json.dumps(plan.module.command)}"


def _python(plan: ImagePlan, buildkit: bool) -> Iterator[str]:
    """An environment over the base image's own Python, whose packages stay importable."""
    has_dependencies = bool(plan.requirements or plan.project)
    probe = "python3 -c 'import ensurepip'" if has_dependencies else "python3 -c 'import venv'"
    packages = "python3 python3-venv ca-certificates"
    yield f"RUN {probe} 2>/dev/null || ( {_APT_INSTALL.format(packages=packages)} )"
    yield f"RUN python3 -m venv --without-pip --system-site-packages {_VENV}"
    yield f"ENV VIRTUAL_ENV={_VENV} PATH={_VENV}/bin:${{PATH:-{_PATH}}}"
    if not has_dependencies:
        return
    pip_cache = "--mount=type=cache,target=/root/.cache/pip " if buildkit else ""
    pip = "install" if buildkit else "install --no-cache-dir"
    yield (
        f"RUN {pip_cache}command -v uv || {{ HOME=/root python3 -m venv {_UV} && "
        f"HOME=/root {_UV}/bin/python -m pip {pip} --quiet --disable-pip-version-check uv && "
        f"ln -s {_UV}/bin/uv /usr/local/bin/uv; }}"
    )
    uv_cache = "--mount=type=cache,target=/root/.cache/uv " if buildkit else ""
    cache = "--cache-dir /root/.cache/uv" if buildkit else "--no-cache"
    # Without bytecode, every container would compile what it imports, and throw it away.
    install = (
        f"RUN {uv_cache}UV_HTTP_TIMEOUT=180 UV_LINK_MODE=copy "
        f"uv pip install {cache} --compile-bytecode"
    )
    if plan.requirements:
        for name in plan.requirements:
            yield _copy(name, name)
        yield f"{install} --requirement {plan.requirements[0]}"
    if plan.project:
        yield _copy(plan.project, plan.project)
        if plan.project == "setup.py":
            extras = f"[{','.join(plan.extras)}]" if plan.extras else ""
            yield f"{install} {shlex.quote('.' + extras)}"
        else:
            extras = "".join(f" --extra {shlex.quote(extra)}" for extra in plan.extras)
            yield f"{install} --requirement {plan.project}{extras}"


def _copy(source: str, target: str) -> str:
    """Copies a file or the content of a directory of the project, whatever its name."""
    return "COPY " + json.dumps(
        [
            f"{PROJECT_FOLDER}/{_escape(source)}" if source != "." else PROJECT_FOLDER,
            str(PurePosixPath(WORKING_DIRECTORY) / target) + ("" if target != "." else "/"),
        ],
        ensure_ascii=False,
    )


def _escape(path: str) -> str:
    """COPY takes its source as a pattern (Go's filepath.Match); a name is meant literally."""
    return "".join(f"\\{letter}" if letter in "*?[\\" else letter for letter in path)
