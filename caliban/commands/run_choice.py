"""From a command line to what `caliban run` is to do, as far as that is known without Docker."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban.commands import (
    container_choice,
    execution_choice,
    experiment_choice,
    image_choice,
    tracking_choice,
)
from caliban.commands.experiment_choice import Experiments
from caliban.commands.image_choice import ImageChoice
from caliban.errors import Problems
from caliban.model.image import ImagePlan, Mode
from caliban.platform.local import Mount

if TYPE_CHECKING:
    from caliban.tracking.place import Place


@dataclass(frozen=True)
class RunChoice:
    """What a command line asks for.

    Attributes:
      args: the command line.
      choice: the image, and the credentials that its containers get.
      experiments: one for each job.
      run_args: the user's own arguments for `docker run`.
      mounts: those of live code.
      output: the directory below which each job gets one of its own; None for no such thing.
      tracking: where the runs of the jobs are kept; None for nowhere.
    """

    args: argparse.Namespace
    choice: ImageChoice
    experiments: Experiments
    run_args: tuple[str, ...]
    mounts: Sequence[Mount]
    output: Path | None
    tracking: Place | None

    @property
    def plan(self) -> ImagePlan:
        """What the image holds."""
        return replace(self.choice.plan, live=self.args.live)


def understand(args: argparse.Namespace) -> RunChoice:
    """Reads the command line and the files that it names.

    Raises:
      UsageError: something is wrong; all of it is told at once.
    """
    problems = Problems()
    choice = image_choice.choose(args, problems)
    experiments = problems.attempt(lambda: experiment_choice.choose(args), None)
    run_args = problems.attempt(lambda: container_choice.split(args.docker_run_args), None)
    output = problems.attempt(
        lambda: container_choice.output_directory(args.output, args.xgroup), None
    )
    if choice and run_args is not None:
        has_gpus = choice.mode is Mode.GPU
        problems.attempt(
            lambda: execution_choice.check(args.gpus_per_job, has_gpus, run_args), None
        )
    tracking = None
    if choice:
        tracking = problems.attempt(functools.partial(tracking_choice.of_choice, choice), None)
    mounts: Sequence[Mount] = ()
    if choice and args.live:
        mounts = problems.attempt(lambda: container_choice.live(choice.plan, choice.secrets), ())
    problems.check()
    assert choice is not None and run_args is not None and experiments is not None
    return RunChoice(args, choice, experiments, run_args, mounts, output, tracking)
