"""Open a shell in a container, in the environment that jobs find.

The current directory is live at /usr/app, and your home directory is there too, unless --bare: what
you edit on one side is edited on the other. You are yourself inside, so that new files are yours.
The exit code is that of the shell.

With --pinned, no directory is mounted: the shell is in the image itself, as a job finds it. --job
does that with the image of an earlier job.

  caliban shell --nogpu
  caliban shell --nogpu --bare --docker_run_args "--volume $HOME/data:/data"
  caliban shell --job 61
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import sys
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import flag_types, flags, terminal
from caliban.errors import INTERRUPTED, CalibanError, Problems, UsageError
from caliban.interrupt import Interruption
from caliban.model import experiment_text

if TYPE_CHECKING:
    from caliban.commands.container_choice import ContainerChoice
    from caliban.commands.image_choice import ImageChoice
    from caliban.docker.containers import Containers
    from caliban.docker.engine import Engine
    from caliban.docker.identity import Credentials
    from caliban.model.image import Mode
    from caliban.model.job import Job, Outcome

# Exit codes of a shell that somebody else has ended.
_KILLED = 128 + signal.SIGKILL
_HUNG_UP = 128 + signal.SIGHUP

# What engines say when a ^C reached the container's terminal before its shell did.
_TOO_EARLY = re.compile("cannot start a (stopped process|container that has stopped)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    flags.add_image_arguments(parser)
    flags.add_container_arguments(parser)
    parser.add_argument(
        "--shell",
        choices=("bash", "zsh"),
        help="Shell to use (default: that of $SHELL, or bash; without your home directory, bash).",
    )
    flags.add_bare_argument(parser)
    parser.add_argument(
        "--pinned",
        action="store_true",
        help="Mount no directory: the files are those of the image that --image_id names.",
    )
    parser.add_argument(
        "--job",
        type=flag_types.job_number,
        metavar="JOB",
        help="Open the very image that this job ran, pinned; `caliban status` shows the numbers.",
    )


def run(args: argparse.Namespace) -> int:
    """Opens the shell; its exit code is the command's."""
    from caliban.commands import container_choice
    from caliban.docker.containers import Containers
    from caliban.docker.engine import Engine

    wanted = _understand(args)
    engine = Engine()
    engine.check_program()
    containers = Containers(engine)
    container = _container(wanted, engine)
    image = _image(wanted, engine)
    program = _program(wanted, containers, image)
    container = _furnish(wanted, container, engine, image, program)
    container.prepare()
    container_choice.remove_orphans(containers)
    if wanted.job and wanted.job.container_spec.get("live"):
        place = wanted.job.container_spec.get("directory")
        terminal.warn(f"job {wanted.job.id} ran live code, of {place}: the image has none of it")
    if wanted.has_terminal and sys.stderr.isatty():
        _greet(wanted, wanted.args.image_id or engine.image_name(image))
    return _attend(wanted, containers, container, image)


@dataclass(frozen=True)
class _Wanted:
    """What a command line asks for, as far as that is known without Docker.

    Attributes:
      args: the command line.
      directory: the current one.
      mode: CPU or GPU.
      credentials: those that the container gets.
      run_args: the user's own arguments for `docker run`.
      choice: the image to build; None for one that is there already.
      job: the job whose image it is; None for another.
    """

    args: argparse.Namespace
    directory: Path
    mode: Mode
    credentials: Credentials
    run_args: tuple[str, ...]
    choice: ImageChoice | None
    job: Job | None

    @property
    def is_pinned(self) -> bool:
        """Whether no directory is mounted."""
        return self.args.pinned or self.job is not None

    @property
    def is_at_home(self) -> bool:
        """Whether the user's home directory is there, with the settings of a shell in it."""
        return not self.is_pinned and not self.args.bare

    @property
    def has_terminal(self) -> bool:
        """Whether somebody types what the shell gets."""
        return sys.stdin.isatty()

    @property
    def reads_settings(self) -> bool:
        """Whether the shell reads the user's own; what comes through a pipe is only executed."""
        return self.is_at_home and self.has_terminal

    @property
    def shell(self) -> str:
        """The name of the shell."""
        from caliban.docker import shell

        if self.args.shell:
            return str(self.args.shell)
        return shell.preferred(os.environ) if self.is_at_home else "bash"


