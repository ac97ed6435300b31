"""Run code in a container on this machine.

With --experiment_config, one job is run for every combination of the file's values, one after
another. Each job and its outcome are recorded: `caliban status` shows them.

  caliban run --nogpu trainer.train -- --epochs 2
  caliban run --nogpu --experiment_config experiment.json trainer.train
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caliban import flags, terminal
from caliban.errors import INTERRUPTED, EngineError, Problems, UsageError

if TYPE_CHECKING:
    from caliban.commands.image_choice import ImageChoice
    from caliban.docker.engine import Engine
    from caliban.launch import Launched
    from caliban.platform.local import Options

NOT_BUILT = "caliban:not-built-yet"

# Arguments of `docker run` that would take a container out of caliban's sight.
_REFUSED = ("--name", "--detach", "--cidfile", "--restart")

# Short flags written as one word, of which one detaches: "-itd".
_DETACHES = re.compile(r"-[itPq]*d[itPq]*")

# How many failed jobs a summary names.
_NAMED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    flags.add_image_arguments(parser)
    flags.add_sweep_arguments(parser)
    flags.add_container_arguments(parser)
    flags.add_code_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Builds the image, runs the jobs and sums up; 0 only if every job succeeded."""
    from caliban import launch
    from caliban.commands import image_choice
    from caliban.docker import build
    from caliban.docker.containers import Containers
    from caliban.docker.engine import Engine
    from caliban.model import experiment
    from caliban.model.experiment import Experiment
    from caliban.platform.local import LocalBackend

    problems = Problems()
    choice = image_choice.choose(args, problems)
    config = problems.attempt(lambda: _read(args.experiment_config), None)
    run_args = problems.attempt(lambda: _split(args.docker_run_args), None)
    problems.check()
    assert choice is not None and run_args is not None
    experiments = (Experiment(args.script_args, each) for each in experiment.expand(config))

    engine = Engine()
    options = _options(choice, engine, args.image_id, run_args, write=not args.dry_run)
    backend = LocalBackend(Containers(engine), engine.host, options)
    if args.dry_run:
        image, group = args.image_id or NOT_BUILT, args.xgroup or "NEW-GROUP"
        for request in launch.requests(experiments, image, group):
            terminal.result(shlex.join(backend.plan(request).payload["command"]))
        jobs = launch.count_of_jobs(experiment.count(config))
        terminal.note(f"{jobs}; nothing was built, run or recorded.")
        return 0
    engine.check_program()
    with launch.open_history() as store:
        if options.gpus:
            _check_gpus(engine)
        if args.image_id:
            image = _existing(engine, args.image_id)
        else:
            secrets = list(choice.credentials.files)
            image = build.ensure(choice.plan, engine, secrets, args.no_cache)
        finished, interrupted = launch.run_here(
            backend,
            store,
            flags.user_name(),
            args.xgroup,
            choice.plan.to_json(),
            image,
            experiments,
        )
    return _sum_up(finished, interrupted)


def _options(
    choice: ImageChoice,
    engine: Engine,
    image_id: str | None,
    run_args: tuple[str, ...],
    write: bool,
) -> Options:
    """How the containers are run.

    Args:
      choice: the image, and the credentials that its containers get.
      engine: where they run.
      image_id: the image to use as it is, if any.
      run_args: the user's own arguments for `docker run`.
      write: whether to write the files that the containers need.
    """
    from caliban.docker import identity
    from caliban.model.image import Mode
    from caliban.platform.local import Mount, Options, hide_secrets

    uid, gid = os.getuid(), os.getgid()
    credentials = choice.credentials
    accounts = identity.account_files(uid, gid, flags.user_name())
    if not engine.is_local:
        # It has other files than this machine: nothing can be mounted.
        if credentials.files:
            terminal.warn(f"the engine at {engine.host} is remote: its jobs get no credentials")
        credentials, accounts = identity.Credentials(), []
    mounts = {str(path): target for path, target in credentials.files.items()}
    for file in accounts:
        mounts[str(file.path)] = file.target
        if write:
            file.write()
    module = choice.plan.module
    visible, secrets = hide_secrets(run_args)
    return Options(
        command=module.command if image_id and module else (),
        gpus=choice.mode is Mode.GPU,
        user=f"{uid}:{gid}",
        mounts=tuple(Mount(source, target) for source, target in mounts.items()),
        environment=tuple(credentials.environment.items()),
        run_args=tuple(visible),
        secrets=tuple(secrets.items()),
    )


def _check_gpus(engine: Engine) -> None:
    """Stops a run in GPU mode where it cannot work, before anything is built."""
    if sys.platform == "darwin":
        raise EngineError(
            "'caliban run' doesn't support GPU usage on Macs! Please pass --nogpu to use this "
            "command.",
            "(GPU mode is fine for jobs that run elsewhere; just nothing that runs locally.)",
        )
    engine.check_gpus()


def _read(source: str | None) -> object:
    """The experiment file, checked; one experiment without flags if there is none."""
    if source is None:
        return {}
    from caliban import document
    from caliban.model import experiment

    config = document.read(source)
    experiment.validate(config, source)
    return config


def _split(run_args: str) -> tuple[str, ...]:
    """Splits --docker_run_args as a shell does."""
    try:
        words = tuple(shlex.split(run_args))
    except ValueError as error:
        raise UsageError(f"--docker_run_args cannot be read: {error}: {run_args}") from None
    if (words and not words[0].startswith("-")) or {"--help", "-h", "--"} & set(words):
        raise UsageError(
            f"--docker_run_args must hold options of `docker run` and their values: {run_args}",
            "The image and the command are caliban's affair.",
        )
    for word in words:
        if word.partition("=")[0] in _REFUSED or _DETACHES.fullmatch(word):
            raise UsageError(
                f"--docker_run_args must not hold '{word}'",
                "caliban names, follows and removes the containers itself.",
            )
    # Without --rm the container is there until its outcome is safe, and then it is removed anyway.
    return tuple(word for word in words if word not in ("--rm", "--rm=true"))


def _existing(engine: Engine, reference: str) -> str:
    """The id of the image that --image_id names."""
    image = engine.image_id(reference)
    if image is None:
        raise UsageError(
            f"--image_id {reference}: the engine at {engine.host} has no such image",
            "'docker image ls' lists those that it has.",
        )
    return image


def _sum_up(jobs: Sequence[Launched], interrupted: bool) -> int:
    """Says what became of the jobs, and which failed; returns the exit code."""
    from caliban import launch
    from caliban.model.job import Status

    counts = Counter(job.outcome.status for job in jobs)
    failed = [job for job in jobs if job.outcome.status is Status.FAILED]
    total = ", ".join(f"{number} {status.value}" for status, number in counts.items())
    terminal.note(f"{launch.count_of_jobs(len(jobs))}: {total}", "red" if failed else "bold")
    for job in failed[:_NAMED]:
        flags = launch.quoted(job.request.experiment)
        what = f"  job {job.id} ({job.outcome.reason})"
        terminal.note(f"{what}: {flags}" if flags else what)
        terminal.note(f"    its output: {job.log}")
    if len(failed) > _NAMED:
        terminal.note(f"  ... and {len(failed) - _NAMED} more that failed")
    if failed:
        terminal.note(f"'caliban status --xgroup {shlex.quote(jobs[0].request.group)}' shows all.")
    if interrupted:
        return INTERRUPTED
    return 1 if failed else 0
