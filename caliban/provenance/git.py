"""The git repository of a project: what is checked out, and what has been changed since.

The repository may be anybody's, and what it configures are programs: no hook, filter, monitor,
helper or external diff of it is run, nothing is fetched, and nobody is asked for a password. It may
also be huge: time and size are bounded.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caliban import process
from caliban.docker.image import keys
from caliban.errors import CalibanError
from caliban.model.provenance import Repository, without_passwords
from caliban.terminal import one_line

# How long git may take for all of it, in seconds.
_SECONDS = 5.0

# How large a diff may be, and a new file in it, in bytes.
_LARGEST_DIFF = 1 << 20
_LARGEST_NEW_FILE = 1 << 16

# How many changed files are named, new ones are in the diff, and submodules are looked at.
_NAMED = 500
_NEW_FILES = 50
_SUBMODULES = 20

# How much git may print where it is no diff.
_LISTING = 1 << 22

_SETTINGS = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.quotePath=false",
    "core.sshCommand=false",
    "credential.helper=",
    "protocol.allow=never",
    # Whoever owns it: nothing of what it configures is run.
    "safe.directory=*",
    "submodule.recurse=false",
)

_ENVIRONMENT = {
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}

# They lead to another repository than the one that the project lies in, as in one of its hooks.
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_CONFIG_PARAMETERS")

_DIFF = (
    *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--full-index"),
    "--ignore-submodules=dirty",
)

# Filters turn files into what is committed, by programs.
_CONFIGURED = r"^(filter\..*\.(clean|smudge|process|required)|remote\..*\.url)$"


class _NoneError(Exception):
    """There is no repository, or git won't say; the words tell which."""


@dataclass(frozen=True)
class _Git:
    """Calls git in a folder.

    Attributes:
      folder: in which it works.
      deadline: by time.monotonic().
      settings: what is configured otherwise than the repository says.
    """

    folder: Path
    deadline: float
    settings: Sequence[str] = _SETTINGS

    def __call__(self, *words: str, size: int = _LISTING, codes: Sequence[int] = (0,)) -> str:
        """What a command of git prints.

        Raises:
          _NoneError: it fails, or takes too long.
        """
        unset = [word for name in _ELSEWHERE if name in os.environ for word in ("-u", name)]
        git = ["git", "--no-optional-locks", "--literal-pathspecs", "-C", str(self.folder)]
        settings = [word for each in self.settings for word in ("-c", each)]
        command = [*(["env", *unset] if unset else []), *git, *settings, *words]
        try:
            left = self.deadline - time.monotonic()
            ended = process.run_within(command, max(left, 0.0), size, _ENVIRONMENT)
        except CalibanError:
            raise _NoneError("git is not installed") from None
        if ended is None:
            raise _NoneError(f"git took more than {_SECONDS:.0f} s")
        if ended.exit_code not in codes and len(ended.stdout) <= size:
            lines = ended.stderr.strip().splitlines() or [f"exit code {ended.exit_code}"]
            raise _NoneError(f"git: {one_line(lines[0])}")
        return ended.stdout


def look(project: Path) -> tuple[Repository | None, str]:
    """What git says of the project in a folder.

    Returns:
      The repository that it lies in, or None, and why there is none.
    """
    try:
        return _look(_Git(project, time.monotonic() + _SECONDS)), ""
    except _NoneError as error:
        what = str(error)
        if "not a git repository" in what:
            what = "it lies in no git repository"
        elif "dubious ownership" in what:
            what = "git refuses: the repository belongs to somebody else"
        return None, what


def _look(git: _Git, at: str = "") -> Repository:
    """The repository of a folder; `at` is where that is in another one, for a submodule."""
    inside, up, folder = [*git(*_PLACE).splitlines(), "", "", ""][:3]
    if inside != "true":
        raise _NoneError("it lies in no working tree of git")
    configured = dict(_configured(git("config", "-z", "--get-regexp", _CONFIGURED, codes=(0, 1))))
    git = replace(git, settings=(*git.settings, *_without_filters(configured)))
    found = Repository(remote=_remote(configured), folder=folder.rstrip("/"))
    try:
        status = git(*_STATUS)
    except _NoneError as error:
        commit = git("rev-parse", "--verify", "-q", "HEAD", codes=(0, 1)).strip()
        return replace(found, commit=commit, note=f"what has changed is not known: {error}")
    head, changed = _parsed(status)
    found = replace(found, commit=head.get("oid", ""), branch=head.get("head", ""))
    kept: dict[str, str] = dict(sorted(changed.items())[:_NAMED])
    found = replace(found, changed=kept)
    top = git.folder / up
    if not found.commit:
        return replace(found, note="nothing is committed yet")
    try:
        diff = _diff(replace(git, folder=top), folder, changed, at)
    except _NoneError as error:
        return replace(found, note=f"the diff is left out: {error}")
    inner = _submodules(git, top, folder) if not at and (top / ".gitmodules").exists() else {}
    commits = {}
    for name, each in inner.items():
        diff += each.diff
        commits[name] = each.commit
        kept.update((f"{name}/{file}", how) for file, how in each.changed.items())
    found = replace(found, diff=diff, submodules=commits)
    return found if at else _checked(found, len(changed))


_PLACE = ("rev-parse", "--is-inside-work-tree", "--show-cdup", "--show-prefix")

_STATUS = (
    *("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames"),
    *("--ignore-submodules=dirty", "--", "."),
)


def _configured(text: str) -> Iterator[tuple[str, str]]:
    for entry in filter(None, text.split("\0")):
        name, _, value = entry.partition("\n")
        yield name, value


