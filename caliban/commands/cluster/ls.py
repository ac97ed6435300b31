"""List the GKE clusters of a project: where each is, its version, how many nodes it has.

caliban cluster ls
caliban cluster ls --project_id my-project --zone us-central1-a --json
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from caliban import terminal
from caliban.commands.cluster import cluster_choice

if TYPE_CHECKING:
    from caliban.platform.gke.clusters import Summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    cluster_choice.add_project_arguments(parser)
    parser.add_argument("--json", action="store_true", help="Print the clusters as JSON.")


def run(args: argparse.Namespace) -> int:
    """Asks Google, and prints what there is."""
    with cluster_choice.opened(args, os.environ) as project:
        found = project.clusters(args.zone or args.region)
    if args.json:
        terminal.result_json([_as_json(each) for each in found])
        return 0
    if not found:
        terminal.note(
            f"no clusters found; caliban cluster create --project_id {project.id} makes one"
        )
        return 0
    for line in _lines(found):
        terminal.result(line)
    for each in found:
        if each.problem:
            terminal.warn(f"{each.cluster.name}: {each.problem}")
    return 0


def _lines(found: Iterable[Summary]) -> list[str]:
    rows = [("NAME", "LOCATION", "VERSION", "NODES", "STATUS", "KIND")]
    for each in found:
        kind = "Autopilot" if each.is_autopilot else "Standard"
        named = (each.cluster.name, each.cluster.location)
        rows.append((*named, each.version or "-", str(each.nodes), each.status, kind))
    return terminal.columns(rows)


def _as_json(found: Summary) -> dict[str, Any]:
    return {
        "name": found.cluster.name,
        "project": found.cluster.project,
        "location": found.cluster.location,
        "status": found.status,
        "version": found.version,
        "nodes": found.nodes,
        "autopilot": found.is_autopilot,
        "problem": found.problem,
        "console": found.cluster.console,
    }
