"""What an image was made of, told by its labels, and what has changed since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from caliban.docker.image import context
from caliban.docker.image.context import File
from caliban.docker.image.dockerfile import DEPENDENCIES, LABEL, LOCK, OWN_FOLDERS
from caliban.model.image import ImagePlan

# Folders of the build context that hold neither code nor extra directories.
_NO_CODE = (DEPENDENCIES, *OWN_FOLDERS, LOCK)


@dataclass(frozen=True)
class Parts:
    """What decides an image's content. Each is a label of the image: caliban.code, for one.

    Attributes:
      fingerprint: of all of it, see context.fingerprint.
      base_id: id of the image that it is built on.
      dependencies: digest of the files that declare its dependencies.
      code: digest of the code and the extra directories; none of it is in an image for live code.
    """

    fingerprint: str
    base_id: str
    dependencies: str
    code: str

    def labels(self) -> dict[str, str]:
        """The labels, without the "caliban" that they begin with."""
        return {f".{name}": value for name, value in asdict(self).items()}


def of_files(plan: ImagePlan, base_id: str, files: Iterable[File]) -> Parts:
    """What an image would be made of.

    Args:
      plan: the image.
      base_id: id of the image that it is built on.
      files: see context.files.

    Raises:
      UsageError: a file cannot be read.
    """
    listed = list(files)
    return Parts(
        context.fingerprint(plan, base_id, listed),
        base_id,
        context.digest(context.declared(plan)),
        context.digest(file for file in listed if file.folder not in _NO_CODE),
    )


def of_labels(labels: Mapping[str, str]) -> Parts | None:
    """What an image was made of; None if its labels don't say so."""
    names = Parts.__dataclass_fields__
    found = {name: labels.get(f"{LABEL}.{name}", "") for name in names}
    return Parts(**found) if all(found.values()) else None


def changes(before: Parts, after: Parts) -> Sequence[tuple[str, bool]]:
    """Each part, and whether it has changed."""
    parts = [
        ("code", before.code != after.code),
        ("dependencies", before.dependencies != after.dependencies),
        ("base image", before.base_id != after.base_id),
    ]
    if before.fingerprint != after.fingerprint and not any(changed for _, changed in parts):
        parts.append(("the way that caliban builds", True))
    return parts
