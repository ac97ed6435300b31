"""What a file of experiments holds: jobs and their outcomes, what they ran, and all that takes."""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from caliban import __version__, joblog
from caliban.bundle import code, extraction
from caliban.bundle.code import Kind, SourceFile, leads_out
from caliban.bundle.spool import Content, Spool
from caliban.docker.engine import Engine
from caliban.docker.image import dockerfile, keys
from caliban.errors import UsageError
from caliban.model.image import ImagePlan
from caliban.model.job import Job
from caliban.model.provenance import Provenance

_PIECE = 1 << 20

# How hard logs are compressed, of 9.
_LEVEL = 6

# How many problems are told.
_TOLD = 20


@dataclass
class Contents:
    """The manifest and the parts of a file, as they come together.

    Attributes:
      manifest: what it says.
      spool: that gets the parts.
      parts: the content of each, by name.
    """

    manifest: dict[str, Any]
    spool: Spool
    parts: dict[str, Content] = field(default_factory=dict)

    def add(self, name: str, pieces: Iterable[bytes]) -> str:
        """Adds a part; returns its name.

        Raises:
          CalibanError: the disk is full.
        """
        content = self.spool.keep(pieces)
        assert content is not None
        self.parts[name] = content
        return name

    def add_packed(self, name: str, pieces: Iterable[bytes], level: int) -> str:
        """Adds a part that is compressed, the same with each Python; returns its name."""
        return self.add(name, _packed(pieces, level))

    def add_file(self, content: Content) -> str:
        """Adds a file of the code, once for all that hold the same; returns the part's name."""
        name = f"files/{content.sha256}"
        self.parts[name] = content
        return name


def _packed(pieces: Iterable[bytes], level: int) -> Iterator[bytes]:
    sink = io.BytesIO()
    with gzip.GzipFile("", "wb", level, sink, mtime=0) as target:
        for piece in pieces:
            target.write(piece)
            yield sink.getvalue()
            sink.seek(0)
            sink.truncate()
    yield sink.getvalue()


def gather(
    group: str,
    jobs: Sequence[Job],
    launches: Sequence[tuple[Provenance, Sequence[int]]],
    engine: Engine,
    spool: Spool,
    allowed_keys: Sequence[str] = (),
) -> Contents:
    """Puts together what a group's jobs were and what became of them.

    Args:
      group: name of the experiment group.
      jobs: the newest of each experiment.
      launches: what they ran, and the numbers of the jobs.
      engine: that has the images, perhaps.
      spool: that gets the parts.
      allowed_keys: parts, or paths in the code, that may look like keys: patterns with * and ?.

    Raises:
      UsageError: something that it takes is not there, or looks like a key.
      CalibanError: the disk is full.
    """
    number_of = {job: index for index, (_, ids) in enumerate(launches) for job in ids}
    if unknown := [job.id for job in jobs if job.id not in number_of]:
        raise UsageError(
            f"what exactly these jobs ran is not recorded: {_numbers(unknown)}",
            "Run them again with this caliban: caliban resubmit --all_jobs",
        )
    if still_open := [job.id for job in jobs if not job.outcome.status.is_final]:
        raise UsageError(f"these jobs have not ended yet: {_numbers(still_open)}")
    found = Contents({"caliban": __version__, "group": group}, spool)
    paths: dict[str, set[str]] = {}
    found.manifest["launches"] = [
        _launch(found, number, provenance, engine, paths)
        for number, (provenance, _) in enumerate(launches)
    ]
    found.manifest["jobs"] = [_job(found, job, number_of[job.id]) for job in jobs]
    _check(found, paths, allowed_keys)
    return found


def _numbers(jobs: Sequence[int]) -> str:
    return ", ".join(map(str, jobs[:_TOLD])) + (", ..." if len(jobs) > _TOLD else "")


