"""The experiments of a file on this machine's engine."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import config, flags, launch
from caliban.commands import (
    container_choice,
    execution_choice,
    launch_record,
    replay,
    replay_images,
    replay_jobs,
    replay_table,
    summary,
    tracking_choice,
)
from caliban.docker import identity
from caliban.docker.containers import Containers
from caliban.docker.engine import Engine
from caliban.errors import INTERRUPTED
from caliban.model.image import WORKING_DIRECTORY, Mode
from caliban.platform.local import LocalBackend

if TYPE_CHECKING:
    from caliban.bundle.archive import Archive
    from caliban.bundle.recorded import Recorded, RecordedJob, RecordedLaunch
    from caliban.commands.container_choice import ContainerChoice
    from caliban.commands.replay_images import Prepared
    from caliban.model.reproduction import Tolerance


def run(
    args: argparse.Namespace,
    archive: Archive,
    found: Recorded,
    jobs: Sequence[RecordedJob],
    tolerance: Tolerance,
) -> int:
    """Makes the images, runs the jobs and compares; returns the exit code.

    Args:
      args: the command line.
      archive: the file.
      found: what it says.
      jobs: those that are to run.
      tolerance: how far metrics may be apart.
    """
    project = config.project()
    output = container_choice.output_directory(args.output, args.xgroup)
    tracking = tracking_choice.choose(config.load(project), project)
    engine = Engine()
    engine.check_program()
    used = dict.fromkeys(job.launch for job in jobs)
    has_gpus = not args.nogpu and any(found.launches[each].plan.mode is Mode.GPU for each in used)
    file = archive.path.resolve()
    with tempfile.TemporaryDirectory(prefix="caliban-") as folder, launch.open_history() as store:
        top = Path(folder).resolve()
        workshop = replay_images.Workshop(archive, dict(found.images), engine, store, args)
        prepared: dict[int, Prepared] = {}
        for number in used:
            plan = workshop.plan(found.launches[number], top / str(number))
            prepared[number] = workshop.prepare(found.launches[number], plan)
        containers = {
            number: _container(args, each, engine, output) for number, each in prepared.items()
        }
        settings = [each.options for each in containers.values()]
        options = next((each for each in settings if not each.gpus), settings[0])
        secrets = dict(options.secrets)
        backend = LocalBackend(Containers(engine), engine.host, secrets)
        how = execution_choice.choose(
            _as_recorded(args, found.launches[jobs[0].launch]), store, backend, options
        )
        for container in containers.values():
            container.prepare()
        record = launch_record.begin(args, replay.add_arguments, engine, [], has_gpus)
        with record:
            group = launch.new_group(store, flags.user_name(), args.xgroup)
            options_of = {number: each.options for number, each in containers.items()}
            wanted = replay_jobs.Wanted(file, group, output, args.rerun or not args.xgroup)
            swept, uids = replay_jobs.record(backend, store, wanted, jobs, prepared, options_of)
            plans = {each.image: each.container_spec(file) for each in prepared.values()}
            earlier = {each.image: each.earlier for each in prepared.values()}
            made = launch_record.made(swept.jobs, plans, earlier=earlier)
            record.keep(store, made)
            how = replace(how, is_quiet=True, tracking=tracking)
            again = replay.again(args, group)
            code = summary.see_through(backend, store, group, swept, how, again)
        ran = {job.uid: job for job in store.jobs(list(uids.values()))}
    rows = [replay_table.Row(job, ran.get(uids.get(job.number, "")), tolerance) for job in jobs]
    differences = [line for each in prepared.values() for line in each.differences]
    different = replay_table.show(args.json, archive, group, rows, differences)
    return code if code == INTERRUPTED else different


def _container(
    args: argparse.Namespace, prepared: Prepared, engine: Engine, output: Path | None
) -> ContainerChoice:
    """How the containers of a launch are run."""
    plan, recorded = prepared.plan, prepared.launch
    # Who wrote the file decides what runs: it gets nothing of the user's but what is given to it.
    credentials = identity.Credentials()
    if args.cloud_key:
        credentials = replace(identity.credentials(args.cloud_key, {}), adc=None)
    mounts = container_choice.live(plan, []) if plan.live else []
    run_args = container_choice.split(args.docker_run_args)
    container = container_choice.choose(credentials, engine, run_args, mounts, output)
    mode = Mode.CPU if args.nogpu else plan.mode
    options = replace(
        container.options,
        gpus=container_choice.gpus(engine, mode, "replay"),
        gpus_per_job=args.gpus_per_job or recorded.number("gpus_per_job") or 0,
    )
    if args.nogpu:
        options = replace(options, gpus_per_job=0)
    if plan.module and (plan.live or recorded.flags.get("image_id")):
        options = replace(options, command=plan.module.command)
    if plan.live:
        options = replace(options, directory=WORKING_DIRECTORY)
    options = container_choice.with_home(options, engine, prepared.image)
    return replace(container, options=options)


def _as_recorded(args: argparse.Namespace, recorded: RecordedLaunch) -> argparse.Namespace:
    """The command line, with what was recorded of how many jobs run at a time."""
    if args.jobs is not None:
        return args
    number = recorded.number("jobs")
    if number is None or number > execution_choice.cores():
        number = 1 if number is None else execution_choice.cores()
    return argparse.Namespace(**{**vars(args), "jobs": number})
