"""What a job runs on: GPUs, TPUs, the machine and the region; and which of them go together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass
from typing import ClassVar, Generic, Self

from caliban.errors import UsageError
from caliban.model import hardware, suggestion
from caliban.model.hardware import GPU, TPU, Hardware, K

MORE = (
    "Valid combinations of GPUs, machines and regions: "
    "https://cloud.google.com/vertex-ai/docs/training/configure-compute"
)
FORCE = "If you know better, --force submits the job as it is."

_SPEC = re.compile(r"(?P<count>\d{1,4})[xX](?P<type>[A-Za-z][\w-]*)")


@dataclass(frozen=True)
class _Spec(Generic[K]):
    """A number of accelerators of one type."""

    count: int
    type: str
    force: InitVar[bool] = False

    kind: ClassVar[str]
    example: ClassVar[str]

    def __post_init__(self, force: bool) -> None:
        if self.count < 1:
            raise UsageError(f"{self} stands for no {self.kind}s", "Ask for 1 or more.")
        if force:
            return
        if not self.known:
            gone = " any more" if "K80" in self.type else ""
            raise UsageError(
                f"there are no {self.kind}s of type {self.type}{gone}",
                f"Try one of: {_listed(self.types())}.\n{FORCE}",
            )
        if self.count not in self.known.counts:
            verb = "isn't" if self.count == 1 else "aren't"
            raise UsageError(
                f"{_some(self.count, self.kind)} of type {self.type} {verb} available for any "
                "machine type",
                f"Try one of: {', '.join(map(str, self.known.counts))}.\n{MORE}\n{FORCE}",
            )

    @classmethod
    def parse(cls, text: str, force: bool = False) -> Self:
        """Reads number and type; the type in any case, or as Vertex AI has it.

        Args:
          text: as in `example`.
          force: whether to believe the user that they exist.

        Raises:
          UsageError: it isn't written like this, or no machine has them.
        """
        match = _SPEC.fullmatch(text.strip())
        if not match:
            raise UsageError(
                f"'{text}' is not a number and a type of {cls.kind}s, as in {cls.example}",
                f"Types of {cls.kind}s: {_listed(cls.types())}.",
            )
        known = hardware.find(cls.types(), match["type"])
        return cls(int(match["count"]), known.name if known else match["type"].upper(), force)

    @classmethod
    def types(cls) -> Mapping[str, K]:
        """All that there are, by name."""
        raise NotImplementedError

    @property
    def known(self) -> K | None:
        """What is known of the type; None for one that `force` let pass."""
        return self.types().get(self.type)

    @property
    def vertex(self) -> str:
        """The type as Vertex AI has it; "" where the machine says it all."""
        return (self.known.vertex or "") if self.known else self.type

    def __str__(self) -> str:
        """As users write it."""
        return f"{self.count}x{self.type}"


class GPUSpec(_Spec[GPU]):
    """Some GPUs of one type, in a number that some machine can have.

    Attributes:
      count: how many.
      type: name of the type, see hardware; with `force`, whatever Vertex AI may call it.
      force: whether to believe the user that they exist.

    Raises:
      UsageError: no machine has them.
    """

    kind = "GPU"
    example = "2xV100"

    @classmethod
    def types(cls) -> Mapping[str, GPU]:
        """All that there are, by name."""
        return hardware.load().gpus


class TPUSpec(_Spec[TPU]):
    """Some TPUs of one type, in a number that one machine has: see GPUSpec."""

    kind = "TPU"
    example = "8xV5E"

    @classmethod
    def types(cls) -> Mapping[str, TPU]:
        """All that there are, by name."""
        return hardware.load().tpus


@dataclass(frozen=True)
class Machine:
    """A machine of Vertex AI, with what is in it, in a region that has it all.

    Attributes:
      type: of the machine: "n1-standard-8".
      region: where it is.
      gpu: its GPUs, attached or built in; None without.
      tpu: its TPUs; None without.
      force: whether to believe the user that all of this goes together.

    Raises:
      UsageError: it does not.
    """

    type: str
    region: str
    gpu: GPUSpec | None = None
    tpu: TPUSpec | None = None
    force: InitVar[bool] = False

    def __post_init__(self, force: bool) -> None:
        if self.gpu and self.tpu:
            raise UsageError(
                f"{self.gpu} and {self.tpu} can't be in one job",
                "On Vertex AI a job runs on the TPUs' own machine, which has no GPUs. Leave out "
                "--gpu_spec or --tpu_spec.",
            )
        if force:
            return
        known = hardware.load()
        check_region(self.region)
        _check_machine(self, known)
        if self.gpu and self.gpu.known:
            check_availability(self.gpu.known, "GPU", self.region, known.gpus.values())
        if self.tpu and self.tpu.known:
            check_availability(self.tpu.known, "TPU", self.region, known.trainable_tpus)

    @property
    def topology(self) -> str:
        """How the chips of its TPUs are connected; "" where that needn't be said."""
        known = self.tpu.known if self.tpu else None
        each = known.slices.get(self.tpu.count) if known and self.tpu else None
        return each.topology if each else ""

    def __str__(self) -> str:
        """For people: "n1-standard-8 with 2xV100 in us-central1"."""
        accelerator = self.gpu or self.tpu
        return f"{self.type}{f' with {accelerator}' if accelerator else ''} in {self.region}"


