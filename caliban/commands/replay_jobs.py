"""Recorded experiments -> jobs of this history."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import flags, launch
from caliban.bundle.recorded import RecordedJob
from caliban.model.experiment import Experiment
from caliban.model.image import ImagePlan

if TYPE_CHECKING:
    from caliban.commands.replay_images import Prepared
    from caliban.history.store import HistoryStore
    from caliban.model.job import Job, JobRequest
    from caliban.platform.local import LocalBackend, Options
    from caliban.runner import Launched


@dataclass(frozen=True)
class Wanted:
    """How jobs are written down.

    Attributes:
      file: that they come from.
      group: name of their experiment group.
      output: directory in which each job gets one of its own; None for no such thing.
      rerun: whether experiments run that have succeeded in the group with their image.
    """

    file: Path
    group: str
    output: Path | None
    rerun: bool


def record(
    backend: LocalBackend,
    store: HistoryStore,
    wanted: Wanted,
    jobs: Sequence[RecordedJob],
    prepared: Mapping[int, Prepared],
    options: Mapping[int, Options],
) -> tuple[launch.Sweep, dict[int, str]]:
    """Writes down jobs for recorded experiments, in their order.

    Args:
      backend: the local engine.
      store: the history.
      wanted: how.
      jobs: what was recorded.
      prepared: the image of each launch.
      options: how the containers of each launch are run.

    Returns:
      The jobs, and for each number of an experiment the uid of its job.
    """
    swept: list[Launched] = []
    superfluous: list[Job] = []
    uids: dict[int, str] = {}
    for number, mine in by_launch(jobs):
        made, settings = prepared[number], options[number].to_json()
        experiments = (job.experiment for job in mine)
        requests = list(launch.requests(experiments, made.image, wanted.group, settings))
        found = launch.record(
            backend,
            store,
            launch.Launch(
                user=flags.user_name(),
                group=wanted.group,
                container_spec=made.container_spec(wanted.file),
                requests=requests,
                output=wanted.output,
                code=_code(made.plan) if made.plan.live else None,
                rerun=wanted.rerun,
            ),
        )
        swept += found.jobs
        superfluous += found.superfluous
        there = [(job.uid, job.experiment) for job in found.superfluous]
        there += [(job.request.uid, job.request.experiment) for job in found.jobs]
        uids |= numbered(mine, requests, there)
    return launch.Sweep(swept, superfluous), uids


def by_launch(jobs: Iterable[RecordedJob]) -> Iterator[tuple[int, list[RecordedJob]]]:
    """Recorded jobs in their order, those of one launch together with its number."""
    for number, mine in itertools.groupby(jobs, lambda job: job.launch):
        yield number, list(mine)


def numbered(
    jobs: Iterable[RecordedJob],
    requests: Iterable[JobRequest],
    there: Iterable[tuple[str, Experiment]],
) -> dict[int, str]:
    """The uid of the job that each recorded one has now, by its number; "" for none.

    Args:
      jobs: what was recorded.
      requests: what was asked for, in the same order.
      there: uid and experiment of the jobs that there are, the newer after the older ones.
    """
    of_experiment = {key(experiment): uid for uid, experiment in there}
    known = {*of_experiment.values()}
    return {
        job.number: each.uid if each.uid in known else of_experiment.get(key(job.experiment), "")
        for job, each in zip(jobs, requests, strict=True)
    }


def _code(plan: ImagePlan) -> Callable[[], str]:
    """What names live code as it is at the moment of each call."""
    from caliban.docker.image import context

    return lambda: context.code_digest(plan)


def key(experiment: Experiment) -> str:
    """What tells an experiment from others, the order of its flags too."""
    return json.dumps([list(experiment.args), list(experiment.params.items())])
