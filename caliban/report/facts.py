"""What there is to say of an experiment group, from its jobs: pure, whatever form it is given."""

from __future__ import annotations

import datetime
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caliban.errors import UsageError
from caliban.model import selection
from caliban.model.job import Job, Status
from caliban.model.provenance import Provenance
from caliban.model.report import Metric
from caliban.model.selection import Cause, Outline

# Metrics of which less is better, by a word of their name.
_SMALLER = re.compile(
    r"(?:^|[^a-z])(loss|error|err|rmse|mse|mae|mape|perplexity|ppl|nll|bpc|bpd|wer|cer|fid|regret"
    r"|latency|seconds|time|duration)(?:$|[^a-z])",
    re.IGNORECASE,
)

# A parameter with more values is summed up by ranges of them.
_MOST_VALUES = 12
_RANGES = 4

# What is not known in a column sorts behind all that is.
Cell = float | int | str | bool | None


@dataclass(frozen=True)
class Run:
    """The newest job of an experiment.

    Attributes:
      job: the job.
      parameters: its flags, numbers as numbers.
      metrics: what it reported.
      seconds: how long it took; None if that is not known, or not yet.
      why: why it failed; "" if it did not.
      cause: the number of that cause; 0 for none.
    """

    job: Job
    parameters: Mapping[str, Cell]
    metrics: Mapping[str, Metric]
    seconds: float | None
    why: str
    cause: int


@dataclass(frozen=True)
class Level:
    """The runs that have one value of a parameter, or one in a range.

    Attributes:
      value: in words.
      runs: how many there are.
      failed: how many of them failed.
      best: the best value of the metric among those that succeeded; None for none.
      median: its median among those.
    """

    value: str
    runs: int
    failed: int
    best: float | None
    median: float | None


@dataclass(frozen=True)
class Launch:
    """What some of the runs are made of.

    Attributes:
      provenance: of all of them.
      jobs: their numbers.
    """

    provenance: Provenance
    jobs: Sequence[int]


