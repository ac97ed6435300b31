"""What a command line asks Vertex AI for, as far as that is known without asking anybody."""

from __future__ import annotations

import argparse
import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from caliban import config, flags, terminal
from caliban.errors import Problems, UsageError
from caliban.model.job import JobRequest

if TYPE_CHECKING:
    from caliban.commands.experiment_choice import Experiments, Work
    from caliban.commands.google_project import Found
    from caliban.commands.image_choice import ImageChoice
    from caliban.commands.image_publication import JobImage, Publication
    from caliban.model.resources import Machine
    from caliban.platform.vertex_job import Options
    from caliban.remote.backends import Backends

_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[^\x00-\x1f#?*\[\]]+)?")

# Names of objects have at most 1024 bytes; what follows are the group, the job and its own files.
_LONGEST_OUTPUT = 600


@dataclass(frozen=True)
class Wishes:
    """What a command line asks for, as far as that is known without Docker and Google.

    Attributes:
      args: the command line.
      choice: the image.
      experiments: one for each job.
      options: how the jobs are run, but for what their image decides.
      place: on what and where, for people.
      publication: how they come by their image.
      output: the folder of Cloud Storage below which each has one of its own; "" for none.
    """

    args: argparse.Namespace
    choice: ImageChoice
    experiments: Experiments
    options: Options
    place: str
    publication: Publication
    output: str

    def requests(self, image: JobImage, group: str) -> Iterator[JobRequest]:
        """The jobs of a group, with their image."""
        from caliban import launch
        from caliban.commands import tracking_choice

        variables = tracking_choice.elsewhere(tracking_choice.of_choice(self.choice), group)
        options, module = replace(self.options, environment=variables), image.plan.module
        if image.is_given and module:
            # Only an image that was built with the code in it starts it by itself.
            options = replace(options, command=module.command)
        return launch.requests(self.experiments, image.reference, group, options.to_json())

    def announce(self) -> None:
        """Says what the jobs run on, and which labels are not what they seem."""
        from caliban import launch
        from caliban.commands import job_labels, tracking_choice

        tracking_choice.tell_unreachable(tracking_choice.of_choice(self.choice))
        terminal.note(f"{launch.count_of_jobs(self.experiments.count)} on {self.place}")
        job_labels.tell(list(_label_notes(self.experiments, self.options)))


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
        google_project,
        image_choice,
        image_publication,
        job_labels,
        machine_choice,
    )
    from caliban.platform import vertex
    from caliban.platform.artifact_registry import Repository

    problems = Problems()
    around = image_choice.surroundings(args, problems)
    settings, environment = around.settings, os.environ
    mode = machine_choice.mode(args, work.image.mode if work else around.mode)
    around = around._replace(mode=mode)
    choice, experiments = experiment_choice.choose_work(args, around, problems, work)
    project = problems.attempt(
        lambda: google_project.project(args.project_id, environment, settings, args.cloud_key), None
    )
    region = problems.attempt(lambda: _region(args, settings), None)
    machine = machine_choice.choose(args, region.value if region else None, mode, problems)
    labels = job_labels.choose(args.label, problems)
    options = _options(args, machine, project.value if project else "PROJECT", labels, problems)
    output = problems.attempt(lambda: _bucket(args.output), "")
    problems.attempt(lambda: vertex.jobs_url(options.target, environment), "")
    repository = (
        Repository(project.value, region.value, image_publication.REPOSITORY)
        if project and region
        else None
    )
    publication = problems.attempt(
        lambda: image_publication.understand(
            args.image_tag, args.image_registry, settings, repository
        ),
        None,
    )
    problems.attempt(lambda: image_publication.check_platform(args.platform or ""), None)
    problems.check()
    assert choice and experiments is not None and project and region and machine and publication
    place = f"{machine}{region.remark}, project {project.value}{project.remark}"
    if args.spot or args.replicas > 1:
        kind = "spot machine" if args.spot else "machine"
        place = f"{args.replicas} {kind}{'s' if args.replicas > 1 else ''} each: {place}"
    return Wishes(args, choice, experiments, options, place, publication, output)


def _region(args: argparse.Namespace, settings: config.Config) -> Found:
    """The region that the jobs run in.

    Raises:
      UsageError: Vertex AI doesn't train there; says who has named it.
    """
    from caliban.commands import google_project
    from caliban.model import hardware, resources

    usual = hardware.load().default_region
    found = google_project.region(args.region, os.environ, settings, usual)
    try:
        if not args.force:
            resources.check_region(found.value)
    except UsageError as error:
        raise UsageError(f"{error.message}{found.remark}", error.hint) from None
    return found


def _options(
    args: argparse.Namespace,
    machine: Machine | None,
    project: str,
    labels: tuple[tuple[str, str], ...],
    problems: Problems,
) -> Options:
    """How the jobs are run; each wish is checked by itself, so that all that is wrong is told."""
    from caliban.platform.vertex_job import Options

    options = Options.on(machine, project) if machine else Options(project, "", "")
    wishes: dict[str, Any] = {
        "name": args.name or f"caliban_{flags.user_name()}",
        "labels": labels,
        "replicas": args.replicas,
        "spot": args.spot,
        "timeout": args.timeout or 0,
        "service_account": args.service_account or "",
        "network": args.network or "",
        "boot_disk_gb": args.boot_disk_gb or 0,
    }
    for name, wish in wishes.items():
        change = {name: wish}
        options = problems.attempt(functools.partial(replace, options, **change), options)
    return options


def _bucket(text: str | None) -> str:
    """The folder of Cloud Storage that --output names, without a slash at its end.

    Raises:
      UsageError: it isn't one.
    """
    found = (text or "").strip().rstrip("/")
    if found and not found.startswith("gs://"):
        raise UsageError(
            f"--output {text}: jobs on Vertex AI write to Cloud Storage, and this isn't there",
            "It looks like gs://my-bucket/some/path.",
        )
    if found and not _BUCKET.fullmatch(found):
        raise UsageError(
            f"--output {text}: no folder of Cloud Storage has such a name",
            "It looks like gs://my-bucket/some/path. A bucket's name has 3 or more letters a to z, "
            "digits, -, _ and dots; no path has #, ?, *, [ or ].",
        )
    # Objects can have such names, which mean something else as the names of files below /gcs.
    if found and {"", ".", ".."} & set(found.split("/")[3:]):
        raise UsageError(
            f"--output {text}: the name of a folder can't be empty, . or ..",
            "It looks like gs://my-bucket/some/path.",
        )
    if len(found.encode()) > _LONGEST_OUTPUT:
        raise UsageError(
            f"--output {found[:40]}...: a name in Cloud Storage can't be that long",
            f"Choose one with at most {_LONGEST_OUTPUT} bytes.",
        )
    return found


def _label_notes(experiments: Experiments, options: Options) -> dict[str, None]:
    """What there is to say of the labels of all jobs, each once."""
    from caliban.platform import vertex_job

    settings = options.to_json()
    notes: dict[str, None] = {}
    for index, experiment in enumerate(experiments):
        request = JobRequest("", experiment, "", "", index, settings)
        notes |= dict.fromkeys(vertex_job.labels_of(request).notes)
    return notes


def backends(args: argparse.Namespace, settings: config.Config) -> Backends:
    """The platforms, as the user whom the command line, the environment or the project names."""
    from caliban.remote.backends import Backends

    key = settings.cloud_key(args.cloud_key, os.environ)
    per_minute = args.per_minute or settings.gcloud.per_minute
    return Backends(os.environ, key, per_minute)
