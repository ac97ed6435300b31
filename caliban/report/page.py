"""An experiment group as one HTML page that needs nothing else: no network, no server.

Whatever jobs have been called or have printed is text in it, never markup: the parts that Python
writes are escaped, the rest is JSON that the page's script puts in place as text, and a policy in
the page's head allows no script but the page's own, and no address to be loaded from.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from caliban import __version__
from caliban.errors import UsageError
from caliban.model.job import Status, duration
from caliban.model.lock import Lock
from caliban.report.facts import Facts, Launch, Run, sort_key, text
from caliban.report.markdown import rows

_RESOURCES = Path(__file__).parents[1] / "resources" / "report"

# How many of the best runs, causes and their jobs are listed, and letters of one value shown.
_BEST = 10
_CAUSES = 30
_JOBS = 12
_LONGEST = 300

_MOST_POINTS = 3000

# Of a cell whose digits stand below those of other rows.
_NUMBER = ' class="number"'

_EXTRA = "pip install 'caliban[report]'"


def render(facts: Facts, excerpts: Mapping[int, str]) -> str:
    """The page.

    Args:
      facts: the experiment group.
      excerpts: the end of what a job has printed, by the number of its cause of failure.

    Raises:
      UsageError: the plotting library is not installed.
    """
    scripts = [_plotly(), (_RESOURCES / "page.js").read_text()]
    # To draw by WebGL, plotly.js puts programs together as it draws.
    allowed = [*map(_hash, scripts), *(["'unsafe-eval'"] if _needs_webgl(facts) else [])]
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; "
        f"style-src 'unsafe-inline'; script-src {' '.join(allowed)}"
    )
    data = json.dumps(_data(facts), separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    sections = (
        *(_head(facts), _charts(facts), _best(facts), _failures(facts, excerpts)),
        *(_durations(facts), _jobs(), _launches(facts)),
    )
    body = "".join(part for section in sections for part in section)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_escape(facts.group)}</title>\n"
        f"<style>\n{(_RESOURCES / 'page.css').read_text()}</style>\n</head>\n<body>\n<main>\n"
        f"{body}</main>\n"
        f"<footer>Made by caliban {__version__}. All times are UTC.</footer>\n"
        f'<script type="application/json" id="data">{data}</script>\n'
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body>\n</html>\n"
    )


def _needs_webgl(facts: Facts) -> bool:
    """Whether there are more points than a browser draws as elements of the page."""
    return len(facts.runs) * len(facts.parameters) > _MOST_POINTS


def _plotly() -> str:
    """The library that draws, as a script without an end tag of a script in it.

    Raises:
      UsageError: it is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UsageError(
            "the charts of a report need the package plotly, which is not installed",
            f"{_EXTRA} installs it, or, with pipx: pipx inject caliban plotly\n"
            "With --md, a report has no charts.",
        ) from None
    return str(get_plotlyjs()).replace("</script", "<\\/script")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _escape(value: object) -> str:
    """A text that people can read, as HTML."""
    shown = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value)
    )
    return html.escape(
        shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}"
    )


def _data(facts: Facts) -> dict[str, Any]:
    """What the page's script draws and sorts: columns, each with a value for each run."""
    columns: list[dict[str, Any]] = [
        _column("job", "job", [run.job.id for run in facts.runs]),
        _column("state", "state", [run.job.outcome.status.value for run in facts.runs]),
    ]
    for kind, names in (("parameter", facts.parameters), ("metric", _all_metrics(facts))):
        for name in names:
            of_kind = [
                (run.parameters if kind == "parameter" else run.metrics) for run in facts.runs
            ]
            columns.append(_column(kind, name, [each.get(name) for each in of_kind]))
    columns.append(_column("time", "time", [run.seconds for run in facts.runs]))
    columns.append(_column("why", "why", [_short(run.why) for run in facts.runs]))
    return {
        "columns": columns,
        "metric": facts.metric,
        "smaller": facts.is_smaller_better,
        "webgl": _needs_webgl(facts),
        "best": facts.best[0].job.id if facts.best else None,
    }


def _all_metrics(facts: Facts) -> list[str]:
    names = dict.fromkeys([facts.metric] if facts.metric else [])
    return list(names | dict.fromkeys(name for run in facts.runs for name in run.metrics))


