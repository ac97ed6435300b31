"""A command line -> what is recorded of it with the jobs that it launches."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caliban.model.job import Job
from caliban.model.provenance import without_passwords
from caliban.platform import local

if TYPE_CHECKING:
    from caliban.commands.image_publication import JobImage
    from caliban.docker.engine import Engine
    from caliban.history.store import HistoryStore
    from caliban.platform.base import Particulars, RemoteBackend
    from caliban.provenance.gathering import Earlier, Gathering, Made
    from caliban.remote.submit import Unsent
    from caliban.runner import Launched

# What a Namespace has besides the flags of a command.
_NO_FLAGS = frozenset({"command", "run", "helpfull", "stray", "module", "script_args"})

# Longer experiment files are not recorded: each job has its own parameters anyway.
_LONGEST_EXPERIMENTS = 1 << 20

# For how many seconds jobs are held back that are to be sent, until it is written down what they
# are: nearly always that is known by then, and afterwards caliban may be ended any moment.
_PATIENCE = 3.0


def begin(
    args: argparse.Namespace,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    engine: Engine,
    projects: Iterable[str],
    has_gpus: bool = False,
    experiments: object = None,
) -> Gathering:
    """Gets ready to record what jobs are made of; in its `with` block it is found out.

    Args:
      args: the command line.
      add_arguments: what defined its flags.
      engine: that has the images.
      projects: the directories whose code goes into images now.
      has_gpus: whether the jobs get GPUs of this machine.
      experiments: the content of the experiment file; None for none.
    """
    from caliban.provenance.gathering import Call, Gathering

    text = "" if experiments is None else json.dumps(experiments)
    if len(text) > _LONGEST_EXPERIMENTS:
        text = ""
    call = Call(str(args.command), given(args, add_arguments), text)
    return Gathering(engine, call, map(Path, projects), has_gpus)


def given(
    args: argparse.Namespace, add_arguments: Callable[[argparse.ArgumentParser], None]
) -> dict[str, Any]:
    """The flags that were given a value other than their default one, without secrets."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    found: dict[str, Any] = {}
    for action in parser._actions:
        value = getattr(args, action.dest, action.default)
        if action.dest not in _NO_FLAGS and value != action.default:
            found[action.dest] = _without_secrets(action.dest, value)
    return dict(sorted(found.items()))


def _without_secrets(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_secrets(name, each) for each in value]
    if not isinstance(value, str):
        return value if isinstance(value, bool | int | float) else str(value)
    if name == "docker_run_args":
        value = shlex.join(local.without_values(shlex.split(value)))
    return without_passwords(value)


def made(
    jobs: Sequence[Launched],
    plans: Mapping[str, Mapping[str, Any]],
    fresh: Iterable[str] = (),
    excluded: Sequence[Path] = (),
    earlier: Mapping[str, Earlier] | None = None,
) -> list[Made]:
    """What has been launched, by image.

    Args:
      jobs: that were recorded; those that another caliban has left behind have their record.
      plans: the ImagePlan of each image.
      fresh: the images that were made of the files as they are now.
      excluded: files that live jobs don't see.
      earlier: what another history has recorded of images.
    """
    from caliban.provenance.gathering import Made

    by_image: dict[str, list[Launched]] = {}
    for job in jobs:
        if not job.is_left:
            by_image.setdefault(job.request.image, []).append(job)
    return [
        Made(
            [job.request.uid for job in each],
            plans[image],
            image,
            local.variables(each[0].submission, image),
            image in fresh,
            excluded,
            earlier=(earlier or {}).get(image),
        )
        for image, each in by_image.items()
        if image in plans
    ]


def keep_elsewhere(
    record: Gathering,
    store: HistoryStore,
    backend: RemoteBackend,
    jobs: Sequence[Unsent],
    plans: Mapping[str, Mapping[str, Any]],
    images: Iterable[JobImage] = (),
    earlier: Earlier | None = None,
) -> None:
    """Writes down what jobs are made of that are about to be sent elsewhere.

    Args:
      record: what is found out of the launch.
      store: the history, which stays open until the end of the `with` of that.
      backend: of their platform.
      jobs: that were recorded; those that another caliban has left behind may have a record.
      plans: the ImagePlan of each image, for those that caliban has made.
      images: those that were made, or named, for this launch.
      earlier: what another history has recorded of the jobs' image.
    """
    from caliban.provenance.gathering import Elsewhere, Made

    now = {each.reference: each for each in images}

    def find() -> list[Made]:
        known = store.provenances.of_jobs([job.uid for job in jobs if not job.is_new]).values()
        has_one = {uid for _, uids in known for uid in uids}
        alike: dict[str, tuple[Particulars, list[str]]] = {}
        for job in jobs:
            if job.uid not in has_one:
                each = backend.particulars(job.submission)
                alike.setdefault(repr(each), (each, []))[1].append(job.uid)
        made = []
        for each, uids in alike.values():
            image = now.get(each.image)
            there = Elsewhere(each.machine, each.secrets, image.id if image else "")
            is_fresh = image is not None and not image.is_given
            plan = plans.get(each.image, {})
            made.append(Made(uids, plan, each.image, each.variables, is_fresh, (), there, earlier))
        return made

    record.keep(store, find, _PATIENCE)


def plans(jobs: Iterable[Job]) -> dict[str, Mapping[str, Any]]:
    """The plan of each image of some jobs, for those that caliban has made."""
    return {job.image: job.container_spec for job in jobs if "base_image" in job.container_spec}
