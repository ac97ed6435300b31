"""The project's .calibanconfig.json, and which of flag, environment, file and default wins."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from caliban.errors import UsageError
from caliban.model import dlvm, image_name, suggestion
from caliban.model.image import DEFAULT_BASE_IMAGES, Mode, ProjectDockerfile

FILE_NAME = ".calibanconfig.json"

T = TypeVar("T")


@dataclass(frozen=True)
class GCloud:
    """The "gcloud" entry: defaults for the flags of the same names."""

    project_id: str | None = None
    cloud_key: str | None = None
    region: str | None = None
    per_minute: int | None = None


@dataclass(frozen=True)
class MLFlow:
    """The "mlflow_config" entry: where the runs of jobs are kept, see tracking.place.

    Attributes:
      tracking_uri: address of a tracking server or a database; "" for Cloud SQL.
      project: of Google Cloud, with the instance.
      region: of the instance.
      db: name of the instance, and of the database in it.
      user: of the database.
      artifact_root: where files are kept; "" for beside the database.
      debug: whether it is said what is sent, and where.
      has_password: whether the file holds a password, which is not read.
    """

    tracking_uri: str = ""
    project: str = ""
    region: str = ""
    db: str = ""
    user: str = ""
    artifact_root: str = ""
    debug: bool = False
    has_password: bool = False


@dataclass(frozen=True)
class Config:
    """What a project's .calibanconfig.json declares.

    Attributes:
      apt_packages: packages of the distribution to install, by mode.
      base_images: image to build on, by mode; a mode that is missing has the default one.
      dockerfiles: Dockerfile of the project that makes the image to build on, by mode.
      default_mode: mode without --nogpu; None where the file doesn't say.
      build_time_credentials: whether private dependencies need the user's Google Cloud credentials.
      allowed_keys: files that may be in an image although they look like keys, see keys.check.
      julia_version: version of Julia to install.
      image_registry: what the names of images begin with that jobs elsewhere pull; None where the
        file doesn't say.
      gcloud: defaults for Google Cloud.
      mlflow: where the runs of jobs are kept; None for nowhere.
      uv: the "uv" entry of the uv-metrics library, as it stands.
    """

    apt_packages: Mapping[Mode, tuple[str, ...]] = field(default_factory=dict)
    base_images: Mapping[Mode, str] = field(default_factory=dict)
    dockerfiles: Mapping[Mode, ProjectDockerfile] = field(default_factory=dict)
    default_mode: Mode | None = None
    build_time_credentials: bool = False
    allowed_keys: tuple[str, ...] = ()
    julia_version: str | None = None
    image_registry: str | None = None
    gcloud: GCloud = GCloud()
    mlflow: MLFlow | None = None
    uv: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unused(self) -> list[str]:
        """What the file asks for and this version doesn't do, in words."""
        found = []
        if self.uv:
            found.append(
                f'"uv" in {FILE_NAME} has no effect: the library uv-metrics is no longer kept up; '
                '"mlflow_config" alone is enough'
            )
        if self.mlflow and self.mlflow.has_password:
            found.append(
                f'the "password" of "mlflow_config" in {FILE_NAME} is not used: a file is no place '
                "for it. Take it out, change it, and set $MLFLOW_DB_PASSWORD"
            )
        return found

    def base_image(self, mode: Mode, environment: Mapping[str, str]) -> str:
        """The image to build on: $CALIBAN_BASE_IMAGE, this file's, or the default one.

        Raises:
          UsageError: the variable names a Deep Learning Container that there isn't.
        """
        variable = environment.get("CALIBAN_BASE_IMAGE")
        named = variable and _image(variable, mode)
        return choose(named, None, self.base_images.get(mode), DEFAULT_BASE_IMAGES[mode])

    def dockerfile(self, mode: Mode, environment: Mapping[str, str]) -> ProjectDockerfile | None:
        """The project's Dockerfile that makes the image to build on; None for an image by name."""
        if environment.get("CALIBAN_BASE_IMAGE"):
            return None
        return self.dockerfiles.get(mode)

    def cloud_key(self, flag: str | None, environment: Mapping[str, str]) -> str:
        """The file with a service account's key; "" for none.

        Args:
          flag: the value of --cloud_key.
          environment: variables.
        """
        variable = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
        return choose(flag, variable, self.gcloud.cloud_key, "")


def choose(flag: T | None, variable: T | None, file: T | None, default: T) -> T:
    """The one rule of precedence: flag, then environment, then configuration file, then default.

    An empty string counts as not given.
    """
    for value in (flag, variable, file):
        if value is not None and value != "":
            return value
    return default


def project() -> Path:
    """The directory of the project: the current one.

    Raises:
      UsageError: it has been deleted.
    """
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current directory has been deleted") from None


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
            near = suggestion.near(key, checks)
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
    config = _build(content)
    for mode in Mode:
        if mode in config.base_images and mode in config.dockerfiles:
            raise UsageError(
                f'{name}: both "base_image" and "dockerfile" say what to build on, for '
                f"{mode.value}",
                "Keep one of them. A Dockerfile names the image that it begins with itself.",
            )
    return config


