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
class ImagePlan:
    """What goes into an image. It is the container spec of the history, and renders a Dockerfile.

    Attributes:
      mode: for CPU or GPU.
      base_image: the image that it is built on.
      directory: the project; every path below is relative to it.
      module: what a container executes; None for an interactive image.
      requirements: pip requirements files that are installed, in order.
      project: "setup.py" or "pyproject.toml" when its dependencies are installed, else "".
      extras: the project's optional sets of dependencies to install.
      apt_packages: packages of the distribution, sorted.
      directories: extra directories to copy, in the order given.
      live: whether the project is mounted when a container runs, so that the image holds neither
        the code nor the extra directories.
      shell: a shell that must be there besides the base image's own: "zsh", or "" for none.
      jupyter: the requirement of the Jupyter that must be there: "notebook>=7,<8"; "" for none.
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

    def interactive(self, shell: str = "", jupyter: str = "") -> ImagePlan:
        """The same environment with no code in it, which is mounted: all projects' live image."""
        return replace(self, module=None, directories=(), live=True, shell=shell, jupyter=jupyter)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON; `from_json` reads it back."""
        module = self.module
        # Left out where it says nothing: such plans are recorded as they always were.
        rare = {"live": self.live, "shell": self.shell, "jupyter": self.jupyter}
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
        module = value["module"]
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
        )
