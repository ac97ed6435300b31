"""What exactly a launch ran: code, image, versions, flags, machine. The record, as plain data."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

# What among the flags of any command is written without its name, behind them: of
# `cluster job submit_file`, and of `replay`.
_FILES = ("job_file", "file")

# Commands that take from elsewhere what they run.
_WITHOUT_MODULE = ("resubmit", "replay")

# Who opens a URL. What follows a user and a colon, and is no port, is a password, up to the last
# "@": the characters "@" and "/" in it may not have been escaped.
_ACCOUNT = re.compile(r"(?<=://)(?:[^/\s@:]*:(?!\d{1,5}(?:[/?#\s]|$))\S*@|[^/\s]*@)")


def without_passwords(text: str) -> str:
    """A text whose URLs do not say who opens them."""
    return _ACCOUNT.sub("", text)


@dataclass(frozen=True)
class Repository:
    """The git repository that a project lies in, as it was.

    Attributes:
      commit: that is checked out; "" before the first one.
      branch: that is checked out; "" for none.
      remote: where it came from, without a password; "" for nowhere.
      folder: of the project in it; "" for the whole repository.
      changed: the files that are not as they were committed, with git's two letters for how.
      diff: what has changed in the project since the commit, as `git apply` takes it.
      note: why the diff is not there, or not whole; "" where it is.
      submodules: the commit of each, by its folder.
    """

    commit: str = ""
    branch: str = ""
    remote: str = ""
    folder: str = ""
    changed: Mapping[str, str] = field(default_factory=dict)
    diff: str = ""
    note: str = ""
    submodules: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads what `asdict` made; what a newer caliban has written besides is passed over."""
        return cls(**_known(cls, value))


@dataclass(frozen=True)
class Source:
    """The files of a project that jobs ran.

    Attributes:
      digest: stands for path, permissions and content of all of them.
      files: what stands for each, by its path in the project.
      repository: where they are kept; None if that is not known.
      note: why there is no repository, or why the files are not listed; "" where all is there.
    """

    digest: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    repository: Repository | None = None
    note: str = ""

    @staticmethod
    def digest_of(files: Mapping[str, str]) -> str:
        """The digest of files, see above."""
        text = json.dumps(files, sort_keys=True).encode()
        return f"sha256:{hashlib.sha256(text).hexdigest()}"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads what `asdict` made."""
        found = _known(cls, value)
        if found.get("repository") is not None:
            found["repository"] = Repository.from_json(found["repository"])
        return cls(**found)


@dataclass(frozen=True)
class Image:
    """The image that jobs run.

    Attributes:
      id: "sha256:..." over all that it holds.
      name: by which the engine knows it; "" for none.
      digest: by which registries know it: "registry/name@sha256:..."; "" if it was never there.
      base: name of the image that it is built on.
      base_id: that image's id.
      base_digest: by which registries know that one.
    """

    id: str = ""
    name: str = ""
    digest: str = ""
    base: str = ""
    base_id: str = ""
    base_digest: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads what `asdict` made."""
        return cls(**_known(cls, value))


@dataclass(frozen=True)
class Machine:
    """The machine that jobs were launched on and ran on; of jobs elsewhere, what they ask for.

    Attributes:
      host: its name.
      system: its operating system.
      kernel: version of the kernel.
      cpu: model of the processor.
      cpus: how many there are for this process.
      memory: in bytes; 0 if that is not known.
      gpus: model of each GPU.
      driver: version of their driver; "" for none.
      engine: version of the Docker engine; "" if there is none.
      requested: what jobs elsewhere ask their platform for, in its words, by name: "type",
        "accelerators", "region", "cluster". All the rest is not known then.
    """

    host: str = ""
    system: str = ""
    kernel: str = ""
    cpu: str = ""
    cpus: int = 0
    memory: int = 0
    gpus: tuple[str, ...] = ()
    driver: str = ""
    engine: str = ""
    requested: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads what `asdict` made."""
        found = _known(cls, value)
        return cls(**{**found, "gpus": tuple(found.get("gpus", ()))})


@dataclass(frozen=True)
class Provenance:
    """All that decides what the jobs of a launch do, but for their own parameters.

    Attributes:
      version: of caliban.
      command: that launched them: "run".
      flags: those that were given, by name, without secrets.
      variables: names of the environment variables that the jobs find, beside those of the image.
      secrets: names of the platform's secrets that the jobs find something of.
      experiments: the experiment file as JSON; "" for none.
      plan: the ImagePlan as JSON.
      image: what they run.
      source: the code in it; None if it is not known where that came from.
      machine: where they were launched, or what they ask for elsewhere.
    """

    version: str
    command: str = ""
    flags: Mapping[str, Any] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    experiments: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    image: Image = Image()
    source: Source | None = None
    machine: Machine = Machine()

    def command_line(self, arguments: Sequence[str] = ()) -> list[str]:
        """The command that launched the jobs, in one form for all the ways to write it.

        Args:
          arguments: those of the jobs' own that were given on the command line.
        """
        words = ["caliban", *self.command.split()]
        names: list[str] = []
        for name, value in self.flags.items():
            for each in value if isinstance(value, list | tuple) else [value]:
                if name in _FILES:
                    names.append(str(each))
                elif each is True:
                    words.append(f"--{name}")
                elif str(each).startswith("-"):
                    words.append(f"--{name}={each}")
                else:
                    words += [f"--{name}", str(each)]
        words += names
        module = self.plan.get("module")
        if (
            isinstance(module, Mapping)
            and self.command not in _WITHOUT_MODULE
            and "resume" not in self.flags
        ):
            words += [str(module.get("name", "")), *(["--", *arguments] if arguments else [])]
        return words

    def to_json(self) -> dict[str, Any]:
        """The record as JSON; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote, here or in another version.

        Raises:
          TypeError: it was written by something else.
          ValueError: as well.
        """
        found = _known(cls, value)
        if found.get("source") is not None:
            found["source"] = Source.from_json(found["source"])
        return cls(
            **{
                **found,
                "variables": tuple(found.get("variables", ())),
                "secrets": tuple(found.get("secrets", ())),
                "image": Image.from_json(found.get("image", {})),
                "machine": Machine.from_json(found.get("machine", {})),
            }
        )


def _known(kind: type[Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an object's keys that a dataclass has."""
    names = {each.name for each in fields(kind)}
    return {key: each for key, each in dict(value).items() if key in names}