@dataclass(frozen=True)
class Facts:
    """An experiment group.

    Attributes:
      group: its name.
      runs: by number of the job.
      parameters: names of those that differ between runs.
      constants: those that all runs have in common.
      metrics: names of those that are numbers, in the order in which they were reported.
      metric: the one that counts; "" if none was reported.
      is_smaller_better: whether the best value of that is the smallest one.
      best: the runs that have succeeded and have it, the best ones first.
      causes: why runs failed.
      launches: what the runs are made of, as far as that is recorded.
    """

    group: str
    runs: Sequence[Run]
    parameters: Sequence[str]
    constants: Mapping[str, Cell]
    metrics: Sequence[str]
    metric: str
    is_smaller_better: bool
    best: Sequence[Run]
    causes: Sequence[Cause]
    launches: Sequence[Launch]

    @property
    def counts(self) -> dict[Status, int]:
        """How many runs there are of each status."""
        found = Counter(run.job.outcome.status for run in self.runs)
        return {status: found[status] for status in Status if status in found}

    @property
    def times(self) -> list[float]:
        """How long the runs took that have ended, in seconds."""
        return [run.seconds for run in self.runs if run.seconds is not None]

    @property
    def span(self) -> tuple[datetime.datetime, datetime.datetime] | None:
        """From the start of the first run to the end of the last one."""
        outcomes = [run.job.outcome for run in self.runs]
        started = [each.started for each in outcomes if each.started]
        finished = [each.finished for each in outcomes if each.finished and each.started]
        return (min(started), max(finished)) if started and finished else None

    def value(self, run: Run) -> float | None:
        """A run's value of the metric that counts."""
        return _number(run.metrics.get(self.metric))

    def levels(self, parameter: str) -> list[Level]:
        """The runs by the value of a parameter, or by ranges where there are many."""
        by_value: dict[Any, list[Run]] = {}
        for run in self.runs:
            by_value.setdefault(run.parameters.get(parameter), []).append(run)
        values = sorted(by_value, key=sort_key)
        are_numbers = all(_number(value) is not None for value in values)
        if len(values) <= _MOST_VALUES:
            return [self._level(text(value), by_value[value]) for value in values]
        if not are_numbers:
            common = sorted(values, key=lambda value: (-len(by_value[value]), sort_key(value)))
            rest = [run for value in common[_MOST_VALUES:] for run in by_value[value]]
            levels = [self._level(text(value), by_value[value]) for value in common[:_MOST_VALUES]]
            return [*levels, self._level(f"{len(common) - _MOST_VALUES} others", rest)]
        levels = []
        for number in range(_RANGES):
            start, end = (len(values) * each // _RANGES for each in (number, number + 1))
            runs = [run for value in values[start:end] for run in by_value[value]]
            levels.append(self._level(f"{text(values[start])} to {text(values[end - 1])}", runs))
        return levels

    def _level(self, value: str, runs: Sequence[Run]) -> Level:
        # What a run has reported before it failed is no result.
        good = [run for run in runs if run.job.outcome.status is Status.SUCCEEDED]
        known = [each for run in good if (each := self.value(run)) is not None]
        failed = sum(run.job.outcome.status is Status.FAILED for run in runs)
        best = (min if self.is_smaller_better else max)(known) if known else None
        return Level(value, len(runs), failed, best, statistics.median(known) if known else None)


def find(group: str, jobs: Iterable[Job], sort: str = "", launches: Sequence[Launch] = ()) -> Facts:
    """Finds out what there is to say.

    Args:
      group: name of the experiment group.
      jobs: the newest job of each experiment.
      sort: the metric that counts; with a "-" before it, the smallest value is the best. "" for
        the first one that was reported, of which the best value is told by its name.
      launches: what they are made of.

    Raises:
      UsageError: no job has that metric.
    """
    jobs = sorted(jobs, key=lambda job: job.id)
    outlines = [Outline.of(job) for job in jobs]
    causes = selection.causes(outlines)
    numbers = {job: cause.number for cause in causes for job in cause.jobs}
    runs = [_run(job, numbers.get(job.id, 0)) for job in jobs]
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    metrics = [
        name for name in names if any(_number(run.metrics.get(name)) is not None for run in runs)
    ]
    if sort:
        selection.ordered(outlines, sort)  # says so if there is nothing of that name
    metric = sort.removeprefix("-") or next(iter(metrics), "")
    if sort and metric not in metrics:
        raise UsageError(
            f"--sort {sort}: no job has reported a number '{metric}'",
            f"Metrics that are numbers: {', '.join(metrics) or 'none'}",
        )
    is_smaller = sort.startswith("-") if sort else bool(_SMALLER.search(metric))
    good = [
        (found, run)
        for run in runs
        if run.job.outcome.status is Status.SUCCEEDED
        and (found := _number(run.metrics.get(metric))) is not None
    ]
    good.sort(key=lambda each: each[0], reverse=not is_smaller)
    values: dict[str, set[Any]] = {}
    for run in runs:
        for name, value in run.parameters.items():
            values.setdefault(name, set()).add((type(value).__name__, value))
    counts = Counter(name for run in runs for name in run.parameters)
    constant = [name for name in values if len(values[name]) == 1 and counts[name] == len(runs)]
    return Facts(
        group=group,
        runs=runs,
        parameters=[name for name in values if name not in constant],
        constants={name: runs[0].parameters[name] for name in constant},
        metrics=metrics,
        metric=metric,
        is_smaller_better=is_smaller,
        best=[run for _, run in good],
        causes=causes,
        launches=launches,
    )


def _run(job: Job, cause: int) -> Run:
    outcome = job.outcome
    is_over = outcome.started is not None and outcome.finished is not None
    failed = outcome.status is Status.FAILED
    return Run(
        job,
        {name: _cell(value) for name, value in selection.flags(job.experiment).items()},
        job.report.metrics,
        (outcome.finished - outcome.started).total_seconds() if is_over else None,  # type: ignore[operator]
        selection.why(outcome.reason, job.report.cause) if failed else outcome.reason,
        cause,
    )


def _cell(value: Any) -> Cell:
    """A parameter's value; a text that is a number is one, as the command line has only texts."""
    if isinstance(value, str):
        number = _number(value)
        return value if number is None else number
    return value if isinstance(value, float | int | bool) or value is None else str(value)


def _number(value: Any) -> float | int | None:
    """A value as a number, if it is one that can be drawn."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        if not _NUMERAL.fullmatch(value):
            return None
        value = float(value) if re.search(r"[.eE]", value) else int(value)
    if isinstance(value, int) and abs(value) > 2**53:
        return None  # JavaScript would change it
    return value if value == value and abs(value) != float("inf") else None


_NUMERAL = re.compile(r"[-+]?(\d{1,15}(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?", re.ASCII)


def sort_key(value: Cell) -> tuple[int, float, str]:
    """Numbers first, then texts, and last what is not known."""
    if value is None:
        return 2, 0.0, ""
    number = _number(value)
    return (0, float(number), "") if number is not None else (1, 0.0, str(value))


def text(value: object) -> str:
    """A value in words, numbers with as many digits as anybody reads."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.5g}" if isinstance(value, float) else str(value)
