"""What the values of flags are: types for argparse, each with a message of its own."""

from __future__ import annotations

import argparse
import functools
import os
import re
from collections.abc import Callable
from typing import Any

# Of numbers: larger ones are taken neither by every database nor by every API. Of those with more
# digits than these, there may be more than Python reads.
_LARGEST = 2**31 - 1
_DIGITS = len(str(_LARGEST))


def refuse_empty_values(parser: argparse.ArgumentParser) -> None:
    """Makes a command refuse empty values of its flags; but for those that are empty by default.

    They are variables of the shell that are not set, and whoever writes `--xgroup "$GROUP"` doesn't
    mean all groups, or none.

    Args:
      parser: of the command, with all its flags.
    """
    for action in parser._actions:
        if action.option_strings and action.nargs != 0 and action.default != "":
            kind: Callable[[str], Any] = action.type if callable(action.type) else str
            action.type = functools.partial(_not_empty, kind)


def _not_empty(kind: Callable[[str], Any], text: str) -> Any:
    if not text.strip():
        raise argparse.ArgumentTypeError(
            "expected a value, found an empty one (a variable of the shell that is not set?)"
        )
    return kind(text)


def natural_number(text: str) -> int:
    """An argparse type: 0, 1, 2, ..."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected 0 or a positive whole number, found '{text}'")
    digits = text.lstrip("0")
    if len(digits) > _DIGITS or int(digits or 0) > _LARGEST:
        raise argparse.ArgumentTypeError(f"expected at most {_LARGEST}, found '{text}'")
    return int(digits or 0)


def positive_number(text: str) -> int:
    """An argparse type: 1, 2, ..."""
    if not text.isdecimal() or not text.strip("0"):
        raise argparse.ArgumentTypeError(f"expected a positive whole number, found '{text}'")
    return natural_number(text)


def job_number(text: str, group_flag: str = "") -> int:
    """An argparse type: the number of a job.

    Args:
      text: the word.
      group_flag: before which a group's name stands that is taken for one; "" if there is none.
    """
    if not text.isdecimal() or not text.strip("0"):
        group = f" (a group is named by {group_flag})" if group_flag else ""
        raise argparse.ArgumentTypeError(
            f"expected the number of a job, as 'caliban status' shows it, found '{text}'{group}"
        )
    return natural_number(text)


def number_of_jobs(text: str) -> int:
    """An argparse type: 1, 2, ... or 0 for 'auto'."""
    return 0 if text == "auto" else positive_number(text)


def duration(text: str) -> int:
    """An argparse type: a time span as in 90m, 1h30m, 36h or 2d; a bare number is seconds.

    Returns:
      The seconds.
    """
    units = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
    pattern = "".join(rf"(?:(?P<{unit}>\d{{1,9}}){unit})?" for unit in units)
    match = re.fullmatch(pattern, text if text[-1:] in units else f"{text}s", re.ASCII)
    seconds = sum(units[unit] * int(n) for unit, n in match.groupdict("0").items()) if match else 0
    if not seconds:
        raise argparse.ArgumentTypeError(f"expected a duration like 90m, 36h or 2d, found '{text}'")
    return seconds


def line(text: str) -> str:
    """An argparse type: a line of text, which can be shown, and sent elsewhere."""
    try:
        # The bytes as they were typed, whatever Python made of them in the locale.
        found = os.fsencode(text).decode().strip()
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError("expected valid UTF-8") from None
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", found):
        raise argparse.ArgumentTypeError("expected one line without control characters")
    return found


def group_name(text: str) -> str:
    """An argparse type: the name of an experiment group."""
    name = line(text)
    if not name:
        raise argparse.ArgumentTypeError("expected the name of an experiment group, found none")
    return name


def platform(text: str) -> str:
    """An argparse type: the platform of an image, as docker writes it."""
    if re.fullmatch(r"linux/[a-z0-9]+(/v[0-9]+)?", text):
        return text
    raise argparse.ArgumentTypeError(f"expected a platform like linux/arm64, found '{text}'")
