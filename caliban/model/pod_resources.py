"""What a job on Kubernetes asks for: GPUs, TPUs, CPU and memory; on GKE, and anywhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass

from caliban.errors import UsageError
from caliban.model import hardware
from caliban.model.resources import FORCE, GPUSpec, TPUSpec, check_availability

# What a job on GKE needs if nobody says so, in thousandths of a CPU and in MB: most of a machine
# with 32 CPUs, or a little beside GPUs or TPUs. GKE chooses, or makes, the machine by that.
GKE_CPU, GKE_MEMORY = 31_000, 25_000
GKE_CPU_BESIDE, GKE_MEMORY_BESIDE = 1_500, 7_000


@dataclass(frozen=True)
class PodResources:
    """What each job asks for.

    Attributes:
      gpus: how many GPUs.
      gpu: of which type; None for any.
      tpu: its TPUs; None without.
      cpu: thousandths of a CPU; 0 if that isn't said.
      memory: MB; 0 if that isn't said.
    """

    gpus: int = 0
    gpu: GPUSpec | None = None
    tpu: TPUSpec | None = None
    cpu: int = 0
    memory: int = 0

    @property
    def gpu_type(self) -> str:
        """The type of the GPUs as GKE has it: "nvidia-l4"; "" for any."""
        if self.gpu is None:
            return ""
        return self.gpu.known.compute if self.gpu.known else _as_label(self.gpu.type)

    @property
    def tpu_type(self) -> str:
        """The type of the TPUs as GKE has it: "tpu-v5-lite-podslice"; "" without."""
        if self.tpu is None:
            return ""
        return self.tpu.known.gke if self.tpu.known else _as_label(self.tpu.type)

    @property
    def topology(self) -> str:
        """How the chips of the TPUs are connected: "2x4"; "" where nobody knows."""
        known = self.tpu.known if self.tpu else None
        each = known.slices.get(self.tpu.count) if known and self.tpu else None
        return each.topology if each else ""

    def __str__(self) -> str:
        """For people: "1xL4", "2 GPUs", "no GPU"."""
        if found := self.gpu or self.tpu:
            return str(found)
        return {0: "no GPU", 1: "1 GPU"}.get(self.gpus, f"{self.gpus} GPUs")


def _as_label(name: str) -> str:
    return name.lower().replace("_", "-")


def region_of(location: str) -> str:
    """The region of a cluster's location, which is that, or a zone of it: "us-central1-a"."""
    return re.sub(r"-[a-z]$", "", location)


def on_gke(
    gpu: GPUSpec | None,
    tpu: TPUSpec | None,
    region: str,
    wants_gpu: bool,
    cpu: int | None = None,
    memory: int | None = None,
    force: bool = False,
) -> PodResources:
    """Completes what a user has said of a job on GKE by what is usual there.

    Args:
      gpu: the GPUs that it is to have.
      tpu: the TPUs that it is to have.
      region: of the cluster; "" if that is not known.
      wants_gpu: whether it gets a GPU if neither `gpu` nor `tpu` says anything.
      cpu: thousandths of a CPU that it needs.
      memory: MB that it needs.
      force: whether to take all of it as it is.

    Raises:
      UsageError: it doesn't go together, or the region has no such thing.
    """
    _check_together(gpu, tpu)
    known = hardware.load()
    if tpu and tpu.known and not force:
        of_gke = [each for each in known.tpus.values() if each.gke]
        if tpu.known not in of_gke:
            raise UsageError(
                f"GKE has no TPUs of type {tpu.type} any more",
                f"Try one of: {', '.join(each.name for each in of_gke)}.\n{FORCE}",
            )
        if region:
            check_availability(tpu.known, "TPU", region, of_gke)
    if not gpu and not tpu and wants_gpu:
        usual = [known.gpus[name] for name in known.default_gpus]
        there = [each for each in usual if not region or region in each.regions]
        if not there and not force:
            names = " or ".join(each.name for each in usual)
            raise UsageError(
                f"{region} has no {names} GPUs, which jobs get by default",
                "Name others with --gpu_spec, or pass --nogpu.",
            )
        gpu = GPUSpec(1, (there or usual)[0].name)
    if gpu and gpu.known and region and not force:
        check_availability(gpu.known, "GPU", region, known.gpus.values())
    accelerated = gpu is not None or tpu is not None
    return PodResources(
        gpus=gpu.count if gpu else 0,
        gpu=gpu,
        tpu=tpu,
        cpu=cpu or (GKE_CPU_BESIDE if accelerated else GKE_CPU),
        memory=memory or (GKE_MEMORY_BESIDE if accelerated else GKE_MEMORY),
    )


def elsewhere(
    gpu: GPUSpec | None,
    tpu: TPUSpec | None,
    wants_gpu: bool,
    cpu: int | None = None,
    memory: int | None = None,
) -> PodResources:
    """Completes what a user has said of a job on another cluster: nothing is usual everywhere.

    Args:
      gpu: see `on_gke`; of any type, and in any number.
      tpu: see `on_gke`.
      wants_gpu: see `on_gke`.
      cpu: see `on_gke`.
      memory: see `on_gke`.

    Raises:
      UsageError: it asks for TPUs.
    """
    _check_together(gpu, tpu)
    if tpu:
        raise UsageError(
            f"only clusters of GKE have TPUs such as {tpu}",
            "Leave out --tpu_spec, or name a cluster of GKE with --cluster_name.",
        )
    gpus = gpu.count if gpu else int(wants_gpu)
    return PodResources(gpus, gpu, None, cpu or 0, memory or 0)


def _check_together(gpu: GPUSpec | None, tpu: TPUSpec | None) -> None:
    if gpu and tpu:
        raise UsageError(
            f"{gpu} and {tpu} can't be in one job",
            "A node has GPUs or TPUs. Leave out --gpu_spec or --tpu_spec.",
        )