def _understand(args: argparse.Namespace) -> _Wanted:
    """Reads the command line, and in the history which job it means."""
    from caliban.commands import container_choice, image_choice

    if args.pinned and not args.image_id and args.job is None:
        raise UsageError("--pinned needs an image: --image_id IMAGE, or --job JOB")
    if args.image_id and args.job is not None:
        raise UsageError("--image_id and --job both name an image")
    problems = Problems()
    nothing: tuple[str, ...] = ()
    run_args = problems.attempt(lambda: container_choice.split(args.docker_run_args), nothing)
    choice = None
    if args.image_id or args.job is not None:
        directory, _, mode, credentials = image_choice.surroundings(args, problems)
        problems.check()
    else:
        choice = image_choice.choose(args, problems)
        problems.check()
        assert choice is not None
        directory, mode, credentials = Path(choice.plan.directory), choice.mode, choice.credentials
    job = None
    if args.job is not None:
        job = _job(args.job)
        mode = _mode(job, mode)
    return _Wanted(args, directory, mode, credentials, run_args, choice, job)


def _job(number: int) -> Job:
    """The job whose image is to be opened."""
    from caliban import launch

    with launch.open_history() as store:
        job = store.job(flags.user_name(), number)
    if not job.image:
        raise UsageError(f"the history does not say which image job {number} ran")
    return job


def _mode(job: Job, mode: Mode) -> Mode:
    """The mode of a shell in a job's image: a job that needed no GPU needs none now."""
    from caliban.model.image import Mode

    spec = job.container_spec
    return Mode.CPU if str(spec.get("mode") or spec.get("job_mode")).lower() == "cpu" else mode


def _container(wanted: _Wanted, engine: Engine) -> ContainerChoice:
    """How the container is run, as far as the image makes no difference."""
    from caliban.commands import container_choice

    gpus = container_choice.gpus(engine, wanted.mode, "shell")
    if wanted.is_pinned:
        found = container_choice.choose(wanted.credentials, engine, wanted.run_args)
    else:
        found = container_choice.at_home(
            wanted.credentials, engine, wanted.run_args, wanted.directory, wanted.args.bare
        )
    return replace(found, options=replace(found.options, gpus=gpus))


def _image(wanted: _Wanted, engine: Engine) -> str:
    """The id of the image, which is built if it has to be."""
    from caliban import launch
    from caliban.commands import container_choice, image_choice

    if wanted.job:
        return _image_of(wanted.job, engine)
    if wanted.choice is None:
        return container_choice.image(engine, wanted.args.image_id)
    plan = wanted.choice.plan.interactive(shell="" if wanted.shell == "bash" else wanted.shell)
    images = image_choice.images(wanted.args, wanted.choice, engine, launch.open_history)
    return images.ensure(plan)[1]


def _image_of(job: Job, engine: Engine) -> str:
    """The id of a job's image.

    Raises:
      UsageError: the engine doesn't have it.
    """
    found = engine.image_id(job.image)
    if found is None:
        is_id = job.image.startswith("sha256:")
        raise UsageError(
            f"job {job.id} ran the image {job.image}, which the engine at {engine.host} does not "
            "have",
            "It was removed, or the job ran elsewhere."
            if is_id
            else f"If you may have it: docker pull {shlex.quote(job.image)}",
        )
    return found


def _program(wanted: _Wanted, containers: Containers, image: str) -> str:
    """Where the image has the shell.

    Raises:
      CalibanError: nowhere.
    """
    if found := containers.find_program(image, wanted.shell):
        return found
    bash = "" if wanted.shell == "bash" else containers.find_program(image, "bash")
    if bash and not wanted.args.shell:
        terminal.note(f"The image has no {wanted.shell}: this is bash.")
        return bash
    raise CalibanError(
        f"the image {wanted.args.image_id or image} has no {wanted.shell}",
        "It has bash: --shell bash"
        if bash
        else f"Whatever shell it has, Docker opens it: docker run --rm -it --entrypoint sh {image}",
    )


