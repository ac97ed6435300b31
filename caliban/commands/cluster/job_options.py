"""From the command line to how each job on a cluster is run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from caliban import flag_types, flags, terminal
from caliban.commands import machine_choice
from caliban.errors import Problems, UsageError
from caliban.model import pod_resources
from caliban.model.image import Mode
from caliban.model.resources import GPUSpec, TPUSpec

if TYPE_CHECKING:
    from caliban.docker.cluster_images import Cluster
    from caliban.model.pod_resources import PodResources
    from caliban.platform.kubernetes.options import Options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What only jobs on a cluster have; GPUs and TPUs are in flags.add_accelerator_arguments."""
    parser.add_argument(
        "--min_cpu",
        type=flag_types.positive_number,
        metavar="MILLICPU",
        help="CPU that each job needs, in thousandths of one. GKE's own processes take a little of "
        "each node, so that a job that asks for 2000 doesn't fit on one with 2 CPUs (default on "
        f"GKE: {pod_resources.GKE_CPU_BESIDE} beside GPUs or TPUs, else {pod_resources.GKE_CPU}; "
        "elsewhere nothing is asked for).",
    )
    parser.add_argument(
        "--min_mem",
        type=flag_types.positive_number,
        metavar="MB",
        help="Memory that each job needs. GKE's own processes take a little of each node (default "
        f"on GKE: {pod_resources.GKE_MEMORY_BESIDE} beside GPUs or TPUs, else "
        f"{pod_resources.GKE_MEMORY}; elsewhere nothing is asked for).",
    )
    parser.add_argument(
        "--max_mem",
        type=flag_types.positive_number,
        metavar="MB",
        help="Memory with which a job is ended for taking too much (default: no such limit).",
    )
    parser.add_argument(
        "--nonpreemptible",
        action="store_true",
        help="On GKE: use machines that Google doesn't take away. By default they are spot "
        "machines, which cost less; a job whose machine is taken away starts again.",
    )
    parser.add_argument(
        "--nonpreemptible_tpu",
        action="store_true",
        help="The same, for jobs with TPUs.",
    )
    parser.add_argument(
        "--tpu_driver", metavar="VERSION", help="Has no effect any more: TPUs need no driver."
    )
    parser.add_argument(
        "--service_account",
        metavar="NAME",
        help="Service account of the namespace that the jobs run as; on GKE, Workload Identity "
        "gives them the credentials of a Google account by it (default: the namespace's own).",
    )
    parser.add_argument(
        "--env_secret",
        action="append",
        default=[],
        metavar="NAME",
        help="Secret of the namespace whose entries the jobs find as environment variables. May be "
        "given several times.",
    )
    parser.add_argument(
        "--as_root",
        action="store_true",
        help="Run as root, for images that need it. By default, the jobs are a user without "
        "privileges.",
    )
    parser.add_argument(
        "--output",
        metavar="PLACE",
        help="Keep what each job writes into the directory that $CALIBAN_OUTPUT names inside the "
        "container, as PATH/GROUP/JOB in a PersistentVolumeClaim of the namespace, pvc:CLAIM/PATH, "
        "or in a bucket of Cloud Storage, gs://BUCKET/PATH, on GKE.",
    )
    parser.add_argument("--queue", metavar="NAME", help="Queue of Kueue that the jobs wait in.")
    parser.add_argument(
        "--max_retries",
        type=flag_types.natural_number,
        default=0,
        metavar="N",
        help="How often a job that has failed by itself is started again (default: 0).",
    )
    parser.add_argument(
        "--timeout",
        type=flag_types.duration,
        metavar="DURATION",
        help="How long each job may run at the most, as in 90m, 36h or 2d (default: no limit).",
    )
    parser.add_argument(
        "--ttl",
        type=flag_types.duration,
        metavar="DURATION",
        help="How long the cluster keeps a job, and its log, after its end (default: until "
        "somebody deletes it).",
    )


@dataclass(frozen=True)
class Accelerators:
    """The GPUs and TPUs that a command line names.

    Attributes:
      gpu: None for none.
      tpu: None for none.
    """

    gpu: GPUSpec | None
    tpu: TPUSpec | None


def mode(args: argparse.Namespace, usual: Mode) -> Mode:
    """Whether the image is made for GPUs: without them it isn't, nor beside TPUs.

    Args:
      args: the command line.
      usual: what it is by --nogpu and the project's configuration.
    """
    if args.gpu_spec and not args.nogpu:
        return Mode.GPU
    return Mode.CPU if args.tpu_spec else usual


