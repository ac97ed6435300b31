"""What a file of experiments says, read back: nothing in it is believed before it is checked."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caliban.bundle import code as code_files
from caliban.bundle.archive import MANIFEST, Archive
from caliban.bundle.code import Kind
from caliban.docker.image.declared import requirements
from caliban.errors import UsageError
from caliban.model import experiment, module
from caliban.model.experiment import Experiment
from caliban.model.image import OUTPUT_VARIABLE, ImagePlan
from caliban.model.job import Status
from caliban.model.provenance import Image, Repository, Source
from caliban.model.report import Metric

SCHEMA = Path(__file__).parents[1] / "resources" / "bundle" / "manifest.schema.json"

# Of texts that are read into memory.
_LONGEST_TEXT = 1 << 24

_MODULE = re.compile(r"\w+(\.\w+)*")

# How much of what stands for a file is recorded of it.
_KEPT = 24

# How much of a name in the file a message shows.
_SHOWN = 60


@dataclass(frozen=True)
class CodeFile:
    """A file, link or empty folder of the code.

    Attributes:
      path: in the project.
      kind: what it is.
      part: that has its content; "" for a folder.
    """

    path: str
    kind: Kind
    part: str = ""


@dataclass(frozen=True)
class RecordedLaunch:
    """What jobs ran.

    Attributes:
      plan: what the image held, with its lock; it has no directory.
      image: what it was called, by whom, and what it was built on.
      dockerfile: its text.
      experiments: part with the experiment file; "" for none.
      code: the files of the project.
      source: what stands for those, and where they are kept.
      flags: those of the command that launched the jobs.
      variables: names of the environment variables that the jobs found.
    """

    plan: ImagePlan
    image: Image
    dockerfile: str
    experiments: str
    code: Sequence[CodeFile]
    source: Source
    flags: Mapping[str, Any]
    variables: Sequence[str]

    def number(self, flag: str) -> int | None:
        """The number that was given by a flag; None without one."""
        value = self.flags.get(flag)
        return value if type(value) is int and value >= 0 else None

    @property
    def run_args(self) -> str:
        """The arguments for `docker run` that the jobs were given, without values of variables."""
        value = self.flags.get("docker_run_args")
        return value if isinstance(value, str) else ""

    @property
    def keeps_files(self) -> bool:
        """Whether the jobs wrote files that were kept."""
        return "output" in self.flags or OUTPUT_VARIABLE in self.variables


@dataclass(frozen=True)
class RecordedJob:
    """A job, and what became of it.

    Attributes:
      number: of its experiment in the file, from 1.
      id: that it had where it ran.
      launch: which one it belongs to.
      experiment: its arguments and parameters.
      platform: where it ran.
      status: what became of it.
      exit_code: of its program; None if that is not known.
      reason: why it ended so.
      cause: what its output says of that.
      metrics: what it reported.
    """

    number: int
    id: int
    launch: int
    experiment: Experiment
    platform: str
    status: Status
    exit_code: int | None
    reason: str
    cause: str
    metrics: Mapping[str, Metric]


@dataclass(frozen=True)
class Recorded:
    """What a file holds.

    Attributes:
      group: name that the experiment group had.
      launches: what the jobs ran.
      jobs: one for each experiment, in order.
      images: part with an image, by its id.
    """

    group: str
    launches: Sequence[RecordedLaunch]
    jobs: Sequence[RecordedJob]
    images: Mapping[str, str]


def read(archive: Archive) -> Recorded:
    """Reads what a file says, and checks all that somebody acts on.

    Raises:
      UsageError: it does not say what such a file says.
    """
    manifest = archive.manifest
    try:
        _check_schema(archive)
        _check_text(archive)
    except RecursionError:
        raise archive.refused(f"{MANIFEST} is nested too deeply") from None
    for name in _parts(manifest):
        if name not in archive.parts:
            raise archive.refused(f"it has no part '{name}', of which {MANIFEST} speaks")
    launches = [_launch(archive, each) for each in manifest["launches"]]
    jobs = [_job(archive, number, each) for number, each in enumerate(manifest["jobs"], 1)]
    return Recorded(manifest["group"], launches, jobs, dict(manifest.get("images", {})))


def _check_schema(archive: Archive) -> None:
    import fastjsonschema

    check = fastjsonschema.compile(json.loads(SCHEMA.read_text()), use_default=False)
    try:
        check(archive.manifest)
    except fastjsonschema.JsonSchemaValueException as error:
        place = shown("".join(f"[{each!r}]" for each in error.path[1:]) or "all of it")
        raise archive.refused(
            f"{MANIFEST} does not have its form: {place} ({error.rule})"
        ) from None


def _check_text(archive: Archive) -> None:
    """Sees to it that no text in the manifest is one that systems have no bytes for."""
    try:
        os.fsencode(json.dumps(archive.manifest, ensure_ascii=False))
    except UnicodeEncodeError:
        raise archive.refused(f"{MANIFEST} has a text that is none") from None


def _parts(manifest: Mapping[str, Any]) -> Iterator[str]:
    """The parts that a manifest speaks of."""
    for launch in manifest["launches"]:
        yield launch["dockerfile"]
        repository = launch["source"]["repository"] or {}
        texts = (launch.get("experiments"), launch["plan"].get("lock"), repository.get("diff"))
        yield from filter(None, texts)
        for each in launch["code"]:
            if each["kind"] != Kind.FOLDER.value:
                yield each.get("part", "")
    yield from manifest.get("images", {}).values()


def _launch(archive: Archive, record: Mapping[str, Any]) -> RecordedLaunch:
    plan = {**record["plan"], "directory": ""}
    if "lock" in plan:
        plan["lock"] = _lock(archive, plan["lock"])
    module_name = (plan["module"] or {}).get("name", "")
    for name in (*record["image"].values(), plan["base_image"], module_name):
        if not name.isprintable():
            raise archive.refused(
                f"{MANIFEST} has a name that moves a terminal's cursor: {shown(name)}"
            )
    code = [
        CodeFile(each["path"], Kind(each["kind"]), each.get("part", "")) for each in record["code"]
    ]
    return RecordedLaunch(
        plan=_checked(archive, ImagePlan.from_json(plan)),
        image=Image.from_json(record["image"]),
        dockerfile=_text(archive, record["dockerfile"]),
        experiments=record.get("experiments", ""),
        code=code,
        source=_source(archive, record["source"], code),
        flags=record["flags"],
        variables=record["variables"],
    )


def _source(archive: Archive, record: Mapping[str, Any], code: Sequence[CodeFile]) -> Source:
    """The files of a launch as its own history had them, but for what a file could make up."""
    files = {
        each.path: _recorded(archive, each) for each in sorted(code, key=lambda each: each.path)
    }
    repository = record["repository"]
    if repository is not None:
        texts = {key: each for key, each in repository.items() if key != "diff"}
        if _is_printable(texts):
            diff = _text(archive, repository["diff"]) if "diff" in repository else ""
            repository = Repository.from_json({**texts, "diff": diff})
        else:
            repository = None
    note = record["note"] if _is_printable(record["note"]) else ""
    return Source(Source.digest_of(files), files, repository, note)


def _is_printable(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_printable, (*value, *value.values())))
    return str(value).isprintable()


def _recorded(archive: Archive, file: CodeFile) -> str:
    """What stands for a file, see code.SourceFile."""
    digest = archive.parts[file.part].sha256 if file.part else ""
    return code_files.recorded(file.kind, digest)[:_KEPT]


def _lock(archive: Archive, part: str) -> str:
    try:
        return archive.read(part, _LONGEST_TEXT).decode()
    except UnicodeDecodeError:
        raise archive.refused(f"its part '{part}' is no text") from None


def _text(archive: Archive, part: str) -> str:
    return archive.read(part, _LONGEST_TEXT).decode(errors="surrogateescape")


def _checked(archive: Archive, plan: ImagePlan) -> ImagePlan:
    """Sees to it that a plan names nothing beside the project."""
    paths = [*plan.requirements, *plan.directories, plan.project, plan.lock_file]
    paths += [requirements.directory(each) for each in plan.packages]
    if plan.dockerfile:
        paths.append(plan.dockerfile.path)
    if plan.module:
        is_module = plan.module.kind is module.Kind.PYTHON_MODULE
        paths += [plan.module.copied, *([] if is_module else [plan.module.name])]
        if is_module and not _MODULE.fullmatch(plan.module.name):
            raise archive.refused(f"its code {shown(plan.module.name)} is no module")
    for path in paths:
        if requirements.is_outside(posixpath.normpath(path)) or ".." in path.split("/"):
            raise archive.refused(f"its image is made of {shown(path)}, outside of the project")
    return plan


def _job(archive: Archive, number: int, record: Mapping[str, Any]) -> RecordedJob:
    params = dict(record["params"])
    try:
        if params:
            # A value that is a list is one value here, as in a row of several keys.
            experiment.validate({name: [value] for name, value in params.items()}, "params")
    except UsageError as error:
        raise archive.refused(f"experiment {number} is none: {shown(error.message)}") from None
    if record["launch"] >= len(archive.manifest["launches"]):
        raise archive.refused(f"experiment {number} belongs to no launch")
    if len(params) < len(record["params"]):
        raise archive.refused(f"experiment {number} has a parameter twice")
    return RecordedJob(
        number=number,
        id=int(record["job"]),
        launch=int(record["launch"]),
        experiment=Experiment(tuple(record["args"]), params),
        platform=record["platform"],
        status=Status(record["status"]),
        exit_code=_whole(record["exit_code"]),
        reason=record["reason"],
        cause=record["cause"],
        metrics=record["metrics"],
    )


def _whole(number: float | None) -> int | None:
    """A number without a part behind the point, which in JSON may have one of zeros."""
    return None if number is None else int(number)


def shown(text: str) -> str:
    """A text of the file for a message: short, and nothing that moves a terminal's cursor."""
    short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return short if short.isprintable() else ascii(short)
