"""The machine that jobs are launched on: processor, memory, GPUs, kernel, engine."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from pathlib import Path

from caliban import process
from caliban.docker.engine import Engine
from caliban.errors import CalibanError
from caliban.model.provenance import Machine

# How long the driver of the GPUs may take to answer, in seconds: it may have to load first.
_SECONDS = 10.0

_ANSWER = 1 << 16


def look(engine: Engine, has_gpus: bool) -> Machine:
    """What this machine is.

    Args:
      engine: whose version is asked for.
      has_gpus: whether the jobs get GPUs, so that their driver is asked.
    """
    gpus, driver = _gpus() if has_gpus else ((), "")
    return Machine(
        host=socket.gethostname(),
        system=_system(),
        kernel=platform.release(),
        cpu=_cpu(),
        cpus=_cpus(),
        memory=_memory(),
        gpus=gpus,
        driver=driver,
        engine=engine.version(),
    )


def _system() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    return " ".join(filter(None, (platform.system(), platform.mac_ver()[0])))


def _cpu() -> str:
    """The model, in the words of its maker; the architecture where the system doesn't say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
        return platform.machine()
    return _said("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()


def _cpus() -> int:
    """How many this process may use, which may be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0


def _memory() -> int:
    with contextlib.suppress(OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def _gpus() -> tuple[tuple[str, ...], str]:
    """The model of each GPU, and the version of their driver."""
    query = ("--query-gpu=name,driver_version", "--format=csv,noheader")
    lines = [line.rpartition(", ") for line in _said("nvidia-smi", *query).splitlines()]
    return tuple(name for name, _, _ in lines), next((driver for _, _, driver in lines), "")


def _said(*command: str) -> str:
    """What a program prints; "" if it fails, or there is none."""
    try:
        ended = process.run_within(command, _SECONDS, _ANSWER)
    except CalibanError:
        return ""
    return "" if ended is None or ended.exit_code else ended.stdout.strip()
