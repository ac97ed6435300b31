"""Delete a GKE cluster, and all that runs on it.

What still runs on it is listed first, and nothing happens before you have said yes. Without
--cluster_name, the only cluster of the project.

  caliban cluster delete
  caliban cluster delete --cluster_name blueshift --yes
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from caliban import flags, terminal
from caliban.commands.cluster import cluster_choice
from caliban.errors import CalibanError
from caliban.platform.gke.clusters import Cluster

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore
    from caliban.model.job import Job

# Namespaces whose jobs are the cluster's own.
_SYSTEM = ("kube-", "gke-", "gmp-")

# How many jobs are named one by one.
_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    cluster_choice.add_arguments(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="Don't ask.")


def run(args: argparse.Namespace) -> int:
    """Lists what runs there, asks, deletes; 0 if the cluster is gone."""
    from caliban.commands.cluster import progress

    with cluster_choice.opened(args, os.environ) as project:
        chosen = cluster_choice.choose(project, args.cluster_name, args.zone or args.region)
        cluster = chosen.cluster
        if chosen.status != "STOPPING":
            for line in _running(cluster, project.key):
                terminal.result(line)
            question = (
                f"Are you sure you want to delete {cluster.name} ({cluster.location}, project "
                f"{cluster.project})?"
            )
            hint = "Pass --yes to delete it without being asked; nothing was deleted."
            if not args.yes and not terminal.confirm(question, hint):
                terminal.note("nothing was deleted")
                return 0
        operation = project.gke.delete(cluster)
        if operation is not None:
            terminal.note(f"This takes several minutes. Its page is {cluster.console}")
            title = f"deleting the cluster {cluster.name} in {cluster.location}"
            progress.see_through(project.gke, cluster, operation, title, "deletion")
    terminal.result(f"deleted cluster {cluster.name} in {cluster.location}")
    _give_up(cluster)
    return 0


def _give_up(cluster: Cluster) -> None:
    """Records of the jobs that were open on a cluster that nobody can be asked about them."""
    from caliban import launch
    from caliban.remote import giving_up

    with launch.open_history() as store:
        jobs = _open_jobs(store, cluster)
        giving_up.give_up(store, jobs, {job.uid: "its cluster was deleted" for job in jobs})
    if jobs:
        terminal.note(
            f"{launch.count_of_jobs(len(jobs))} of yours had not ended: given up, and 'caliban "
            "resubmit' runs such jobs again"
        )


def _open_jobs(store: HistoryStore, cluster: Cluster) -> list[Job]:
    """The open jobs of the history that are on a cluster."""
    from caliban.platform.kubernetes.place import Place

    on_it = Place.on_gke(cluster.project, cluster.location, cluster.name).cluster
    return [
        job
        for job in store.open_jobs(flags.user_name())
        if job.handle is not None and job.handle.target.startswith(f"{on_it}/")
    ]


def _running(cluster: Cluster, key: str) -> Iterator[str]:
    """What has not ended there, as lines: as the cluster says, or else as the history has it."""
    recorded = _recorded(cluster)
    try:
        found = _unfinished(cluster, key)
    except CalibanError as error:
        terminal.warn(f"{cluster.name} can't be asked what runs there: {error.message}")
        lines = list(recorded.values())
    else:
        _bring_up_to_date(cluster, key)
        lines = [
            recorded.get(name, f"Job {name} of the namespace {namespace}")
            for namespace, name in found
        ]
    if not lines:
        return
    yield f"{len(lines)} jobs have not ended:" if len(lines) > 1 else "1 job has not ended:"
    for line in lines[:_SHOWN]:
        yield f"    {line}"
    if rest := lines[_SHOWN:]:
        yield f"    ... and {len(rest)} more"


def _bring_up_to_date(cluster: Cluster, key: str) -> None:
    """Records how jobs on a cluster have ended, and what they have said, while that is there."""
    from caliban import launch
    from caliban.remote import refresh
    from caliban.remote.backends import Backends

    with launch.open_history() as store, Backends(os.environ, key) as backends:
        refresh.refresh(store, _open_jobs(store, cluster), backends)


def _recorded(cluster: Cluster) -> dict[str, str]:
    """The open jobs of the history that are on a cluster: by the name of each there, a line."""
    from caliban import launch
    from caliban.commands import job_lines

    with launch.open_history() as store:
        jobs = _open_jobs(store, cluster)
    return {job.handle.id: job_lines.line(job) for job in jobs if job.handle}


def _unfinished(cluster: Cluster, key: str) -> list[tuple[str, str]]:
    """The namespace and the name of each Job of the cluster that has not ended.

    Raises:
      CalibanError: the cluster can't be asked.
    """
    from caliban.platform.kubernetes.backend import KubernetesBackend
    from caliban.platform.kubernetes.place import Place

    place = Place.on_gke(cluster.project, cluster.location, cluster.name)
    with contextlib.closing(KubernetesBackend(os.environ, key)) as backend:
        jobs = backend.items(place.target, "/apis/batch/v1/jobs")
    return [
        (each["metadata"]["namespace"], each["metadata"]["name"])
        for each in jobs
        if not each["metadata"]["namespace"].startswith(_SYSTEM)
        and not any(
            of["type"] in ("Complete", "Failed") and of["status"] == "True"
            for of in each.get("status", {}).get("conditions", ())
        )
    ]
