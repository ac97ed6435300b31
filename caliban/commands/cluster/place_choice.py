"""From the command line to the cluster that is meant, and the namespace of it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from caliban import terminal
from caliban.commands import google_project
from caliban.commands.cluster import cluster_choice
from caliban.errors import UsageError
from caliban.model import pod_resources
from caliban.platform.kubernetes import kubeconfig
from caliban.platform.kubernetes.place import Place

if TYPE_CHECKING:
    from caliban.config import Config
    from caliban.remote.backends import Backends

_NAMESPACE = "default"


def add_arguments(parser: argparse.ArgumentParser, has_key: bool = True) -> None:
    """Where jobs are: `Namespace.context, kubeconfig, namespace`, and those of cluster_choice.

    Args:
      parser: of the command.
      has_key: whether --cloud_key is added, too.
    """
    parser.add_argument(
        "--context",
        metavar="NAME",
        help="Any cluster: a context of your kubeconfig, as 'kubectl config get-contexts' lists "
        "them.",
    )
    parser.add_argument(
        "--kubeconfig",
        metavar="FILE",
        help="File that has the context (default: $KUBECONFIG, or ~/.kube/config).",
    )
    parser.add_argument(
        "--namespace",
        metavar="NAME",
        help="Namespace of the cluster (default: that of the context; on GKE 'default').",
    )
    cluster_choice.add_arguments(parser, has_key=has_key)


def is_on_gke(args: argparse.Namespace, settings: Config, environment: Mapping[str, str]) -> bool:
    """Whether Google is asked for the cluster, and no kubeconfig.

    That goes by what is named: on the command line, else in the project's settings and the
    environment. Where nothing is, the current context of the kubeconfig is meant, if there is one.

    Args:
      args: the command line.
      settings: of the project's directory.
      environment: variables.

    Raises:
      UsageError: two clusters are named, or none.
    """
    of_gke = {
        "--cluster_name": args.cluster_name,
        "--zone": args.zone,
        "--region": args.region,
    }
    if args.context or args.kubeconfig:
        flag = "--context" if args.context else "--kubeconfig"
        for other, value in of_gke.items():
            if value:
                raise UsageError(
                    f"{flag} and {other} both say which cluster is meant",
                    f"{flag} is for any cluster of a kubeconfig, {other} for one of GKE.",
                )
        return False
    known = (args.project_id, environment.get("PROJECT_ID"), settings.gcloud.project_id)
    if any(of_gke.values()) or any(known):
        return True
    if kubeconfig.is_there("", environment):
        return False
    try:
        google_project.project(None, environment, settings, args.cloud_key)
    except UsageError:
        raise UsageError(
            "no cluster is named, and there is no kubeconfig",
            "Pass --context NAME, with --kubeconfig FILE if need be; or for a cluster of GKE "
            "--project_id PROJECT, and --cluster_name NAME if it has several.",
        ) from None
    return True


def of_kubeconfig(args: argparse.Namespace, environment: Mapping[str, str]) -> Place:
    """The context that is meant: the current one if none is named.

    Raises:
      UsageError: there is no such context.
    """
    return kubeconfig.place(
        args.context or "", args.kubeconfig or "", args.namespace or "", environment
    )


def choose(
    args: argparse.Namespace,
    settings: Config,
    environment: Mapping[str, str],
    known: Place | None = None,
) -> Place:
    """The place that is meant; says which, if the command line doesn't name the cluster.

    Args:
      args: the command line.
      settings: of the project's directory.
      environment: variables.
      known: the place, if `of_kubeconfig` has been called already.

    Raises:
      UsageError: there is no such cluster, or none is named and there are several.
      CalibanError: Google could not be asked.
    """
    place = known
    if place is None and not is_on_gke(args, settings, environment):
        place = of_kubeconfig(args, environment)
    if place is None:
        found = cluster_choice.resolve(args, environment)
        namespace = args.namespace or _NAMESPACE
        place = Place.on_gke(found.project, found.location, found.name, namespace)
    if not args.context and not args.cluster_name:
        terminal.note(f"Cluster: {place}")
    return place


def is_known_as_gke(place: Place) -> bool:
    """Whether a cluster is one of GKE by its name: gcloud calls contexts gke_PROJECT_ZONE_NAME."""
    return project_and_location(place) is not None


def region(place: Place) -> str:
    """The region of a cluster of GKE; "" for any other."""
    found = project_and_location(place)
    return pod_resources.region_of(found[1]) if found else ""


def project_and_location(place: Place) -> tuple[str, str] | None:
    """Project and location of a cluster that is one of GKE by its name; None for any other."""
    return place.on_google[:2] if place.on_google else None


def backends(args: argparse.Namespace, settings: Config) -> Backends:
    """The platforms, as the user whom the command line, the environment or the project names.

    Args:
      args: the command line.
      settings: of the project's directory.
    """
    from caliban.remote.backends import Backends

    return Backends(os.environ, settings.cloud_key(args.cloud_key, os.environ))