def _furnish(
    wanted: _Wanted, container: ContainerChoice, engine: Engine, image: str, program: str
) -> ContainerChoice:
    """Adds to a container what the shell needs in it."""
    from caliban.commands import container_choice
    from caliban.docker import shell
    from caliban.platform.local import Mount

    kind = os.environ.get("TERM", "") if wanted.has_terminal else None
    variables = shell.environment(program, wanted.reads_settings, kind)
    options = container.options
    mounts = options.mounts
    if wanted.reads_settings:
        mounts = (*mounts, Mount(str(shell.startup_files()), shell.FOLDER))
    name = f"job-{wanted.job.id}" if wanted.job else "caliban-shell"
    options = replace(
        options,
        command=shell.command(program, wanted.reads_settings),
        mounts=mounts,
        environment=(*variables.items(), *options.environment),
        run_args=(
            *shell.terminal_arguments(wanted.has_terminal),
            *shell.hostname_arguments(name, options.run_args),
            *options.run_args,
        ),
    )
    if not wanted.is_at_home:
        options = container_choice.with_home(options, engine, image)
    return replace(container, options=options)


def _attend(wanted: _Wanted, containers: Containers, container: ContainerChoice, image: str) -> int:
    """Lets the user work until the shell ends; returns its exit code.

    Raises:
      CalibanError: it could not be started.
    """
    from caliban.docker.containers import attended_labels
    from caliban.platform.local import docker_run

    name = f"caliban-shell-{uuid.uuid4().hex[:12]}"
    command = docker_run(container.options, name, attended_labels(), image, ())
    with Interruption() as interruption:
        outcome = containers.attach(
            command,
            name,
            dict(container.options.secrets),
            lambda: interruption.count > 0,
            wanted.has_terminal,
        )
    if interruption.count:
        # What was typed last stands on the line; but there may be no terminal any more.
        with contextlib.suppress(OSError):
            terminal.note("")
        return INTERRUPTED
    return _exit_code(outcome)


def _exit_code(outcome: Outcome) -> int:
    """The exit code of a shell that has ended by itself; says so if it did not mean to."""
    assert outcome.exit_code is not None
    if outcome.exit_code == _KILLED:
        if outcome.started is None:
            why = "The container was removed while the shell ran in it."
        elif outcome.reason == "out of memory":
            why = "The container ran out of memory."
        else:
            why = "The shell, or the last thing that it ran, was killed (SIGKILL)."
        terminal.note(f"\n{why}")
    elif outcome.exit_code == _HUNG_UP:
        terminal.note("\nThe shell was hung up (SIGHUP).")
    elif outcome.started is None:
        reason = outcome.reason.removeprefix("docker run failed: ")
        reason = reason.removeprefix("Error response from daemon: ")
        if _TOO_EARLY.search(reason):
            terminal.note("The shell was interrupted before it began.")
            return INTERRUPTED
        raise CalibanError(f"the shell could not be started: {reason}")
    return outcome.exit_code


_BANNER = r"""
            _ _ _
   ___ __ _| (_) |__  __ _ _ _
  / __/ _` | | | '_ \/ _` | ' \
  \___\__,_|_|_|_.__/\__,_|_||_|
"""


def _greet(wanted: _Wanted, image: str) -> None:
    """Says where one is, and what is special there."""
    from caliban.docker import identity

    terminal.note(_BANNER, "cyan")
    shown = image.removeprefix("sha256:")[:12] if image.startswith("sha256:") else image
    uid, gid = os.getuid(), os.getgid()
    name = identity.account_name(uid, flags.user_name())
    if any(word == "--user" or word.startswith(("--user=", "-u")) for word in wanted.run_args):
        terminal.note(f"You are in the image {shown}.")
    else:
        terminal.note(f"You are {name} ({uid}:{gid}), in the image {shown}.")
    if wanted.is_pinned:
        terminal.note("No directory is mounted: what you change here is gone when you leave.")
    else:
        terminal.note(f"{wanted.directory} is live at /usr/app.")
    if wanted.job:
        _tell(wanted.job)
    terminal.note("^D or 'exit' leaves.\n")


def _tell(job: Job) -> None:
    """Says what a job ran, so that it can be repeated."""
    from caliban.model.image import ImagePlan

    try:
        module = ImagePlan.from_json(job.container_spec).module
    except (KeyError, TypeError, ValueError):  # of caliban 0.4
        module = None
    words = (*(module.command if module else ()), *job.experiment.args)
    if command := experiment_text.quoted(replace(job.experiment, args=words)):
        terminal.note(f"Job {job.id} ran{'' if module else ' with'}:\n  {command}")
