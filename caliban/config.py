"""The project's .calibanconfig.json, and which of flag, environment, file and default wins."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from caliban.errors import UsageError
from caliban.model.image import DEFAULT_BASE_IMAGES, Mode

FILE_NAME = ".calibanconfig.json"

T = TypeVar("T")


@dataclass(frozen=True)
class GCloud:
    """The "gcloud" entry: defaults for the flags of the same names."""

    project_id: str | None = None
    cloud_key: str | None = None


@dataclass(frozen=True)
class MLFlow:
    """The "mlflow_config" entry: where jobs record their metrics."""

    project: str
    region: str
    db: str
    user: str
    password: str = field(repr=False)
    artifact_root: str
    debug: bool = False


@dataclass(frozen=True)
class Config:
    """What a project's .calibanconfig.json declares.

    Attributes:
      apt_packages: packages of the distribution to install, by mode.
      base_images: image to build on, by mode; a mode that is missing has the default one.
      default_mode: mode without --nogpu; None where the file doesn't say.
      build_time_credentials: whether private dependencies need credentials during a build.
      julia_version: version of Julia to install.
      gcloud: defaults for Google Cloud.
      mlflow: the metrics database, if there is one.
      uv: the "uv" entry of the uv-metrics library, as it stands.
    """

    apt_packages: Mapping[Mode, tuple[str, ...]] = field(default_factory=dict)
    base_images: Mapping[Mode, str] = field(default_factory=dict)
    default_mode: Mode | None = None
    build_time_credentials: bool = False
    julia_version: str | None = None
    gcloud: GCloud = GCloud()
    mlflow: MLFlow | None = None
    uv: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unused(self) -> list[str]:
        """What the file asks for and this version doesn't do, in words."""
        asked = {
            "build_time_credentials": self.build_time_credentials,
            "julia_version": self.julia_version,
            "mlflow_config": self.mlflow,
            "uv": self.uv,
            "gcloud.project_id": self.gcloud.project_id,
        }
        return [
            f'"{key}" in {FILE_NAME} has no effect yet' for key, value in asked.items() if value
        ]

    def base_image(self, mode: Mode, environment: Mapping[str, str]) -> str:
        """The image to build on: $CALIBAN_BASE_IMAGE, this file's, or the default one."""
        variable = environment.get("CALIBAN_BASE_IMAGE")
        named = variable and _fill(variable, mode)
        return choose(named, None, self.base_images.get(mode), DEFAULT_BASE_IMAGES[mode])


def choose(flag: T | None, variable: T | None, file: T | None, default: T) -> T:
    """The one rule of precedence: flag, then environment, then configuration file, then default.

    An empty string counts as not given.
    """
    for value in (flag, variable, file):
        if value is not None and value != "":
            return value
    return default


def load(project: Path) -> Config:
    """Reads the project's configuration; a project without a file has an empty one.

    Raises:
      UsageError: the file cannot be read, or holds something that it may not: all problems at once.
    """
    path = project / FILE_NAME
    try:
        if not path.exists():
            return Config()
    except OSError as error:
        raise UsageError(f"cannot look into {project}: {error.strerror}") from None
    from caliban import document

    content = document.read(str(path))
    if not isinstance(content, dict):
        raise UsageError(
            f"{path}: expected an object with settings, found {_shown(content)}",
            'For example: {"apt_packages": ["libsm6"]}',
        )
    return parse(content, str(path))


def parse(content: Mapping[str, Any], name: str = FILE_NAME) -> Config:
    """Turns the file's content into a Config.

    Args:
      content: the parsed JSON object.
      name: the file, for messages.

    Raises:
      UsageError: naming every key that is unknown or has a wrong value.
    """
    from schema import SchemaError

    problems: list[str] = []
    checks = _checks()
    for key, value in content.items():
        check = checks.get(key)
        if check is None:
            near = difflib.get_close_matches(key, checks, n=1)
            meant = f'did you mean "{near[0]}"?' if near else f"known keys: {', '.join(checks)}"
            problems.append(f'unknown key "{key}" ({meant})')
            continue
        expected, accepts = check
        try:
            accepts.validate(value)
        except SchemaError:
            found = _shape(value) if key in ("mlflow_config", "uv") else _shown(value)
            problems.append(f'"{key}": expected {expected}, found {found}')
    if problems:
        raise UsageError("\n  ".join([f"{name} has errors:", *problems]))
    return _build(content)


