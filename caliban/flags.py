"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import functools
import os

from caliban import flag_types
from caliban.errors import UsageError


def add_image_arguments(parser: argparse.ArgumentParser, is_remote: bool = False) -> None:
    """What decides the image: `Namespace.nogpu, cloud_key, extras, no_cache, upgrade_deps, ...`.

    Args:
      parser: of the command.
      is_remote: whether jobs run elsewhere, where they don't get this machine's credentials.
    """
    parser.add_argument("--nogpu", action="store_true", help="Disable GPU mode and force CPU-only.")
    if is_remote:
        add_key_argument(parser)
    else:
        parser.add_argument(
            "--cloud_key",
            metavar="FILE",
            help="Google Cloud service account key that the job uses (default: the file that "
            "$GOOGLE_APPLICATION_CREDENTIALS names). It is mounted read-only at run time, never "
            "copied into an image.",
        )
    parser.add_argument(
        "-e",
        "--extras",
        action="append",
        default=[],
        metavar="KEY",
        help="Optional dependency set of setup.py or pyproject.toml to install, besides 'cpu' or "
        "'gpu'. May be given several times.",
    )
    parser.add_argument(
        "--no_cache",
        "--no-cache",
        action="store_true",
        help="Build the image from scratch, without layers of earlier builds.",
    )
    parser.add_argument(
        "--upgrade_deps",
        action="store_true",
        help="Resolve the dependencies anew, to the newest versions that are allowed, and say what "
        "has changed. Otherwise they stay what they are until what is declared changes.",
    )
    usual = "what the jobs' machines are, mostly linux/amd64" if is_remote else "the engine's own"
    parser.add_argument(
        "--platform",
        type=flag_types.platform,
        metavar="OS/ARCH",
        help=f"What the image is for, like linux/arm64 (default: {usual}). For another processor "
        "than this machine's, the engine needs emulation (QEMU), and takes longer.",
    )
    add_secret_arguments(parser)


def add_secret_arguments(parser: argparse.ArgumentParser) -> None:
    """What a build may see, and what an image may hold: `Namespace.secret, allow_key`."""
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="SPEC",
        help="Lend a secret to the steps that install dependencies, in the words of docker: "
        "id=NAME, id=NAME,src=FILE or id=NAME,env=VARIABLE. With netrc, git-credentials, ssh, "
        "pip.conf or the name of a variable as id, programs find it. It is in no image. May be "
        "given several times.",
    )
    parser.add_argument(
        "--allow_key",
        action="append",
        default=[],
        metavar="FILE",
        help="Let a file into the image that looks like a key; a folder, or a pattern with *, "
        "stands for all in it. May be given several times.",
    )


def add_code_arguments(parser: argparse.ArgumentParser, is_optional: bool = False) -> None:
    """What is executed: `Namespace.module, dir, stray`, and script_args from behind the `--`.

    Args:
      parser: of the command.
      is_optional: whether the module may be left out; it is None then.
    """
    parser.add_argument(
        "-d",
        "--dir",
        action="append",
        default=[],
        metavar="DIR",
        help="Extra directory to copy into the image; may be given several times. List large ones "
        "first, so that a change in a small one rebuilds little.",
    )
    parser.add_argument(
        "module",
        nargs="?" if is_optional else None,
        help="Code to execute: 'trainer.train' runs as a Python module, 'trainer/train.py' as a "
        "Python script, and any other file by bash.",
    )
    through = parser.add_argument_group("pass-through arguments")
    stray = through.add_argument(
        "stray",
        nargs=argparse.REMAINDER,
        metavar="-- YOUR_ARGS",
        help="Everything after '--' is passed to your code, untouched.",
    )
    stray.required = False  # or argparse names it among what is missing, when the module is


