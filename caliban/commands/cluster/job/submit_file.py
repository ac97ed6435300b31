"""Submit jobs that files describe: exported ones, or any Job of Kubernetes.

A file is YAML, of one document or several, or JSON. Each time that it is submitted, its jobs are
new ones, with names of their own, and are recorded: `caliban status`, `logs`, `stop` and `resubmit`
work for them. All of a job stays as the file has it, but for its name, and the labels by which
caliban finds it.

  caliban cluster job submit_file my-job.yaml
  caliban cluster job submit_file --context minikube --xgroup tuning my-job_0.yaml my-job_1.yaml
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caliban import flag_types, flags, terminal
from caliban.commands.cluster import manifest_files, place_choice
from caliban.errors import Problems, UsageError
from caliban.model import labels

if TYPE_CHECKING:
    from caliban.model.job import JobRequest
    from caliban.platform.kubernetes.place import Place
    from caliban.provenance.gathering import Gathering
    from caliban.remote.backends import Backends

_GPU = "nvidia.com/gpu"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    place_choice.add_arguments(parser)
    parser.add_argument(
        "--xgroup",
        type=flag_types.group_name,
        metavar="NAME",
        help="Experiment group that the jobs belong to, new or existing (default: a new one).",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Only print what would be submitted: nothing is recorded, and the cluster not asked.",
    )
    parser.add_argument(
        "job_file",
        nargs="+",
        help="File with one Job or several: .yaml, .yml or .json.",
    )


@dataclass(frozen=True)
class Described:
    """A job that a file describes.

    Attributes:
      file: that.
      job: as it is there.
    """

    file: Path
    job: Mapping[str, Any]

    @property
    def namespace(self) -> str:
        """That of the job; "" if it has none."""
        return str(self.job["metadata"].get("namespace") or "")

    @property
    def stem(self) -> str:
        """What the job is called, before its uid."""
        metadata = self.job["metadata"]
        name = str(metadata.get("name") or metadata["generateName"])
        uid = str((metadata.get("labels") or {}).get(labels.UID, ""))
        return name.removesuffix(uid).rstrip("-")

    @property
    def args(self) -> tuple[str, ...]:
        """The arguments of its first container."""
        return tuple(map(str, manifest_files.containers(self.job)[0].get("args") or ()))

    @property
    def rest(self) -> dict[str, Any]:
        """All of it but its arguments, which tell the experiments of a sweep apart."""
        found: dict[str, Any] = json.loads(json.dumps(self.job))
        manifest_files.containers(found)[0].pop("args", None)
        return found

    @property
    def spec(self) -> dict[str, Any]:
        """What the history has in the place of an image plan."""
        containers = manifest_files.containers(self.job)
        limits = [(each.get("resources") or {}).get("limits") or {} for each in containers]
        same = self.rest
        # Labels that are made of the arguments differ as those do.
        for each in (same, same["spec"]["template"]):
            each.pop("metadata", None)
        digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
        return {
            "mode": "gpu" if any(_GPU in each for each in limits) else "cpu",
            "directory": str(self.file.absolute().parent),
            "manifest": f"{self.stem} {digest[:12]}",
        }


def run(args: argparse.Namespace) -> int:
    """Submits the jobs; 0 only if every one was submitted."""
    from caliban import config
    from caliban.commands import launch_record
    from caliban.docker.engine import Engine

    problems = Problems()
    described: list[Described] = []
    for name in args.job_file:
        described += problems.attempt(functools.partial(_read, name, args.namespace), [])
    settings = problems.attempt(lambda: config.load(config.project()), config.Config())
    problems.check()
    place = place_choice.choose(args, settings, os.environ)
    if args.dry_run:
        return _print_jobs(described, place, args.xgroup or "NEW-GROUP")
    record = launch_record.begin(args, add_arguments, Engine(), [])
    with place_choice.backends(args, settings) as backends:
        return _submit(described, place, args.xgroup, backends, record)


def _read(name: str, namespace: str | None) -> list[Described]:
    """The jobs that a file describes, which are for a namespace if one is named.

    Raises:
      UsageError: it can't be read, or a job of it is for another namespace.
    """
    found = [Described(Path(name).expanduser(), job) for job in manifest_files.read(name)]
    for each in found:
        if namespace and each.namespace not in ("", namespace):
            raise UsageError(
                f"{name}: the job {each.stem} is for the namespace '{each.namespace}', and "
                f"--namespace names '{namespace}'",
                "Leave out one of them.",
            )
    return found


def _request(each: Described, place: Place, index: int, group: str) -> JobRequest:
    """A new job of what a file describes."""
    from caliban import launch
    from caliban.model.experiment import Experiment
    from caliban.model.job import JobRequest
    from caliban.platform.kubernetes.options import Options

    if each.namespace:
        place = replace(place, namespace=each.namespace)
    image = str(manifest_files.containers(each.job)[0]["image"])
    options = Options(place.target, name=each.stem, manifest=each.rest)
    experiment = Experiment(each.args, {})
    return JobRequest(launch.new_uid(), experiment, image, group, index, options.to_json())


def _print_jobs(described: Sequence[Described], place: Place, group: str) -> int:
    from caliban import launch
    from caliban.platform.kubernetes import manifest

    requests = [_request(each, place, index, group) for index, each in enumerate(described)]
    bodies = [manifest.plan(request).payload["body"] for request in requests]
    terminal.result(manifest_files.as_yaml(bodies).rstrip())
    terminal.note(f"{launch.count_of_jobs(len(bodies))}; nothing was recorded or submitted.")
    return 0


def _submit(
    described: Sequence[Described],
    place: Place,
    group: str | None,
    backends: Backends,
    record: Gathering,
) -> int:
    """Records and submits the jobs; returns the exit code."""
    from caliban import dispatch, launch
    from caliban.commands import launch_record, sending
    from caliban.platform.kubernetes.backend import KubernetesBackend
    from caliban.platform.kubernetes.place import NAME

    backend = backends.of(NAME)
    assert isinstance(backend, KubernetesBackend)
    # Jobs that differ in their arguments only are experiments of one sweep.
    sweeps: dict[str, list[Described]] = {}
    for each in described:
        sweeps.setdefault(json.dumps(each.spec), []).append(each)
    for first, *others in sweeps.values():
        submission = backend.plan(_request(first, place, 0, group or first.stem))
        for note in backend.check(submission, 1 + len(others)):
            terminal.note(note)
    user = flags.user_name()
    pending = dispatch.Pending([], [])
    with launch.open_history() as store, record:
        name = launch.new_group(store, user, group)
        for sweep in sweeps.values():
            requests = [_request(each, place, index, name) for index, each in enumerate(sweep)]
            wanted = launch.Launch(user, name, sweep[0].spec, requests, rerun=True)
            recorded = dispatch.record(backend, store, wanted)
            pending = dispatch.Pending([*pending.jobs, *recorded.jobs], [])
        launch_record.keep_elsewhere(record, store, backend, pending.jobs, {})
        return sending.see_off(store, backends, NAME, name, pending)
