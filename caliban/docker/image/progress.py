"""What is seen of a build while it runs, and why it failed."""

from __future__ import annotations

import itertools
import os
import re
import selectors
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Protocol

from caliban import terminal
from caliban.docker.image.dockerfile import Section
from caliban.steps import Steps

SEND, STORE = "Send the files", "Store the image"

# These are no steps of a Dockerfile: they are worth a line if they take so long, in seconds.
_LEAST = {SEND: 0.5, STORE: 0.5}

# The first line of a step, as the legacy builder and podman write it.
_STEP = re.compile(r"(?:Step|STEP) (?P<number>\d+)/\d+ ?: ?(?P<instruction>\w+)")

# The same of BuildKit, and what it does besides.
_VERTEX = re.compile(
    r"#\d+ (?:\[(?:[^\]]*? )??(?:(?P<stage>\S+) )?(?P<number>\d+)/\d+\] (?P<instruction>\w+)"
    r"|\[internal\] |exporting )"
)

# The instructions that BuildKit counts, in each stage by itself.
_COUNTED = ("FROM", "RUN", "COPY", "ADD", "WORKDIR")

# What is said of a step that an earlier build has done already.
_CACHED = re.compile(r" ?-+> Using cache|#\d+ CACHED")

# What BuildKit puts before each line that a step prints: its number and the time.
_PREFIX = re.compile(r"#\d+ \d+\.\d+ +")

# What the builders themselves say: of a step's progress, and after it has failed.
_PROGRESS = re.compile(r"#\d+ |--->|Step |STEP |Removing intermediate container ")
_FAILURE = re.compile(
    r"The command '|building at STEP |#\d+ ERROR|(ERROR: )?(failed to solve|executor failed)"
)

_WARNING = "warning: "

# The legacy builder shows in red what a step writes to stderr.
_COLOUR = re.compile(r"\x1b\[\d*m")

_NO_APT = re.compile(r"apt-get: (command )?not found")

# A line without one is an underlining: "^^^".
_WORD = re.compile(r"\w")

# What `docker pull` and `docker push` say of a layer.
_LAYER = re.compile(
    r"(?P<id>[0-9a-f]{12}): "
    r"(?:(?P<done>Already exists|Pull complete|Layer already exists|Pushed|Mounted from )|\w)"
)

# How often the time is drawn anew while nothing is printed, in seconds.
_TICK = 0.2


class Program(Protocol):
    """What prints all this: a program, or a request to the engine."""

    @property
    def stdout(self) -> IO[bytes] | None:
        """Where it prints."""

    def wait(self) -> int:
        """Waits for the end, and returns the exit code."""


def show(
    child: Program,
    title: str = SEND,
    sections: Iterable[Section] = (),
    mask: Callable[[str], str] = str,
) -> tuple[int, list[str]]:
    """Shows what a program does: a line a step on a terminal, otherwise all that it prints.

    Args:
      child: the program, whose stderr goes where its stdout goes.
      title: what it does at first.
      sections: those of the Dockerfile that it builds; without them, its steps go by their own
        text, if it builds anything.
      mask: hides what nobody may see.

    Returns:
      Its exit code, and what has been printed in its last step, also by the builder itself.
    """
    view = Steps()
    view.begin(title, _LEAST.get(title, 0.0))
    steps, layers = _Steps(title, sections), _Layers()
    warnings: list[str] = []
    for line in _lines(child, view.tick):
        text = mask(_COLOUR.sub("", line.decode(errors="replace")).rstrip("\r").split("\r")[-1])
        if (begun := steps.begun(text)) is not None:
            if begun == steps.title:
                view.forget()
            else:
                if not steps.has_worked:
                    view.drop()
                view.begin(begun, _LEAST.get(begun, 0.0))
                steps.title, steps.has_worked = begun, False
        said = _PREFIX.sub("", text)
        view.line(text, layers.count(said) or ("" if _PROGRESS.match(said.strip()) else said))
        if said.startswith(_WARNING):
            warnings.append(said.removeprefix(_WARNING))
    code = child.wait()
    printed = view.printed
    view.printed = _own(printed) or printed
    view.end(failed=code != 0)
    # Among a hundred lines, or folded away, nobody would see them.
    for warning in warnings:
        terminal.warn(warning)
    return code, printed