def _column(kind: str, name: str, values: Sequence[Any]) -> dict[str, Any]:
    return {"kind": kind, "name": _short(name), "values": [_plain(value) for value in values]}


def _plain(value: Any) -> Any:
    """A value that JavaScript reads as it is."""
    return value if _is_number(value) or value is None else _short(text(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and sort_key(value)[0] == 0


def _short(value: str) -> str:
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}"


def _head(facts: Facts) -> Iterator[str]:
    yield f"<header>\n<h1>{_escape(facts.group)}</h1>\n"
    modules = dict.fromkeys(_module(run) for run in facts.runs)
    what = ", ".join(name for name in modules if name)
    facts_line = [f"{len(facts.runs)} experiments" if len(facts.runs) != 1 else "1 experiment"]
    if what:
        facts_line.append(f"of <code>{_escape(what)}</code>")
    if facts.span:
        start, end = facts.span
        facts_line.append(f"from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC")
    yield f"<p>{' '.join(facts_line)}</p>\n"
    if facts.constants:
        same = " ".join(
            f"<code>{_escape(name)}={_escape(text(value))}</code>"
            for name, value in facts.constants.items()
        )
        yield f'<p class="same">The same for all: {same}</p>\n'
    yield '</header>\n<section class="tiles">\n'
    if facts.best:
        best = facts.best[0]
        which = "smallest" if facts.is_smaller_better else "largest"
        yield _tile(
            f"{which} {facts.metric}", text(facts.value(best)), f"job {best.job.id}", "best"
        )
    for status, number in facts.counts.items():
        share = f"{100 * number / len(facts.runs):.3g} % of the experiments"
        yield _tile(status.value.lower(), str(number), share, status.value.lower())
    if facts.times:
        yield _tile(
            "time of all jobs", _took(sum(facts.times)), f"median {_took(median(facts.times))}"
        )
    yield "</section>\n"


def _module(run: Run) -> str:
    module = run.job.container_spec.get("module")
    return str(module.get("name", "")) if isinstance(module, Mapping) else ""


def _took(seconds: float | None) -> str:
    return "" if seconds is None else duration(datetime.timedelta(seconds=seconds))


def _tile(name: str, value: str, below: str, kind: str = "") -> str:
    return (
        f'<div class="tile {kind}"><span>{_escape(name)}</span><strong>{_escape(value)}</strong>'
        f"<small>{_escape(below)}</small></div>\n"
    )


def _charts(facts: Facts) -> Iterator[str]:
    if not facts.metric or not facts.parameters:
        return
    yield '<section>\n<h2><label for="metric">Metric</label> against each parameter</h2>\n'
    yield '<p><select id="metric">'
    for name in facts.metrics:
        chosen = " selected" if name == facts.metric else ""
        yield f'<option value="{_escape(name)}"{chosen}>{_escape(name)}</option>'
    yield "</select> <small>The line joins the medians of the runs that succeeded; the star is the "
    yield "best of them."
    if any(run.job.outcome.status is not Status.SUCCEEDED for run in facts.runs):
        yield " Runs that did not succeed are hollow."
    yield "</small></p>\n"
    yield '<div id="against" class="chart"></div>\n</section>\n'


def _best(facts: Facts) -> Iterator[str]:
    if not facts.best:
        return
    which = "smallest" if facts.is_smaller_better else "largest"
    best = facts.best[:_BEST]
    yield f"<section>\n<h2>Best runs</h2>\n<p>By <code>{_escape(facts.metric)}</code>, the {which} "
    yield 'first.</p>\n<div class="scroll"><table id="best">\n<thead><tr>'
    yield f'<th class="number">job</th><th class="number">{_escape(facts.metric)}</th>'
    for name in facts.parameters:
        has_numbers = any(_is_number(run.parameters.get(name)) for run in best)
        yield f"<th{_NUMBER if has_numbers else ''}>{_escape(name)}</th>"
    yield '<th class="number">time</th></tr></thead>\n<tbody>\n'
    for run in best:
        yield f'<tr><td class="number">{run.job.id}</td>'
        yield f'<td class="number"><b>{_escape(text(facts.value(run)))}</b></td>'
        for name in facts.parameters:
            value = run.parameters.get(name)
            yield f"<td{_NUMBER if _is_number(value) else ''}>{_escape(text(value))}</td>"
        yield f'<td class="number">{_took(run.seconds)}</td></tr>\n'
    yield "</tbody></table></div>\n</section>\n"


def _failures(facts: Facts, excerpts: Mapping[int, str]) -> Iterator[str]:
    if not facts.causes:
        return
    failed = sum(len(cause.jobs) for cause in facts.causes)
    most = max(len(cause.jobs) for cause in facts.causes)
    of_causes = "1 cause" if len(facts.causes) == 1 else f"{len(facts.causes)} causes"
    yield f"<section>\n<h2>Failures</h2>\n<p>{failed} failed for {of_causes}.</p>\n"
    for cause in facts.causes[:_CAUSES]:
        named = ", ".join(map(str, cause.jobs[:_JOBS])) + (
            ", \N{HORIZONTAL ELLIPSIS}" if len(cause.jobs) > _JOBS else ""
        )
        yield f'<div class="cause"><b>{len(cause.jobs)}</b><div>'
        yield f"<code>{_escape(cause.example)}</code>"
        yield f'<meter max="{most}" value="{len(cause.jobs)}"></meter>'
        yield f"<small>job{'s' * (len(cause.jobs) > 1)} {named}</small>"
        if excerpt := excerpts.get(cause.number):
            lines = "\n".join(map(_escape, excerpt.split("\n")))
            yield f"<details><summary>what job {cause.jobs[0]} printed last</summary>"
            yield f"<pre>{lines}</pre></details>"
        yield "</div></div>\n"
    if len(facts.causes) > _CAUSES:
        yield f"<p>And {len(facts.causes) - _CAUSES} more causes.</p>\n"
    yield "</section>\n"


def _durations(facts: Facts) -> Iterator[str]:
    if len(facts.times) > 1:
        yield "<section>\n<h2>Durations</h2>\n"
        yield '<div id="durations" class="chart"></div>\n</section>\n'


def _jobs() -> Iterator[str]:
    yield "<section>\n<h2>All jobs</h2>\n"
    yield '<p class="tools"><input id="filter" type="search" aria-label="filter" '
    yield 'placeholder="filter: words that a row has"> <small id="shown"></small></p>\n'
    yield '<div class="scroll"><table id="jobs"><thead></thead><tbody></tbody></table></div>\n'
    yield '<p><button id="more" type="button" hidden>show more</button></p>\n'
    yield "<noscript><p>The table and the charts need JavaScript.</p></noscript>\n</section>\n"


def _launches(facts: Facts) -> Iterator[str]:
    yield "<section>\n<h2>What ran</h2>\n"
    known = {job for launch in facts.launches for job in launch.jobs}
    for launch in facts.launches:
        yield from _launch(launch)
    if missing := len(facts.runs) - len(known):
        jobs = "1 job" if missing == 1 else f"{missing} jobs"
        yield f"<p>Of {jobs} it is not recorded what exactly ran.</p>\n"
    yield "</section>\n"


def _launch(launch: Launch) -> Iterator[str]:
    one = len(launch.jobs) == 1
    which = (
        f"job {launch.jobs[0]}"
        if one
        else f"{len(launch.jobs)} jobs, {launch.jobs[0]} to {launch.jobs[-1]}"
    )
    yield f"<h3>{which}</h3>\n<dl>\n"
    for name, value in rows(launch):
        yield f"<dt>{_escape(name)}</dt><dd><code>{_escape(value)}</code></dd>\n"
    yield "</dl>\n"
    lock = launch.provenance.plan.get("lock")
    if isinstance(lock, str) and lock:
        versions = Lock.parse(lock).versions
        plural = "s" * (len(versions) != 1)
        yield f"<details><summary>{len(versions)} package{plural}</summary><pre>"
        yield "\n".join(_escape(f"{name} {version}") for name, version in versions.items())
        yield "</pre></details>\n"
    source = launch.provenance.source
    if source and source.repository and source.repository.diff:
        yield "<details><summary>what had been changed since the commit</summary><pre>"
        yield "\n".join(map(_escape, source.repository.diff.split("\n")))
        yield "</pre></details>\n"
