"""The jobs and pods of a namespace as tables for people, and as JSON."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caliban import flag_types, terminal
from caliban.commands.cluster import place_choice
from caliban.model.job import Outcome, Status, duration
from caliban.model.labels import UID
from caliban.platform.kubernetes import labels, manifest, outcome

if TYPE_CHECKING:
    from caliban.platform.kubernetes.backend import KubernetesBackend

# By which label each version of Kubernetes says whose pod it is.
_JOB_NAMES = ("batch.kubernetes.io/job-name", "job-name")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which ones are listed, and how: `Namespace.xgroup, json`, and those of place_choice."""
    place_choice.add_arguments(parser)
    parser.add_argument(
        "--xgroup",
        type=flag_types.group_name,
        metavar="NAME",
        help="Only those of this experiment group.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON, for programs.")


@dataclass(frozen=True)
class Namespace:
    """A namespace of a cluster, of which all is listed, or what belongs to an experiment group.

    Attributes:
      target: the place as text.
      group: the experiment group; "" for everything.
    """

    target: str
    group: str
    _backend: KubernetesBackend

    @property
    def title(self) -> str:
        """What is listed, for people."""
        return f"of group '{self.group}' in {self.target}" if self.group else f"in {self.target}"

    @property
    def selector(self) -> str:
        """The labels that what is listed has; "" for everything."""
        return labels.of_group(self.group) if self.group else ""

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs, the newest last.

        Raises:
          UsageError: the cluster has no such namespace.
        """
        return self._sorted(self._backend.jobs(self.target, self.selector))

    def events(
        self, found: Sequence[Mapping[str, Any]], pods: Sequence[Mapping[str, Any]]
    ) -> dict[str, list[outcome.Event]]:
        """Why some of the jobs have no pod, or that one no volume, by their names."""
        return self._backend.events(self.target, found, _by_job(pods))

    def pods(self) -> list[dict[str, Any]]:
        """The pods, the newest last.

        Raises:
          UsageError: the cluster has no such namespace.
        """
        return self._sorted(self._backend.pods(self.target, self.selector))

    def _sorted(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        # A namespace that isn't there has nothing in it, too.
        if not found:
            self._backend.check_namespace(self.target)
        return sorted(found, key=_age)


def _age(thing: Mapping[str, Any]) -> tuple[str, str]:
    metadata = thing["metadata"]
    return str(metadata.get("creationTimestamp")), str(metadata["name"])


@contextlib.contextmanager
def opened(args: argparse.Namespace) -> Iterator[Namespace]:
    """The namespace that a command line means.

    Raises:
      UsageError: no cluster is meant, or there is none.
      CalibanError: it can't be reached.
    """
    from caliban import config
    from caliban.platform.kubernetes.backend import KubernetesBackend
    from caliban.platform.kubernetes.place import NAME

    settings = config.load(config.project())
    place = place_choice.choose(args, settings, os.environ)
    with place_choice.backends(args, settings) as backends:
        backend = backends.of(NAME)
        assert isinstance(backend, KubernetesBackend)
        yield Namespace(place.target, args.xgroup or "", backend)


def jobs(
    found: Sequence[Mapping[str, Any]],
    pods: Sequence[Mapping[str, Any]],
    events: Mapping[str, Sequence[outcome.Event]],
) -> list[dict[str, Any]]:
    """What there is to say of jobs, as JSON.

    Args:
      found: Jobs as the cluster has them.
      pods: theirs, and perhaps others.
      events: why some have no pod, by their names.
    """
    of_job = _by_job(pods)
    rows = []
    for job in found:
        metadata = job["metadata"]
        name = metadata["name"]
        known = outcome.outcome(job, of_job.get(name, ()), events.get(name, ()))
        containers = job["spec"]["template"]["spec"]["containers"]
        rows.append(
            {
                "name": name,
                "uid": _label(job, UID),
                "xgroup": manifest.group_of(job),
                **_as_json(known),
                "image": containers[0].get("image", ""),
                "args": containers[0].get("args") or [],
                "created": metadata.get("creationTimestamp", ""),
            }
        )
    return rows


def _by_job(pods: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Pods by the names of their jobs."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for pod in pods:
        found.setdefault(_job_of(pod), []).append(pod)
    return found


def pods(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What there is to say of pods, as JSON.

    Args:
      found: Pods as the cluster has them.
    """
    return [
        {
            "name": pod["metadata"]["name"],
            "job": _job_of(pod),
            "xgroup": manifest.group_of(pod),
            **_as_json(outcome.of_pod(pod)),
            "node": pod["spec"].get("nodeName", ""),
            "created": pod["metadata"].get("creationTimestamp", ""),
        }
        for pod in found
    ]


def _as_json(known: Outcome) -> dict[str, Any]:
    return {
        "status": known.status.value,
        "exit_code": known.exit_code,
        "reason": known.reason,
        "started": known.started and known.started.isoformat(),
        "finished": known.finished and known.finished.isoformat(),
    }


def _label(thing: Mapping[str, Any], key: str) -> str:
    return str((thing["metadata"].get("labels") or {}).get(key, ""))


def _job_of(pod: Mapping[str, Any]) -> str:
    return next(filter(None, (_label(pod, key) for key in _JOB_NAMES)), "")


def _time(text: str | None) -> datetime.datetime | None:
    return datetime.datetime.fromisoformat(text) if text else None


def show(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], what: str, is_json: bool
) -> None:
    """Prints rows.

    Args:
      rows: see `jobs` and `pods`.
      columns: the keys that people see, besides how it went.
      what: there is none of, if there are no rows.
      is_json: whether programs read it.
    """
    if is_json:
        terminal.result_json(rows)
        return
    if not rows:
        terminal.note(f"no {what}")
        return
    now = datetime.datetime.now(datetime.UTC)
    name, *others = columns
    head = [name.upper(), "STATUS", "CREATED", "TIME", *(each.upper() for each in others), "REASON"]
    table = [
        [
            row[name],
            row["status"],
            _local(row["created"]),
            _span(row, now),
            *(str(row[each]) for each in others),
            row["reason"],
        ]
        for row in rows
    ]
    lines = [head, *table]
    if not any(row["reason"] for row in rows):  # mostly nothing is the matter
        lines = [line[:-1] for line in lines]
    for line in terminal.columns(lines):
        terminal.result(terminal.folded(line))


def _local(text: str) -> str:
    """A time in the zone of the user."""
    found = _time(text)
    return found.astimezone().strftime("%Y-%m-%d %H:%M:%S") if found else ""


def _span(row: Mapping[str, Any], now: datetime.datetime) -> str:
    """How long something took, or has run so far; "" if that isn't known."""
    started, finished = _time(row["started"]), _time(row["finished"])
    if started is None or (finished is None and Status(row["status"]).is_final):
        return ""
    return duration((finished or now) - started)
