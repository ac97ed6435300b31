"""From the command line to the experiments: one for each job."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caliban.errors import Problems, UsageError
from caliban.model import experiment
from caliban.model.experiment import Experiment

if TYPE_CHECKING:
    from caliban.commands.image_choice import ImageChoice, Surroundings


@dataclass(frozen=True)
class Experiments:
    """The experiments of a command line; they are made anew each time that they are asked for.

    Attributes:
      args: what each job gets after its own name.
      config: the experiment file, checked.
    """

    args: tuple[str, ...]
    config: object

    def __iter__(self) -> Iterator[Experiment]:
        return (Experiment(self.args, params) for params in experiment.expand(self.config))

    @property
    def count(self) -> int:
        """How many there are."""
        return experiment.count(self.config)


@dataclass(frozen=True)
class Work:
    """What jobs do that are not made of a command line and a project's files.

    Attributes:
      image: that they run.
      experiments: one for each job.
    """

    image: ImageChoice
    experiments: Experiments


def choose(args: argparse.Namespace) -> Experiments:
    """Reads --experiment_config; without one, there is one experiment without flags of its own.

    Args:
      args: the command line, see flags.add_sweep_arguments.

    Raises:
      UsageError: the file cannot be read, or is no experiment file.
    """
    source = args.experiment_config
    if source is None:
        return Experiments(args.script_args, {})
    from caliban import document

    config = document.read(source)
    experiment.validate(config, source)
    return Experiments(args.script_args, config)


def choose_work(
    args: argparse.Namespace, around: Surroundings, problems: Problems, given: Work | None = None
) -> tuple[ImageChoice | None, Experiments | None]:
    """What jobs elsewhere do: the image that they run, and the experiments.

    Args:
      args: the command line.
      around: what decides the image besides what it holds.
      problems: where what is wrong is collected.
      given: what they do, if neither the command line nor the project's files say it.

    Returns:
      Both; None in the place of one if `problems` has something now.
    """
    from caliban.commands import image_choice

    if given:
        choice: ImageChoice | None = given.image
        experiments: Experiments | None = given.experiments
    else:
        choice = image_choice.choose_in(around, args, problems)
        experiments = problems.attempt(lambda: choose(args), None)
    if experiments:
        problems.attempt(functools.partial(check_text, experiments), None)
    return choice, experiments


def check_text(experiments: Experiments) -> None:
    """Sees to it that the arguments of jobs can be sent elsewhere, where they have to be text.

    Raises:
      UsageError: one is a name of a file in another encoding, for one.
    """
    for each in experiments:
        for word in each.flags():
            try:
                word.encode()
            except UnicodeEncodeError:
                raise UsageError(
                    f"the argument {word!a} is not valid UTF-8, in which jobs elsewhere get theirs"
                ) from None
