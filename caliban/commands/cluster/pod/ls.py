"""List the pods of a namespace of a cluster: where jobs run, and what they wait for.

A job has a pod for each time that it is started.

  caliban cluster pod ls
  caliban cluster pod ls --context minikube --xgroup tuning --json
"""

from __future__ import annotations

import argparse

from caliban.commands.cluster import listing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    listing.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Lists the pods; returns 0."""
    with listing.opened(args) as namespace:
        rows = listing.pods(namespace.pods())
        listing.show(rows, ("name", "node"), f"pods {namespace.title}", args.json)
    return 0
