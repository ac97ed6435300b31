"""Make a GKE cluster, and wait until it is ready.

A Standard cluster has one small node, and makes more for jobs, with the GPUs that they ask for, as
far as the quotas of your project go; it deletes them when they are idle. An Autopilot cluster is
paid by what jobs ask for. Both let jobs have the rights of a service account (Workload Identity),
and install the drivers of GPUs themselves.

  caliban cluster create --zone us-central1-a
  caliban cluster create --cluster_name newcluster --zone us-central1-a --dry_run
  caliban cluster create --autopilot --region us-central1
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from caliban import config, terminal
from caliban.commands.cluster import cluster_choice
from caliban.commands.cluster.cluster_choice import Project
from caliban.errors import CalibanError, RefusedError, UnknownOutcomeError, UsageError
from caliban.platform.gke import creation
from caliban.platform.gke.clusters import Cluster

_DEFAULT_NAME = "blueshift"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    cluster_choice.add_credential_arguments(parser)
    parser.add_argument(
        "--cluster_name",
        type=cluster_choice.cluster_name,
        default=_DEFAULT_NAME,
        metavar="NAME",
        help="Name that the cluster shall have (default: %(default)s).",
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--zone",
        type=cluster_choice.zone,
        metavar="ZONE",
        help="Zone of the control plane; nodes for jobs may be made in any zone of its region, "
        "unless --single_zone is given (default: the first zone of your region: of $REGION, else "
        "that of .calibanconfig.json or of gcloud's configuration, else us-central1).",
    )
    place.add_argument(
        "--region",
        type=cluster_choice.region,
        metavar="REGION",
        help="In the place of --zone: a control plane in three zones of this region, and a node in "
        "each.",
    )
    parser.add_argument(
        "--single_zone",
        action="store_true",
        help="Make nodes in the zone of the control plane only.",
    )
    parser.add_argument(
        "--release_channel",
        choices=creation.CHANNELS,
        type=str.upper,
        default="REGULAR",
        metavar="CHANNEL",
        help=f"Channel of GKE's releases: {', '.join(creation.CHANNELS)} (default: %(default)s). "
        "See https://cloud.google.com/kubernetes-engine/docs/concepts/release-channels.",
    )
    parser.add_argument(
        "--autopilot",
        action="store_true",
        help="Make an Autopilot cluster, for a whole region.",
    )
    parser.add_argument(
        "--max_accelerator",
        action="append",
        default=[],
        metavar="NUMxTYPE",
        help="How many GPUs or TPU chips of a type the cluster may have, as in 16xH100, in the "
        "place of the quota that Google tells; it tells none for H100 and newer. May be given "
        "several times.",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="Only print the request that would be sent."
    )
    parser.add_argument("-y", "--yes", action="store_true", help="Don't ask.")


def run(args: argparse.Namespace) -> int:
    """Makes the cluster, unless there are others and the user doesn't want one more."""
    _check(args)
    if args.release_channel == creation.UNSPECIFIED:
        terminal.note("Clusters without a release channel are no more: GKE takes REGULAR.")
    own = dict(map(creation.limit, args.max_accelerator))
    with cluster_choice.opened(args, os.environ) as project:
        there = [] if args.dry_run else project.clusters(None)
        cluster, body = _request(args, project, own)
        if args.dry_run:
            terminal.result_json(body)
            return 0
        if any(each.cluster == cluster for each in there):
            raise _exists(cluster)
        if there:
            question = (
                f"The project {project.id} has {len(there)} cluster{'s'[: len(there) > 1]}: "
                f"{cluster_choice.named(there)}. Make another one?"
            )
            hint = "Pass --yes to make it without being asked; nothing was made."
            if not args.yes and not terminal.confirm(question, hint):
                terminal.note("nothing was made")
                return 0
        _make(project, cluster, body)
    terminal.result(f"created cluster {cluster.name} in {cluster.location}")
    terminal.note(
        f"It costs money until it is deleted: caliban cluster delete --cluster_name {cluster.name}"
    )
    return 0


