"""List the node pools of a GKE cluster: their machines, accelerators, versions, and how they scale.

caliban cluster node_pool ls
caliban cluster node_pool ls --cluster_name blueshift --json
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from caliban import terminal
from caliban.commands.cluster import cluster_choice

if TYPE_CHECKING:
    from caliban.platform.gke.clusters import Cluster, NodePool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    cluster_choice.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="Print the node pools as JSON.")


def run(args: argparse.Namespace) -> int:
    """Asks Google, and prints what there is."""
    with cluster_choice.opened(args, os.environ) as project:
        chosen = cluster_choice.choose(project, args.cluster_name, args.zone or args.region)
        found = project.gke.node_pools(chosen.cluster)
    if args.json:
        terminal.result_json([_as_json(chosen.cluster, each) for each in found])
        return 0
    if not args.cluster_name:
        terminal.note(f"Cluster: {chosen.cluster}")
    if not found:
        terminal.note("no node pools found")
    for line in _lines(found):
        terminal.result(line)
    return 0


def _lines(found: Iterable[NodePool]) -> list[str]:
    rows = [("NAME", "MACHINES", "ACCELERATORS", "NODES", "VERSION", "STATUS")]
    for each in found:
        machine = f"{each.machine or '-'}{' (spot)' if each.is_spot else ''}"
        accelerators = ", ".join(each.accelerators) or "-"
        rows.append(
            (each.name, machine, accelerators, _scaling(each), each.version or "-", each.status)
        )
    return terminal.columns(rows) if len(rows) > 1 else []


def _scaling(pool: NodePool) -> str:
    """How many nodes there can be: "0-8 a zone, by need"."""
    if pool.least is None or pool.most is None:
        return "fixed"
    where = " a zone" if pool.is_each_zone else ""
    return f"{pool.least}-{pool.most}{where}{', made by need' if pool.is_automatic else ''}"


def _as_json(cluster: Cluster, pool: NodePool) -> dict[str, Any]:
    scaling = {"min": pool.least, "max": pool.most, "per_zone": pool.is_each_zone}
    return {
        "cluster": cluster.name,
        "name": pool.name,
        "machine_type": pool.machine,
        "accelerators": [*pool.accelerators],
        "spot": pool.is_spot,
        "autoscaling": scaling if pool.most is not None else None,
        "autoprovisioned": pool.is_automatic,
        "zones": [*pool.zones],
        "version": pool.version,
        "status": pool.status,
    }