def _checks() -> dict[str, tuple[str, Any]]:
    """For each key: what it takes, in words and as a schema."""
    from schema import And, Optional, Or, Schema

    def is_image(value: str) -> bool:
        filled = value.strip().replace("{}", "cpu")
        return bool(re.fullmatch(r"[^\s{}-][^\s{}]*", filled))

    def is_package(value: str) -> bool:
        return bool(re.fullmatch(r"[A-Za-z0-9][\w.+:~=/*-]*", value.strip()))

    text: Any = And(str, str.strip)
    packages: list[Any] = [And(str, is_package)]
    base: Any = And(str, is_image)
    sides = 'with one or both of the keys "cpu" and "gpu"'
    fields = dict.fromkeys(("project", "region", "db", "user", "password"), text)
    uv = {Optional("mlflow"): {Optional("pubsub_project"): text, Optional("pubsub_topic"): text}}
    described: dict[str, tuple[str, Any]] = {
        "apt_packages": (
            f"a list of package names, or an object {sides} that hold such lists",
            Or(packages, {Optional("cpu"): packages, Optional("gpu"): packages}),
        ),
        "base_image": (
            "the name of an image, in which {} stands for cpu or gpu, "
            f"or an object {sides} that hold such names",
            Or(base, None, And(dict, len, {Optional("cpu"): base, Optional("gpu"): base})),
        ),
        "default_mode": (
            'either "cpu" or "gpu"',
            And(str, lambda value: value.strip().lower() in ("cpu", "gpu")),
        ),
        "build_time_credentials": ("true or false", bool),
        "julia_version": ('a version, like "1.10"', Or(text, None)),
        "gcloud": (
            'an object with one or both of the keys "project_id" and "cloud_key"',
            {Optional("project_id"): text, Optional("cloud_key"): text},
        ),
        "mlflow_config": (
            'an object with the strings "project", "region", "db", "user", "password" and '
            '"artifact_root", and perhaps "debug": true',
            {**fields, "artifact_root": text, Optional("debug"): bool},
        ),
        "uv": (
            'an object like {"mlflow": {"pubsub_project": "...", "pubsub_topic": "..."}}',
            uv,
        ),
    }
    return {key: (words, Schema(accepted)) for key, (words, accepted) in described.items()}


def _build(content: Mapping[str, Any]) -> Config:
    """The Config of content that has been checked."""
    mode = content.get("default_mode")
    julia = content.get("julia_version")
    mlflow = content.get("mlflow_config")
    return Config(
        apt_packages=_by_mode(
            content.get("apt_packages", {}),
            lambda names, _: tuple(sorted({*map(str.strip, names)})),
        ),
        base_images=_by_mode(content.get("base_image") or {}, _fill),
        default_mode=Mode(mode.strip().lower()) if mode else None,
        build_time_credentials=content.get("build_time_credentials", False),
        julia_version=julia and julia.strip(),
        gcloud=GCloud(**content.get("gcloud", {})),
        mlflow=MLFlow(**mlflow) if mlflow else None,
        uv=content.get("uv", {}),
    )


def _by_mode(value: Any, convert: Callable[[Any, Mode], T]) -> dict[Mode, T]:
    """Reads a value that is given for both modes, or as an object with one for each."""
    if not isinstance(value, dict):
        return {mode: convert(value, mode) for mode in Mode}
    return {Mode(key): convert(each, Mode(key)) for key, each in value.items()}


def _fill(name: str, mode: Mode) -> str:
    """Puts the mode in the place of {} in the name of an image."""
    return name.strip().replace("{}", mode.value)


def _shown(value: object) -> str:
    """A value for a message, cut short."""
    import json

    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _shape(value: object) -> str:
    """What a value is, without what is in it: a password, perhaps under a misspelt name."""
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(repr, value))}" if value else "{}"
    return f"a {type(value).__name__}"
