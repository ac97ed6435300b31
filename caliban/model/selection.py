"""Which of many jobs are meant, and in which order: conditions, causes of failure, sorting."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from caliban.errors import UsageError
from caliban.model import report, suggestion
from caliban.model.experiment import Experiment, Value
from caliban.model.job import Job, Status
from caliban.model.report import Metric

# The number of a cause of failure; nobody has a milliard of them.
_CAUSE = re.compile(r"0*[1-9]\d{0,8}", re.ASCII)

_EXAMPLE = "--where learning_rate=0.01, --where status=FAILED or --where cause=2"


@dataclass(frozen=True, slots=True)
class Outline:
    """What jobs are chosen, counted and sorted by: a tenth of a Job.

    Attributes:
      id: number of the job.
      uid: see Job.
      experiment_id: number of its experiment.
      container_spec_id: number of the image plan it was built from.
      experiment: its arguments and parameters.
      status: where it stands.
      reason: why it ended so, see Outcome.
      metrics: what it reported, see Report.
      cause: the line of its output that tells why it failed, see Report.
    """

    id: int
    uid: str
    experiment_id: int
    container_spec_id: int
    experiment: Experiment
    status: Status
    reason: str = ""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    cause: str = ""

    @classmethod
    def of(cls, job: Job) -> Outline:
        """That of a job."""
        return cls(
            *(job.id, job.uid, job.experiment_id, job.container_spec_id, job.experiment),
            *(job.outcome.status, job.outcome.reason, job.report.metrics, job.report.cause),
        )


@dataclass(frozen=True)
class Tally:
    """How many jobs of one image have one status.

    Attributes:
      container_spec_id: number of the image plan.
      status: where they stand.
      number: how many there are.
      uid: of one of them.
    """

    container_spec_id: int
    status: Status
    number: int
    uid: str


def tallies(jobs: Iterable[Outline]) -> list[Tally]:
    """Counts jobs."""
    found: dict[tuple[int, Status], Tally] = {}
    for job in jobs:
        key = (job.container_spec_id, job.status)
        number = found[key].number + 1 if key in found else 1
        found[key] = Tally(*key, number, job.uid)
    return sorted(found.values(), key=lambda each: each.container_spec_id)


def why(reason: str, cause: str) -> str:
    """Why a job failed, in a line.

    Args:
      reason: what its outcome says.
      cause: what its output says.
    """
    # Of a program that was killed, the last line is just where it happened to be.
    says_nothing = not reason or reason.startswith("exit code ")
    return (cause or reason or "no reason is recorded") if says_nothing else reason


@dataclass(frozen=True)
class Cause:
    """Jobs that have failed for what seems to be the same reason.

    Attributes:
      number: 1, 2, ...; the first has the most jobs.
      example: what the first of them says.
      jobs: their numbers.
    """

    number: int
    example: str
    jobs: tuple[int, ...]


def causes(jobs: Iterable[Outline]) -> list[Cause]:
    """Puts failed jobs together whose reasons differ in numbers, paths and addresses only.

    Those with the most jobs come first; of two with as many, the one with the first job.
    """
    kinds: dict[str, list[Outline]] = {}
    for job in jobs:
        if job.status is Status.FAILED:
            kinds.setdefault(report.kind(why(job.reason, job.cause)), []).append(job)
    for each in kinds.values():
        each.sort(key=lambda job: job.id)
    ordered = sorted(kinds.values(), key=lambda each: (-len(each), each[0].id))
    return [
        Cause(number, why(each[0].reason, each[0].cause), tuple(job.id for job in each))
        for number, each in enumerate(ordered, 1)
    ]


def flags(experiment: Experiment) -> dict[str, Value]:
    """The flags of an experiment by name, those from the command line among them."""
    return {**dict(_given(experiment.args)), **experiment.params}


def _given(words: Sequence[str]) -> Iterator[tuple[str, Value]]:
    """The flags among words; one without a value is true."""
    for word, after in zip(words, (*words[1:], "-"), strict=False):
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or not name or _number(word) is not None:
            continue
        if equals:
            yield name, value
        else:
            has_value = not after.startswith("-") or _number(after) is not None
            yield name, after if has_value else True


def equal(value: Value, text: str) -> bool:
    """Whether a flag's value is what somebody typed: 0.01 is 1e-2, and True is true."""
    if isinstance(value, bool):
        return str(value).lower() == text.lower()
    if str(value) == text:
        return True
    if isinstance(value, list):
        try:
            return bool(json.loads(text) == value)
        except (ValueError, RecursionError):
            return False
    number = _number(str(value))
    return number is not None and number == _number(text)


def _number(text: str) -> float | int | None:
    """The number that a text is; None for another text, and for "nan", which no number equals."""
    for read in (int, float):
        try:
            found = read(text)
        except ValueError:
            continue
        is_nan = isinstance(found, float) and math.isnan(found)
        return None if "_" in text or is_nan else found
    return None