def _check(args: argparse.Namespace) -> None:
    """Finds flags that exclude one another.

    Raises:
      UsageError: there are some.
    """
    if args.single_zone and args.region:
        raise UsageError(
            "--single_zone and --region exclude one another", "Name the zone: --zone ZONE"
        )
    if not args.autopilot:
        return
    for flag, is_given in (
        ("--zone", args.zone),
        ("--single_zone", args.single_zone),
        ("--max_accelerator", args.max_accelerator),
    ):
        if is_given:
            raise UsageError(
                f"{flag} is not for Autopilot clusters",
                "They are made for a region, and have no limits.",
            )


def _request(
    args: argparse.Namespace, project: Project, own: Mapping[str, int]
) -> tuple[Cluster, dict[str, Any]]:
    """The cluster that is wanted, and what is sent to make it."""
    from caliban.platform.gke import regions

    location = args.zone or args.region
    name = cluster_choice.region_of(location) if location else _usual_region()
    if args.autopilot:
        cluster = Cluster(project.id, name, args.cluster_name)
        return cluster, creation.autopilot(cluster, args.release_channel)
    region = regions.ask(project.session, project.id, name, os.environ)
    zones: Sequence[str] = region.zones
    if not location:
        location = zones[0]
        terminal.note(f"Zone: {location} (the first of {name})")
    elif args.zone and args.zone not in zones:
        raise UsageError(f"there is no zone '{args.zone}'", f"{name} has {', '.join(zones)}.")
    if args.single_zone:
        zones = [location]
    cluster = Cluster(project.id, location, args.cluster_name)
    limits = {**creation.limits(region.quotas), **own}
    wishes = creation.Wishes(cluster, args.release_channel, zones, limits)
    _tell(limits, name, own)
    return cluster, creation.standard(wishes)


def _usual_region() -> str:
    """The region, where none is named; says which, and who has named it."""
    from caliban.commands import google_project
    from caliban.model import hardware

    settings = config.load(config.project())
    usual = hardware.load().default_region
    found = google_project.region(None, os.environ, settings, usual)
    terminal.note(f"Region: {found.value}{found.remark}")
    return found.value


def _tell(limits: Mapping[str, int], region: str, own: Mapping[str, int]) -> None:
    """Says how large the cluster may grow, and why."""
    accelerators = [f"{most} x {name}" for name, most in limits.items() if name not in _PLAIN]
    terminal.note(
        f"It may grow to {limits['cpu']} vCPUs, {', '.join(accelerators) or 'no accelerators'}, as "
        f"your quotas in {region}{' and --max_accelerator' if own else ''} allow."
    )


_PLAIN = ("cpu", "memory")


def _make(project: Project, cluster: Cluster, body: Mapping[str, Any]) -> None:
    """Sends the request, and waits until the cluster is ready.

    Raises:
      CalibanError: it can't be made, or can't any more.
    """
    from caliban.commands.cluster import progress

    look = f"caliban cluster ls --project_id {project.id} tells."
    try:
        operation = project.gke.create(cluster, body)
    except RefusedError as error:
        if error.status == 409:
            raise _exists(cluster) from None
        raise
    except UnknownOutcomeError as error:
        hint = f"It isn't known whether the cluster is being made: {look}"
        raise UnknownOutcomeError(error.message, hint, error.status, error.reason) from None
    except KeyboardInterrupt:
        terminal.note(f"The cluster may be being made: {look}")
        raise
    terminal.note(f"This takes several minutes. Its page is {cluster.console}")
    title = f"creating the cluster {cluster.name} in {cluster.location}"
    progress.see_through(project.gke, cluster, operation, title, "creation")


def _exists(cluster: Cluster) -> CalibanError:
    return CalibanError(
        f"there is a cluster {cluster.name} in {cluster.location} already",
        f"Its page is {cluster.console}. Another name is given by --cluster_name.",
    )
