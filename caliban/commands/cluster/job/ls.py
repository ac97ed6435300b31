"""List the jobs of a namespace of a cluster, whoever has made them.

The cluster is asked, not the history: `caliban status` shows what that knows of your own jobs, also
of those that the cluster has forgotten.

  caliban cluster job ls
  caliban cluster job ls --context minikube --xgroup tuning --json
"""

from __future__ import annotations

import argparse

from caliban.commands.cluster import listing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    listing.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Lists the jobs; returns 0."""
    with listing.opened(args) as namespace:
        found, pods = namespace.jobs(), namespace.pods()
        rows = listing.jobs(found, pods, namespace.events(found, pods))
        listing.show(rows, ("name", "xgroup"), f"jobs {namespace.title}", args.json)
    return 0