@dataclass(frozen=True)
class Selection:
    """Conditions that jobs must meet.

    Attributes:
      wanted: by name, the values of which a job must have one.
    """

    wanted: Mapping[str, Sequence[str]]

    @classmethod
    def parse(cls, texts: Sequence[str], failed: bool = False) -> Selection:
        """Reads conditions: "learning_rate=0.01", "status=FAILED", "cause=2".

        A name with dashes, as in "--status=3", is always a flag of the job.

        Args:
          texts: the conditions. Of several for one name, one must hold.
          failed: whether the jobs must have failed as well.

        Raises:
          UsageError: one cannot be understood.
        """
        wanted: dict[str, list[str]] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals or not name.strip("-"):
                raise UsageError(f"--where {text}: expected NAME=VALUE", f"For example {_EXAMPLE}.")
            if name == "status":
                value = value.upper()
                if value not in Status.__members__:
                    known = ", ".join(Status.__members__)
                    raise UsageError(f"--where {text}: no job has such a status", f"One of {known}")
            if name == "cause" and not _CAUSE.fullmatch(value):
                raise UsageError(
                    f"--where {text}: causes are numbered from 1",
                    "'caliban status --xgroup' shows them with their numbers.",
                )
            wanted.setdefault(name, []).append(value)
        if failed:
            wanted["status"] = [Status.FAILED.value]
        return cls(wanted)

    def __bool__(self) -> bool:
        return bool(self.wanted)

    @property
    def names_causes(self) -> bool:
        """Whether it takes the causes of a group to tell which jobs are meant."""
        return "cause" in self.wanted

    def choose(self, jobs: Iterable[Outline], found: Sequence[Cause] = ()) -> list[Outline]:
        """The jobs that meet every condition, in their order.

        Args:
          jobs: those to choose from.
          found: the causes of their group.

        Raises:
          UsageError: there is no cause of such a number.
        """
        if not self.wanted:
            return list(jobs)
        numbers = {int(number) for number in self.wanted.get("cause", ())}
        if missing := sorted(number for number in numbers if number > len(found)):
            there = f"there are {len(found)}" if len(found) != 1 else "there is 1"
            raise UsageError(
                f"--where cause={missing[0]}: no such cause of failure; {there} now",
                "'caliban status --xgroup' shows them.",
            )
        meant = {job for cause in found if cause.number in numbers for job in cause.jobs}
        return [job for job in jobs if self._has(job, meant)]

    def _has(self, job: Outline, of_causes: set[int]) -> bool:
        given: dict[str, Value] | None = None
        for name, values in self.wanted.items():
            if name == "status":
                holds = job.status.value in values
            elif name == "cause":
                holds = job.id in of_causes
            else:
                given = flags(job.experiment) if given is None else given
                flag = name.lstrip("-")
                holds = flag in given and any(equal(given[flag], value) for value in values)
            if not holds:
                return False
        return True

    def check(self, jobs: Sequence[Outline]) -> None:
        """Sees to it that some of the jobs have the flags that are named.

        Raises:
          UsageError: none has one of them; its hint has the names that come near.
        """
        for name in self.wanted:
            if name in ("status", "cause") or not jobs:
                continue
            known = {each for job in jobs for each in flags(job.experiment)}
            if name.lstrip("-") not in known:
                raise UsageError(
                    f"--where {name}=...: none of these jobs has a flag '{name.lstrip('-')}'",
                    _near(name.lstrip("-"), known, "flags"),
                )


def ordered(jobs: Sequence[Outline], by: str) -> list[Outline]:
    """Sorts jobs by a metric or, if none has such a metric, by a flag: the largest value first.

    Numbers come before texts, and jobs without a value last.

    Args:
      jobs: in the order that those of the same value keep.
      by: name of the metric or flag; with a "-" before it, the smallest value comes first.

    Raises:
      UsageError: no job has it; its hint has the names that come near.
    """
    name = by.removeprefix("-")
    values = [job.metrics.get(name) for job in jobs]
    if jobs and all(value is None for value in values):
        given = [flags(job.experiment) for job in jobs]
        if not any(name in each for each in given):
            known = {key for job in jobs for key in job.metrics}
            hint = _near(name, known, "metrics") if known else "None of them reported a metric."
            raise UsageError(f"--sort {by}: none of these jobs has a metric or flag '{name}'", hint)
        values = [each if isinstance(each := of.get(name), Metric) else None for of in given]
    numbers: list[tuple[float, Outline]] = []
    texts: list[tuple[str, Outline]] = []
    without: list[Outline] = []
    for job, value in zip(jobs, values, strict=True):
        number = float(value) if isinstance(value, bool) else _number(str(value))
        if value is None:
            without.append(job)
        elif number is not None:
            numbers.append((number, job))
        else:
            texts.append((str(value), job))
    down = not by.startswith("-")
    numbers.sort(key=lambda each: each[0], reverse=down)
    texts.sort(key=lambda each: each[0], reverse=down)
    return [*(job for _, job in numbers), *(job for _, job in texts), *without]


def _near(name: str, known: Iterable[str], what: str) -> str:
    """A hint for a name that is not known."""
    names = sorted(known)
    if meant := suggestion.question(name, names):
        return meant
    return f"Their {what}: {', '.join(names[:20])}" if names else f"They have no {what}."
