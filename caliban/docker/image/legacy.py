"""`RUN --mount=type=cache` for the legacy builder, which does not know it.

That builder makes each layer by a container that is committed. So does this module with the steps
that are lent a folder, which is a volume of the engine; all others it leaves to the builder.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import posixpath
import re
import tarfile
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from caliban import process, terminal
from caliban.docker.containers import OWNER, Containers
from caliban.docker.engine import Engine
from caliban.docker.image import archive, progress
from caliban.docker.image import builder as builders
from caliban.docker.image.builder import Builder
from caliban.docker.image.context import File
from caliban.docker.image.dockerfile import LABEL, Section
from caliban.errors import BuildError
from caliban.interrupt import Interruption

_CACHED = re.compile(r"RUN --mount=type=cache,id=(?P<id>[\w-]+),target=(?P<target>\S+),\S+ ")

# Label of an image that such a step has made: what it was made by.
_STEP = f"{LABEL}.step"

_NOT_BUILT = "the image could not be built"


def build(
    engine: Engine,
    sections: Iterable[Section],
    files: Sequence[File],
    name: str,
    labels: Mapping[str, str],
    no_cache: bool = False,
) -> None:
    """Builds an image.

    Args:
      engine: where it is built.
      sections: those of its Dockerfile.
      files: see context.files.
      name: of the image.
      labels: those that it gets.
      no_cache: whether to go through each step anew.

    Raises:
      BuildError: a step failed; its output has been shown.
    """
    *parts, last = _parts(sections)
    # In one step. Of --label, the builder makes a step each, which all take their time.
    marks = " ".join(f"{key}={json.dumps(value)}" for key, value in labels.items())
    last.append(Section("Store the image", (f"LABEL {marks}",)))
    view = terminal.Steps()
    image = _built(engine, parts, files, view, no_cache)
    arguments = [*(["--no-cache"] if no_cache else []), "--tag", name]
    _plain(engine, image, last, files, view, arguments)
    view.end(failed=False)


def output(engine: Engine, sections: Iterable[Section], files: Sequence[File], path: str) -> bytes:
    """Builds all but the last step, a cached one, runs that, and returns a file that it has made.

    Args:
      engine: where it is built.
      sections: those of a Dockerfile.
      files: see context.files.
      path: of the file.

    Raises:
      BuildError: a step failed; its output has been shown.
    """
    *parts, (last,) = _parts(sections)
    view = terminal.Steps()
    image = _built(engine, parts, files, view)
    with _ended(engine, image, last, files, view, "the dependencies could not be resolved") as name:
        view.end(failed=False)
        with engine.errors(f"reading {path} of the container {name}"):
            content, _ = engine.client.get_archive(name, path)
            stream = io.BytesIO(b"".join(content))
        with tarfile.open(fileobj=stream) as opened:
            found = opened.extractfile(opened.getmembers()[0])
            assert found is not None
            return found.read()


def _built(
    engine: Engine,
    parts: Sequence[Sequence[Section]],
    files: Sequence[File],
    view: terminal.Steps,
    no_cache: bool = False,
) -> str:
    """Builds parts of a Dockerfile, the first ones; returns the id of the image."""
    if not parts:
        return ""
    keys = _keys(engine, parts, files)
    image, done = ("", 0) if no_cache else _newest(engine, keys)
    for part, key in list(zip(parts, keys, strict=True))[done:]:
        if _CACHED.match(part[0].instructions[-1]):
            image = _step(engine, image, part[0], files, key, view)
        else:
            image = _plain(engine, image, part, files, view, ["--no-cache"] if no_cache else [])
    return image


def _keys(
    engine: Engine, parts: Sequence[Sequence[Section]], files: Sequence[File]
) -> Sequence[str]:
    """What stands for each part and for those before it: for what an image of them holds."""
    name = parts[0][0].instructions[0].split()[1]
    so_far = hashlib.sha256(str(engine.image_id(name)).encode())
    found = []
    for part in parts:
        folders = {folder for section in part for folder in section.folders}
        copied = [
            (each.folder, each.name, each.content) for each in files if each.folder in folders
        ]
        instructions = [section.instructions for section in part]
        so_far.update(json.dumps([instructions, copied]).encode())
        found.append(so_far.hexdigest())
    return found


def _newest(engine: Engine, keys: Sequence[str]) -> tuple[str, int]:
    """The image of as many parts as possible that there is, and their number; "" and 0 for none."""
    for number in range(len(keys), 0, -1):
        with engine.errors("looking for the layers of earlier builds"):
            filters = {"label": f"{_STEP}={keys[number - 1]}"}
            found = engine.client.images(all=True, filters=filters)
        # What was built on it has the label, too.
        known = {each["Id"] for each in found}
        own = [each for each in found if each["ParentId"] not in known]
        if own:
            return str(max(own, key=lambda each: int(each["Created"]))["Id"]), number
    return "", 0


def _parts(sections: Iterable[Section]) -> list[list[Section]]:
    """A Dockerfile in parts: each is a step that is lent a folder, or has none such.

    What a section copies for its step is a part of the step.
    """
    parts: list[list[Section]] = [[]]
    for section in sections:
        waiting: list[str] = []
        for instruction in section.instructions:
            waiting.append(instruction)
            if _CACHED.match(instruction):
                while not waiting[0].startswith(("WORKDIR ", "COPY ", "RUN --mount")):
                    parts[-1].append(replace(section, instructions=(waiting.pop(0),)))
                parts += [[replace(section, instructions=tuple(waiting))], []]
                waiting = []
        if waiting:
            parts[-1].append(replace(section, instructions=tuple(waiting)))
    return [part for part in parts if part]


def _plain(
    engine: Engine,
    base: str,
    part: Sequence[Section],
    files: Iterable[File],
    view: terminal.Steps,
    arguments: Sequence[str],
) -> str:
    """Builds what the builder can; returns the id of the image."""
    if base:
        part = [replace(part[0], instructions=(f"FROM {base}",)), *part]
    text = "".join(f"{line}\n" for section in part for line in section.instructions)
    folders = {folder for section in part for folder in section.folders}
    sent = [file for file in files if file.folder in folders]
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch, "id")
        with builders.running(
            Builder.LEGACY,
            ["--iidfile", str(written), *arguments],
            lambda stream: archive.write(text, sent, stream),
        ) as child:
            code, printed = progress.show(child, sections=part, view=view)
        _check(code, printed)
        return written.read_text().strip()


def _step(
    engine: Engine,
    base: str,
    section: Section,
    files: Sequence[File],
    key: str,
    view: terminal.Steps,
) -> str:
    """Makes a layer by a step that is lent a folder; returns the image's id.

    Args:
      engine: where it is made.
      base: id of the image that the step goes on from.
      section: the step, and what it copies.
      files: see context.files.
      key: what stands for it and for all before it.
      view: shows it.
    """
    with engine.errors(f"looking up the image {base}"):
        config = engine.client.inspect_image(base)["Config"]  # type: ignore[no-untyped-call]
    # Those of the container would be taken for what is empty, if it were not named as that.
    own = {name: config.get(name) or [] for name in ("Entrypoint", "Cmd")}
    config |= {**own, "Labels": {**(config["Labels"] or {}), _STEP: key, OWNER: ""}}
    if folder := _folder(section):
        config["WorkingDir"] = folder
    with (
        _ended(engine, base, section, files, view) as name,
        engine.errors(f"storing the layer of {name}"),
    ):
        return str(engine.client.commit(name, conf=config)["Id"])


@contextlib.contextmanager
def _ended(
    engine: Engine,
    image: str,
    section: Section,
    files: Sequence[File],
    view: terminal.Steps,
    failure: str = _NOT_BUILT,
) -> Iterator[str]:
    """The name of a container in which such a step has been taken; it is removed in the end."""
    instruction = section.instructions[-1]
    match = _CACHED.match(instruction)
    assert match is not None
    name = f"caliban-step-{uuid.uuid4().hex[:12]}"
    lent = engine.client.create_host_config(binds=[f"{match['id']}:{match['target']}"])
    # Not as the container's own: the image would have them, too.
    proxies = [f"{key}={value}" for key, value in _proxies(engine.host).items()]
    command = [*(["env", *proxies] if proxies else []), "/bin/sh", "-c", instruction[match.end() :]]
    containers = Containers(engine)
    try:
        with builders.one_at_a_time(match["id"]), engine.errors(f"making the container {name}"):
            with Interruption() as interruption:  # or it might be made after its removal
                engine.client.create_container(
                    *(image, None),
                    entrypoint=command,
                    name=name,
                    labels={OWNER: process.identity()},
                    host_config=lent,
                    working_dir=_folder(section) or None,
                    use_config_proxy=False,
                )
            if interruption.count:
                raise KeyboardInterrupt
            for place, content in _copies(section, files):
                engine.client.put_archive(name, place, content)
            start = ["docker", "start", "--attach", name]
            with process.start(start, merge_stderr=True) as child:
                try:
                    code, printed = progress.show(child, section.title, view=view)
                finally:
                    child.kill()  # SIGTERM it passes on to the step, which need not heed it
            _check(code, printed, failure)
        yield name
    finally:
        containers.remove(name)


def _folder(section: Section) -> str:
    """The working directory that a section sets; "" for none."""
    folders = [each.split()[1] for each in section.instructions if each.startswith("WORKDIR ")]
    return folders[-1] if folders else ""


def _copies(section: Section, files: Sequence[File]) -> Iterator[tuple[str, bytes]]:
    """What a section copies: where to, and an archive to be unpacked there."""
    for instruction in section.instructions:
        if instruction.startswith("COPY "):
            _, source, target = instruction.split()
            place, name = _folder(section), "."
            if target != "./":
                place, name = posixpath.split(target.rstrip("/"))
            sent = [each for each in files if each.folder == source.rstrip("/")]
            named = [(posixpath.normpath(f"{name}/{each.name}"), each) for each in sent]
            stream = io.BytesIO()
            archive.pack((each for each in named if each[0] != "."), stream)
            yield place, stream.getvalue()


def _proxies(host: str) -> dict[str, str]:
    """The proxies that the user's docker gives to builds and containers."""
    from docker.utils.config import load_general_config

    known: dict[str, Any] = load_general_config().get("proxies") or {}
    found = known.get(host) or known.get("default") or {}
    names = {"httpProxy": "http_proxy", "httpsProxy": "https_proxy", "noProxy": "no_proxy"}
    lower = {names[key]: value for key, value in found.items() if key in names}
    return lower | {name.upper(): value for name, value in lower.items()}


def _check(code: int, printed: Sequence[str], failure: str = _NOT_BUILT) -> None:
    if code:
        raise BuildError(
            f"{failure}: {progress.reason(printed)}",
            "The output of the step that failed stands above.",
        )
