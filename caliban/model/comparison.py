"""What differs between two jobs: parameters, code, packages, image, machine, flags, outcome."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from caliban.model import selection
from caliban.model.job import Job
from caliban.model.lock import Lock
from caliban.model.provenance import Machine, Provenance, Repository, Source

# What of a plan is told by another section, or differs with the machine only.
_TOLD_ELSEWHERE = frozenset({"lock", "base_image", "directory"})

# Flags that name what is another job's anyway, or decide what is shown only.
_NO_DIFFERENCE = frozenset({"xgroup", "resume", "verbose", "yes"})


@dataclass(frozen=True)
class Difference:
    """Something that two jobs don't have in common.

    Attributes:
      section: what it belongs to: "parameters".
      name: of what differs: "learning_rate".
      before: what the first job has; None for nothing.
      after: what the second job has.
    """

    section: str
    name: str
    before: Any
    after: Any


def compare(
    first: Job, second: Job, of_first: Provenance | None, of_second: Provenance | None
) -> list[Difference]:
    """Tells what differs, by section; nothing for jobs that are alike.

    What no two jobs have in common, as their numbers and times, is left out. Of what is not known
    of one of them, nothing is said but that.

    Args:
      first: a job.
      second: another one.
      of_first: what the first one is made of, if that is known.
      of_second: the same of the second.
    """
    found = list(_each("parameters", _flags(first), _flags(second)))
    if not found:  # there may be more to the arguments than flags, or another order
        words = ({"arguments": list(job.experiment.args)} for job in (first, second))
        found = list(_each("parameters", *words))
    if of_first and of_second:
        found += _provenances(first, second, of_first, of_second)
    else:
        found += _each("image", {"id": first.image}, {"id": second.image})
        found += _each(
            "provenance",
            {"record": "kept" if of_first else None},
            {"record": "kept" if of_second else None},
        )
    found += _each("outcome", _outcome(first), _outcome(second))
    found += _each("metrics", first.report.metrics, second.report.metrics)
    return found


def _provenances(
    first: Job, second: Job, one: Provenance, other: Provenance
) -> Iterator[Difference]:
    yield from _sources(one.source, other.source)
    yield from _each("code", {"live code": _live(first)}, {"live code": _live(second)})
    are_planned = bool(one.plan and other.plan)  # caliban has made both images
    if are_planned:
        yield from _each("packages", _packages(one.plan), _packages(other.plan))
    base = ({"base image": (each.image.base, each.image.base_id)} for each in (one, other))
    for each in _each("image", *base):
        before, after = each.before, each.after
        names_tell = before[0] != after[0]
        yield Difference("image", each.name, *(side[not names_tell] for side in (before, after)))
    if are_planned:
        yield from _each("image", _plan(one.plan), _plan(other.plan))
    yield from _each(
        "image", {"id": one.image.id or first.image}, {"id": other.image.id or second.image}
    )
    where = ({"platform": each.submission.platform} for each in (first, second))
    yield from _each("machine", *where)
    yield from _each("machine", _machine(one.machine), _machine(other.machine))
    flags = (
        {k: v for k, v in each.flags.items() if k not in _NO_DIFFERENCE} for each in (one, other)
    )
    yield from _each("flags", *flags)
    names = (
        dict.fromkeys([*each.variables, *(f"secret {name}" for name in each.secrets)], "set")
        for each in (one, other)
    )
    yield from _each("environment", *names)
    yield from _each("caliban", {"version": one.version}, {"version": other.version})


def _each(
    section: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[Difference]:
    """The keys whose values differ, in the order in which they first come."""
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield Difference(section, name, before.get(name), after.get(name))


def _flags(job: Job) -> dict[str, Any]:
    return dict(selection.flags(job.experiment))


def _live(job: Job) -> str | None:
    code = job.details.get("code")
    return code if isinstance(code, str) else None


def _sources(one: Source | None, other: Source | None) -> Iterator[Difference]:
    before, after = one or Source(), other or Source()
    ours, theirs = before.repository or Repository(), after.repository or Repository()
    yield from _each("code", {"commit": ours.commit or None}, {"commit": theirs.commit or None})
    if before.files and after.files:
        yield from _each("code", before.files, after.files)
    elif before.digest != after.digest:
        yield Difference("code", "files", before.digest or None, after.digest or None)


def _packages(plan: Mapping[str, Any]) -> dict[str, str]:
    """The version of each package of a lock, Python among them."""
    text = plan.get("lock")
    if not isinstance(text, str) or not text:
        return {}
    lock = Lock.parse(text)
    return {"Python": lock.python, **lock.versions}


def _plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in plan.items() if key not in _TOLD_ELSEWHERE and value}
    if isinstance(module := found.get("module"), Mapping):
        found["module"] = module.get("name")
    return found


def _machine(machine: Machine) -> dict[str, Any]:
    """What is known of a machine; of its memory no more than what makes a difference."""
    if machine.requested:
        return dict(machine.requested)
    found = {
        "host": machine.host,
        "system": machine.system,
        "kernel": machine.kernel,
        "cpu": machine.cpu,
        "cpus": machine.cpus,
        "memory": f"{machine.memory / 2**30:.1f} GiB" if machine.memory else "",
        "gpus": list(machine.gpus),
        "driver": machine.driver,
        "engine": machine.engine,
    }
    return {name: value for name, value in found.items() if value}


def _outcome(job: Job) -> dict[str, Any]:
    outcome = job.outcome
    found: dict[str, Any] = {"status": outcome.status.value, "exit code": outcome.exit_code}
    if job.report.cause or outcome.reason:
        found["reason"] = selection.why(outcome.reason, job.report.cause)
    return found