def _without_filters(configured: Mapping[str, str]) -> Iterator[str]:
    """The settings that make every filter do nothing."""
    for name in configured:
        if name.startswith("filter."):
            yield f"{name}={'false' if name.endswith('.required') else ''}"


def _remote(configured: Mapping[str, str]) -> str:
    """The address of the repository's origin, or of its first remote, without a password."""
    urls = {name: url for name, url in configured.items() if name.startswith("remote.")}
    url = urls.get("remote.origin.url") or next(iter(urls.values()), "")
    # What comes after a "?" is no part of a repository's name, and may be a token.
    return one_line(without_passwords(url).partition("?")[0])


def _parsed(status: str) -> tuple[dict[str, str], dict[str, str]]:
    """The head, and two letters for each file that is not as it was committed."""
    head: dict[str, str] = {}
    changed: dict[str, str] = {}
    for entry in status.split("\0")[:-1]:  # the last one is empty, or was cut off
        kind, _, rest = entry.partition(" ")
        if kind == "#":
            name, _, value = rest.partition(" ")
            head[name.removeprefix("branch.")] = value.strip("()")
        elif kind in ("?", "!"):
            changed[rest] = kind * 2
        elif kind in ("1", "u"):
            words = rest.split(" ", 7 if kind == "1" else 9)
            changed[words[-1]] = words[0]
    if head.get("oid") == "initial":
        head["oid"] = ""
    if head.get("head") == "detached":
        head["head"] = ""
    return head, changed


def _diff(git: _Git, folder: str, changed: Mapping[str, str], at: str) -> str:
    """What has changed since the commit, new files among it."""
    text = ""
    command = (*_DIFF, f"--src-prefix=a/{at}", f"--dst-prefix=b/{at}")
    if any(how != "??" for how in changed.values()):
        text = git(*command, "HEAD", "--", folder or ".", size=_LARGEST_DIFF)
    new = [name for name, how in sorted(changed.items()) if how == "??"]
    for name in [each for each in new if _is_small(git.folder / each)][:_NEW_FILES]:
        if len(text) > _LARGEST_DIFF:
            break
        words = ("--no-index", "--", "/dev/null", name)
        text += git(*command, *words, size=_LARGEST_DIFF, codes=(0, 1))
    return text


def _is_small(path: Path) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST_NEW_FILE
    except OSError:
        return False


def _submodules(git: _Git, top: Path, folder: str) -> dict[str, Repository]:
    """The submodules that lie in the project and are there."""
    of_project = replace(git, folder=top)
    words = ("config", "-z", "-f", ".gitmodules", "--get-regexp", r"^submodule\..*\.path$")
    paths = [path for _, path in _configured(of_project(*words, codes=(0, 1)))]
    found: dict[str, Repository] = {}
    for path in sorted(paths)[:_SUBMODULES]:
        inner = top / path
        is_inside = inner.resolve().is_relative_to(top.resolve())
        if path.startswith(folder) and is_inside and (inner / ".git").exists():
            try:
                found[path] = _look(replace(git, folder=inner, settings=_SETTINGS), at=f"{path}/")
            except _NoneError:
                continue
    return found


def _checked(found: Repository, count: int) -> Repository:
    """Leaves out of a diff what looks like a key, and cuts one that is too long."""
    notes = []
    parts = []
    for part in filter(None, _PART.split(found.diff)):
        name, texts = _read(part)
        keys_found = (keys.find_in(name, [text.encode(errors="surrogateescape")]) for text in texts)
        if key := next(filter(None, keys_found), None):
            notes.append(
                f"{one_line(name)} is left out of the diff: it has what looks like {key.what}"
            )
        else:
            parts.append(part)
    diff = "".join(parts)
    if len(diff) > _LARGEST_DIFF:
        diff = diff[: diff.rfind("\n", 0, _LARGEST_DIFF) + 1]
        notes.append(f"the diff is cut off after {_LARGEST_DIFF >> 20} MiB")
    if count > _NAMED:
        notes.append(f"{count - _NAMED} more files have changed")
    new = [name for name, how in found.changed.items() if how == "??"]
    missing = [name for name in new if not _is_in(diff, name)] if not notes else []
    if missing:
        some = ", ".join(map(one_line, missing[:3])) + (", ..." if len(missing) > 3 else "")
        notes.append(f"new files that are not in the diff: {some}")
    return replace(found, diff=diff, note="; ".join(notes))


def _is_in(diff: str, name: str) -> bool:
    """Whether a diff has a part that is about a file."""
    quoted = name.translate(_QUOTED)
    return f" b/{quoted}\n" in diff if quoted == name else f' "b/{quoted}"\n' in diff


# How git writes characters in the name of a file; such a name is in quotes.
_QUOTED = {number: f"\\{number:03o}" for number in (*range(32), 127)} | {
    ord(letter): f"\\{written}"
    for letter, written in zip('"\\\a\b\t\n\v\f\r', '"\\abtnvfr', strict=True)
}

# Where the part of the next file begins.
_PART = re.compile(r"^(?=diff --git )", re.MULTILINE)


def _read(part: str) -> tuple[str, Iterator[str]]:
    """The name of the file that a part of a diff is about; what it is, what it was, and both."""
    first, _, rest = part.partition("\n")
    name = (first.rpartition(" b/")[2] or first).strip('"')
    lines = [line for line in rest.split("\n") if line[:1] in ("+", "-", " ")]
    kinds = ("+ ", "- ", "+- ")
    return name, ("\n".join(line[1:] for line in lines if line[:1] in each) for each in kinds)
