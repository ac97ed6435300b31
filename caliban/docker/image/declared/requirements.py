"""Requirements files: what they include, and which packages of the project itself they name."""

from __future__ import annotations

import codecs
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from caliban.errors import UsageError

_OPTION = re.compile(
    r"(?:(?P<include>-[rc]|--requirement|--constraint)|(?P<editable>-e|--editable)"
    r"|(?P<links>-f|--find-links))(?:\s*=\s*|\s+|(?<=^-\w))(?P<value>.+)"
)
_COMMENT = re.compile(r"(?:^|\s+)#.*")
_CONTINUED = re.compile(r"\\\r?\n")
# What may follow a package: its hashes, options for its build.
_OPTIONS = re.compile(r"\s--[a-z].*")
_MARKER = re.compile(r"\s+;.*|;\s.*")
_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)\s*(?P<extras>\[[^]]*\])?\s*@\s*(?P<where>.+)")
_UNNAMED = re.compile(r"(?P<where>.+?)(?P<extras>\[[\w\s.,-]*\])?")
# What a requirement begins with.
NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?")
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]+:"
_HASH = re.compile(r"\s--hash[=\s]\s*(\w+:[0-9a-fA-F]+)")
_ARCHIVE = (".whl", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
_DECLARING = ("pyproject.toml", "setup.py", "setup.cfg")


@dataclass
class Requirements:
    """What requirements files say, as far as that concerns files of the project.

    Attributes:
      files: their names, in the order in which they are named; each is relative to the project.
      packages: the packages of the project that they name, each a line of a requirements file,
        see ImagePlan.packages.
      links: directories with packages in them, of --find-links.
      hashes: those that the files of packages may have, by the packages' normalised names.
      uses_git: whether a package is fetched by git.
    """

    files: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    hashes: dict[str, list[str]] = field(default_factory=dict)
    uses_git: bool = False


def read(project: Path, name: str) -> Requirements:
    """Reads a requirements file and those that it includes.

    Args:
      project: the directory of the project.
      name: the file, relative to it.

    Raises:
      UsageError: a file or a package is missing, lies outside the project or can't be read.
    """
    found = Requirements(files=[name])
    for each in found.files:
        _add(found, project, each, _lines(text(project / each)))
    return found


def add(found: Requirements, project: Path, source: str, lines: Iterable[str]) -> None:
    """Adds lines that stand in a file of another kind, and the files that they include.

    Args:
      found: where they are added.
      project: the directory of the project.
      source: the file that they stand in, for messages.
      lines: requirements, each on a line of its own.

    Raises:
      UsageError: see `read`.
    """
    known = len(found.files)
    _add(found, project, source, ((0, line) for line in lines))
    for each in found.files[known:]:
        _add(found, project, each, _lines(text(project / each)))


def package(requirement: str) -> str:
    """The package of the project that a requirement names, as ImagePlan.packages has it; or "".

    It is named by its path, `./libs/metrics`, or by one behind its name, `metrics @ file:libs/x`.
    """
    editable, line = _is_editable(requirement)
    marker = _MARKER.search(line)
    condition = marker[0].strip() if marker else ""
    line = _MARKER.sub("", _OPTIONS.sub("", line)).strip()
    match = _NAMED.fullmatch(line) or _UNNAMED.fullmatch(line)
    path = _path(match["where"], "name" in match.groupdict() or editable) if match else ""
    if not match or not path:
        return ""
    # The project itself is edited all the time: its code is not to be installed again for that.
    editable = editable or path == "."
    where = path if path == "." or path.startswith(("../", "/")) else f"./{path}"
    return f"{'-e ' * editable}{where}{match['extras'] or ''} {condition}".rstrip()


def directory(package: str) -> str:
    """The path of a package of the project, from one of ImagePlan.packages: "libs/metrics"."""
    line = _MARKER.sub("", package.removeprefix("-e "))
    return os.path.normpath(re.sub(r"\[[^]]*\]$", "", line))


def check_package(project: Path, package: str, source: str) -> None:
    """Checks that a package lies in the project, and can be installed.

    Args:
      project: the directory of the project.
      package: one of ImagePlan.packages.
      source: where it is named, for messages.

    Raises:
      UsageError: it is missing, lies outside, or is none.
    """
    path = directory(package)
    if is_outside(path) or not (project / path).exists():
        raise UsageError(
            f"{source}: '{path}' is not in the project",
            "What is installed from a path is copied into the image: name it relative to "
            f"{project}, and below it.",
        )
    if (project / path).is_dir() and not any(
        (project / path / each).is_file() for each in _DECLARING
    ):
        raise UsageError(
            f"{source}: '{path}' cannot be installed: it has no {', '.join(_DECLARING[:-1])} or "
            f"{_DECLARING[-1]}"
        )


def is_outside(path: str) -> bool:
    """Whether a normalised path leads out of the project that it is relative to."""
    return PurePosixPath(path).is_absolute() or PurePosixPath(path).parts[:1] == ("..",)


def text(path: Path) -> str:
    """Reads a file that declares something: UTF-8, or another Unicode encoding with its mark.

    Raises:
      UsageError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding = "utf-16" if content.startswith(marks) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"cannot read {path}: line {line} is not {encoding.removesuffix('-sig').upper()}",
            "Save it as UTF-8.",
        ) from None


def _lines(content: str) -> Iterator[tuple[int, str]]:
    """The logical lines of a requirements file, with the number of their first line."""
    number = 1
    joined = _CONTINUED.sub(lambda match: "\0", content)
    for line in joined.splitlines():
        yield number, _COMMENT.sub("", line.replace("\0", "")).strip()
        number += 1 + line.count("\0")


def _add(found: Requirements, project: Path, source: str, lines: Iterable[tuple[int, str]]) -> None:
    for number, line in lines:
        where = f"{project / source}:{number}" if number else str(project / source)
        found.uses_git |= "git+" in line
        hashes, named = _HASH.findall(line), NAME.match(line)
        if hashes and named:
            from packaging.utils import canonicalize_name

            found.hashes.setdefault(canonicalize_name(named[0]), []).extend(hashes)
        option = _OPTION.fullmatch(line)
        if option and option["include"]:
            _include(found, project, source, option["value"].strip(), where)
        elif option and option["links"]:
            if path := _path(option["value"].strip(), True):
                _check_links(project, path, where)
                found.links.append(path)
        elif name := package(line):
            check_package(project, name, where)
            if name not in found.packages:
                found.packages.append(name)


def _include(found: Requirements, project: Path, source: str, value: str, where: str) -> None:
    if "://" in value:
        return
    included = os.path.normpath(PurePosixPath(source).parent / value)
    if is_outside(included) or not (project / included).is_file():
        raise UsageError(
            f"{where}: '{value}' is not a file inside the project",
            "Files that requirements.txt names are copied into the image with it.",
        )
    if included not in found.files:
        found.files.append(included)


def _check_links(project: Path, path: str, where: str) -> None:
    if is_outside(path) or not (project / path).exists():
        raise UsageError(
            f"{where}: '{path}' is not in the project",
            "What --find-links names is copied into the image: keep it in the project.",
        )


def _is_editable(line: str) -> tuple[bool, str]:
    match = _OPTION.fullmatch(line)
    if match and match["editable"]:
        return True, match["value"].strip()
    return False, line.strip()


def _path(where: str, is_known: bool) -> str:
    """The path that a package is named by, normalised; "" where it is named by something else.

    Args:
      where: what names it.
      is_known: whether it names a place for sure: otherwise, a mere word is the name of a package.
    """
    if where.startswith("file:"):
        parts = urllib.parse.urlsplit(where.removeprefix("file:").removeprefix("//"))
        where = urllib.parse.unquote(parts.path)
    elif where.startswith("-") or "://" in where or re.match(_SCHEME, where):
        return ""
    elif not is_known and "/" not in where and not where.startswith("."):
        return where if where.endswith(_ARCHIVE) else ""
    return os.path.normpath(where.partition("#")[0])
