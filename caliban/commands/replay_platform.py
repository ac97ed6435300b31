"""Where the experiments of a file are run, other than here: what --on says."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from caliban import flag_types
from caliban.errors import UsageError

if TYPE_CHECKING:
    from caliban import config
    from caliban.model.image import Mode
    from caliban.remote.backends import Backends

# What the commands are called in --on, and by themselves.
COMMANDS = {"cloud": "caliban cloud", "cluster": "caliban cluster job submit"}

# Their flags that --on does not take: what the file says, or flags of `replay` itself say, or what
# sends no new jobs.
_NOT_THERE = (
    *("module", "extras", "dir", "experiment_config", "upgrade_deps", "no_cache", "platform"),
    *("image_tag", "xgroup", "dry_run", "secret", "allow_key", "resume", "rerun", "export"),
)

# Flags of `replay` that are for jobs on this machine; of some, --on takes what it means there.
_HERE = ("nogpu", "output", "cloud_key", "docker_run_args", "jobs", "gpus_per_job", "verbose")


@dataclass(frozen=True)
class Platform:
    """Where the jobs are sent, and how they are run there.

    Attributes:
      command: that sends jobs there: "cluster".
      args: its command line.
    """

    command: str
    args: argparse.Namespace

    @classmethod
    def parse(cls, args: argparse.Namespace) -> Platform:
        """Reads --on.

        Args:
          args: the command line of `replay`.

        Raises:
          UsageError: it says nothing of the kind, or flags beside it don't go with it.
        """
        from caliban.commands import cloud
        from caliban.commands.cluster.job import submit

        if wrong := [f"--{name}" for name in _HERE if getattr(args, name) not in (None, False, "")]:
            raise UsageError(
                f"{' '.join(wrong)} and --on don't go together: the jobs don't run here",
                f"What is for the jobs stands in --on: --on {shlex.quote(f'{args.on} --nogpu')}, "
                "for example.",
            )
        try:
            name, *words = shlex.split(args.on)
        except ValueError as error:
            raise UsageError(f"--on {args.on}: {error}") from None
        if name not in COMMANDS:
            raise UsageError(f"--on {name}: expected {' or '.join(COMMANDS)}", _hint("cloud"))
        module = cloud if name == "cloud" else submit
        parser = _Parser(add_help=False, allow_abbrev=False)
        module.add_arguments(parser)
        flag_types.refuse_empty_values(parser)
        found = parser.parse_args(words)
        usual = vars(parser.parse_args([]))
        if wrong := [
            f"--{each}" for each in _NOT_THERE if vars(found).get(each) != usual.get(each)
        ]:
            raise UsageError(
                f"--on takes no {' '.join(wrong).replace('--module', 'module')}: what runs is said "
                "by the file, and by flags of replay itself",
                _hint(name),
            )
        found.xgroup, found.script_args, found.command = args.xgroup, (), args.command
        found.secret, found.allow_key = args.secret, args.allow_key
        return cls(name, found)

    @property
    def name(self) -> str:
        """The platform, as the history has it."""
        return {"cloud": "vertex", "cluster": "kubernetes"}[self.command]

    @property
    def outputs(self) -> str:
        """Where jobs there can keep files, as its --output has it."""
        return {"cloud": "gs://BUCKET/PATH", "cluster": "pvc:CLAIM"}[self.command]

    def mode(self, usual: Mode) -> Mode:
        """Whether the jobs get GPUs."""
        from caliban.commands import machine_choice
        from caliban.commands.cluster import job_options

        choose = machine_choice.mode if self.command == "cloud" else job_options.mode
        return choose(self.args, usual)

    def backends(self, settings: config.Config) -> Backends:
        """All platforms, as the user whom these flags, the environment or the settings name."""
        from caliban.commands import cloud_wishes
        from caliban.commands.cluster import place_choice

        choose = cloud_wishes.backends if self.command == "cloud" else place_choice.backends
        return choose(self.args, settings)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as all other mistakes are told."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"--on: {message}", "Its flags are those of the command that it names.")


def _hint(name: str) -> str:
    examples = {
        "cloud": "--on 'cloud --region europe-west4'",
        "cluster": "--on 'cluster --context minikube --namespace me'",
    }
    rest = "; ".join(each for key, each in examples.items() if key != name)
    return f"For example {examples[name]}, or {rest}."
