"""From the command line to the machine that each job on Vertex AI runs on."""

from __future__ import annotations

import argparse
from typing import TypeVar

from caliban.errors import Problems, UsageError
from caliban.model import hardware, resources
from caliban.model.image import Mode
from caliban.model.resources import GPUSpec, Machine, TPUSpec

S = TypeVar("S", GPUSpec, TPUSpec)


def mode(args: argparse.Namespace, usual: Mode) -> Mode:
    """Whether the image is made for GPUs, which is for the machine to say if a flag names one.

    Args:
      args: the command line, see flags.add_accelerator_arguments.
      usual: what it is without these flags: by --nogpu and the project's configuration.
    """
    if args.nogpu:
        return Mode.CPU
    if args.gpu_spec or args.machine_type in hardware.load().built_in:
        return Mode.GPU
    return Mode.CPU if args.tpu_spec else usual


def choose(
    args: argparse.Namespace, region: str | None, mode: Mode, problems: Problems
) -> Machine | None:
    """Reads --gpu_spec, --tpu_spec and --machine_type, and checks whether they go together.

    Args:
      args: the command line.
      region: where the machine is to be; None if that is not known, so that less is checked.
      mode: see `mode`.
      problems: where what is wrong is collected.

    Returns:
      The machine; None if `problems` has something now.
    """
    gpu = problems.attempt(lambda: parse(GPUSpec, "--gpu_spec", args.gpu_spec, args.force), None)
    tpu = problems.attempt(lambda: _tpu(args.tpu_spec, args.force), None)
    if region is None or (args.gpu_spec and not gpu) or (args.tpu_spec and not tpu):
        return None
    machine = (args.machine_type or "").strip()
    return problems.attempt(
        lambda: resources.choose(region, gpu, tpu, machine, mode is Mode.GPU, args.force), None
    )


def _tpu(text: str | None, force: bool) -> TPUSpec | None:
    """Reads --tpu_spec; a type that Vertex AI hasn't is told before the numbers that others have.

    Raises:
      UsageError: it is wrong, or Vertex AI has no such TPUs.
    """
    wanted = parse(TPUSpec, "--tpu_spec", text, force=True)
    if wanted and not force:
        resources.check_trainable(wanted)
    return parse(TPUSpec, "--tpu_spec", text, force)


def parse(kind: type[S], flag: str, text: str | None, force: bool) -> S | None:
    """Reads --gpu_spec or --tpu_spec; None for none.

    Args:
      kind: of which.
      flag: its name, for messages.
      text: its value.
      force: see GPUSpec.

    Raises:
      UsageError: it is wrong, see GPUSpec.parse.
    """
    if not text:
        return None
    try:
        return kind.parse(text, force)
    except UsageError as error:
        raise UsageError(f"{flag} {text}: {error.message}", error.hint) from None