def _checks() -> dict[str, tuple[str, Any]]:
    """For each key: what it takes, in words and as a schema."""
    from schema import And, Optional, Or, Schema

    def is_image(value: str) -> bool:
        filled = value.strip().replace("{}", "cpu")
        return bool(re.fullmatch(r"[^\s{}-][^\s{}]*", filled))

    def is_package(value: str) -> bool:
        return bool(re.fullmatch(r"[A-Za-z0-9][\w.+:~=/*-]*", value.strip()))

    def is_inside(value: str) -> bool:
        path = PurePosixPath(value.strip())
        return bool(path.name) and not path.is_absolute() and ".." not in path.parts

    def is_registry(value: str) -> bool:
        try:
            return bool(image_name.registry(value))
        except UsageError:
            return False

    def is_version(value: str) -> bool:
        return bool(re.fullmatch(r"\d+(\.\d+){0,2}(-\w+)?", value.strip()))

    text: Any = And(str, str.strip)
    packages: list[Any] = [And(str, is_package)]
    base: Any = And(str, is_image)
    sides = 'with one or both of the keys "cpu" and "gpu"'
    instance = dict.fromkeys(("project", "region", "db", "user"), text)
    usual: dict[str, Any] = {"artifact_root": text, "password": str, "debug": bool}
    path: Any = And(str, is_inside)
    arguments: Any = {And(str, str.isidentifier): str}
    stage = {"path": path, Optional("target"): text, Optional("build_args"): arguments}
    dockerfile = Or(path, stage)
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
        "dockerfile": (
            'the path of a Dockerfile in the project, or an object with "path" and perhaps '
            f'"target" and "build_args", or an object {sides} that hold one of these',
            Or(
                *(path, None, stage),
                And(dict, len, {Optional("cpu"): dockerfile, Optional("gpu"): dockerfile}),
            ),
        ),
        "default_mode": (
            'either "cpu" or "gpu"',
            And(str, lambda value: value.strip().lower() in ("cpu", "gpu")),
        ),
        "build_time_credentials": ("true or false", bool),
        "allowed_keys": ("a list of paths in the project", [text]),
        "julia_version": (
            'a version, like "1.10" or "1.10.4"',
            Or(And(str, is_version), None),
        ),
        "image_registry": (
            'what the names of images in a registry begin with, like "registry.example.com/team"',
            And(str, is_registry),
        ),
        "gcloud": (
            'an object with any of the strings "project_id", "cloud_key" and "region", and '
            'perhaps "per_minute", a positive whole number',
            {
                **{Optional(key): text for key in ("project_id", "cloud_key", "region")},
                Optional("per_minute"): And(int, lambda value: value > 0 and value is not True),
            },
        ),
        "mlflow_config": (
            'an object with "tracking_uri", or with "project", "region", "db" and "user" of Cloud '
            'SQL, and perhaps "artifact_root" and "debug": true',
            Or(
                {"tracking_uri": text, **{Optional(key): each for key, each in usual.items()}},
                {**instance, **{Optional(key): each for key, each in usual.items()}},
            ),
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
    registry = content.get("image_registry")
    mlflow = content.get("mlflow_config")
    return Config(
        apt_packages=_by_mode(
            content.get("apt_packages", {}),
            lambda names, _: tuple(sorted({*map(str.strip, names)})),
        ),
        base_images=_by_mode(content.get("base_image") or {}, _image),
        dockerfiles=_by_mode(content.get("dockerfile") or {}, _dockerfile),
        default_mode=Mode(mode.strip().lower()) if mode else None,
        build_time_credentials=content.get("build_time_credentials", False),
        allowed_keys=tuple(map(str.strip, content.get("allowed_keys", ()))),
        julia_version=julia and julia.strip(),
        image_registry=registry and image_name.registry(registry),
        gcloud=GCloud(**content.get("gcloud", {})),
        mlflow=_mlflow(mlflow) if mlflow else None,
        uv=content.get("uv", {}),
    )


def _mlflow(entry: Mapping[str, Any]) -> MLFlow:
    """Reads the "mlflow_config" entry, but for a password."""
    kept: dict[str, Any] = {
        key: each.strip() if isinstance(each, str) else each
        for key, each in entry.items()
        if key != "password"
    }
    return MLFlow(**kept, has_password=bool(entry.get("password")))


def _by_mode(value: Any, convert: Callable[[Any, Mode], T]) -> dict[Mode, T]:
    """Reads a value that is given for both modes, or as an object with one for each."""
    if not isinstance(value, dict) or "path" in value:
        return {mode: convert(value, mode) for mode in Mode}
    return {Mode(key): convert(each, Mode(key)) for key, each in value.items()}


def _fill(text: str, mode: Mode) -> str:
    """Puts the mode in the place of {}."""
    return text.strip().replace("{}", mode.value)


def _image(name: str, mode: Mode) -> str:
    """The image that a name stands for, in which {} stands for the mode.

    Raises:
      UsageError: it asks for a Deep Learning Container that there isn't.
    """
    filled = _fill(name, mode)
    return dlvm.resolve(filled).name if filled.startswith(dlvm.PREFIX) else filled


def _dockerfile(value: Any, mode: Mode) -> ProjectDockerfile:
    """Reads what the "dockerfile" entry says for a mode: a path, or an object with one."""
    entry: Mapping[str, Any] = {"path": value} if isinstance(value, str) else value
    arguments = entry.get("build_args", {}).items()
    return ProjectDockerfile(
        str(PurePosixPath(_fill(entry["path"], mode))),
        _fill(entry.get("target", ""), mode),
        tuple(sorted((key, _fill(each, mode)) for key, each in arguments)),
    )


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
