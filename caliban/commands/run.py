"""Run code in a container on this machine.

With --experiment_config, one job is run for every combination of the file's values, one after
another or, with --jobs, several at a time. Each job and its outcome are recorded: `caliban status`
shows them. The same file into the same --xgroup runs only what has not succeeded yet, and --resume
goes on with a group that was interrupted.

The code is a copy in the image, so that the job can be repeated. With --live it is the directory
itself, for quick tries. With --output, the files that a job writes into $CALIBAN_OUTPUT are kept.

  caliban run --nogpu trainer.train -- --epochs 2
  caliban run --nogpu --experiment_config experiment.json trainer.train
  caliban run --nogpu --live trainer.train
  caliban run --nogpu --output results trainer.train
  caliban run --gpus_per_job 1 --jobs auto --experiment_config experiment.json trainer.train
  caliban run --resume my-sweep
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from caliban import flag_types, flags
from caliban.errors import CalibanError

if TYPE_CHECKING:
    from caliban.commands.container_choice import ContainerChoice
    from caliban.commands.run_choice import RunChoice
    from caliban.docker.engine import Engine

NOT_BUILT = "caliban:not-built-yet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    flags.add_image_arguments(parser)
    flags.add_sweep_arguments(parser)
    flags.add_container_arguments(parser)
    parser.add_argument(
        "--live",
        action="store_true",
        help="Mount the current directory in the place of the image's copy: no build after an "
        "edit, and the job's files land here. The history records what the code was.",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="Keep what each job writes into the directory that $CALIBAN_OUTPUT names inside the "
        "container, as DIR/GROUP/JOB.",
    )
    flags.add_execution_arguments(parser)
    parser.add_argument(
        "--resume",
        type=flag_types.group_name,
        metavar="GROUP",
        help="Go on with an experiment group: run what has not succeeded, with its own image and "
        "flags. No module is named.",
    )
    parser.add_argument(
        "--rerun",
        action="store_true",
        help="Run also the experiments that have succeeded in --xgroup with this very image.",
    )
    flags.add_code_arguments(parser, is_optional=True)


def run(args: argparse.Namespace) -> int:
    """Builds the image, runs the jobs and sums up; 0 only if every job succeeded."""
    from caliban.commands import run_choice
    from caliban.docker.engine import Engine

    if args.resume:
        from caliban.commands import relaunch

        return relaunch.resume(args)
    flags.check_module(args.module, "caliban run")
    wanted = run_choice.understand(args)
    engine = Engine()
    container = _container(wanted, engine)
    if args.dry_run:
        _print_commands(wanted, engine, container)
        return 0
    return _launch(wanted, engine, container)


def _container(wanted: RunChoice, engine: Engine) -> ContainerChoice:
    """How the jobs' containers are run, as far as the engine need not be asked for that."""
    from dataclasses import replace

    from caliban.commands import container_choice, tracking_choice
    from caliban.model.image import WORKING_DIRECTORY

    container = container_choice.choose(
        wanted.choice.credentials, engine, wanted.run_args, wanted.mounts, wanted.output
    )
    options = tracking_choice.here(container.options, wanted.tracking)
    module = wanted.plan.module
    # Only an image that was built with the code in it starts it by itself.
    if module and (wanted.args.live or wanted.args.image_id):
        options = replace(options, command=module.command)
    if wanted.args.live:
        options = replace(options, directory=WORKING_DIRECTORY)
    return replace(container, options=options)


def _print_commands(wanted: RunChoice, engine: Engine, container: ContainerChoice) -> None:
    """Prints what would be run; touches nothing, and asks no engine."""
    from dataclasses import replace

    from caliban import launch, terminal
    from caliban.commands import container_choice
    from caliban.docker.containers import Containers
    from caliban.model import shell_words
    from caliban.platform import outputs
    from caliban.platform.local import LocalBackend

    gpus = container_choice.assumed_gpus(wanted.choice.mode)
    settings = replace(container.options, gpus=gpus).to_json()
    backend = LocalBackend(Containers(engine), engine.host)
    image, group = wanted.args.image_id or NOT_BUILT, wanted.args.xgroup or "NEW-GROUP"
    output = str(outputs.group_directory(wanted.output, group) / "JOB") if wanted.output else ""
    for request in launch.requests(wanted.experiments, image, group, settings):
        command = backend.plan(replace(request, output=output)).payload["command"]
        terminal.result(shell_words.join(command))
    jobs = launch.count_of_jobs(wanted.experiments.count)
    terminal.note(f"{jobs}; nothing was built, run or recorded.")


def _launch(wanted: RunChoice, engine: Engine, container: ContainerChoice) -> int:
    """Builds the image, runs the jobs and sums up; returns the exit code."""
    import contextlib
    from dataclasses import replace

    from caliban import launch, settle
    from caliban.commands import (
        container_choice,
        execution_choice,
        image_choice,
        launch_record,
        summary,
    )
    from caliban.docker.containers import Containers
    from caliban.model.image import Mode
    from caliban.platform.local import LocalBackend

    args, options = wanted.args, container.options
    code = _code(wanted) if args.live else None
    engine.check_program()
    record = launch_record.begin(
        *(args, add_arguments, engine),
        projects=[wanted.plan.directory] if args.live or not args.image_id else [],
        has_gpus=bool(wanted.choice.mode is Mode.GPU),
        experiments=wanted.experiments.config if args.experiment_config else None,
    )
    with launch.open_history() as store, record:
        options = replace(
            options,
            gpus=container_choice.gpus(engine, wanted.choice.mode, "run"),
            gpus_per_job=args.gpus_per_job or 0,
        )
        backend = LocalBackend(Containers(engine), engine.host, dict(options.secrets))
        how = execution_choice.choose(args, store, backend, options)
        how = replace(how, tracking=wanted.tracking)
        plan = wanted.plan
        if args.image_id:
            image = container_choice.image(engine, args.image_id)
            options = container_choice.with_home(options, engine, image)
        else:
            images = image_choice.images(
                args, wanted.choice, engine, lambda: contextlib.nullcontext(store)
            )
            plan, image = images.ensure(plan)
        container.prepare()
        user = flags.user_name()
        group = launch.new_group(store, user, args.xgroup)
        # A group that was made this moment has none.
        still_open = settle.unsettled(store, user, group) if args.xgroup else []
        settle.refresh(store, still_open, lambda: backend, gives_up=False)
        requests = launch.requests(wanted.experiments, image, group, options.to_json())
        sweep = launch.record(
            backend,
            store,
            launch.Launch(
                user=user,
                group=group,
                container_spec=plan.to_json(),
                requests=list(requests),
                output=wanted.output,
                code=code,
                rerun=args.rerun or not args.xgroup,
            ),
        )
        fresh = [image] if args.live or not args.image_id else []
        plans, secrets = {image: plan.to_json()}, wanted.choice.secrets
        record.keep(store, launch_record.made(sweep.jobs, plans, fresh, secrets))
        return summary.see_through(backend, store, group, sweep, how)


def _code(wanted: RunChoice) -> Callable[[], str]:
    """What names live code as it is at the moment of each call.

    Raises:
      UsageError: it cannot be named now.
    """
    from caliban.commands import container_choice
    from caliban.docker.image import context

    plan, secrets = wanted.plan, wanted.choice.secrets

    def digest() -> str:
        # A mount over a file that has gone would make it anew, as root's.
        if container_choice.live(plan, secrets) != wanted.mounts:
            raise CalibanError("a file that it must not see has come or gone since the launch")
        return context.code_digest(plan, secrets)

    digest()
    return digest
