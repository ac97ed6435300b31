"""From the command line to the GKE cluster that is meant: the only one, if none is named."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caliban import config, flags, terminal
from caliban.errors import UsageError
from caliban.platform.gke.clusters import EVERYWHERE, GKE, Cluster, Summary

if TYPE_CHECKING:
    from caliban.config import Config
    from caliban.platform.rest import Session

_NAME = re.compile("[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_REGION = re.compile(r"[a-z]+-[a-z]+\d+")
_ZONE = re.compile(r"(?P<region>[a-z]+-[a-z]+\d+)-[a-z0-9]+")


def add_arguments(parser: argparse.ArgumentParser, has_key: bool = True) -> None:
    """Which cluster: `Namespace.project_id, cloud_key, cluster_name, zone, region`.

    Args:
      parser: of the command.
      has_key: whether --cloud_key is added; otherwise the command has it from elsewhere.
    """
    add_project_arguments(parser, has_key)
    parser.add_argument(
        "--cluster_name",
        type=cluster_name,
        metavar="NAME",
        help="Name of the cluster (default: the only one that there is).",
    )


def add_project_arguments(parser: argparse.ArgumentParser, has_key: bool = True) -> None:
    """Where clusters are: `Namespace.project_id, cloud_key, zone, region`; see add_arguments."""
    add_credential_arguments(parser, has_key)
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--zone", type=zone, metavar="ZONE", help="Only a cluster whose control plane is there."
    )
    place.add_argument(
        "--region", type=region, metavar="REGION", help="Only a regional cluster of this region."
    )


def add_credential_arguments(parser: argparse.ArgumentParser, has_key: bool = True) -> None:
    """Whose clusters, and who asks: `Namespace.project_id, cloud_key`; see add_arguments."""
    flags.add_project_argument(parser)
    if has_key:
        flags.add_key_argument(parser)


def cluster_name(text: str) -> str:
    """An argparse type: a name as GKE takes it."""
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            "a cluster's name has up to 40 lowercase letters, digits and '-', and begins with a "
            f"letter; found '{text}'"
        )
    return text


def zone(text: str) -> str:
    """An argparse type: a zone."""
    if _REGION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"'{text}' is a region: pass --region {text}")
    if not _ZONE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected a zone like us-central1-a, found '{text}'")
    return text


def region(text: str) -> str:
    """An argparse type: a region."""
    if _ZONE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"'{text}' is a zone: pass --zone {text}")
    if not _REGION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected a region like us-central1, found '{text}'")
    return text


def region_of(location: str) -> str:
    """The region that a zone is in; a region itself."""
    match = _ZONE.fullmatch(location)
    return match["region"] if match else location


@dataclass(frozen=True)
class Project:
    """A project of Google Cloud, and the way to ask for its clusters.

    Attributes:
      id: its id.
      session: to ask Google with.
      gke: its clusters.
      key: the key that Google is asked with; "" for other credentials.
    """

    id: str
    session: Session
    gke: GKE
    key: str

    def clusters(self, location: str | None) -> list[Summary]:
        """The clusters in a location, or everywhere; says so where some are not known just now."""
        found, missing = self.gke.clusters(self.id, location or EVERYWHERE)
        if missing:
            terminal.warn(f"clusters may be missing: no answer from {', '.join(missing)}")
        return found


@contextlib.contextmanager
def opened(args: argparse.Namespace, environment: Mapping[str, str]) -> Iterator[Project]:
    """The project that is meant; says which, if the command line doesn't.

    Args:
      args: the command line.
      environment: variables.

    Raises:
      UsageError: nobody names a project.
      CalibanError: there are no credentials, or Google doesn't accept them.
    """
    from caliban.platform import google
    from caliban.platform.rest import Session

    settings = config.load(config.project())
    project = _project(args, environment, settings)
    key = settings.cloud_key(args.cloud_key, environment)
    access = google.access(key, environment)
    session = Session(access.credentials, login=access.remedy)
    try:
        yield Project(project, session, GKE(session, environment), key)
    finally:
        session.close()


def _project(args: argparse.Namespace, environment: Mapping[str, str], settings: Config) -> str:
    from caliban.commands import google_project

    found = google_project.project(args.project_id, environment, settings, args.cloud_key)
    if found.source:
        terminal.note(f"Project: {found.value}{found.remark}")
    return found.value


def resolve(args: argparse.Namespace, environment: Mapping[str, str]) -> Cluster:
    """The cluster that is meant; Google is asked only if not all of it is named.

    Args:
      args: the command line.
      environment: variables.

    Raises:
      UsageError: there is no such cluster, or none is named and there are several.
      CalibanError: Google can't be asked.
    """
    location = args.zone or args.region
    if args.cluster_name and location:
        settings = config.load(config.project())
        return Cluster(_project(args, environment, settings), location, args.cluster_name)
    with opened(args, environment) as project:
        return choose(project, args.cluster_name, location).cluster


def choose(project: Project, name: str | None, location: str | None) -> Summary:
    """The cluster that is meant.

    Args:
      project: to look in.
      name: of the cluster; None for the only one.
      location: of it; None for any.

    Raises:
      UsageError: there is no such cluster, or there are several.
    """
    there = project.clusters(location)
    found = [each for each in there if name in (None, each.cluster.name)]
    if len(found) == 1:
        return found[0]
    where = f"the project {project.id}{f' in {location}' if location else ''}"
    if not there:
        raise UsageError(
            f"there are no clusters of {where}",
            f"Make one: caliban cluster create --project_id {project.id} --zone ZONE",
        )
    if not found:
        raise UsageError(
            f"there is no cluster '{name}' of {where}", f"These are there: {named(there)}"
        )
    if name is None:
        raise UsageError(
            f"there are {len(found)} clusters of {where}: {named(found)}",
            "Say which: --cluster_name NAME",
        )
    raise UsageError(
        f"there are {len(found)} clusters '{name}' of {where}: {named(found)}",
        "Say which: --zone ZONE or --region REGION",
    )


def named(found: Sequence[Summary]) -> str:
    """Clusters for people: "blueshift (us-central1-a), ..."."""
    return ", ".join(f"{each.cluster.name} ({each.cluster.location})" for each in found)
