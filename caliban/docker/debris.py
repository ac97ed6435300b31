"""What caliban has made in an engine and nobody needs any more."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caliban import process
from caliban.docker import state
from caliban.docker.containers import OWNER, UID
from caliban.docker.engine import Engine
from caliban.docker.image import builder
from caliban.docker.image.dockerfile import LABEL
from caliban.docker.image.own_dockerfile import BASE_LABEL, UNNAMED
from caliban.errors import EngineError

_FINGERPRINT = f"{LABEL}.fingerprint"

# How long others may keep the engine busy with the same question, in seconds.
_PATIENCE = 120

_RUNNING = ("running", "paused", "restarting", "removing")


@dataclass(frozen=True)
class Image:
    """An image that caliban has built, and that can be removed.

    Attributes:
      id: of the image.
      name: by which it is shown.
      created: when it was built, or was given its name: a build all of whose steps are known gives
        an image that is as old as its last step (UTC).
      size: how many bytes it has to itself; what it shares with others may become free as well.
      is_named: whether it is more than a step of a build.
      is_for_builds: whether no job runs it: a step, or what a project's Dockerfile has made.
      history: the one for whose jobs it was built first, see home.history_mark; "" if unknown.
      children: the images that were built on it, which have to go first.
      known_as: what jobs may call it: its id, its names here, those in registries.
    """

    id: str
    name: str
    created: datetime.datetime
    size: int
    is_named: bool
    is_for_builds: bool
    history: str
    children: frozenset[str]
    known_as: frozenset[str]


@dataclass(frozen=True)
class Container:
    """A container that caliban has started, and that has ended.

    Attributes:
      name: of the container.
      uid: of its job; "" if somebody worked in it, or if it is a step of a build.
      created: when it was made (UTC).
      size: how many bytes it takes.
    """

    name: str
    uid: str
    created: datetime.datetime
    size: int


@dataclass(frozen=True)
class Debris:
    """What there is in an engine.

    Attributes:
      images: none that a container or another image of anybody's needs; children first.
      containers: none that runs, or whose caliban does.
    """

    images: list[Image]
    containers: list[Container]


def find(engine: Engine) -> Debris:
    """Looks for what caliban has made.

    Raises:
      EngineError: the engine does not answer.
    """
    usage = disk_usage(engine)
    with engine.errors("asking what takes space"):
        everything = engine.client.images(all=True)
        # Not those of `usage` alone: what has been started in between needs its image, too.
        running = engine.client.containers(all=True)
    sizes = {each["Id"]: each for each in usage["Images"] or []}
    taken = {each["Id"]: each.get("SizeRw") or 0 for each in usage["Containers"] or []}
    containers = [
        Container(
            state.name_of(each),
            each["Labels"].get(UID, ""),
            _time(each["Created"]),
            taken.get(each["Id"], 0),
        )
        for each in running
        if each["State"] not in _RUNNING and _is_left(each["Labels"])
    ]
    needed = {each["ImageID"] for each in running}
    own = {each["Id"] for each in everything if _is_ours(each)}
    children: dict[str, set[str]] = {}
    for each in everything:
        children.setdefault(each["ParentId"], set()).add(each["Id"])

    def is_free(image: str) -> bool:
        """Whether it, and all that was built on it, is caliban's, and in nobody's use."""
        return (
            image in own
            and image not in needed
            and all(is_free(child) for child in children.get(image, ()))
        )

    def height(image: str) -> int:
        return 1 + max(map(height, children.get(image, ())), default=0)

    images = [
        Image(
            each["Id"],
            _name(each),
            max(_time(each["Created"]), _named(engine, each)),
            _own_size(sizes.get(each["Id"])),
            bool(_names(each)),
            _FINGERPRINT not in each["Labels"],
            each["Labels"].get(builder.HISTORY, ""),
            frozenset(children.get(each["Id"], ())),
            frozenset((each["Id"], *_names(each), *(each["RepoDigests"] or ()))),
        )
        for each in sorted(everything, key=lambda each: height(each["Id"]))
        if is_free(each["Id"])
    ]
    return Debris(images, containers)


def disk_usage(engine: Engine) -> dict[str, Any]:
    """What everything in an engine takes, as `docker system df --verbose` has it.

    Raises:
      EngineError: the engine does not answer.
    """
    from docker.errors import APIError

    deadline = time.monotonic() + _PATIENCE
    with engine.errors("asking what takes space"):
        while True:
            try:
                found: dict[str, Any] = engine.client.df()
                return found
            except APIError as error:
                # Engines before 23 look for one asker at a time, and turn the others away.
                if "already running" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)


def remove_image(engine: Engine, image: Image) -> None:
    """Removes an image; its children have to go first.

    Raises:
      EngineError: the engine does not do it, as something needs the image by now.
    """
    from docker.errors import NotFound

    with engine.errors(f"removing the image {image.name}"):
        try:
            names = engine.client.inspect_image(image.id)["RepoTags"] or []  # type: ignore[no-untyped-call]
            if not all(_is_given_by_us(name) for name in names):
                raise EngineError(f"the image {image.name} has got another name: {names}")
            for name in names or [image.id]:
                # Untagged parents stay: they are dealt with by themselves, or somebody else's.
                engine.client.remove_image(name, noprune=True)
        except NotFound:
            return


def _is_ours(image: Mapping[str, Any]) -> bool:
    """Whether caliban has built an image: one that somebody has built on it has its labels, too."""
    labels = image["Labels"] or {}
    names = _names(image)
    fingerprint = labels.get(_FINGERPRINT)
    if LABEL not in labels:
        return False
    if not fingerprint:
        # A step of the legacy builder, or what a Dockerfile of a project has made.
        return all(name == f"{UNNAMED}-{labels.get(BASE_LABEL)}" for name in names)
    return bool(names) and all(
        _is_given_by_us(name) and name.endswith(f"-{fingerprint}") for name in names
    )


def _is_given_by_us(name: str) -> bool:
    """Whether caliban gives images such names: "caliban:cpu-...", also in a registry."""
    return name.rpartition("/")[2].startswith(f"{LABEL}:")


def _is_left(labels: Mapping[str, str]) -> bool:
    if owner := labels.get(OWNER):
        return process.is_alive(owner) is False
    return UID in labels


def _name(image: Mapping[str, Any]) -> str:
    names = sorted(_names(image), key=lambda name: "/" in name)  # not that in a registry
    return names[0] if names else f"step {image['Id'].removeprefix('sha256:')[:12]}"


def _names(image: Mapping[str, Any]) -> list[str]:
    return [name for name in image["RepoTags"] or [] if name != "<none>:<none>"]


def _named(engine: Engine, image: Mapping[str, Any]) -> datetime.datetime:
    """When an image was given its name; the beginning of time if it has none, or nobody knows."""
    details = (engine.image(image["Id"]) or {}) if _names(image) else {}
    named = state.moment((details.get("Metadata") or {}).get("LastTagTime"))
    return named or datetime.datetime.min.replace(tzinfo=datetime.UTC)


def _own_size(usage: Mapping[str, Any] | None) -> int:
    """How much becomes free for sure; nothing is known of steps."""
    if usage is None:
        return 0
    return max(int(usage["Size"]) - max(int(usage["SharedSize"]), 0), 0)


def _time(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
