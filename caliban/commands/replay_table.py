"""What came of experiments that were run again, beside what was recorded of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caliban import terminal
from caliban.bundle.archive import Archive
from caliban.bundle.recorded import RecordedJob
from caliban.model import experiment_text
from caliban.model.job import Job
from caliban.model.report import Metric
from caliban.model.reproduction import Result, Tolerance, Verdict, compare, differences

_COLOUR = {
    Verdict.SAME: "green",
    Verdict.DIFFERS: "yellow",
    Verdict.FAILED: "red",
    Verdict.OPEN: "cyan",
}

# How many metrics a row has; those that differ come first.
_METRICS = 4

# How much of a metric's name and value is shown.
_LONGEST = 40


@dataclass(frozen=True)
class Row:
    """An experiment, as it was and as it is now.

    Attributes:
      before: what was recorded.
      job: what ran now; None if nothing did.
      tolerance: how far metrics may be apart.
    """

    before: RecordedJob
    job: Job | None
    tolerance: Tolerance

    @property
    def verdict(self) -> Verdict:
        """Whether it came to the same."""
        return compare(self._was, self._is, self.tolerance)

    @property
    def _was(self) -> Result:
        return Result(self.before.status, self.before.exit_code, self.before.metrics)

    @property
    def _is(self) -> Result | None:
        if self.job is None:
            return None
        outcome = self.job.outcome
        return Result(outcome.status, outcome.exit_code, self.job.report.metrics)

    def cells(self) -> list[str]:
        """The row for people, as cells."""
        now = self._is
        state = f"{self.before.status.value}{_code(self._was)}"
        after = f"{now.status.value}{_code(now)}" if now else "not run"
        is_open = self.verdict is Verdict.OPEN
        if state != after:
            state = after if is_open else f"{state} -> {after}"
        return [
            str(self.before.number),
            self.verdict.value,
            str(self.job.id) if self.job else "-",
            state,
            "-" if is_open else self._metrics(),
            experiment_text.quoted(self.before.experiment),
        ]

    def _metrics(self) -> str:
        """The first few metrics, with both values where they differ."""
        was, now = self.before.metrics, self.job.report.metrics if self.job else {}
        other = differences(self._was, self._is, self.tolerance) if self._is else ()
        names = list(dict.fromkeys([*other, *was, *now]))
        shown = [_metric(name, was, now) for name in names[:_METRICS]]
        if more := len(names) - len(shown):
            shown.append(f"(and {more} more)")
        return " ".join(shown) or "-"

    def as_json(self) -> dict[str, Any]:
        """The row for programs."""
        before, job = self.before, self.job
        now = self._is
        return {
            "experiment": before.number,
            "result": self.verdict.value,
            "args": list(before.experiment.args),
            "params": dict(before.experiment.params),
            "recorded": {
                "job": before.id,
                "platform": before.platform,
                "status": before.status.value,
                "exit_code": before.exit_code,
                "reason": before.reason,
                "metrics": dict(before.metrics),
            },
            "replayed": job
            and {
                "job": job.id,
                "platform": job.submission.platform,
                "status": job.outcome.status.value,
                "exit_code": job.outcome.exit_code,
                "reason": job.outcome.reason,
                "metrics": dict(job.report.metrics),
            },
            "differing_metrics": list(differences(self._was, now, self.tolerance)) if now else [],
        }


def _code(result: Result) -> str:
    return f" ({result.exit_code})" if result.exit_code else ""


def _metric(name: str, was: Mapping[str, Metric], now: Mapping[str, Metric]) -> str:
    before, after = (_value(each.get(name)) for each in (was, now))
    value = before if before == after else f"{before}->{after}"
    return f"{terminal.one_line(name)[:_LONGEST]}={value}"


def _value(value: Metric | None) -> str:
    """A value with all its digits, which decide whether it is the same."""
    return "none" if value is None else terminal.one_line(str(value))[:_LONGEST]


def show(
    is_json: bool,
    archive: Archive,
    group: str,
    rows: Sequence[Row],
    differences: Sequence[str] = (),
) -> int:
    """Prints the comparison; returns the exit code: 0 only if everything came to the same.

    Args:
      is_json: whether it is for programs.
      archive: the file.
      group: that the jobs belong to.
      rows: the experiments.
      differences: what of the images is not as it was.
    """
    if is_json:
        terminal.result_json(_as_json(archive, group, rows, differences))
    else:
        for line in _lines(rows):
            terminal.result(line)
    terminal.note(f"Experiment group {group}: {_summary(rows)}")
    return int(any(row.verdict is not Verdict.SAME for row in rows))


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    """The table for people."""
    cells = [["", "result", "job", "state", "metrics", "experiment"]]
    cells += [row.cells() for row in rows]
    first, *rest = terminal.columns(cells)
    yield first
    for row, line in zip(rows, rest, strict=True):
        verdict = row.verdict
        painted = terminal.paint(verdict.value, _COLOUR[verdict])
        yield line.replace(verdict.value, painted, 1)


def _summary(rows: Sequence[Row]) -> str:
    """How many came to the same: "2 same, 1 differs"."""
    counts = Counter(row.verdict for row in rows)
    return ", ".join(f"{counts[each]} {each.value}" for each in Verdict if counts[each])


def _as_json(
    archive: Archive, group: str, rows: Sequence[Row], differences: Sequence[str]
) -> dict[str, Any]:
    """All of it for programs."""
    return {
        "file": str(archive.path),
        "digest": archive.digest,
        "recorded_xgroup": archive.manifest["group"],
        "xgroup": group,
        "image_differences": list(differences),
        "experiments": [row.as_json() for row in rows],
    }