def accelerators(args: argparse.Namespace, is_gke: bool, problems: Problems) -> Accelerators:
    """Reads --gpu_spec and --tpu_spec.

    Args:
      args: the command line.
      is_gke: whether they are Google's; other clusters may have any.
      problems: where what is wrong is collected.
    """
    gpu = problems.attempt(lambda: _gpu(args, args.force or not is_gke), None)
    tpu = problems.attempt(
        lambda: machine_choice.parse(TPUSpec, "--tpu_spec", args.tpu_spec, args.force), None
    )
    return Accelerators(gpu, tpu)


def _gpu(args: argparse.Namespace, force: bool) -> GPUSpec | None:
    found = machine_choice.parse(GPUSpec, "--gpu_spec", args.gpu_spec, force)
    if found and args.nogpu:
        raise UsageError(
            f"--nogpu and --gpu_spec {found} contradict one another", "Leave out one of them."
        )
    return found


def resources(
    args: argparse.Namespace, found: Accelerators, is_gke: bool, region: str, mode: Mode
) -> PodResources:
    """What each job asks for.

    Args:
      args: the command line.
      found: what it says of GPUs and TPUs.
      is_gke: whether the cluster is one of GKE.
      region: of that; "" if it is not known.
      mode: of the image.

    Raises:
      UsageError: there is no such thing.
    """
    wants_gpu = mode is Mode.GPU
    if is_gke:
        return pod_resources.on_gke(
            *(found.gpu, found.tpu, region, wants_gpu, args.min_cpu, args.min_mem, args.force)
        )
    return pod_resources.elsewhere(found.gpu, found.tpu, wants_gpu, args.min_cpu, args.min_mem)


def tell(args: argparse.Namespace) -> None:
    """Says which flags have no effect."""
    if args.tpu_driver:
        terminal.warn("--tpu_driver has no effect any more: the TPUs of today need no driver")
    if args.nonpreemptible_tpu and not args.tpu_spec:
        terminal.warn("--nonpreemptible_tpu has no effect without --tpu_spec")


def options(
    args: argparse.Namespace,
    target: str,
    wanted: PodResources,
    labels: tuple[tuple[str, str], ...],
    is_gke: bool,
) -> Options:
    """How the jobs are run, as far as the command line says it.

    Args:
      args: the command line.
      target: where, see Place.
      wanted: what each asks for.
      labels: of the user.
      is_gke: whether the cluster is one of GKE.

    Raises:
      UsageError: it can't be.
    """
    from caliban.platform.kubernetes.options import Options

    stays = args.nonpreemptible or (args.nonpreemptible_tpu and wanted.tpu)
    found = Options(
        target=target,
        name=args.name or f"caliban-{flags.user_name()}",
        labels=labels,
        env_secrets=tuple(args.env_secret),
        cpu=wanted.cpu,
        memory=wanted.memory,
        memory_limit=args.max_mem or 0,
        gke=is_gke,
        gpus=wanted.gpus,
        tpus=wanted.tpu.count if wanted.tpu else 0,
        spot=is_gke and not stays,
        max_retries=args.max_retries,
        ttl=args.ttl or 0,
        timeout=args.timeout or 0,
        service_account=args.service_account or "",
        queue=args.queue or "",
        root=args.as_root,
    )
    if not is_gke:
        return found
    return replace(
        found, gpu_type=wanted.gpu_type, tpu_type=wanted.tpu_type, topology=wanted.topology
    )


def check_gpus(wanted: int, cluster: Cluster) -> None:
    """Sees to it that a cluster has nodes with so many GPUs; one that shows no nodes may have them.

    Args:
      wanted: how many each job gets.
      cluster: which is not GKE's: that makes nodes when they are needed.

    Raises:
      UsageError: it has none.
    """
    numbers = [
        int(node.get("status", {}).get("allocatable", {}).get("nvidia.com/gpu", 0))
        for node in cluster.nodes
    ]
    if not numbers or wanted <= max(numbers):
        return
    if max(numbers):
        what = f"has {wanted} GPUs: the most are {max(numbers)}"
        way = "Ask for fewer with --gpu_spec."
    else:
        what = "has a GPU (nvidia.com/gpu)"
        way = 'Pass --nogpu to use the CPU, or set "default_mode": "cpu" in .calibanconfig.json.'
    raise UsageError(
        f"no node of {cluster.context or 'the cluster'} {what}",
        f"{way}\nIf such nodes come when they are needed, pass --force.",
    )
