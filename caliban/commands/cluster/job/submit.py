"""Submit code to a cluster, on GKE or any other that a kubeconfig names.

The image is the one that `caliban run` uses. It is pushed to a registry that the cluster pulls
from, unless it is there, or the cluster runs from this engine. Each job is submitted once, whatever
happens to the network. With --experiment_config, one job is submitted for every combination of the
file's values. `caliban status`, `logs`, `stop` and `resubmit` work for these jobs as for those of
this machine.

What is wrong is said before anything is built. --dry_run prints the jobs, and --export writes them
into files that `kubectl create -f` and `caliban cluster job submit_file` take.

  caliban cluster job submit --context minikube --nogpu trainer.train -- --epochs 2
  caliban cluster job submit --cluster_name my-cluster --gpu_spec 2xV100 trainer.train
  caliban cluster job submit --experiment_config experiment.json trainer.train
  caliban cluster job submit --export my-job.yaml trainer.train
  caliban cluster job submit --resume my-sweep
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from caliban import flags, terminal
from caliban.commands.cluster import job_options, manifest_files, place_choice

if TYPE_CHECKING:
    from caliban.commands.cluster.job_wishes import Wishes

# What may be said besides --resume: where the jobs are is recorded, so that it changes nothing.
_WITH_RESUME = (
    "cloud_key",
    "dry_run",
    "context",
    "kubeconfig",
    "namespace",
    "cluster_name",
    "project_id",
    "zone",
    "region",
)

# What the group of jobs is called that are not recorded.
_NEW_GROUP = "NEW-GROUP"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    place_choice.add_arguments(parser, has_key=False)
    flags.add_image_arguments(parser, is_remote=True)
    flags.add_sweep_arguments(parser)
    flags.add_accelerator_arguments(
        parser, "1xL4, or 1xT4 without an L4, on GKE, and elsewhere 1 GPU of any type,"
    )
    job_options.add_arguments(parser)
    flags.add_remote_arguments(parser, "caliban cluster job submit", "caliban-USER")
    parser.add_argument(
        "--export",
        metavar="FILE",
        help="Write the jobs into files in the place of submitting them: my-job.yaml or "
        "my-job.json; several of them into my-job_0.yaml, my-job_1.yaml, and so on. The image is "
        "built and pushed.",
    )
    flags.add_code_arguments(parser, is_optional=True)


def run(args: argparse.Namespace) -> int:
    """Builds and pushes the image, and submits the jobs; 0 only if every one was submitted."""
    from caliban.commands import job_labels
    from caliban.commands.cluster import job_wishes
    from caliban.commands.cluster.job_submission import JobSubmission

    if args.resume:
        return _resume(args)
    flags.check_module(args.module, "caliban cluster job submit")
    wishes = job_wishes.understand(args).located()
    job_labels.tell(wishes.label_notes())
    if args.dry_run:
        return _print_jobs(wishes)
    with place_choice.backends(args, wishes.choice.settings) as backends:
        return JobSubmission(wishes, backends).run()


def _resume(args: argparse.Namespace) -> int:
    """Submits what was not sent of a group, and once more what has not succeeded."""
    from caliban import config
    from caliban.commands import launch_record, relaunch, sending
    from caliban.docker.engine import Engine
    from caliban.platform.kubernetes.place import NAME

    relaunch.check_alone(args, add_arguments, "caliban cluster job submit", _WITH_RESUME)
    record = launch_record.begin(args, add_arguments, Engine(), [])
    with place_choice.backends(args, config.load(config.project())) as backends:
        return sending.resume(NAME, args.resume, backends, record, args.dry_run)


def _print_jobs(wishes: Wishes) -> int:
    """Prints what would be submitted; neither the engine nor the cluster is asked."""
    from caliban import launch
    from caliban.commands import image_publication
    from caliban.platform import outputs
    from caliban.platform.kubernetes import manifest

    image = image_publication.planned(wishes.publication, wishes.choice.plan)
    options = wishes.options(wishes.resources(wishes.is_gke), wishes.is_gke)
    group = wishes.args.xgroup or _NEW_GROUP
    output = f"{outputs.group_address(wishes.output, group)}/JOB" if wishes.output else ""
    bodies = [
        manifest.plan(replace(request, output=output)).payload["body"]
        for request in wishes.requests(options, image, group)
    ]
    terminal.result(manifest_files.as_yaml(bodies).rstrip())
    jobs = launch.count_of_jobs(len(bodies))
    terminal.note(f"{jobs}; nothing was built, pushed, recorded or submitted.")
    return 0
