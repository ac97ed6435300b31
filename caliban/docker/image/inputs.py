"""What an image was made of, input by input: kept in ~/.caliban/images for `build --explain`."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from caliban import __version__, home
from caliban.docker.image import context, dockerfile, own_dockerfile
from caliban.docker.image.context import File
from caliban.docker.image.dockerfile import LABEL
from caliban.docker.image.provenance import Parts
from caliban.model.image import ImagePlan
from caliban.model.lock import Lock

FOLDER = "images"

IGNORE = ".dockerignore"

# In the place of a folder of the context: the files that the project's own Dockerfile copies.
BASE = "base"

# In the address of a package from git.
_COMMIT = r"@([0-9a-f]{12})[0-9a-f]{28}"

# What may be in an address before the name of a host.
_PASSWORD = r"://[^/\s\"]*@"

# Of the digest of a file's content, as much as tells it from what the file was before.
_KEPT = 24


@dataclass(frozen=True)
class Layer:
    """A section of an image's Dockerfile.

    Attributes:
      title: see dockerfile.Section.
      key: stands for the instructions and all that they copy.
      instructions: stands for them alone.
      decided_by: the attributes of the plan that they depend on.
      folders: those of the context that they copy.
    """

    title: str
    key: str
    instructions: str
    decided_by: Sequence[str]
    folders: Sequence[str]


@dataclass(frozen=True)
class Inputs:
    """All that decides an image's content, input by input.

    Attributes:
      image: its name.
      version: of the caliban that wrote its Dockerfile.
      base_id: id of the image that it is built on.
      plan: its ImagePlan as JSON, with digests in the place of what is long or may be private.
      packages: the versions that its lock names.
      layers: the sections of its Dockerfile.
      files: what stands for the content of each file that it copies, by folder and name.
      read: the same of files that decide what it holds and need not be copied.
    """

    image: str
    version: str
    base_id: str
    plan: Mapping[str, Any]
    packages: Mapping[str, str]
    layers: Sequence[Layer]
    files: Mapping[str, Mapping[str, str]]
    read: Mapping[str, str]


def of(
    plan: ImagePlan, parts: Parts, files: Iterable[File], excluded: Iterable[Path] = ()
) -> Inputs:
    """The inputs of an image.

    Args:
      plan: the image.
      parts: what it is made of, see provenance.of_files.
      files: see context.files.
      excluded: see there.

    Raises:
      UsageError: a file cannot be read.
    """
    contents: dict[str, dict[str, str]] = {}
    own: Iterable[File] = ()
    if plan.dockerfile:
        own = own_dockerfile.files(Path(plan.directory), plan.dockerfile, excluded)
    for file in (*files, *(replace(each, folder=BASE) for each in own)):
        contents.setdefault(file.folder, {})[file.name] = file.content[:_KEPT]
    return Inputs(
        image=image_name(plan, parts),
        version=__version__,
        base_id=parts.base_id,
        plan=_attributes(plan),
        packages=_packages(plan.lock),
        layers=[_layer(each, parts.base_id, contents) for each in dockerfile.sections(plan)],
        files=contents,
        read=dict(deciding(plan)),
    )


def image_name(plan: ImagePlan, parts: Parts) -> str:
    """The name of an image, which nothing else of its content has."""
    return f"{LABEL}:{plan.mode.value}-{parts.fingerprint}"


def _attributes(plan: ImagePlan) -> dict[str, Any]:
    """A plan as JSON, without what may be long or private."""
    found: dict[str, Any] = json.loads(re.sub(_PASSWORD, "://", json.dumps(plan.to_json())))
    found |= {"directory": "", "lock": _digest(plan.lock)}
    if plan.dockerfile:
        found["dockerfile"] = {"path": plan.dockerfile.path, "digest": _digest(found["dockerfile"])}
    return found


def _layer(
    section: dockerfile.Section, base_id: str, contents: Mapping[str, Mapping[str, str]]
) -> Layer:
    copied = {folder: contents.get(folder, {}) for folder in section.folders}
    base = base_id if "base_image" in section.decided_by else ""
    return Layer(
        section.title,
        _digest([section.instructions, copied, base]),
        _digest(section.instructions),
        list(section.decided_by),
        section.folders,
    )


def _packages(lock: str) -> dict[str, str]:
    """The packages of a lock with their versions; addresses, which may hold a token, by digest."""
    if not lock:
        return {}
    parsed = Lock.parse(lock)
    found = {"Python": parsed.python}
    for name, version in parsed.versions.items():
        commit = re.search(_COMMIT, version)
        is_address = "://" in version
        found[name] = (commit[1] if commit else _digest(version)) if is_address else version
    return found


def deciding(plan: ImagePlan) -> Iterator[tuple[str, str]]:
    """The files that decide what an image holds, whether it copies them or not.

    Yields:
      The path of each in the project, and what stands for it.
    """
    project = Path(plan.directory)
    own = [plan.dockerfile.path] if plan.dockerfile else []
    named = [IGNORE, *own, *(f"{path}{IGNORE}" for path in own)]
    with contextlib.suppress(OSError):
        for name in named:
            if (project / name).exists():
                yield name, File("", name, project / name, (project / name).stat()).content[:_KEPT]
        for file in context.declared(plan):
            if file.content != "folder":
                yield file.name, file.content[:_KEPT]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def keep(plan: ImagePlan, made_of: Inputs) -> None:
    """Keeps the inputs of the newest image of a project, in the place of those of the one before.

    Raises:
      CalibanError: they cannot be written.
    """
    file = home.directory(FOLDER) / _file_name(plan, made_of.image)
    fields = {**vars(made_of), "layers": [asdict(layer) for layer in made_of.layers]}
    text = json.dumps(fields, separators=(",", ":"))
    # Listed first: of two builds at one moment, each would remove what the other has written.
    others = [other for other in _files(plan) if other != file]
    home.write_private(file, gzip.compress(text.encode(), 3, mtime=0))
    for other in others:
        other.unlink(missing_ok=True)


def is_kept(plan: ImagePlan, image: str) -> bool:
    """Whether it is known that this is the newest image of a project, and what it is made of now.

    A comment in a requirements file, for one, makes no other image, and is a change all the same.
    """
    if home.path(FOLDER, _file_name(plan, image)) not in _files(plan)[-1:]:
        return False
    kept = newest(plan)
    now = (_attributes(plan), dict(deciding(plan)))
    return kept is not None and (kept[0].plan, kept[0].read) == now


def newest(plan: ImagePlan) -> tuple[Inputs, float] | None:
    """The inputs of the newest image of a project, and since when it has been that.

    The project is known by its directory, the mode, the module, and whether the code is live.

    Returns:
      The inputs and the time; None if there was no image, or `caliban prune` has removed it.
    """
    for file in reversed(_files(plan)):
        with contextlib.suppress(OSError, EOFError, ValueError, TypeError, KeyError):
            fields = json.loads(gzip.decompress(file.read_bytes()))
            layers = [Layer(**each) for each in fields.pop("layers")]
            return Inputs(layers=layers, **fields), file.stat().st_mtime
    return None


def forget(image: str) -> None:
    """Removes the inputs of an image that has been removed.

    Args:
      image: its name; a step of a build, which has none, has no inputs either.
    """
    for file in home.path(FOLDER).glob(f"*-{_fingerprint(image)}.json.gz"):
        file.unlink(missing_ok=True)


def _files(plan: ImagePlan) -> list[Path]:
    """The files with the inputs of a project's images, the newest last; there should be one."""
    found = []
    for path in home.path(FOLDER).glob(f"{_project(plan)}-*.json.gz"):
        with contextlib.suppress(FileNotFoundError):  # another build has just replaced it
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]


def _file_name(plan: ImagePlan, image: str) -> str:
    return f"{_project(plan)}-{_fingerprint(image)}.json.gz"


def _project(plan: ImagePlan) -> str:
    """Stands for what all images of a project have in common."""
    module = plan.module and plan.module.name
    return _digest(
        [plan.directory, plan.mode.value, module, plan.live, plan.shell, bool(plan.jupyter)]
    )


def _fingerprint(image: str) -> str:
    return image.rpartition("-")[2]