def check_module(module: str | None, command: str) -> None:
    """Sees to it that a module is named, where it may be left out with --resume.

    Args:
      module: what is named.
      command: as a user writes it: "caliban cloud".

    Raises:
      UsageError: none is.
    """
    if module is None:
        raise UsageError(
            "no module is named",
            f"{command} trainer.train, or {command} --resume GROUP, for example.",
        )


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Which jobs there are: `Namespace.experiment_config, xgroup, dry_run`."""
    parser.add_argument(
        "--experiment_config",
        metavar="FILE",
        help="Experiment file (JSON with comments, or YAML) that is expanded into one job for "
        "each combination of values; 'stdin' or '-' reads it from standard input.",
    )
    parser.add_argument(
        "--xgroup",
        type=flag_types.group_name,
        metavar="NAME",
        help="Experiment group that the jobs belong to, new or existing (default: a new one).",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Only print what would be run: no image is built, nothing is recorded.",
    )


def add_job_arguments(parser: argparse.ArgumentParser, which: str) -> None:
    """Jobs that there are: `Namespace.jobs, xgroup`; see commands.job_choice.

    Args:
      parser: of the command.
      which: those of a group that are meant: "the open jobs".
    """
    parser.add_argument(
        "jobs",
        nargs="*",
        type=functools.partial(flag_types.job_number, group_flag="--xgroup"),
        metavar="JOB",
        help="Number of a job, as `caliban status` shows it.",
    )
    parser.add_argument(
        "--xgroup",
        type=flag_types.group_name,
        metavar="NAME",
        help=f"In the place of numbers: {which} of this experiment group.",
    )


def add_execution_arguments(parser: argparse.ArgumentParser, is_recorded: bool = False) -> None:
    """How many local jobs run at a time: `Namespace.jobs, gpus_per_job, verbose`.

    Args:
      parser: of the command.
      is_recorded: whether it is as it was recorded, unless the flags say otherwise; without
        --jobs, there is None then.
    """
    parser.add_argument(
        "--jobs",
        type=flag_types.number_of_jobs,
        metavar="N",
        default=None if is_recorded else 1,
        help="How many jobs run at a time; 'auto' for one for each core or, in GPU mode, each GPU "
        f"(default: {'as recorded, if there are so many cores' if is_recorded else 1}).",
    )
    parser.add_argument(
        "--gpus_per_job",
        type=flag_types.positive_number,
        metavar="K",
        help="Give each job K GPUs that no other job of yours on this machine has; it waits until "
        "so many are free.",
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="With --jobs: show what the jobs print, each line after the job's number.",
    )


def add_key_argument(parser: argparse.ArgumentParser) -> None:
    """As whom caliban asks Google: `Namespace.cloud_key`; see platform.google.access."""
    parser.add_argument(
        "--cloud_key",
        metavar="FILE",
        help="Google Cloud service account key that caliban itself works with (default: the file "
        "that $GOOGLE_APPLICATION_CREDENTIALS names; else the account that gcloud has logged in). "
        "No job and no image gets it.",
    )


def add_project_argument(parser: argparse.ArgumentParser) -> None:
    """Whose cloud it is: `Namespace.project_id`; see commands.google_project."""
    parser.add_argument(
        "--project_id",
        metavar="PROJECT",
        help="ID of the Google Cloud project (default: $PROJECT_ID; else that of "
        ".calibanconfig.json, of gcloud's configuration, or of your credentials).",
    )


def add_accelerator_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """What a job has to compute with: `Namespace.gpu_spec, tpu_spec`; see model.resources.

    Args:
      parser: of the command.
      default: what a job gets in GPU mode without these, in words.
    """
    from caliban.model import hardware

    known = hardware.load()
    parser.add_argument(
        "--gpu_spec",
        metavar="NUMxGPU_TYPE",
        help=f"Number and type of the GPUs of each job, as in 2xV100. Types: "
        f"{', '.join(known.gpus)}. Default: {default} in GPU mode, none with --nogpu.",
    )
    parser.add_argument(
        "--tpu_spec",
        metavar="NUMxTPU_TYPE",
        help=f"Number and type of the TPUs of each job, as in 8xV5E. Types: "
        f"{', '.join(known.tpus)}. Default: none. The image is one for CPU mode then.",
    )


def add_remote_arguments(parser: argparse.ArgumentParser, command: str, name: str) -> None:
    """Jobs elsewhere: `Namespace.image_tag, image_registry, name, label, force, resume, rerun`.

    Args:
      parser: of the command.
      command: as a user writes it: "caliban cloud".
      name: what jobs are called without --name: "caliban_USER".
    """
    parser.add_argument(
        "--image_tag",
        metavar="IMAGE",
        help="Image that the jobs can pull, to be used as it is: nothing is built and nothing "
        "pushed.",
    )
    parser.add_argument(
        "--image_registry",
        metavar="PREFIX",
        help="Where images are pushed to, as in registry.example.com/team: the beginning of their "
        'names (default: "image_registry" in .calibanconfig.json; else Artifact Registry).',
    )
    parser.add_argument(
        "--name",
        type=flag_types.line,
        metavar="NAME",
        help="What the jobs are called, before what tells them apart; it is their label job_name "
        f"too (default: {name}).",
    )
    parser.add_argument(
        "-l",
        "--label",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="Label that each job gets besides its own flags. May be given several times.",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="Don't check whether GPUs, TPUs, machine and place go together.",
    )
    parser.add_argument(
        "--resume",
        type=flag_types.group_name,
        metavar="GROUP",
        help="Go on with an experiment group: submit what was not sent, and once more what has "
        f"failed or was stopped. `{command} --resume GROUP` names no module.",
    )
    parser.add_argument(
        "--rerun",
        action="store_true",
        help="Submit also the experiments that in --xgroup have a job with this very image that "
        "has succeeded, or has yet to end.",
    )


def add_where_argument(parser: argparse.ArgumentParser, verb: str) -> None:
    """Conditions that jobs must meet: `Namespace.where`; see model.selection.

    Args:
      parser: of the command.
      verb: what is done to the jobs that meet them: "Show".
    """
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"{verb} only jobs that have this value of a flag, or status=FAILED, or the cause of "
        "failure that `caliban status` numbers so: cause=2. Repeatable: of several values for one "
        "name, any will do.",
    )


def add_container_arguments(parser: argparse.ArgumentParser) -> None:
    """How a local container is run: `Namespace.image_id, docker_run_args`."""
    parser.add_argument(
        "--image_id",
        metavar="IMAGE",
        help="Image of the local engine to use as it is; nothing is built.",
    )
    add_docker_run_args(parser)


def add_docker_run_args(parser: argparse.ArgumentParser) -> None:
    """What else `docker run` is told: `Namespace.docker_run_args`."""
    parser.add_argument(
        "--docker_run_args",
        metavar="ARGS",
        default="",
        help="Arguments for `docker run`, in one string that is split as a shell splits it.",
    )


def add_bare_argument(parser: argparse.ArgumentParser) -> None:
    """Whether the home directory stays out of a container: `Namespace.bare`."""
    parser.add_argument(
        "--bare",
        action="store_true",
        help="Leave your home directory out: none of your own settings and programs.",
    )


def user_name() -> str:
    """Who is running caliban; the number of the account where it has no name."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
