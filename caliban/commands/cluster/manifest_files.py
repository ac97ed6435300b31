"""Jobs of Kubernetes in files: exported for other programs, and read back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from caliban import document
from caliban.errors import UsageError
from caliban.model.labels import UID
from caliban.platform.kubernetes import storage

SUFFIXES = (".yaml", ".yml", ".json")

# Text that no reader of YAML takes for anything else, whichever version of YAML it reads.
_SAFE = re.compile(r"(?!(?i:true|false|yes|no|on|off|null)$)[A-Za-z][\w./:@-]*[\w/]")

# The objects and lists of a Job that are looked into; all else is the cluster's to judge.
_EXPRESSIONS: dict[str, Any] = {"nodeSelectorTerms": [{"matchExpressions": [{"values": []}]}]}
_NODES = {"requiredDuringSchedulingIgnoredDuringExecution": _EXPRESSIONS}
_METADATA: dict[str, Any] = {"labels": {}, "annotations": {}}
_POD = {
    "nodeSelector": {},
    "affinity": {"nodeAffinity": _NODES},
    "imagePullSecrets": [{}],
    "volumes": [{}],
    "containers": [{"env": [{}], "resources": {"limits": {}, "requests": {}}}],
}
_SHAPE = {"metadata": _METADATA, "spec": {"template": {"metadata": _METADATA, "spec": _POD}}}


def check_name(path: str) -> Path:
    """Sees to it that jobs can be written to a file, or read from it.

    Raises:
      UsageError: its name says neither YAML nor JSON.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"the extension of '{path}' is not one of {', '.join(SUFFIXES)}",
            "It says in which format the jobs are: my-job.yaml, for one.",
        )
    return Path(path).expanduser()


def check_export(path: str) -> Path:
    """Sees to it that jobs can be exported to a file.

    Raises:
      UsageError: its name says neither YAML nor JSON, or its folder is not there.
    """
    file = check_name(path)
    if not file.parent.is_dir():
        raise UsageError(f"cannot export to '{path}': there is no folder {file.parent}")
    if file.is_dir():
        raise UsageError(f"cannot export to '{path}': it is a folder")
    return file


def export(file: Path, jobs: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Writes each job to a file of its own: my-job.yaml; of several, my-job_0.yaml, my-job_1.yaml.

    Args:
      file: whose name says what they are called, and in which format they are.
      jobs: manifests.

    Returns:
      The files; those that there were are overwritten.

    Raises:
      UsageError: one can't be written.
    """
    files = [file]
    if len(jobs) > 1:
        files = [file.with_name(f"{file.stem}_{n}{file.suffix}") for n in range(len(jobs))]
    for each, job in zip(files, jobs, strict=True):
        is_json = file.suffix.lower() == ".json"
        text = json.dumps(job, indent=2) + "\n" if is_json else as_yaml([job])
        try:
            each.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot export to '{each}': {error.strerror}") from error
    return files


def as_yaml(jobs: Sequence[Mapping[str, Any]]) -> str:
    """Manifests as YAML that every version of YAML reads alike, a document each."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

        def represent_text(self, text: str) -> yaml.Node:
            style = None if _SAFE.fullmatch(text) else '"'
            return self.represent_scalar("tag:yaml.org,2002:str", text, style)

    Dumper.add_representer(str, Dumper.represent_text)
    written: str = yaml.dump_all(
        [_plain(job) for job in jobs],
        Dumper=Dumper,
        sort_keys=False,
        allow_unicode=True,
        explicit_start=len(jobs) > 1,
        width=float("inf"),
    )
    return written


def _plain(value: Any) -> Any:
    """A value without tuples and foreign mappings: just what JSON has."""
    return json.loads(json.dumps(value))


def to_export(body: Mapping[str, Any], own: Sequence[str]) -> dict[str, Any]:
    """A manifest that makes another job each time that it is submitted, by whomever.

    Args:
      body: of a job that caliban would submit.
      own: keys of the labels and annotations by which caliban finds that one job.
    """
    job: dict[str, Any] = _plain(body)
    metadata = job["metadata"]
    uid = metadata["labels"][UID]
    stem = metadata.pop("name").removesuffix(uid)
    job["metadata"] = {"generateName": stem, **metadata}
    for each in (job["metadata"], job["spec"]["template"]["metadata"]):
        for kind in ("labels", "annotations"):
            for key in own:
                each.get(kind, {}).pop(key, None)
    storage.named_by_job(job)
    return job


def read(path: str) -> list[dict[str, Any]]:
    """Reads jobs, of which YAML may have several, as a List may too.

    Raises:
      UsageError: the file can't be read, or holds something else than jobs.
    """
    check_name(path)
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    for number, each in enumerate(_documents(path), 1):
        if wrong := _wrong(each):
            problems.append(f"{path}, document {number}: {wrong}")
        else:
            found.append(each)
    if problems:
        raise UsageError(
            "\n".join(problems),
            "Only Jobs (batch/v1) can be submitted. 'kubectl create -f' creates whatever else they "
            "need.",
        )
    if not found:
        raise UsageError(f"{path}: holds no job")
    return found


def _documents(path: str) -> Iterator[Any]:
    """What a file describes, one by one."""
    for each in document.read_all(path):
        is_list = isinstance(each, dict) and each.get("kind") in ("List", "JobList")
        items = each.get("items") if is_list and isinstance(each, dict) else None
        yield from items if isinstance(items, list) else [each]


def _wrong(job: Any) -> str:
    """What is wrong with a job's manifest; "" if nothing is, as far as can be told here."""
    if not isinstance(job, dict):
        return "expected a Job, found no object at all"
    kind, version = job.get("kind"), job.get("apiVersion")
    if (kind, version) != ("Job", "batch/v1"):
        return f"expected a Job of batch/v1, found kind {kind!r} of apiVersion {version!r}"
    metadata = job.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(
        metadata.get("name") or metadata.get("generateName"), str
    ):
        return "its metadata has neither a name nor a generateName"
    if wrong := _misshapen(job, _SHAPE):
        return wrong
    if not containers(job):
        return "it has no containers, at spec.template.spec.containers"
    if any(not each.get("image") for each in containers(job)):
        return "a container of it has no image"
    if any(not _is_text(each.get("args")) for each in containers(job)):
        return "the args of a container of it aren't a list of texts: put numbers in quotes"
    try:
        json.dumps(job, allow_nan=False)
    except (TypeError, ValueError):
        return "it has a date or an infinite number, where Kubernetes has text: put it in quotes"
    return ""


def _misshapen(value: Any, shape: Any, path: str = "") -> str:
    """Where a value is no such object, or list of objects, as `shape` is; "" if nowhere."""
    if isinstance(value, dict) and isinstance(shape, dict):
        keys = [key for key in shape if value.get(key) is not None]
        parts = [(value[key], shape[key], f"{path}.{key}") for key in keys]
    elif isinstance(value, list) and isinstance(shape, list):
        numbered = [(f"{path}[{number}]", each) for number, each in enumerate(value)]
        parts = [(each, wanted, at) for wanted in shape for at, each in numbered]
    else:
        expected = "an object" if isinstance(shape, dict) else "a list"
        return f"expected {expected} at {path.lstrip('.')}, found {value!r:.40}"
    return next(filter(None, (_misshapen(*part) for part in parts)), "")


def _is_text(args: Any) -> bool:
    return args is None or (isinstance(args, list) and all(isinstance(each, str) for each in args))


def containers(job: Mapping[str, Any]) -> list[Any]:
    """The containers of a job; none if it isn't made as a job is."""
    value: Any = job
    for key in ("spec", "template", "spec", "containers"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, list) else []