def choose(
    region: str,
    gpu: GPUSpec | None = None,
    tpu: TPUSpec | None = None,
    machine: str = "",
    wants_gpu: bool = True,
    force: bool = False,
) -> Machine:
    """Completes what a user has said of a job's machine by what is usual.

    Args:
      region: where it is to be.
      gpu: the GPUs that it is to have.
      tpu: the TPUs that it is to have.
      machine: its type.
      wants_gpu: whether it gets a GPU if neither `gpu` nor `tpu` says anything.
      force: whether to take all of it as it is, checked or not.

    Raises:
      UsageError: it doesn't go together, or nobody can say what is usual.
    """
    known = hardware.load()
    if gpu and not wants_gpu:
        raise UsageError(
            f"--nogpu and --gpu_spec {gpu} contradict one another", "Leave out one of them."
        )
    if not gpu and not tpu and wants_gpu:
        gpu = _usual_gpu(region, machine, known, force)
    return Machine(machine or _usual_machine(gpu, tpu, known), region, gpu, tpu, force)


def check_region(region: str) -> None:
    """Sees to it that Vertex AI trains in a region.

    Raises:
      UsageError: it does not.
    """
    known = hardware.load().regions
    if region not in known:
        raise UsageError(
            f"Vertex AI doesn't train in '{region}'", _suggest(region, known) + f"\n{FORCE}"
        )


def _check_machine(wanted: Machine, known: Hardware) -> None:
    """Sees to it that a machine exists, and can have its GPUs or TPUs, and has no others."""
    name = wanted.type
    if wanted.tpu:
        _check_tpu(name, wanted.tpu)
    elif name not in known.machines:
        raise UsageError(
            f"Vertex AI has no machine type '{name}'", f"{_suggest(name, known.machines)}\n{FORCE}"
        )
    elif wanted.gpu and wanted.gpu.known:
        fitting = known.machines_of(wanted.gpu.known, wanted.gpu.count)
        if name not in fitting:
            what = _some(wanted.gpu.count, f"{wanted.gpu.type} GPU")
            raise UsageError(
                f"'{name}' isn't a valid machine type for {what}",
                f"Try one of: {_listed(fitting)}.\n{MORE}\n{FORCE}",
            )
    elif name in known.built_in:
        gpu, count = known.built_in[name]
        raise UsageError(
            f"'{name}' comes with {_some(count, f'{gpu.name} GPU')}, which the job doesn't use",
            f"Leave out --nogpu, or choose a machine without: {known.cpu_machine}, for one.",
        )
    elif name in known.tpu_machines:
        raise UsageError(f"'{name}' comes with TPUs", "Say which with --tpu_spec.")


def check_trainable(tpu: TPUSpec) -> None:
    """Sees to it that Vertex AI trains on a type of TPU, however many it may have.

    Raises:
      UsageError: it does not.
    """
    if tpu.known and tpu.known.vertex is None:
        others = hardware.load().trainable_tpus
        raise UsageError(
            f"Vertex AI doesn't train on TPUs of type {tpu.type}",
            f"Try one of: {', '.join(each.name for each in others)}; or a cluster.",
        )


