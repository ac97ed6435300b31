"""Google Cloud's machines, GPUs and TPUs: what resources/google/hardware.toml says of them."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

TABLE = Path(__file__).parents[1] / "resources" / "google" / "hardware.toml"


@dataclass(frozen=True)
class GPU:
    """A type of GPU.

    Attributes:
      name: as users write it: "V100".
      vertex: as Vertex AI's AcceleratorType has it: "NVIDIA_TESLA_V100".
      regions: where it can be had; empty if that is not known.
      attach: the numbers of them that can be attached to an N1 machine, each with the most vCPUs
        that the machine may then have.
      machines: the numbers of them that machines have built in, each with those machines, the usual
        one first.
    """

    name: str
    vertex: str
    regions: tuple[str, ...]
    attach: Mapping[int, int]
    machines: Mapping[int, tuple[str, ...]]

    @property
    def compute(self) -> str:
        """As Compute Engine and GKE have it: "nvidia-tesla-v100"."""
        return self.vertex.lower().replace("_", "-")

    @property
    def counts(self) -> list[int]:
        """How many of them a machine can have."""
        return sorted({*self.attach, *self.machines})


@dataclass(frozen=True)
class Slice:
    """The machine of some TPUs: its type, and how its chips are connected, as in "2x4"."""

    machine: str
    topology: str


@dataclass(frozen=True)
class TPU:
    """A type of TPU.

    Attributes:
      name: as users write it: "V5E".
      vertex: as Vertex AI's AcceleratorType has it; "" if the machine says it all, None if
        Vertex AI doesn't train on it.
      gke: as GKE's node label has it; "" if GKE has none.
      regions: where it can be had.
      slices: the numbers of them that one machine has, each with that machine.
    """

    name: str
    vertex: str | None
    gke: str
    regions: tuple[str, ...]
    slices: Mapping[int, Slice]

    @property
    def counts(self) -> list[int]:
        """How many of them a machine can have."""
        return sorted(self.slices)


K = TypeVar("K", GPU, TPU)


@dataclass(frozen=True)
class Hardware:
    """All that there is.

    Attributes:
      regions: where Vertex AI trains.
      plain_machines: types of machines without GPUs of their own.
      gpus: by name.
      tpus: by name.
      default_region: where jobs run if nobody says so.
      default_gpus: what a job gets if nobody says so: the first that its region has.
      attach_to: the N1 machine that GPUs are attached to if nobody says so.
      cpu_machine: what a job without GPUs runs on if nobody says so.
    """

    regions: tuple[str, ...]
    plain_machines: tuple[str, ...]
    gpus: Mapping[str, GPU]
    tpus: Mapping[str, TPU]
    default_region: str
    default_gpus: tuple[str, ...]
    attach_to: str
    cpu_machine: str

    @functools.cached_property
    def built_in(self) -> dict[str, tuple[GPU, int]]:
        """The machines with GPUs of their own: which, and how many."""
        return {
            machine: (gpu, count)
            for gpu in self.gpus.values()
            for count, machines in gpu.machines.items()
            for machine in machines
        }

    @functools.cached_property
    def trainable_tpus(self) -> list[TPU]:
        """The TPUs that Vertex AI trains on."""
        return [tpu for tpu in self.tpus.values() if tpu.vertex is not None]

    @functools.cached_property
    def tpu_machines(self) -> frozenset[str]:
        """The machines with TPUs that Vertex AI trains on."""
        return frozenset(
            each.machine for tpu in self.trainable_tpus for each in tpu.slices.values()
        )

    @functools.cached_property
    def machines(self) -> list[str]:
        """All types of machines."""
        return sorted({*self.plain_machines, *self.built_in, *self.tpu_machines}, key=natural)

    def machines_of(self, gpu: GPU, count: int) -> list[str]:
        """The machines that can have so many of these GPUs, the usual one first."""
        built_in = gpu.machines.get(count, ())
        most = gpu.attach.get(count, 0)
        attachable = (name for name in self.plain_machines if can_attach(name))
        found = sorted((name for name in attachable if vcpus(name) <= most), key=natural)
        if self.attach_to in found:
            found.remove(self.attach_to)
            found.insert(0, self.attach_to)
        return [*built_in, *found]


def can_attach(machine: str) -> bool:
    """Whether GPUs can be attached to machines of this type."""
    return machine.startswith("n1-")


def vcpus(machine: str) -> int:
    """The number of vCPUs, with which the names of machines without GPUs of their own end."""
    return int(machine.rpartition("-")[2])


def natural(name: str) -> list[Any]:
    """A key that sorts "n1-standard-8" before "n1-standard-16"."""
    return [int(part) if part.isdigit() else part for part in _NUMBER.split(name)]


_NUMBER = re.compile(r"(\d+)")


def find(known: Mapping[str, K], text: str) -> K | None:
    """The GPU or TPU that a user means: "v100", "A100-80GB", or as Vertex AI has it."""
    wanted = text.upper().replace("-", "_")
    return next((each for each in known.values() if wanted in (each.name, each.vertex)), None)


@functools.cache
def load(table: Path = TABLE) -> Hardware:
    """Reads a table, the one that caliban comes with by default."""
    found = tomllib.loads(table.read_text())
    defaults = found["defaults"]
    return Hardware(
        regions=tuple(found["training"]["regions"]),
        plain_machines=tuple(
            f"{family}-{size}" for family, sizes in found["machines"].items() for size in sizes
        ),
        gpus={name: _gpu(name, each) for name, each in found["gpus"].items()},
        tpus={name: _tpu(name, each) for name, each in found["tpus"].items()},
        default_region=defaults["region"],
        default_gpus=tuple(defaults["gpus"]),
        attach_to=defaults["attach_to"],
        cpu_machine=defaults["cpu_machine"],
    )


def _gpu(name: str, found: Mapping[str, Any]) -> GPU:
    return GPU(
        name,
        found["vertex"],
        tuple(found["regions"]),
        {int(count): most for count, most in found.get("attach", {}).items()},
        {int(count): tuple(names) for count, names in found.get("machines", {}).items()},
    )


def _tpu(name: str, found: Mapping[str, Any]) -> TPU:
    return TPU(
        name,
        found.get("vertex"),
        found.get("gke", ""),
        tuple(found["regions"]),
        {int(count): Slice(*each) for count, each in found["slices"].items()},
    )
