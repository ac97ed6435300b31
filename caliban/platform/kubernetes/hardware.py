"""The GPUs, TPUs and machines of a job, in the words of Kubernetes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from caliban.platform.kubernetes.options import Options

GPU = "nvidia.com/gpu"
TPU = "google.com/tpu"

# The label of nodes outside of GKE: https://github.com/NVIDIA/gpu-feature-discovery
PRODUCT = "nvidia.com/gpu.product"

# The labels of GKE's nodes: https://cloud.google.com/kubernetes-engine/docs/how-to/gpus
_ACCELERATOR = "cloud.google.com/gke-accelerator"
_DRIVER = "cloud.google.com/gke-gpu-driver-version"
_TPU_ACCELERATOR = "cloud.google.com/gke-tpu-accelerator"
_TPU_TOPOLOGY = "cloud.google.com/gke-tpu-topology"
_SPOT = "cloud.google.com/gke-spot"


def resources(options: Options) -> dict[str, dict[str, str]]:
    """What the container of a job asks for, and what it may not exceed; quantities are texts."""
    requests = {
        **({"cpu": f"{options.cpu}m"} if options.cpu else {}),
        **({"memory": f"{options.memory}M"} if options.memory else {}),
    }
    limits = {
        **({"memory": f"{options.memory_limit}M"} if options.memory_limit else {}),
        **({GPU: str(options.gpus)} if options.gpus else {}),
        **({TPU: str(options.tpus)} if options.tpus else {}),
    }
    found = {"requests": requests, "limits": limits}
    return {key: each for key, each in found.items() if each}


def placement(options: Options) -> dict[str, Any]:
    """The entries of a pod's spec that say on which nodes it may run."""
    selector: dict[str, str] = {}
    # GKE adds such tolerations itself, other clusters don't.
    tolerations = [
        {"key": key, "operator": "Exists", "effect": "NoSchedule"}
        for key, count in ((GPU, options.gpus), (TPU, options.tpus))
        if count
    ]
    if options.gke and options.gpus:
        if options.gpu_type:
            selector[_ACCELERATOR] = options.gpu_type
        # A node that is made for the job has no driver unless it is asked for.
        selector[_DRIVER] = "default"
    if options.tpus:
        selector[_TPU_ACCELERATOR] = options.tpu_type
        if options.topology:
            selector[_TPU_TOPOLOGY] = options.topology
    if options.spot:
        selector[_SPOT] = "true"
        tolerations.append(
            {"key": _SPOT, "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        )
    found: dict[str, Any] = {}
    if selector:
        found["nodeSelector"] = selector
    if tolerations:
        found["tolerations"] = tolerations
    if options.gpu_products and not options.gke:
        found["affinity"] = _with_product(options.gpu_products)
    return found


def _with_product(products: Iterable[str]) -> dict[str, Any]:
    expression = {"key": PRODUCT, "operator": "In", "values": list(products)}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def matching(kind: str, products: Iterable[str]) -> tuple[str, ...]:
    """Those of some products that are GPUs of a type.

    Args:
      kind: the type, as users write it: "V100", "A100_80GB".
      products: as nodes have them: "Tesla-V100-SXM2-16GB", "NVIDIA-A100-SXM4-80GB".
    """
    wanted = _words(kind)
    return tuple(sorted({each for each in products if wanted <= _words(each)}))


def _words(text: str) -> set[str]:
    return {word for word in re.split(r"[^A-Z0-9]+", text.upper()) if word}