def _check_tpu(name: str, tpu: TPUSpec) -> None:
    known = tpu.known
    if known is None:
        return
    check_trainable(tpu)
    fitting = known.slices[tpu.count].machine
    if name != fitting:
        raise UsageError(
            f"'{name}' isn't a valid machine type for {_some(tpu.count, f'{tpu.type} TPU')}",
            f"Leave out --machine_type: it is {fitting}.",
        )


def check_availability(wanted: K, kind: str, region: str, every: Iterable[K]) -> None:
    """Sees to it that a region has a type of GPU or TPU; where that is not known, it has.

    Args:
      wanted: the type.
      kind: "GPU" or "TPU".
      region: where it is to be.
      every: what there could be in its place.

    Raises:
      UsageError: it does not.
    """
    if not wanted.regions or region in wanted.regions:
        return
    known = hardware.load().regions
    regions = [each for each in wanted.regions if each in known] or wanted.regions
    hint = f"Try one of these regions: {', '.join(regions)}."
    if there := [each.name for each in every if region in each.regions]:
        hint += f"\n{region} has: {_listed(there)}."
    raise UsageError(
        f"{kind}s of type {wanted.name} aren't available in {region}", f"{hint}\n{FORCE}"
    )


def _usual_gpu(region: str, machine: str, known: Hardware, force: bool) -> GPUSpec | None:
    """The GPUs of a job whose user names none: the machine's own, or one that is easy to get."""
    if machine in known.built_in:
        gpu, count = known.built_in[machine]
        return GPUSpec(count, gpu.name)
    usual = [known.gpus[name] for name in known.default_gpus]
    if machine:
        if machine not in known.plain_machines:
            return None  # Machine says what is wrong with it.
        usual = [each for each in usual if machine in known.machines_of(each, 1)]
        if not usual and not force:
            raise _no_usual_gpu(machine, region, known)
    there = [each for each in usual if region in each.regions or force]
    if there:
        return GPUSpec(1, there[0].name)
    if force or region not in known.regions:
        return None
    others = _listed(each.name for each in known.gpus.values() if region in each.regions)
    raise UsageError(
        f"{region} has no {' or '.join(each.name for each in usual)} GPUs, which jobs get by "
        "default",
        f"It has: {others}. Name one with --gpu_spec."
        if others
        else "It has no GPUs at all. Pass --nogpu, or name another region with --region.",
    )


def _no_usual_gpu(machine: str, region: str, known: Hardware) -> UsageError:
    """What is wrong with a machine for a job that gets a GPU by default."""
    possible = [
        f"{count}x{gpu.name}"
        for gpu in known.gpus.values()
        for count in gpu.attach
        if region in gpu.regions and machine in known.machines_of(gpu, count)
    ]
    if not possible:
        return UsageError(
            f"'{machine}' has no GPUs, and none can be attached to it",
            "Pass --nogpu, or choose a machine with GPUs by --gpu_spec alone.",
        )
    return UsageError(
        f"'{machine}' can't have just 1 GPU, which jobs get by default",
        f"Pass --nogpu, or --gpu_spec with one of: {_listed(possible)}.",
    )


def _usual_machine(gpu: GPUSpec | None, tpu: TPUSpec | None, known: Hardware) -> str:
    if tpu and tpu.known and tpu.count in tpu.known.slices:
        return tpu.known.slices[tpu.count].machine
    if gpu and gpu.known and (fitting := known.machines_of(gpu.known, gpu.count)):
        return fitting[0]
    if gpu or tpu:
        raise UsageError(
            f"caliban doesn't know which machine has {gpu or tpu}", "Name it with --machine_type."
        )
    return known.cpu_machine


def _suggest(wrong: str, known: Iterable[str]) -> str:
    """What may have been meant, or else all that there is."""
    every = list(known)
    likely = ", ".join(suggestion.near(wrong, every, most=5))
    return f"Try one of: {likely or _listed(every)}."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names, key=hardware.natural))


def _some(count: int, thing: str) -> str:
    return f"1 {thing}" if count == 1 else f"{count} {thing}s"
