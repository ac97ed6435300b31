"""The GPUs of this machine, and how a container gets just some of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from caliban import process
from caliban.errors import EngineError

# A line of `nvidia-smi -L`: "GPU 0: NVIDIA A100 (UUID: GPU-5c1d...)", and below it, indented, one
# for each part of a GPU that is divided: "MIG 1g.5gb Device 0: (UUID: MIG-7f0e...)".
_DEVICE = re.compile(r"\s*(GPU|MIG) .*\(UUID: ([\w./-]+)\)\s*")


def devices() -> list[str]:
    """The ids of the GPUs that the driver knows; of one that is divided, those of its parts.

    Raises:
      EngineError: the driver's program is not there, or fails.
    """
    if process.find("nvidia-smi") is None:
        raise EngineError("the program 'nvidia-smi', which lists the GPUs, is not on PATH")
    listed = process.run(["nvidia-smi", "-L"])
    if listed.exit_code:
        said = (listed.stderr or listed.stdout).strip() or f"exit code {listed.exit_code}"
        raise EngineError(f"'nvidia-smi -L' failed: {said}")
    found: list[str] = []
    whole = ""
    for line in listed.stdout.splitlines():
        if match := _DEVICE.fullmatch(line):
            if match[1] == "GPU":
                whole = match[2]
            elif whole in found:  # it is divided, and can't be given as a whole
                found.remove(whole)
            found.append(match[2])
    return found


def only(arguments: Sequence[str], chosen: Sequence[str]) -> tuple[str, ...]:
    """Turns arguments of `docker run` that give all GPUs into those that give some.

    Args:
      arguments: what Engine.gpu_arguments returned.
      chosen: the ids of the devices.
    """
    if arguments[:1] == ("--gpus",):
        # A line of CSV, in which the list of devices is one field.
        return ("--gpus", f'"device={",".join(chosen)}"')
    return tuple(word for each in chosen for word in ("--device", f"nvidia.com/gpu={each}"))