def _lines(child: Program, tick: Callable[[], None]) -> Iterator[bytes]:
    """The lines that a program prints; `tick` is called several times a second between them."""
    partial = b""
    with selectors.DefaultSelector() as selector:
        if child.stdout is not None:
            selector.register(child.stdout, selectors.EVENT_READ)
        while selector.get_map():
            if not selector.select(_TICK):
                tick()
                continue
            assert child.stdout is not None
            if not (data := os.read(child.stdout.fileno(), 1 << 16)):
                break
            *lines, partial = (partial + data).split(b"\n")
            yield from lines
    if partial:
        yield partial


class _Steps:
    """Where a builder is in the sections of a Dockerfile, told by what it prints.

    Attributes:
      title: of the section that it is in.
      has_worked: whether it has done anything there that an earlier build had not.
    """

    def __init__(self, title: str, sections: Iterable[Section]) -> None:
        self.title = title
        self.has_worked = True
        steps = [(each.title, line.split()) for each in sections for line in each.instructions]
        self._all = [title for title, _ in steps]
        self._stages: dict[str, list[str]] = {}
        stage = ""
        for title, (word, *words) in steps:
            if word == "FROM":
                stage = words[2] if words[1:2] == ["AS"] else f"stage-{len(self._stages)}"
            # FROM scratch is no step.
            if word in _COUNTED and words != ["scratch"]:
                self._stages.setdefault(stage, []).append(title)
        self._step = ""
        self._is_open = False

    def begun(self, text: str) -> str | None:
        """The title of the section that a line begins a step of; None if it begins no step."""
        if _CACHED.match(text):
            self._is_open = False
        match = _STEP.match(text) or _VERTEX.match(text)
        # BuildKit names a step again after it has said something of another one.
        if match is None or match[0] == self._step:
            return None
        self._step = match[0]
        if match["instruction"] == "FROM":
            return None  # the base image is there already
        # What is not said to be cached by the time when the next step begins has been done.
        self.has_worked |= self._is_open
        self._is_open = True
        if match["number"] is None:
            return SEND if "[internal]" in match[0] else STORE
        if not self._all:
            return text[match.start("instruction") :]
        titles = self._all
        if match.re is _VERTEX:
            last = next(reversed(self._stages), "")
            titles = self._stages[match["stage"] if match["stage"] in self._stages else last]
        return next(iter(titles[int(match["number"]) - 1 :]), STORE)


class _Layers:
    """Counts the layers of an image that is pulled or pushed."""

    def __init__(self) -> None:
        self._done: dict[str, bool] = {}

    def count(self, text: str) -> str:
        """How many are done, if a line of `docker pull` or `push` speaks of one; else ""."""
        match = _LAYER.match(text)
        if match is None:
            return ""
        self._done[match["id"]] = match["done"] is not None
        return f"{sum(self._done.values())} of {len(self._done)} layers"


def reason(lines: Sequence[str]) -> str:
    """The line that most likely says what went wrong: the last one that the failed step wrote."""
    own = [line.strip() for line in _own(lines) if _WORD.search(line)]
    told = [line.strip() for line in lines]
    for line, after in itertools.pairwise([*own, ""]):
        if line.startswith("error:"):  # of uv, with its first cause
            return f"{line} ({after})" if after.startswith("cause:") else line
    last = (own or [line for line in told if line] or ["the program gave no reason"])[-1]
    if _NO_APT.search(last):
        return f"the base image has no apt-get, as Debian and Ubuntu have it: {last}"
    return last


def _own(lines: Sequence[str]) -> list[str]:
    """What a step itself printed, without what the builder said of it."""
    told = [_PREFIX.sub("", line) for line in lines]
    before = itertools.takewhile(lambda line: not _FAILURE.match(line.strip()), told)
    return [line for line in before if not _PROGRESS.match(line.strip())]
