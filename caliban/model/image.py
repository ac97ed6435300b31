"""ImagePlan: everything that decides what is in an image."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from caliban.model.module import Kind, Module


class Mode(enum.Enum):
    """Whether the image is made for a machine with GPUs."""

    CPU = "cpu"
    GPU = "gpu"


DEFAULT_BASE_IMAGES: Mapping[Mode, str] = {
    Mode.CPU: "python:3.12-slim-bookworm",
    Mode.GPU: "nvidia/cuda:12.6.3-cudnn-runtime-ubuntu24.04",
}

WORKING_DIRECTORY = "/usr/app"
HOME = "/home/caliban"

# Where a job finds the directory whose files are kept, and the variable that says so.
OUTPUT = "/output"
OUTPUT_VARIABLE = "CALIBAN_OUTPUT"

# A file that marks a folder of what jobs have written, which would make each image a new one.
OUTPUTS_MARK = ".caliban-outputs"


@dataclass(frozen=True)
class ProjectDockerfile:
    """A Dockerfile of the project, which makes the image that caliban builds on.

    Attributes:
      path: where it is, relative to the project.
      target: the stage of it that is wanted; "" for the last one.
      build_args: its arguments (ARG), sorted by name. They are no place for secrets.
    """

    path: str
    target: str = ""
    build_args: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The Dockerfile as JSON; `from_json` reads it back."""
        return {"path": self.path, "target": self.target, "build_args": dict(self.build_args)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ProjectDockerfile:
        """Reads what `to_json` wrote."""
        return cls(value["path"], value["target"], tuple(sorted(value["build_args"].items())))


@dataclass(frozen=True)
class ImagePlan:
    """What goes into an image. It is the container spec of the history, and renders a Dockerfile.

    Attributes:
      mode: for CPU or GPU.
      base_image: the image that it is built on.
      directory: the project; every path below is relative to it.
      module: what a container executes; None for an interactive image.
      requirements: pip requirements files that are installed, in order.
      project: the file that declares the project and whose dependencies are installed:
        "pyproject.toml", "setup.py", "setup.cfg" or "Pipfile"; "" for none.
      extras: the project's optional sets of dependencies to install.
      apt_packages: packages of the distribution, sorted.
      directories: extra directories to copy, in the order given.
      live: whether the project is mounted when a container runs, so that the image holds neither
        the code nor the extra directories.
      shell: a shell that must be there besides the base image's own: "zsh", or "" for none.
      jupyter: the requirement of the Jupyter that must be there: "notebook>=7,<8"; "" for none.
      groups: dependency groups of pyproject.toml to install.
      lock_file: the lock that the project brings, "uv.lock", "poetry.lock" or "Pipfile.lock"; ""
        for none. It says what is installed for `project`.
      pip: requirements that no requirements file holds, each a line of one: those of the conda
        environment's pip section.
      conda: the conda environment, as arguments of `micromamba create`: channels and packages.
      python: the Python that is wanted, as uv takes it: "3.12", ">=3.10,<3.13"; "" for the base
        image's own.
      packages: what is installed from the project's own files, after the lock, each a line of a
        requirements file: "-e .", "./libs/metrics[fast]", "./wheels/x-1.0-py3-none-any.whl".
      lock: the versions to install, as a requirements file with hashes; "" before they are
        resolved, and where there is nothing to resolve.
      julia: version of Julia to install; "" for none.
      dockerfile: the project's Dockerfile that `base_image` is built from; None for an image that
        has to be there.
      secrets: ids of the secrets that the build needs, never their values.
      platform: what it runs on, "linux/arm64"; "" for what the engine itself runs on.
    """

    mode: Mode
    base_image: str
    directory: str
    module: Module | None = None
    requirements: tuple[str, ...] = ()
    project: str = ""
    extras: tuple[str, ...] = ()
    apt_packages: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    live: bool = False
    shell: str = ""
    jupyter: str = ""
    groups: tuple[str, ...] = ()
    lock_file: str = ""
    pip: tuple[str, ...] = ()
    conda: tuple[str, ...] = ()
    python: str = ""
    packages: tuple[str, ...] = ()
    lock: str = ""
    julia: str = ""
    dockerfile: ProjectDockerfile | None = None
    secrets: tuple[str, ...] = ()
    platform: str = ""

    def interactive(self, shell: str = "", jupyter: str = "") -> ImagePlan:
        """The same environment with no code in it, which is mounted: all projects' live image."""
        return replace(self, module=None, directories=(), live=True, shell=shell, jupyter=jupyter)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON; `from_json` reads it back."""
        module = self.module
        # Left out where it says nothing: such plans are recorded as they always were.
        rare = {
            "live": self.live,
            "shell": self.shell,
            "jupyter": self.jupyter,
            "groups": list(self.groups),
            "lock_file": self.lock_file,
            "pip": list(self.pip),
            "conda": list(self.conda),
            "python": self.python,
            "packages": list(self.packages),
            "lock": self.lock,
            "julia": self.julia,
            "dockerfile": self.dockerfile and self.dockerfile.to_json(),
            "secrets": list(self.secrets),
            "platform": self.platform,
        }
        return {
            "mode": self.mode.value,
            "base_image": self.base_image,
            "directory": self.directory,
            "module": module
            and {"kind": module.kind.value, "name": module.name, "copied": module.copied},
            "requirements": list(self.requirements),
            "project": self.project,
            "extras": list(self.extras),
            "apt_packages": list(self.apt_packages),
            "directories": list(self.directories),
            **{key: value for key, value in rare.items() if value},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ImagePlan:
        """Reads what `to_json` wrote.

        Raises:
          KeyError: a key is missing: the record was not written by `to_json`.
        """
        module, dockerfile = value["module"], value.get("dockerfile")
        return cls(
            mode=Mode(value["mode"]),
            base_image=value["base_image"],
            directory=value["directory"],
            module=module and Module(Kind(module["kind"]), module["name"], module["copied"]),
            requirements=tuple(value["requirements"]),
            project=value["project"],
            extras=tuple(value["extras"]),
            apt_packages=tuple(value["apt_packages"]),
            directories=tuple(value["directories"]),
            live=value.get("live", False),
            shell=value.get("shell", ""),
            jupyter=value.get("jupyter", ""),
            groups=tuple(value.get("groups", ())),
            lock_file=value.get("lock_file", ""),
            pip=tuple(value.get("pip", ())),
            conda=tuple(value.get("conda", ())),
            python=value.get("python", ""),
            packages=tuple(value.get("packages", ())),
            lock=value.get("lock", ""),
            julia=value.get("julia", ""),
            dockerfile=dockerfile and ProjectDockerfile.from_json(dockerfile),
            secrets=tuple(value.get("secrets", ())),
            platform=value.get("platform", ""),
        )
