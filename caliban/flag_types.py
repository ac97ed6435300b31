"""What the values of flags are: types for argparse, each with a message of its own."""

from __future__ import annotations

import argparse
import os
import re

# Of numbers: larger ones are taken neither by every database nor by every API.
_LARGEST = 2**31 - 1


def natural_number(text: str) -> int:
    """An argparse type: 0, 1, 2, ..."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected 0 or a positive whole number, found '{text}'")
    if int(text) > _LARGEST:
        raise argparse.ArgumentTypeError(f"expected at most {_LARGEST}, found '{text}'")
    return int(text)


def positive_number(text: str) -> int:
    """An argparse type: 1, 2, ..."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, found '{text}'")
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


def group_name(text: str) -> str | None:
    """An argparse type: the name of an experiment group, None for an empty one."""
    try:
        # The bytes as they were typed, whatever Python made of them in the locale.
        name = os.fsencode(text).decode().strip()
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError("a name must be valid UTF-8") from None
    if not name.isprintable():
        raise argparse.ArgumentTypeError("a name must not hold control characters")
    return name or None


def existing_group(text: str) -> str:
    """An argparse type: the name of a group; an empty one is an unset variable, not all jobs."""
    name = group_name(text)
    if name is None:
        raise argparse.ArgumentTypeError("expected the name of an experiment group, found none")
    return name


def platform(text: str) -> str:
    """An argparse type: the platform of an image, as docker writes it."""
    if re.fullmatch(r"linux/[a-z0-9]+(/v[0-9]+)?", text):
        return text
    raise argparse.ArgumentTypeError(f"expected a platform like linux/arm64, found '{text}'")
