"""Why an image is built: what has changed since a project's last one, and what that rebuilds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from caliban.docker.engine import Engine
from caliban.docker.image import context, inputs, provenance
from caliban.docker.image.dockerfile import (
    DEPENDENCIES,
    LOCK,
    LOCK_FILE,
    OWN_FOLDERS,
    directory_folder,
)
from caliban.docker.image.inputs import BASE, IGNORE, Inputs, Layer
from caliban.model.image import ImagePlan

# Attributes of an ImagePlan in the words of those who set them; the others go by their own names.
_NAMES = {
    "apt_packages": "apt packages",
    "conda": "conda packages",
    "directories": "--dir",
    "groups": "dependency groups",
    "julia": "Julia",
    "jupyter": "Jupyter",
    "module": "the module",
    "pip": "pip packages",
    "python": "Python",
    "secrets": "build secrets",
}

# Attributes that name files, or follow from them: the files themselves tell what has changed.
_BY_FILES = ("requirements", "project", "lock_file", "packages", "dockerfile", "lock")

# Attributes that decide which versions a lock names.
_RESOLVED = frozenset({*_BY_FILES, "base_image", "conda", "extras", "groups", "pip", "python"})

_RULES = "caliban's own rules"

# How many packages are named whose versions have changed.
_PACKAGES = 5


@dataclass(frozen=True)
class Change:
    """An input of an image that is not what it was.

    Attributes:
      input: what it is: the path of a file, or "apt packages".
      what: how it has changed: "edited", "+ git".
      layers: the titles of the layers that it decides, and that are others now.
    """

    input: str
    what: str
    layers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.input} {self.what}"


@dataclass(frozen=True)
class Explanation:
    """What has changed since the last image of a project.

    Attributes:
      image: the name of the image that would be built; "" before its dependencies are resolved and
        its base image is there.
      last: the name of the last one; "" if there is none.
      changes: what has changed since.
      layers: the titles of the image's layers, each with whether it is built anew.
      is_resolved: whether it is known which versions its dependencies come in.
    """

    image: str
    last: str
    changes: Sequence[Change]
    layers: Sequence[tuple[str, bool]]
    is_resolved: bool

    @property
    def reason(self) -> str:
        """Why the image is built, in a few words; "" if there is nothing to compare with."""
        told = ", ".join(map(str, self.changes[:2]))
        more = len(self.changes) - 2
        return f"{told} and {more} more" if more > 0 else told

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "image": self.image or None,
            "last_image": self.last or None,
            "changes": [
                {"input": each.input, "change": each.what, "layers": list(each.layers)}
                for each in self.changes
            ],
            "layers": [{"title": title, "rebuilt": rebuilt} for title, rebuilt in self.layers],
        }


def explain(
    before: tuple[Inputs, float] | None, after: Inputs, project: Path, is_resolved: bool = True
) -> Explanation:
    """Compares what an image would be made of to what the last one was made of.

    Args:
      before: the inputs of the last one, and since when it is the last; None if there is none.
      after: those of the new one.
      project: its directory.
      is_resolved: see Explanation.
    """
    image = after.image if is_resolved and after.base_id else ""
    if before is None:
        layers = [(layer.title, True) for layer in after.layers]
        return Explanation(image, "", [], layers, is_resolved)
    last, since = before
    found = _Comparison(last, after, project, since, is_resolved)
    return Explanation(image, last.image, list(found.changes()), list(found.layers()), is_resolved)


def inputs_now(plan: ImagePlan, engine: Engine, excluded: Sequence[Path]) -> Inputs:
    """What an image would be made of now. Nothing is pulled, built or resolved for it.

    Args:
      plan: the image.
      engine: where it would be built.
      excluded: see context.files.

    Raises:
      UsageError: see context.files.
      EngineError: the engine does not answer.
    """
    files = context.files(plan, excluded)
    parts = provenance.of_files(plan, engine.image_id(plan.base_image) or "", files)
    return inputs.of(plan, parts, files, excluded)


def why(plan: ImagePlan, made_of: Inputs) -> str:
    """What is said of an image that is built: ": trainer/train.py edited", or "" for the first one.

    Args:
      plan: the image.
      made_of: its inputs.
    """
    before = inputs.newest(plan)
    if before and before[0].image == made_of.image:
        return ": the engine does not have it any more"
    reason = explain(before, made_of, Path(plan.directory)).reason
    return f": {reason}" if reason else ""


@dataclass(frozen=True)
class _Comparison:
    """The inputs of two images of a project.

    Attributes:
      before: of the last one.
      after: of the new one.
      project: the directory.
      since: when the last one became that.
      is_resolved: see `explain`.
    """

    before: Inputs
    after: Inputs
    project: Path
    since: float
    is_resolved: bool

    def layers(self) -> Iterator[tuple[str, bool]]:
        """The titles of the new image's layers, and whether the last one's can't be used."""
        rebuilt = False
        old = [layer.key for layer in self.before.layers]
        for index, layer in enumerate(self.after.layers):
            rebuilt = rebuilt or self._is_open(layer) or old[index : index + 1] != [layer.key]
            yield layer.title, rebuilt

    def changes(self) -> Iterator[Change]:
        """What has changed."""
        attributes = self._attributes()
        files = list(self._files())
        yield from self._base_image()
        for name in sorted(attributes - {*_BY_FILES, "base_image"}):
            what = _difference(self.before.plan.get(name), self.after.plan.get(name))
            yield Change(_NAMES.get(name, name), what, self._decided_by([name]))
        yield from files
        declared = {name for each in files for name in self._declares(each.input)}
        if self.is_resolved and not (attributes - {"lock"} | declared) & _RESOLVED:
            yield from self._lock()
        yield from self._rules(attributes | declared)

    def _attributes(self) -> set[str]:
        """The attributes of the plan that have changed."""
        old, new = self.before.plan, self.after.plan
        return {name for name in (*old, *new) if old.get(name) != new.get(name)}

    def _is_open(self, layer: Layer) -> bool:
        """Whether what a layer holds can't be told before the dependencies are resolved."""
        return not self.is_resolved and LOCK in layer.folders

    def _different(self) -> list[Layer]:
        """The layers that are others now, whatever lies below them, and those that are gone."""
        old = {layer.key for layer in self.before.layers}
        kinds = {kind for layer in self.after.layers for kind in _kinds(layer)}
        changed = [x for x in self.after.layers if x.key not in old or self._is_open(x)]
        return changed + [x for x in self.before.layers if not kinds & {*_kinds(x)}]

    def _decided_by(
        self, attributes: Iterable[str], folders: Iterable[str] = ()
    ) -> tuple[str, ...]:
        """The layers that attributes of the plan decide, or that copy folders of the context."""
        wanted, copied = {*attributes}, {*folders}
        return tuple(
            dict.fromkeys(
                layer.title
                for layer in self._different()
                if wanted & {*layer.decided_by} or copied & {*layer.folders}
            )
        )

    def _base_image(self) -> Iterator[Change]:
        old, new = self.before.plan["base_image"], self.after.plan["base_image"]
        layers = self._decided_by(["base_image"])
        own = self.after.plan.get("dockerfile")
        if old != new:
            if not own or not self.before.plan.get("dockerfile"):  # or its files tell it
                yield Change("base image", f"{old} -> {new}", layers)
        elif not self.after.base_id:
            yield Change(f"base image {new}", f"has to be {'built' if own else 'pulled'}", layers)
        elif self.before.base_id != self.after.base_id:
            yield Change(f"base image {new}", "is another image of this name", layers)

    def _files(self) -> Iterator[Change]:
        """Files that have come, gone or changed."""
        old, new = _files(self.before), _files(self.after)
        found: dict[str, tuple[str, set[str]]] = {}
        ignored: set[str] = set()
        for name in old.keys() | new.keys():
            was, now = old.get(name), new.get(name)
            if was and now:
                if was.content != now.content:
                    found[name] = _edit(was.content, now.content), was.folders | now.folders
                continue
            (folders,) = (each.folders for each in (was, now) if each)
            if self._came_with_its_directory(folders, self.before if now else self.after):
                continue
            if name != IGNORE and self._is_told_by_ignore(old, new, name):
                ignored |= folders
            else:
                found[name] = "added" if now else "removed", folders
        if IGNORE in found:
            what, folders = found[IGNORE]
            found[IGNORE] = what, folders | ignored
        for name, (what, folders) in sorted(found.items()):
            # A folder is of interest by itself only if it is empty.
            is_folder = "folder" in {
                each.content for each in (old.get(name), new.get(name)) if each
            }
            if is_folder and any(other.startswith(f"{name}/") for other in found):
                continue
            layers = self._decided_by(self._declares(name), folders)
            if layers or name != IGNORE:
                yield Change(name, what, layers)

    def _came_with_its_directory(self, folders: Iterable[str], other: Inputs) -> bool:
        """Whether a file is only in directories that the other image was not asked to copy."""
        known = {*other.plan["directories"]}
        own = self.after if other is self.before else self.before
        roots = {directory_folder(n): root for n, root in enumerate(own.plan["directories"])}
        return all(folder in roots and roots[folder] not in known for folder in folders)

    def _is_told_by_ignore(self, old: _Contents, new: _Contents, name: str) -> bool:
        """Whether a file was there all the time, and .dockerignore judges it otherwise now."""
        was, now = old.get(IGNORE), new.get(IGNORE)
        if (was and was.content) == (now and now.content):
            return False
        try:
            info = (self.project / name).lstat()
        except OSError:
            return False
        return name in old or info.st_ctime < self.since

    def _declares(self, name: str) -> Iterator[str]:
        """The attributes of the plan that a file decides."""
        both = (self.before, self.after)
        if any(name in x.files.get(BASE, ()) or name == _own(x.plan) for x in both):
            yield "dockerfile"
        if name != IGNORE and any(name in x.read and name != _own(x.plan) for x in both):
            yield "lock"

    def _lock(self) -> Iterator[Change]:
        """Versions that are others although nothing has been declared otherwise."""
        old, new = self.before.packages, self.after.packages
        found = [
            f"{name} {old[name]} -> {new[name]}"
            for name in sorted(old.keys() & new.keys())
            if old[name] != new[name]
        ]
        found += [f"+ {name} {new[name]}" for name in sorted(new.keys() - old.keys())]
        found += [f"- {name}" for name in sorted(old.keys() - new.keys())]
        if len(found) > _PACKAGES:
            found[_PACKAGES:] = [f"and {len(found) - _PACKAGES} more"]
        if found:
            yield Change("the lock", ", ".join(found), self._decided_by(["lock"]))

    def _rules(self, changed: set[str]) -> Iterator[Change]:
        """What caliban itself does otherwise: layers that differ for no other reason."""
        old = {layer.instructions for layer in self.before.layers}
        new = {layer.instructions for layer in self.after.layers}
        titles = [
            layer.title
            for layers, others in ((self.after.layers, old), (self.before.layers, new))
            for layer in layers
            if layer.instructions not in others and not changed & {*layer.decided_by}
        ]
        for folder in (*OWN_FOLDERS, LOCK):
            resources = [_resources(each, folder) for each in (self.before, self.after)]
            if all(resources) and resources[0] != resources[1]:
                titles += [layer.title for layer in self.after.layers if folder in layer.folders]
        if titles:
            old_version, new_version = self.before.version, self.after.version
            is_other = old_version != new_version
            what = f"{old_version} -> {new_version}" if is_other else "have changed"
            yield Change(_RULES, what, tuple(dict.fromkeys(titles)))


