"""An experiment group as Markdown, for a README or a pull request."""

from __future__ import annotations

import datetime
import re
import shlex
import statistics
from collections.abc import Iterator, Sequence

from caliban.model.job import duration
from caliban.report.facts import Facts, Launch, text

# How many rows a table has.
_BEST = 10
_CAUSES = 10
_LEVELS = 13

_LONGEST = 120

# A number, with a unit perhaps: "0.05", "1e-05", "4 min 28 s"; or none.
_NUMERIC = re.compile(r"[-+]?\d[\d.e+-]*( \w+)*|\N{EN DASH}|")


def render(facts: Facts) -> str:
    """The whole text."""
    return "\n".join([*_head(facts), *_best(facts), *_levels(facts), *_failures(facts),
                      *_launches(facts)]) + "\n"  # fmt: skip


def _head(facts: Facts) -> Iterator[str]:
    yield f"# {_code(facts.group)}"
    yield ""
    counts = ", ".join(f"{number} {status.value}" for status, number in facts.counts.items())
    yield f"{len(facts.runs)} experiment{'s' * (len(facts.runs) != 1)}: {counts}."
    if facts.times:
        times = (sum(facts.times), statistics.median(facts.times), max(facts.times))
        total, median, longest = (duration(datetime.timedelta(seconds=each)) for each in times)
        yield f"Time of all jobs together: {total}; median {median}, longest {longest}."
    if facts.constants:
        same = ", ".join(_code(f"{k}={text(v)}") for k, v in facts.constants.items())
        yield f"The same for all: {same}."


def _best(facts: Facts) -> Iterator[str]:
    if not facts.best:
        return
    which = "smallest" if facts.is_smaller_better else "largest"
    yield from ("", f"## Best by {_code(facts.metric)}, the {which} first", "")
    others = [name for name in facts.metrics if name != facts.metric][:3]
    head = ["job", *map(_code, (facts.metric, *others, *facts.parameters)), "time"]
    yield from _table(
        head,
        [
            [
                str(run.job.id),
                *(_value(run.metrics.get(name)) for name in (facts.metric, *others)),
                *(_value(run.parameters.get(name)) for name in facts.parameters),
                "" if run.seconds is None else duration(datetime.timedelta(seconds=run.seconds)),
            ]
            for run in facts.best[:_BEST]
        ],
    )


def _levels(facts: Facts) -> Iterator[str]:
    if not facts.metric or not facts.parameters:
        return
    yield from ("", f"## {_code(facts.metric)} by parameter", "")
    rows = []
    for name in facts.parameters:
        for number, level in enumerate(facts.levels(name)[:_LEVELS]):
            first = "" if number else _code(name)
            best, median = (text(each) for each in (level.best, level.median))
            rows.append(
                [first, _code(level.value), str(level.runs), str(level.failed), best, median]
            )
    yield from _table(["parameter", "value", "runs", "failed", "best", "median"], rows)


def _failures(facts: Facts) -> Iterator[str]:
    if not facts.causes:
        return
    yield from ("", "## Failures", "")
    rows = []
    for cause in facts.causes[:_CAUSES]:
        some = ", ".join(map(str, cause.jobs[:5])) + (", ..." if len(cause.jobs) > 5 else "")
        rows.append([str(len(cause.jobs)), _code(cause.example), some])
    yield from _table(["jobs", "cause", "which"], rows)


def _launches(facts: Facts) -> Iterator[str]:
    if not facts.launches:
        return
    yield from ("", "## What ran", "")
    for launch in facts.launches:
        jobs = f"{len(launch.jobs)} jobs" if len(launch.jobs) != 1 else f"job {launch.jobs[0]}"
        yield f"- {jobs}: " + ", ".join(_code(f"{k} {v}") for k, v in rows(launch))


def rows(launch: Launch) -> list[tuple[str, str]]:
    """What a launch is made of, in short: names and values, of those that are known."""
    provenance = launch.provenance
    image, machine, source = provenance.image, provenance.machine, provenance.source
    git = source.repository if source else None
    commit = ""
    if git and git.commit:
        number = len(git.changed)
        changed = f" and {number} changed file{'s' * (number > 1)}" if number else ""
        commit = f"{git.commit}{changed}"
    gpus = f", {', '.join(machine.gpus)}" if machine.gpus else ""
    here = f"{machine.cpus} x {machine.cpu}{gpus}" if machine.cpu else ""
    there = ", ".join(f"{name} {value}" for name, value in machine.requested.items())
    found = {
        "commit": commit,
        "origin": git.remote if git else "",
        "content": source.digest if source else "",
        "image": image.digest or image.id or image.name,
        "base": " ".join(filter(None, (image.base, image.base_digest or image.base_id))),
        "machine": here or there,
        "command": shlex.join(provenance.command_line()),
        "caliban": provenance.version,
    }
    return [(name, value) for name, value in found.items() if value]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    are_numbers = [all(map(_NUMERIC.fullmatch, column)) for column in zip(*rows, strict=True)]
    yield f"| {' | '.join(head)} |"
    yield f"|{''.join('---:|' if each else '---|' for each in are_numbers)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _value(value: object) -> str:
    return _code(value) if isinstance(value, str) else text(value)


def _code(value: str) -> str:
    """Any text as a span of code, in which nothing of it has a meaning."""
    shown = "".join(letter if letter.isprintable() else " " for letter in value)
    if len(shown) > _LONGEST:
        shown = f"{shown[: _LONGEST - 3]}..."
    ticks = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    pad = " " if shown[:1] in ("`", " ", "") or shown[-1:] in ("`", " ") else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}".replace("|", "\\|")