def _launch(
    found: Contents,
    number: int,
    provenance: Provenance,
    engine: Engine,
    paths: dict[str, set[str]],
) -> dict[str, Any]:
    """What some of the jobs ran; its long texts and the code become parts."""
    record = provenance.to_json()
    plan, source = record["plan"], record["source"] or {}
    folder = f"launches/{number}"
    if not source.get("files"):
        raise UsageError("it is not recorded which code these jobs ran")
    project = Path(plan["directory"])
    # Jobs that were replayed have the file in the place of a directory.
    others = extraction.files(project) if project.is_file() else ()
    image = provenance.image.id
    files = code.find(source.pop("files"), project, image, engine, found.spool, others)
    _check_links(files)
    listed = []
    for file in files:
        entry = {"path": file.path, "kind": file.kind.value}
        if file.kind is not Kind.FOLDER:
            entry["part"] = found.add_file(file.content)
            paths.setdefault(entry["part"], set()).add(file.path)
        listed.append(entry)
    record["code"] = listed
    text = dockerfile.render(ImagePlan.from_json(provenance.plan))
    record["dockerfile"] = found.add(f"{folder}/Dockerfile", [text.encode()])
    for place, key, name in (
        (plan, "lock", "requirements.lock"),
        (record, "experiments", "experiments.json"),
        (source.get("repository") or {}, "diff", "changes.diff"),
    ):
        if content := place.pop(key, ""):
            place[key] = found.add(f"{folder}/{name}", [content.encode(errors="surrogateescape")])
    return record


def _check_links(files: Sequence[SourceFile]) -> None:
    """Sees to it that the links of a project stay in it, as whoever gets the file demands.

    Raises:
      UsageError: naming those that don't.
    """
    links = {
        file.path: os.fsdecode(file.content.whole()) for file in files if file.kind is Kind.LINK
    }
    if wrong := [
        f"  {name} -> {target}" for name, target in links.items() if leads_out(links, name)
    ]:
        raise UsageError(
            "\n".join(["links lead out of the project, where others have something else:", *wrong]),
            "Name them in .dockerignore, or put what they lead to into the project, and run again.",
        )


def _job(found: Contents, job: Job, launch: int) -> dict[str, Any]:
    outcome = job.outcome
    log = None
    if joblog.find(job.uid):
        log = found.add_packed(f"logs/{job.id}.log.gz", joblog.read(job.uid), _LEVEL)
    return {
        "job": job.id,
        "launch": launch,
        "args": list(job.experiment.args),
        # As pairs: programs that read JSON need not keep the order of what is in an object.
        "params": [[name, value] for name, value in job.experiment.params.items()],
        "platform": job.submission.platform,
        "status": outcome.status.value,
        "exit_code": outcome.exit_code,
        "reason": outcome.reason,
        "cause": job.report.cause,
        "metrics": dict(job.report.metrics),
        "created": job.created.isoformat(),
        "started": outcome.started and outcome.started.isoformat(),
        "finished": outcome.finished and outcome.finished.isoformat(),
        "log": log,
    }


def _check(found: Contents, paths: Mapping[str, set[str]], allowed: Sequence[str]) -> None:
    """Sees to it that nothing looks like a key.

    Args:
      found: what the file would hold.
      paths: those of the code that each part has: by a file's name it is told what may be a key.
      allowed: what may look like one.

    Raises:
      UsageError: naming all that do, and not showing what is in them.
    """
    wrong = [
        f"  {key.name}, line {key.line}: {key.what}"
        for name, pieces, is_code in _texts(found, paths)
        if not any(fnmatchcase(name, each) for each in allowed)
        # In code, made-up passwords are common in URLs: it is judged as it was for the image.
        and (key := keys.find_in(name, pieces, declares_all=not is_code))
    ]
    if wrong:
        more = [f"  and {len(wrong) - _TOLD} more"] if len(wrong) > _TOLD else []
        raise UsageError(
            "\n".join(["the file would hold what looks like a key:", *wrong[:_TOLD], *more]),
            "Whoever gets the file could use it. If it may be in there: --allow_key NAME",
        )


def _texts(
    found: Contents, paths: Mapping[str, set[str]]
) -> Iterator[tuple[str, Iterator[bytes], bool]]:
    """All that a file would hold: its name, its content in pieces, and whether it is code."""
    yield "manifest.json", iter([json.dumps(found.manifest).encode()]), False
    for name, content in sorted(found.parts.items()):
        if name in paths:
            yield from ((path, content.pieces(), True) for path in sorted(paths[name]))
        else:
            yield name, _unpacked(name, content), False


def _unpacked(name: str, content: Content) -> Iterator[bytes]:
    if not name.endswith(".gz"):
        yield from content.pieces()
        return
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # as gzip does
    for piece in content.pieces():
        while piece:
            yield unpacking.decompress(piece, _PIECE)
            piece = unpacking.unconsumed_tail
