"""Flagfiles: files with flags, one a line, in the place of which a command line names them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from caliban import home
from caliban.errors import UsageError


def expand(words: Sequence[str], within: tuple[str, ...] = ()) -> list[str]:
    """Puts the lines of `--flagfile FILE` in its place; a flagfile may name others.

    A line is read as a shell reads it: `--name value`, `--name=value`, quotes where a value has
    spaces. As in absl, `--name=several words` needs none, and lines that start with # or // are
    comments.

    Raises:
      UsageError: a file cannot be read, or is included in itself.
    """
    expanded: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, path = word.partition("=")
        if flag not in ("--flagfile", "-flagfile"):
            expanded.append(word)
            continue
        if not equals:
            path = next(rest, "")
        if not path:
            raise UsageError("--flagfile needs the name of a file")
        if path in within:
            raise UsageError(f"flagfile {path} includes itself: {' -> '.join((*within, path))}")
        expanded += expand(_words(path), (*within, path))
    return expanded


def _words(path: str) -> list[str]:
    words: list[str] = []
    try:
        lines = home.expand(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read flagfile {path}: {error}") from None
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith(("#", "//")):
            continue
        if "\0" in line:
            raise UsageError(f"{path}:{number}: found a NUL, which no argument can have")
        try:
            parts = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"{path}:{number}: {error}: {line}") from None
        is_one_flag = "=" in parts[0] and parts[0].startswith("-")
        words += [line] if is_one_flag and len(parts) > 1 else parts
    return words
