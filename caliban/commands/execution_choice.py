"""From a command line to how many jobs run at a time, and which GPUs each of them gets."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caliban.errors import EngineError, UsageError
from caliban.launch import Execution
from caliban.platform.local import LocalBackend, Options, chooses_gpus

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore


def choose(
    args: argparse.Namespace, store: HistoryStore, backend: LocalBackend, options: Options
) -> Execution:
    """Reads the arguments that flags.add_execution_arguments defines.

    Args:
      args: the command line.
      store: the history, which has the leases of GPUs.
      backend: the local engine.
      options: how the jobs are run, or were, which holds unless the command line says otherwise.

    Raises:
      UsageError: jobs that are run without GPUs want some, or are told in two ways which they get.
      EngineError: the GPUs cannot be listed, or there are too few.
    """
    wanted: int | None = args.gpus_per_job or options.gpus_per_job or None
    check(wanted, bool(options.gpus), options.run_args)
    is_auto = args.jobs == 0
    if not options.gpus or (wanted is None and not is_auto) or chooses_gpus(options.run_args):
        return Execution(args.jobs or cores(), args.verbose)
    from caliban.docker import gpus
    from caliban.gpu_pool import GpuPool

    devices = gpus.devices()
    each = wanted or 1
    if len(devices) < each:
        raise EngineError(f"a job is to have {each} GPUs, but this machine has {len(devices)}")
    pool = GpuPool(store.leases(backend.machine), backend, devices, each, options.gpus)
    return Execution(len(devices) // each if is_auto else args.jobs, args.verbose, pool)


def check(gpus_per_job: int | None, has_gpus: bool, run_args: Sequence[str]) -> None:
    """Sees to it that jobs are told in one way which GPUs they get.

    Args:
      gpus_per_job: how many each is to have to itself; 0 or None if that is not asked for.
      has_gpus: whether they run with GPUs.
      run_args: the user's own arguments for `docker run`.

    Raises:
      UsageError: they are run without GPUs and want some, or are told in two ways.
    """
    if gpus_per_job and not has_gpus:
        raise UsageError("--gpus_per_job gives GPUs to jobs, and --nogpu takes them away")
    if gpus_per_job and chooses_gpus(run_args):
        raise UsageError("--gpus_per_job and --docker_run_args both say which GPUs a job gets")


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # a Mac
