"""Which files a .dockerignore leaves out, by Docker's own rules.

They are neither those of .gitignore nor those of a shell: a pattern stands for a path from the top,
with all that is in it; the last pattern that matches decides; and what lies in a folder that is
left out can be taken back only by a pattern that begins with the folder's own path.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from caliban.errors import UsageError

# For each pattern: whether it has matched a path, or a folder that the path lies in.
Matches: TypeAlias = tuple[bool, ...]


@dataclass(frozen=True)
class _Pattern:
    text: str
    takes_back: bool
    expression: re.Pattern[str]


class DockerIgnore:
    """The patterns of a file."""

    def __init__(self, text: str, name: str = ".dockerignore") -> None:
        """Reads them.

        Args:
          text: content of the file.
          name: the file, for messages.

        Raises:
          UsageError: Docker itself would refuse one.
        """
        self._patterns = tuple(_read(text, name))
        # Nothing matches before the top.
        self.top: Matches = (False,) * len(self._patterns)

    def check(self, path: str, above: Matches) -> tuple[bool, Matches]:
        """Whether a path is left out.

        Args:
          path: from the top, without "./".
          above: what the patterns say of the folder that it lies in; `top` for the top.

        Returns:
          That, and what the patterns say of the path, for what lies in it.
        """
        left_out, found = False, [*above]
        for index, pattern in enumerate(self._patterns):
            if not found[index]:
                # It would make no difference, and Docker doesn't look either: what lies in the path
                # is then judged by that.
                if pattern.takes_back != left_out:
                    continue
                found[index] = bool(pattern.expression.fullmatch(path))
            if found[index]:
                left_out = not pattern.takes_back
        return left_out, tuple(found)

    def may_take_back(self, folder: str) -> bool:
        """Whether anything in a folder that is left out may be taken back."""
        return any(
            each.takes_back and f"{each.text}/".startswith(f"{folder}/") for each in self._patterns
        )


def load(file: Path) -> DockerIgnore | None:
    """Reads a file of patterns; None if it is not there.

    Raises:
      UsageError: it cannot be read, or Docker itself would refuse a pattern.
    """
    try:
        content = file.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    # As names of files are decoded.
    return DockerIgnore(content.decode(errors="surrogateescape"), str(file))


def _read(text: str, name: str) -> Iterator[_Pattern]:
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        pattern = "" if line.startswith("#") else line.strip()
        takes_back = pattern.startswith("!")
        pattern = pattern[takes_back:].strip()
        if not pattern and not takes_back:
            continue
        # POSIX gives two slashes at the beginning a meaning of their own.
        cleaned = posixpath.normpath(re.sub("/+", "/", pattern)) if pattern else ""
        cleaned = cleaned[1:] if len(cleaned) > 1 and cleaned[0] == "/" else cleaned
        try:
            yield _Pattern(cleaned, takes_back, _compile(cleaned))
        except (re.error, ValueError):
            raise UsageError(
                f"{name}, line {number}: {line.strip()!r} is not a pattern that Docker understands"
            ) from None


def _compile(pattern: str) -> re.Pattern[str]:
    """What the paths that a pattern stands for match, as a whole.

    Raises:
      ValueError: it is malformed.
      re.error: it is malformed.
    """
    _check_syntax(pattern)
    rest = pattern.removeprefix("**")
    if rest != pattern and not re.search(r"[*?\[\]\\/]", rest[:1] + rest[1:].replace("/", "")):
        # The one case in which ** need not end at a slash: "**.py".
        return re.compile(f".*{re.escape(rest)}")
    return re.compile(_expression(pattern))


def _expression(pattern: str) -> str:
    """A pattern as a regular expression."""
    expression, in_class, at = "", False, 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*" and pattern[at : at + 1] == "*":
            at += 2 if pattern[at + 1 : at + 2] == "/" else 1
            expression += "(.*/)?" if at < len(pattern) else ".*"
        elif character == "*":
            expression += "[^/]*"
        elif character == "?":
            expression += "[^/]"
        elif character == "\\":
            expression += re.escape(pattern[at])
            at += 1
        elif character == "[" and not in_class:
            expression, in_class = expression + "[", True
        elif character == "]" and in_class:
            expression, in_class = expression + "]", False
        elif in_class and character in "^-":
            expression += character
        else:
            expression += re.escape(character)
    return expression


def _check_syntax(pattern: str) -> None:
    """Raises what Go's filepath.Match would find wrong with a pattern."""
    if not pattern:
        raise ValueError("it takes back nothing")
    plain = r"[^\\\[]|\\."
    character = r"\\.|[^\\\]-]"
    ranges = rf"(?:{character})(?:-(?:{character}))?"
    if not re.fullmatch(rf"(?:{plain}|\[\^?(?:{ranges})+\])*", pattern, re.DOTALL):
        raise ValueError("a class of characters is malformed")
