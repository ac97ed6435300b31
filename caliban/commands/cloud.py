"""Run code on Vertex AI, on Google Cloud.

The image is the one that `caliban run` uses. It is pushed to the project's Artifact Registry,
unless it is there, and each job is submitted once, whatever happens to the network. With
--experiment_config, one job is submitted for every combination of the file's values.
`caliban status`, `logs`, `stop` and `resubmit` work for these jobs as for those of this machine.

What is wrong is said before anything is built. --dry_run prints the requests, and asks nobody.

  caliban cloud trainer.train -- --epochs 2
  caliban cloud --gpu_spec 2xV100 --region europe-west4 trainer.train
  caliban cloud --nogpu --machine_type n1-standard-8 --spot trainer.train
  caliban cloud --experiment_config experiment.json --output gs://my-bucket/sweep trainer.train
  caliban cloud --resume my-sweep
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caliban import config, flag_types, flags, terminal
from caliban.errors import Problems, UsageError
from caliban.model.job import JobRequest

if TYPE_CHECKING:
    from caliban.commands.experiment_choice import Experiments
    from caliban.commands.google_project import Found
    from caliban.commands.image_choice import ImageChoice
    from caliban.commands.image_publication import JobImage, Publication
    from caliban.model.resources import Machine
    from caliban.platform.vertex_job import Options
    from caliban.remote.backends import Backends

_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[^\x00-\x1f#?*\[\]]+)?")

# Names of objects have at most 1024 bytes; what follows are the group, the job and its own files.
_LONGEST_OUTPUT = 600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    flags.add_image_arguments(parser, is_remote=True)
    flags.add_sweep_arguments(parser)
    flags.add_project_argument(parser)
    parser.add_argument(
        "--region",
        metavar="REGION",
        help="Region that the jobs run in, and that the image is kept in (default: $REGION; else "
        "that of .calibanconfig.json or of gcloud's configuration; else us-central1).",
    )
    parser.add_argument(
        "--machine_type",
        metavar="TYPE",
        help="Type of the machine of each job (default: the usual one for its GPUs or TPUs; "
        "n1-highcpu-32 in CPU mode).",
    )
    flags.add_accelerator_arguments(parser, "the machine's own, or 1xL4, or 1xT4 without an L4")
    flags.add_remote_arguments(parser, "caliban cloud")
    _add_vertex_arguments(parser)
    flags.add_code_arguments(parser, is_optional=True)


def _add_vertex_arguments(parser: argparse.ArgumentParser) -> None:
    """What only Vertex AI has."""
    parser.add_argument(
        "--spot",
        action="store_true",
        help="Use spare machines, which cost less, and which Google may take away at any time.",
    )
    parser.add_argument(
        "--service_account",
        metavar="ADDRESS",
        help="Service account that the jobs run as, whose credentials they find by themselves "
        "(default: Vertex AI's own).",
    )
    parser.add_argument(
        "--network",
        metavar="NETWORK",
        help="Network that the jobs are peered with: projects/NUMBER/global/networks/NAME.",
    )
    parser.add_argument(
        "--timeout",
        type=flag_types.duration,
        metavar="DURATION",
        help="How long each job may run at the most, as in 90m, 36h or 2d (default: Vertex AI's "
        "own limit, 7 days).",
    )
    parser.add_argument(
        "--output",
        metavar="gs://BUCKET/PATH",
        help="Keep what each job writes into the directory that $CALIBAN_OUTPUT names inside the "
        "container, in Cloud Storage, as gs://BUCKET/PATH/GROUP/JOB.",
    )
    parser.add_argument(
        "--boot_disk_gb",
        type=flag_types.positive_number,
        metavar="GB",
        help="Size of the disk of each machine, 100 to 64000 (default: Vertex AI's own, 100).",
    )
    parser.add_argument(
        "--replicas",
        type=flag_types.positive_number,
        default=1,
        metavar="N",
        help="How many machines each job has, all of them alike (default: 1).",
    )
    parser.add_argument(
        "--per_minute",
        type=flag_types.positive_number,
        metavar="N",
        help="How many jobs are submitted a minute at the most, if your project's quota is another "
        'one than Google\'s usual (default: "per_minute" of "gcloud" in .calibanconfig.json; else '
        "60).",
    )


def run(args: argparse.Namespace) -> int:
    """Builds and pushes the image, and submits the jobs; 0 only if every one was submitted."""
    if args.resume:
        return _resume(args)
    if args.module is None:
        raise UsageError(
            "no module is named",
            "caliban cloud trainer.train, or caliban cloud --resume GROUP, for example.",
        )
    wanted = _understand(args)
    wanted.announce()
    if args.dry_run:
        _print_requests(wanted)
        return 0
    return _launch(wanted)


@dataclass(frozen=True)
class _Wanted:
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


def _understand(args: argparse.Namespace) -> _Wanted:
    """Reads the command line and the files that it names; all that is wrong is told at once."""
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
    mode = machine_choice.mode(args, around.mode)
    choice = image_choice.choose_in(around._replace(mode=mode), args, problems)
    experiments = problems.attempt(lambda: experiment_choice.choose(args), None)
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
    problems.check()
    assert choice and experiments is not None and project and region and machine and publication
    place = f"{machine}{region.remark}, project {project.value}{project.remark}"
    if args.spot or args.replicas > 1:
        kind = "spot machine" if args.spot else "machine"
        place = f"{args.replicas} {kind}{'s' if args.replicas > 1 else ''} each: {place}"
    return _Wanted(args, choice, experiments, options, place, publication, output)


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
    if found and not _BUCKET.fullmatch(found):
        raise UsageError(
            f"--output {text}: jobs on Vertex AI write to Cloud Storage, and this isn't there",
            "It looks like gs://my-bucket/some/path.",
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


def _print_requests(wanted: _Wanted) -> None:
    """Prints what would be sent; touches nothing, and asks neither Google nor an engine."""
    from caliban import launch
    from caliban.commands import image_publication
    from caliban.platform import outputs, vertex, vertex_job

    image = image_publication.planned(wanted.publication, wanted.choice.plan)
    group = wanted.args.xgroup or "NEW-GROUP"
    output = f"{outputs.group_address(wanted.output, group)}/JOB" if wanted.output else ""
    bodies = [
        vertex_job.plan(replace(each, uid="not-recorded-yet", output=output)).payload["body"]
        for each in wanted.requests(image, group)
    ]
    terminal.result_json(bodies)
    terminal.note(
        f"Each would be posted to {vertex.jobs_url(wanted.options.target, os.environ)}\n"
        f"{launch.count_of_jobs(len(bodies))}; nothing was built, sent or recorded."
    )


def _launch(wanted: _Wanted) -> int:
    """Builds and pushes the image, and submits the jobs; returns the exit code."""
    from caliban import launch
    from caliban.commands import image_choice, image_publication, launch_record, sending
    from caliban.docker.engine import Engine
    from caliban.platform import vertex
    from caliban.platform.vertex_job import NAME

    args, engine, plan = wanted.args, Engine(), wanted.choice.plan
    record = launch_record.begin(
        *(args, add_arguments, engine),
        projects=[] if wanted.publication.given else [plan.directory],
        experiments=wanted.experiments.config if args.experiment_config else None,
    )
    with (
        launch.open_history() as store,
        _backends(args, wanted.choice.settings) as backends,
        record,
    ):
        backends.of(NAME)  # credentials that Google doesn't accept are told before the build
        images = image_choice.images(
            args, wanted.choice, engine, lambda: contextlib.nullcontext(store)
        )
        image = image_publication.provide(wanted.publication, images, plan, backends.session)
        user = flags.user_name()
        group = launch.new_group(store, user, args.xgroup)
        wishes = launch.Launch(
            user=user,
            group=group,
            container_spec=image.plan.to_json(),
            requests=list(wanted.requests(image, group)),
            output_url=wanted.output,
            rerun=args.rerun or not args.xgroup,
        )
        code = sending.send(store, backends, NAME, wishes, record, image)
    terminal.note(f"All jobs: {vertex.console_list_url(wanted.options.project)}")
    return code


def _resume(args: argparse.Namespace) -> int:
    """Submits what was not sent of a group, and once more what has not succeeded."""
    from caliban.commands import launch_record, relaunch, sending
    from caliban.docker.engine import Engine
    from caliban.platform.vertex_job import NAME

    relaunch.check_alone(
        args, add_arguments, "caliban cloud", ("cloud_key", "dry_run", "per_minute")
    )
    record = launch_record.begin(args, add_arguments, Engine(), [])
    with _backends(args, config.load(Path.cwd())) as backends:
        return sending.resume(NAME, args.resume, backends, record, args.dry_run)


def _backends(args: argparse.Namespace, settings: config.Config) -> Backends:
    """The platforms, as the user whom the command line, the environment or the project names."""
    from caliban.remote.backends import Backends

    variable = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    key = config.choose(args.cloud_key, variable, settings.gcloud.cloud_key, "")
    per_minute = args.per_minute or settings.gcloud.per_minute
    return Backends(os.environ, key, per_minute)
