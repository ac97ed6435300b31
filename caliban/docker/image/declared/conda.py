"""A project's conda environment: from environment.yml to steps of a Dockerfile."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caliban import document
from caliban.errors import UsageError
from caliban.model.image import ImagePlan

NAMES = ("environment.yml", "environment.yaml")

MICROMAMBA = "mambaorg/micromamba:2.3.3"

# Where the environment is. Its programs are found before those of the base image.
PREFIX = "/opt/environment"
# The packages as they are downloaded and unpacked, from which the environment is copied.
_CACHE = "/opt/micromamba"

# Base images that bring conda themselves: mambaorg/micromamba, condaforge/miniforge3.
_HAS_CONDA = r"conda|mamba"
_PROGRAMS = ("micromamba", "mamba", "conda", "/opt/conda/bin/conda")

# Those that are used, and those that say what the environment is called elsewhere.
_KEYS = ("channels", "dependencies", "name", "prefix")
_DEFAULT_CHANNEL = "conda-forge"
_PYTHON = r"(?:\S+::)?python(?:\s*[=<>!~ \[].*)?"
_EXPECTED = 'packages, like "numpy=2.1", and perhaps one entry "pip:" with a list of requirements'


@dataclass
class Environment:
    """What an environment.yml declares.

    Attributes:
      arguments: the channels and packages, as `micromamba create` takes them.
      pip: the lines of its pip section: those of a requirements file.
      has_python: whether its packages include a Python.
      ignored: keys of it that make no difference.
    """

    arguments: list[str] = field(default_factory=list)
    pip: list[str] = field(default_factory=list)
    has_python: bool = False
    ignored: list[str] = field(default_factory=list)


def read(path: Path) -> Environment:
    """Reads an environment.yml.

    Raises:
      UsageError: it is no YAML, or doesn't declare an environment.
    """
    content = document.read(str(path))
    if not isinstance(content, dict):
        raise UsageError(f"{path}: found {content!r}, expected 'channels' and 'dependencies'")
    found = Environment(ignored=[key for key in content if key not in _KEYS])
    channels = [each for each in _list(path, content, "channels") if each != "nodefaults"]
    for channel in channels or [_DEFAULT_CHANNEL]:
        if not isinstance(channel, str):
            raise UsageError(f"{path}: 'channels' holds {channel!r}, expected names of channels")
        found.arguments += ["--channel", channel]
    for each in _list(path, content, "dependencies"):
        if isinstance(each, str) and each.strip():
            found.has_python |= re.fullmatch(_PYTHON, each.strip()) is not None
            found.arguments.append(each.strip())
        elif isinstance(each, dict) and set(each) == {"pip"}:
            found.pip += [_line(path, line) for line in _list(path, each, "pip")]
        else:
            raise UsageError(f"{path}: 'dependencies' holds {each!r}, expected {_EXPECTED}")
    return found


def instructions(plan: ImagePlan, search: str) -> Iterator[str]:
    """The instructions of a Dockerfile that make a plan's conda environment; none if it has none.

    After them, its programs come first on the PATH, Python among them if it has one.

    Args:
      plan: what the image holds.
      search: the PATH of the base image, as a Dockerfile says that: "$PATH".
    """
    if not plan.conda:
        return
    create = ["create", "--yes", "--quiet", "--prefix", PREFIX, "--override-channels", *plan.conda]
    # In a base image that brings it, it may be any of these: all take the same arguments.
    program = f'"$({" || ".join(f"command -v {each}" for each in _PROGRAMS)})"'
    if not re.search(_HAS_CONDA, plan.base_image):
        yield f"COPY --from={MICROMAMBA} /bin/micromamba /usr/local/bin/micromamba"
        program = "micromamba"
    yield (
        f"RUN export MAMBA_ROOT_PREFIX={_CACHE} CONDA_PKGS_DIRS={_CACHE}/pkgs "
        f"&& {program} {shlex.join(create)} && rm -rf {_CACHE}"
    )
    yield f"ENV CONDA_PREFIX={PREFIX} PATH={PREFIX}/bin:{search}"


def _list(path: Path, content: Mapping[str, Any], key: str) -> list[Any]:
    value = content.get(key) or []
    if not isinstance(value, list):
        raise UsageError(f"{path}: '{key}' must be a list, found {value!r}")
    return value


def _line(path: Path, line: object) -> str:
    if not isinstance(line, str) or not line.strip() or "\n" in line.strip():
        raise UsageError(f"{path}: 'pip' holds {line!r}, expected a requirement")
    return line.strip()
