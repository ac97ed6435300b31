"""Recorded experiments -> jobs of this history."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import flags, launch
from caliban.bundle.recorded import RecordedJob
from caliban.model.experiment import Experiment
from caliban.model.image import ImagePlan

if TYPE_CHECKING:
    from caliban.commands.replay_images import Prepared
    from caliban.history.store import HistoryStore
    from caliban.model.job import Job
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
    for number, of_launch in itertools.groupby(jobs, lambda job: job.launch):
        mine = list(of_launch)
        made, settings = prepared[number], options[number].to_json()
        experiments = (job.experiment for job in mine)
        requests = list(launch.requests(experiments, made.image, wanted.group, settings))
        found = launch.record(
            backend,
            store,
            launch.Launch(
                user=flags.user_name(),
                group=wanted.group,
                # Where the code comes from: the directory that it is in now will have gone.
                container_spec=replace(made.plan, directory=str(wanted.file)).to_json(),
                requests=requests,
                output=wanted.output,
                code=_code(made.plan) if made.plan.live else None,
                rerun=wanted.rerun,
            ),
        )
        swept += found.jobs
        superfluous += found.superfluous
        new = {job.request.uid for job in found.jobs}
        others = {_key(job.experiment): job.uid for job in found.superfluous}
        others |= {_key(each.request.experiment): each.request.uid for each in found.jobs}
        for job, request in zip(mine, requests, strict=True):
            is_new = request.uid in new
            uids[job.number] = request.uid if is_new else others.get(_key(job.experiment), "")
    return launch.Sweep(swept, superfluous), uids


def _code(plan: ImagePlan) -> Callable[[], str]:
    """What names live code as it is at the moment of each call."""
    from caliban.docker.image import context

    return lambda: context.code_digest(plan)


def _key(experiment: Experiment) -> str:
    return json.dumps([list(experiment.args), list(experiment.params.items())])
