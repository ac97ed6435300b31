"""Runs recorded jobs again: what `caliban run --resume` and `caliban resubmit` have in common."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caliban import config, flags, home, launch, settle, terminal
from caliban.errors import CalibanError, UsageError
from caliban.model.image import WORKING_DIRECTORY, ImagePlan
from caliban.model.job import Job

if TYPE_CHECKING:
    from caliban.docker.engine import Engine
    from caliban.docker.image.build_secrets import BuildSecrets
    from caliban.platform.local import Mount, Options


def resume(args: argparse.Namespace) -> int:
    """Goes on with a group: runs what has not succeeded, with the image that it had.

    Args:
      args: the command line, see flags.add_execution_arguments.
    """
    from caliban.commands import execution_choice, launch_record, run, summary, tracking_choice
    from caliban.docker.containers import Containers
    from caliban.docker.engine import Engine
    from caliban.platform.local import LocalBackend

    if args.module is not None:
        raise UsageError(
            "--resume runs what the group has recorded: no module is named",
            f"caliban run --resume {args.resume}",
        )
    engine = Engine()
    engine.check_program()
    user = flags.user_name()
    with launch.open_history() as store:
        backend = LocalBackend(Containers(engine), engine.host)
        settle.refresh(
            store, settle.unsettled(store, user, args.resume), lambda: backend, gives_up=False
        )
        jobs = launch.left(store, user, args.resume)
        if not jobs:
            terminal.note(f"Experiment group {args.resume}: every experiment has succeeded.")
            return 0
        jobs = of_platform(jobs, "local")
        for job in jobs:
            launch.check_again(job)
        check_images(engine, jobs, f"Build it anew: caliban resubmit --xgroup {args.resume}")
        if args.dry_run:
            return list_jobs(jobs, "run")
        again = Again()
        jobs = again.jobs(jobs)
        how = execution_choice.choose(args, store, backend, options(jobs))
        how = replace(how, tracking=tracking_choice.of_jobs(jobs))
        live = [job for job in jobs if job.container_spec.get("live")]
        projects = [job.container_spec["directory"] for job in live]
        has_gpus = bool(options(jobs).gpus)
        with launch_record.begin(args, run.add_arguments, engine, projects, has_gpus) as record:
            sweep = launch.again(backend, store, jobs, again.digest)
            plans, fresh = launch_record.plans(jobs), [job.image for job in live]
            record.keep(store, launch_record.made(sweep.jobs, plans, fresh))
            return summary.see_through(backend, store, args.resume, sweep, how)


def list_jobs(jobs: Sequence[Job], done: str) -> int:
    """Lists the jobs that would be run again, for --dry_run; returns the exit code.

    Args:
      jobs: those.
      done: what would be done to them: "run".
    """
    from caliban.commands import job_lines

    for job in jobs:
        terminal.result(job_lines.command(job))
        terminal.result(terminal.folded(f"  {job_lines.line(job)}"))
    terminal.note(f"{launch.count_of_jobs(len(jobs))}; nothing was {done} or recorded.")
    return 0


def check_alone(
    args: argparse.Namespace,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    command: str,
    besides: Collection[str],
) -> None:
    """Refuses what `--resume GROUP` would pass over: its jobs stay as they were recorded.

    Args:
      args: the command line, with `resume`.
      add_arguments: defines the command's arguments.
      command: its words: "caliban cloud".
      besides: the names of those arguments that have an effect all the same.

    Raises:
      UsageError: something else is given.
    """
    group = shlex.quote(args.resume)
    if args.module is not None or args.script_args:
        what = "no module is named" if args.module is not None else "nothing stands after '--'"
        raise UsageError(
            f"--resume submits what the group has recorded: {what}", f"{command} --resume {group}"
        )
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    usual = vars(parser.parse_args([]))
    wrong = [
        f"--{name}"
        for name, value in usual.items()
        if getattr(args, name) != value and name not in {"resume", *besides}
    ]
    if wrong:
        raise UsageError(
            f"--resume and {' '.join(wrong)} don't go together: jobs stay as they were recorded",
            f"{command} --resume {group}",
        )


def of_platform(jobs: Sequence[Job], platform: str) -> list[Job]:
    """Those of the jobs that ran on a platform; says which command goes on with others.

    Args:
      jobs: of one group.
      platform: its name.

    Raises:
      UsageError: all of them ran elsewhere.
    """
    from caliban.remote import backends

    mine = []
    others: dict[str, int] = {}
    for job in jobs:
        ran_on = job.submission.platform
        if ran_on == platform:
            mine.append(job)
        elif ran_on in (*backends.PLATFORMS, "local"):
            others[ran_on] = others.get(ran_on, 0) + 1
        else:
            launch.check_again(job, platform)
    group = jobs[0].group
    commands = {
        each: f"caliban run --resume {shlex.quote(group)}"
        if each == "local"
        else backends.resume_command(each, group)
        for each in others
    }
    if not mine:
        raise UsageError(
            f"the jobs of experiment group '{group}' ran elsewhere: {', '.join(others)}",
            f"Go on with them by: {', '.join(commands.values())}",
        )
    for each, number in others.items():
        which = f"{launch.count_of_jobs(number)} of {each}"
        terminal.note(f"Left alone: {which}: '{commands[each]}' goes on with them")
    return mine


def check_is_project(job: Job, plan: ImagePlan, hint: str) -> None:
    """Sees to it that what a job's image would be built of is no file, as after a replay.

    Args:
      job: that is to run again.
      plan: of its image.
      hint: what can be done otherwise.

    Raises:
      UsageError: it is.
    """
    if Path(plan.directory).is_file():
        command = shlex.join(["caliban", "replay", plan.directory, "--xgroup", job.group])
        raise UsageError(
            f"job {job.id} was replayed from the file {plan.directory}, which is no project",
            f"What has failed is run again by: {command}\n{hint}",
        )


def check_images(engine: Engine, jobs: Sequence[Job], hint: str) -> None:
    """Sees to it that the engine still has the images of jobs.

    Raises:
      UsageError: it hasn't got one.
    """
    for image in sorted({job.image for job in jobs}):
        if engine.image_id(image) is None:
            raise UsageError(
                f"the image {image} is not in the engine at {engine.host} any more", hint
            )


def options(jobs: Sequence[Job]) -> Options:
    """How jobs are run, as far as it decides how many at a time: without GPUs, if one has none."""
    from caliban.platform.local import Options

    found = [Options.from_json(job.submission.payload["settings"]) for job in jobs]
    return next((each for each in found if not each.gpus), found[0])


class Again:
    """Settings of recorded jobs, brought up to date with what is on this machine now."""

    def __init__(
        self,
        cloud_key: str | None = None,
        build_secrets: Sequence[str] = (),
        allowed_keys: Sequence[str] = (),
    ) -> None:
        """Takes the key that jobs get, and what their images need to be built.

        Args:
          cloud_key: a service account's key; None for the one that each job had.
          build_secrets: the values of --secret.
          allowed_keys: those of --allow_key.

        Raises:
          UsageError: it is not a file that can be read.
        """
        from caliban.docker import identity

        self._cloud_key = cloud_key
        self._key = identity.credentials(cloud_key, os.environ).key
        self._build_secrets = build_secrets
        self._allowed_keys = allowed_keys
        self._live: dict[str, list[Mount]] = {}

    def jobs(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs as they are to be run now; those that are under way stay as they are.

        Raises:
          UsageError: a file that they were given is gone, or live code cannot be mounted any more.
        """
        from caliban.commands import container_choice
        from caliban.docker import identity

        for file in identity.account_files(os.getuid(), os.getgid(), flags.user_name()):
            file.write()
        container_choice.make_nothing()
        return [self._job(job) if job.outcome.status.is_final else job for job in jobs]

    def _job(self, job: Job) -> Job:
        from caliban.docker.identity import KEY_PATH
        from caliban.platform.local import Mount, Options

        settings = Options.from_json(job.submission.payload["settings"])
        mounts = [*settings.mounts]
        if job.container_spec.get("live"):
            inside = f"{WORKING_DIRECTORY}/"
            mounts = [each for each in mounts if not f"{each.target}/".startswith(inside)]
            # Anew: a file that a job must not see may have come since.
            mounts = [*self._mounted(job.container_spec), *mounts]
        environment = dict(settings.environment)
        if self._key:
            mounts = [each for each in mounts if each.target != KEY_PATH]
            mounts.append(Mount(str(self._key), KEY_PATH))
            environment["GOOGLE_APPLICATION_CREDENTIALS"] = KEY_PATH
        for each in mounts:
            if not Path(each.source).exists():
                raise UsageError(
                    f"job {job.id} was given {each.source}, which is gone",
                    f"It is mounted at {each.target}: put it back, or use 'caliban run'.",
                )
        settings = replace(settings, mounts=tuple(mounts), environment=tuple(environment.items()))
        payload = {**job.submission.payload, "settings": settings.to_json()}
        return replace(job, submission=replace(job.submission, payload=payload))

    def _mounted(self, container_spec: Mapping[str, Any]) -> list[Mount]:
        """The mounts of live code, as they were when they were first asked for."""
        plan = ImagePlan.from_json(container_spec)
        if plan.directory not in self._live:
            self._live[plan.directory] = self._mounts_now(plan)
        return self._live[plan.directory]

    def _mounts_now(self, plan: ImagePlan) -> list[Mount]:
        from caliban.commands import container_choice

        return container_choice.live(plan, self.secrets(plan))

    def secrets(self, plan: ImagePlan) -> list[Path]:
        """The credentials that neither the images of a project nor its live jobs show.

        Raises:
          UsageError: the project's configuration cannot be read.
        """
        from caliban.docker import identity

        named = (
            self._cloud_key,
            os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"),
            config.load(Path(plan.directory)).gcloud.cloud_key,
        )
        keys = [home.expand(name).absolute() for name in named if name]
        lent = self.build_secrets(plan).files
        return [*keys, *lent, *identity.credentials(None, os.environ).files]

    def build_secrets(self, plan: ImagePlan) -> BuildSecrets:
        """The secrets that the build of a plan gets.

        Raises:
          UsageError: the project's configuration cannot be read, or --secret is wrong.
        """
        from caliban.commands import image_choice
        from caliban.docker import identity

        settings = config.load(Path(plan.directory))
        key = settings.cloud_key(self._cloud_key, os.environ)
        credentials = identity.credentials(key, os.environ)
        return image_choice.build_secrets(self._build_secrets, settings, credentials)

    def allowed_keys(self, plan: ImagePlan) -> tuple[str, ...]:
        """The files that may be in an image although they look like keys.

        Raises:
          UsageError: the project's configuration cannot be read.
        """
        return (*config.load(Path(plan.directory)).allowed_keys, *self._allowed_keys)

    def digest(self, container_spec: Mapping[str, Any]) -> str:
        """Names the live code of a recorded plan as it is now.

        Raises:
          CalibanError: it cannot be read, or would show what the jobs must not see.
        """
        from caliban.docker.image import context

        plan = ImagePlan.from_json(container_spec)
        # A mount over a file that has gone would make it anew, as root's.
        if self._mounts_now(plan) != self._mounted(container_spec):
            raise CalibanError("a file that it must not see has come or gone since the launch")
        return context.code_digest(plan, self.secrets(plan))
