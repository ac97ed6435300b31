"""Which GPUs a cluster can have for jobs, by the nodes that it shows."""

from __future__ import annotations

from typing import Any

import pytest

from caliban.commands.cluster.job_options import check_gpus
from caliban.docker.cluster_images import Cluster
from caliban.errors import UsageError


def node(**allocatable: str) -> dict[str, Any]:
    return {"status": {"allocatable": {"cpu": "8", **allocatable}}}


def gpus(number: int) -> dict[str, Any]:
    return node(**{"nvidia.com/gpu": str(number)})


@pytest.mark.parametrize("nodes", [[gpus(1), gpus(4)], []])
def test_a_node_that_has_them_will_do_and_so_may_nodes_that_are_not_shown(
    nodes: list[dict[str, Any]],
) -> None:
    check_gpus(4, Cluster("team", nodes))


def test_a_cluster_without_gpus_is_told_with_the_way_to_do_without() -> None:
    with pytest.raises(UsageError, match=r"no node of team has a GPU \(nvidia.com/gpu\)") as caught:
        check_gpus(1, Cluster("team", [node(), gpus(0), {}]))
    assert "--nogpu" in caught.value.hint and "--force" in caught.value.hint


def test_nodes_with_fewer_are_told_with_how_many_they_have() -> None:
    with pytest.raises(UsageError, match="no node of team has 8 GPUs: the most are 2") as caught:
        check_gpus(8, Cluster("team", [gpus(1), gpus(2)]))
    assert "--gpu_spec" in caught.value.hint
