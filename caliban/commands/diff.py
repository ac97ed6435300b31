"""Say what differs between two jobs: parameters, code, packages, image, machine, flags, outcome.

What no two jobs have in common, as their numbers and times, is left out. As with diff(1), the exit
code is 0 if nothing differs, 1 if something does.

  caliban diff 12 15
  caliban diff --json 12 15
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from caliban import flag_types, flags, terminal

if TYPE_CHECKING:
    from caliban.model.comparison import Difference
    from caliban.model.job import Job

# How much of a value fits in a line, and how many lines a section has.
_LONGEST = 60
_MOST = 40

# An image's id or a commit, and how many of its digits are shown.
_DIGEST = re.compile("sha256:[0-9a-f]{64}|[0-9a-f]{40}")
_DIGITS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    for name, which in (("first", "a job"), ("second", "the job to compare it with")):
        parser.add_argument(
            name, type=flag_types.job_number, metavar="JOB", help=f"Number of {which}."
        )
    parser.add_argument("--json", action="store_true", help="Print JSON, for programs.")


def run(args: argparse.Namespace) -> int:
    """Compares; 1 if something differs."""
    from caliban import launch
    from caliban.commands import jobs_now
    from caliban.model import comparison

    user = flags.user_name()
    with launch.open_history() as store:
        jobs = jobs_now.by_number(store, user, [args.first, args.second])
        first, second = jobs
        known = [store.provenances.of_job(job.uid) for job in jobs]
    found = comparison.compare(first, second, *known)
    if args.json:
        sections: dict[str, list[dict[str, Any]]] = {}
        for each in found:
            sections.setdefault(each.section, []).append(_as_json(each))
        terminal.result_json({"jobs": [job.id for job in jobs], "differences": sections})
    else:
        for line in lines(first, second, found):
            terminal.result(line)
    return int(bool(found))


def _as_json(difference: Difference) -> dict[str, Any]:
    return {key: value for key, value in asdict(difference).items() if key != "section"}


def lines(first: Job, second: Job, found: Sequence[Difference]) -> Iterator[str]:
    """What is printed of differences; nothing if there are none."""
    if not found:
        return
    names = terminal.paint(f"job {first.id}", "red"), terminal.paint(f"job {second.id}", "green")
    yield f"{names[0]} -> {names[1]}"
    for section, of_section in groupby(found, lambda each: each.section):
        some = list(of_section)
        yield ""
        yield terminal.paint(section, "bold")
        shown = some[:_MOST]
        width = max(len(_text(each.name)) for each in shown)
        for each in shown:
            name = terminal.paint(_text(each.name).ljust(width), "dim")
            yield f"  {name}  {_change(section, each)}"
        if len(some) > len(shown):
            yield f"  and {len(some) - len(shown)} more (--json has all)"


def _change(section: str, each: Difference) -> str:
    """How a thing differs: "0.1 -> 0.01"; of a file, whose digests say nothing, in a word."""
    is_file = section == "code" and each.name not in ("commit", "live code", "files")
    if is_file:
        word = "added" if each.before is None else "removed" if each.after is None else "changed"
        return terminal.paint(word, {"added": "green", "removed": "red"}.get(word, "yellow"))
    before = "(none)" if each.before is None else _text(each.before)
    after = "(none)" if each.after is None else _text(each.after)
    return f"{terminal.paint(before, 'red')} -> {terminal.paint(after, 'green')}"


def _text(value: Any) -> str:
    """A value in a line."""
    if isinstance(value, list | tuple):
        text = ", ".join(map(str, value)) or "(none)"
    else:
        text = str(value)
    if _DIGEST.fullmatch(text):
        return text.removeprefix("sha256:")[:_DIGITS]
    text = terminal.one_line(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
