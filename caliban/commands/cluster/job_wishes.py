"""What a command line asks a cluster for, as far as that is known without asking anybody."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import launch
from caliban.commands.cluster import job_options, manifest_files, place_choice
from caliban.errors import Problems, UsageError

if TYPE_CHECKING:
    from caliban.commands.experiment_choice import Experiments, Work
    from caliban.commands.image_choice import ImageChoice
    from caliban.commands.image_publication import JobImage, Publication
    from caliban.model.job import JobRequest
    from caliban.model.pod_resources import PodResources
    from caliban.platform.kubernetes.options import Options
    from caliban.platform.kubernetes.place import Place
    from caliban.tracking.place import Place as TrackingPlace


@dataclass(frozen=True)
class Wishes:
    """What a command line asks for.

    Attributes:
      args: the command line.
      choice: the image.
      experiments: one for each job.
      labels: of the user.
      accelerators: GPUs and TPUs that are named.
      publication: how the jobs get their image.
      place: where the jobs run; None if Google has yet to be asked.
      export: the file that they are written to; None if they are submitted.
      tracking: where the runs of the jobs are kept; None for nowhere.
      output: the folder below which each job has one of its own to write to, see storage; "" for
        none.
    """

    args: argparse.Namespace
    choice: ImageChoice
    experiments: Experiments
    labels: tuple[tuple[str, str], ...]
    accelerators: job_options.Accelerators
    publication: Publication
    place: Place | None
    export: Path | None
    tracking: TrackingPlace | None = None
    output: str = ""

    @functools.cached_property
    def is_gke(self) -> bool:
        """Whether the cluster is one of GKE, as far as its name tells."""
        return self.place is None or place_choice.is_known_as_gke(self.place)

    @property
    def target(self) -> str:
        """The place as text; "" if it is not known yet."""
        return self.place.target if self.place else ""

    def located(self) -> Wishes:
        """The same with the cluster, and for one of GKE with Google's registry for the image.

        Raises:
          UsageError: no cluster is meant, or there is none.
          CalibanError: Google could not be asked for it.
        """
        from caliban.commands import image_publication
        from caliban.platform.artifact_registry import Repository

        args, settings = self.args, self.choice.settings
        place = place_choice.choose(args, settings, os.environ, self.place)
        found = place_choice.project_and_location(place)
        if found is None:
            return replace(self, place=place)
        repository = Repository(found[0], place_choice.region(place), image_publication.REPOSITORY)
        publication = image_publication.understand(
            args.image_tag, args.image_registry, settings, repository
        )
        return replace(self, place=place, publication=publication)

    def resources(self, is_gke: bool) -> PodResources:
        """What each job asks for.

        Args:
          is_gke: whether the cluster is one of GKE.

        Raises:
          UsageError: there is no such thing.
        """
        region = place_choice.region(self.place) if self.place else ""
        return job_options.resources(self.args, self.accelerators, is_gke, region, self.choice.mode)

    def options(self, wanted: PodResources, is_gke: bool) -> Options:
        """How the jobs are run, but for what depends on the image.

        Args:
          wanted: what each asks for.
          is_gke: whether the cluster is one of GKE.

        Raises:
          UsageError: there are no such jobs.
        """
        return job_options.options(self.args, self.target, wanted, self.labels, is_gke)

    def check(self) -> None:
        """Sees to it that such jobs can be, as far as that is known without asking anybody.

        Raises:
          UsageError: they can't.
        """
        self.options(self.resources(self.is_gke), self.is_gke)

    def label_notes(self) -> list[str]:
        """What there is to say of the labels of all jobs, each once."""
        from caliban.model.job import JobRequest
        from caliban.platform.kubernetes import manifest

        settings = self.options(self.resources(self.is_gke), self.is_gke).to_json()
        notes: dict[str, None] = {}
        for index, experiment in enumerate(self.experiments):
            request = JobRequest("", experiment, "", "", index, settings)
            notes |= dict.fromkeys(manifest.labels_of(request).notes)
        return list(notes)

    def requests(self, options: Options, image: JobImage, group: str) -> Iterator[JobRequest]:
        """The jobs.

        Args:
          options: how they are run.
          image: what they run.
          group: their experiment group.
        """
        from caliban.commands import tracking_choice

        module, tracking = image.plan.module, self.tracking
        settings = replace(
            options,
            environment=tracking_choice.elsewhere(tracking, group, has_proxy=True),
            cloud_sql=tracking.instance if tracking else "",
            command=tuple(module.command) if image.is_given and module else (),
            pull_policy=image.pull_policy,
            own_home=not image.is_given,
        ).to_json()
        return launch.requests(self.experiments, image.reference, group, settings)


def understand(args: argparse.Namespace, work: Work | None = None) -> Wishes:
    """Reads the command line and the files that it names; all that is wrong is told at once.

    Args:
      args: the command line.
      work: what the jobs do, if neither the command line nor the project's files say it.

    Raises:
      UsageError: with all that is wrong.
    """
    from caliban.commands import (
        experiment_choice,
        image_choice,
        image_publication,
        job_labels,
        tracking_choice,
    )
    from caliban.platform.kubernetes import storage

    problems = Problems()
    around = image_choice.surroundings(args, problems)
    around = around._replace(mode=job_options.mode(args, around.mode))
    choice, experiments = experiment_choice.choose_work(args, around, problems, work)
    labels = job_labels.choose(args.label, problems)
    export = problems.attempt(
        lambda: manifest_files.check_export(args.export) if args.export else None, None
    )
    publication = problems.attempt(
        lambda: image_publication.understand(args.image_tag, args.image_registry, around.settings),
        None,
    )
    is_on_gke = problems.attempt(
        lambda: place_choice.is_on_gke(args, around.settings, os.environ), None
    )
    place = None
    if is_on_gke is False:
        place = problems.attempt(lambda: place_choice.of_kubeconfig(args, os.environ), None)
    is_gke = place is None or place_choice.is_known_as_gke(place)
    accelerators = job_options.accelerators(args, is_gke, problems)
    output = problems.attempt(lambda: storage.understand(args.output), "")
    if storage.is_bucket(output):
        problems.attempt(lambda: _check_bucket(args, is_gke), None)
    wishes = None
    if choice and experiments and publication:
        tracking = problems.attempt(functools.partial(tracking_choice.of_choice, choice), None)
        wishes = Wishes(
            *(args, choice, experiments, labels, accelerators, publication, place, export),
            tracking=tracking,
            output=output,
        )
        if is_on_gke or place:
            problems.attempt(wishes.check, None)
    problems.check()
    assert wishes is not None
    job_options.tell(args)
    tracking_choice.tell_unreachable(wishes.tracking, has_proxy=True)
    return wishes


def _check_bucket(args: argparse.Namespace, is_gke: bool) -> None:
    """Sees to it that jobs can write to a bucket."""
    if not is_gke:
        raise UsageError(
            f"--output {args.output}: only clusters of GKE have buckets for jobs to write to",
            "Name the cluster by --cluster_name if it is one; any other has volumes: pvc:CLAIM.",
        )
    if args.export:
        raise UsageError(
            f"--output {args.output} and --export: each time that a file is submitted, its job "
            "would write to the same folder of the bucket",
            "Leave out one of them, or write to a volume: --output pvc:CLAIM.",
        )
