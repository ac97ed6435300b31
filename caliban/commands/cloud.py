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
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from caliban import config, flag_types, flags, terminal

if TYPE_CHECKING:
    from caliban.commands.cloud_wishes import Wishes


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
        help="Type of the machine of each job, as in n1-standard-16: one of a2, a3, a4, c2, e2, "
        "g2, g4, m1, n1 or n2; all of them are listed if there is none of that name (default: the "
        "usual one for its GPUs or TPUs; n1-highcpu-32 in CPU mode).",
    )
    flags.add_accelerator_arguments(parser, "the machine's own, or 1xL4, or 1xT4 without an L4")
    flags.add_remote_arguments(parser, "caliban cloud", "caliban_USER")
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
        type=flag_types.line,
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
    flags.check_module(args.module, "caliban cloud")
    from caliban.commands import cloud_wishes

    wanted = cloud_wishes.understand(args)
    wanted.announce()
    if args.dry_run:
        _print_requests(wanted)
        return 0
    return _launch(wanted)


def _print_requests(wanted: Wishes) -> None:
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


def _launch(wanted: Wishes) -> int:
    """Builds and pushes the image, and submits the jobs; returns the exit code."""
    from caliban import launch
    from caliban.commands import (
        cloud_wishes,
        image_choice,
        image_publication,
        launch_record,
        sending,
    )
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
        cloud_wishes.backends(args, wanted.choice.settings) as backends,
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
    from caliban.commands import cloud_wishes, launch_record, relaunch, sending
    from caliban.docker.engine import Engine
    from caliban.platform.vertex_job import NAME

    relaunch.check_alone(
        args, add_arguments, "caliban cloud", ("cloud_key", "dry_run", "per_minute")
    )
    record = launch_record.begin(args, add_arguments, Engine(), [])
    with cloud_wishes.backends(args, config.load(config.project())) as backends:
        return sending.resume(NAME, args.resume, backends, record, args.dry_run)