@dataclass(frozen=True)
class _Content:
    """A file of an image.

    Attributes:
      content: stands for it, see context.File.
      folders: those of the build context that it is in.
    """

    content: str
    folders: set[str] = field(default_factory=set)


_Contents: TypeAlias = Mapping[str, _Content]


def _files(inputs: Inputs) -> dict[str, _Content]:
    """The project's files that decide an image, by name."""
    found: dict[str, _Content] = {}
    # What packages are resolved and installed from may be less of a file than the code has of it.
    for folder, contents in sorted(inputs.files.items(), key=lambda each: each[0] == DEPENDENCIES):
        if folder not in (*OWN_FOLDERS, LOCK):
            for name, content in contents.items():
                found.setdefault(name, _Content(content)).folders.add(folder)
    for name, content in inputs.read.items():
        found.setdefault(name, _Content(content))
    return found


def _resources(inputs: Inputs, folder: str) -> dict[str, str]:
    """The files of caliban's own in a folder of the context."""
    files = inputs.files.get(folder, {})
    return {name: content for name, content in files.items() if name != LOCK_FILE}


def _edit(old: str, new: str) -> str:
    """How a file has changed, by what stands for its content."""
    (old_mode, _, old_digest), (new_mode, _, new_digest) = old.partition(" "), new.partition(" ")
    if old_digest != new_digest or old_mode == new_mode:
        return "edited"
    return "made executable" if new_mode == "777" else "made not executable"


def _difference(old: Any, new: Any) -> str:
    """How an attribute of a plan has changed."""
    if isinstance(old or new, list):
        more = [f"+ {each}" for each in new or () if each not in (old or ())]
        less = [f"- {each}" for each in old or () if each not in (new or ())]
        return ", ".join(more + less) or "in another order"
    if isinstance(old or new, str):
        return f"{old or 'none'} -> {new or 'none'}"
    return "changed"


def _kinds(layer: Layer) -> tuple[object, object]:
    """By what a layer is known to be another's successor; each of them is enough."""
    return layer.title, (*layer.decided_by, *layer.folders)


def _own(plan: Mapping[str, Any]) -> str:
    """The project's Dockerfile that a plan names; "" for none."""
    return str((plan.get("dockerfile") or {}).get("path", ""))
