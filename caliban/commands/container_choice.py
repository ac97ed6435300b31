"""From a command line and the machine to what `docker run` is told."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from caliban import config, flags, home, terminal
from caliban.docker import identity, private
from caliban.docker.containers import Containers
from caliban.docker.engine import Engine
from caliban.docker.identity import ADC_PATH, AccountFile, Credentials
from caliban.docker.run_args import options as docker_options
from caliban.errors import EngineError, UsageError
from caliban.model.image import HOME, OUTPUT, WORKING_DIRECTORY, ImagePlan, Mode
from caliban.platform import outputs
from caliban.platform.local import Mount, Options, hide_secrets

# Arguments of `docker run` that would take a container out of caliban's sight.
_REFUSED = ("--name", "--detach", "--cidfile", "--restart")


@dataclass(frozen=True)
class ContainerChoice:
    """How the containers of a command are run.

    Attributes:
      options: what `docker run` is told.
      accounts: files of `options.mounts` that are written before the first container starts.
      output: in which directory each job gets one of its own, if it does.
    """

    options: Options
    accounts: Sequence[AccountFile] = ()
    output: Path | None = None

    def prepare(self) -> None:
        """Writes the files that the containers need, and says what is mounted.

        Raises:
          CalibanError: one cannot be written.
        """
        for file in self.accounts:
            file.write()
        if self._hidden():
            make_nothing()
        if line := self._mounted():
            terminal.note(line)

    def _mounted(self) -> str:
        generated = {str(file.path) for file in self.accounts}
        writable = [_arrow(each) for each in self.options.mounts if each.writable]
        if self.output:
            writable.append(_arrow(Mount(f"{self.output}/GROUP/JOB", OUTPUT)))
        readonly = [
            _arrow(each)
            for each in self.options.mounts
            if not each.writable and each.source not in (*generated, *_nothing())
        ]
        parts = [", ".join(writable)] if writable else []
        if readonly:
            parts.append(f"read-only {', '.join(readonly)}")
        if generated:
            parts.append("your entry in /etc/passwd and /etc/group")
        if hidden := self._hidden():
            parts.append(f"hidden {', '.join(hidden)}")
        return f"Mounted: {'; '.join(parts)}" if parts else ""

    def _hidden(self) -> list[str]:
        return [each.target for each in self.options.mounts if each.source in _nothing()]


def choose(
    credentials: Credentials,
    engine: Engine,
    run_args: Sequence[str],
    mounts: Sequence[Mount] = (),
    output: Path | None = None,
    home_directory: str = HOME,
) -> ContainerChoice:
    """Puts together what the containers of all commands have in common.

    Args:
      credentials: those that the containers get.
      engine: where they run.
      run_args: the user's own arguments for `docker run`, see split.
      mounts: what else of this machine they see.
      output: in which directory each job gets one of its own, if it does.
      home_directory: the user's home inside.

    Raises:
      UsageError: the engine is on another machine, whose files are not these.
    """
    uid, gid = os.getuid(), os.getgid()
    accounts = identity.account_files(uid, gid, flags.user_name(), home_directory)
    if not engine.is_local:
        if mounted := [*(each.source for each in mounts), *([str(output)] if output else [])]:
            raise UsageError(
                f"the engine at {engine.host} is on another machine: {mounted[0]} cannot be "
                "mounted there",
                "An engine on this machine can; 'docker context ls' lists those that there are.",
            )
        if credentials.files:
            terminal.warn(f"the engine at {engine.host} is remote: its jobs get no credentials")
        credentials, accounts = Credentials(), []
    given = [Mount(str(path), target) for path, target in credentials.files.items()]
    given += [Mount(str(file.path), file.target) for file in accounts]
    visible, secrets = hide_secrets(run_args)
    return ContainerChoice(
        Options(
            user=f"{uid}:{gid}",
            mounts=(*mounts, *given),
            environment=tuple(credentials.environment.items()),
            run_args=tuple(visible),
            secrets=tuple(secrets.items()),
        ),
        accounts,
        output,
    )


def at_home(
    credentials: Credentials, engine: Engine, run_args: Sequence[str], project: Path, bare: bool
) -> ContainerChoice:
    """A container that a user works in: the project is live, and the home directory is there.

    Args:
      credentials: those of the user.
      engine: where it runs.
      run_args: the user's own arguments for `docker run`.
      project: the directory.
      bare: whether the home directory stays out.

    Raises:
      UsageError: the engine is on another machine.
    """
    mounts = [Mount(str(project), WORKING_DIRECTORY, writable=True)]
    name = identity.account_name(os.getuid(), flags.user_name())
    target = HOME
    environment: dict[str, str | None] = {"USER": name, "LOGNAME": name}
    if not bare:
        home.directory()  # says so where there is no home directory
        target = f"/home/{name}"
        mounts.append(Mount(str(Path.home()), target, writable=True))
        # Packages that were installed there, for another Python, would win over the image's.
        environment |= {"HOME": target, "PYTHONNOUSERSITE": "1"}
        if credentials.adc == Path.home() / PurePosixPath(ADC_PATH).relative_to(HOME):
            credentials = replace(credentials, adc=None)  # in the home directory, all is in place
        elif credentials.adc:
            environment["CLOUDSDK_CONFIG"] = str(PurePosixPath(ADC_PATH).parent)
    found = choose(credentials, engine, run_args, mounts, home_directory=target)
    environment |= dict(found.options.environment)
    options = replace(
        found.options, environment=tuple(environment.items()), directory=WORKING_DIRECTORY
    )
    return replace(found, options=options)


def live(plan: ImagePlan, secrets: Iterable[Path]) -> list[Mount]:
    """The mounts that put a project in the place of an image's copy, without what is secret in it.

    Args:
      plan: what the image would hold; its directory is mounted.
      secrets: files that jobs get, if at all, at another place.

    Raises:
      UsageError: more than a project would be mounted, or less than the job needs.
    """
    project = Path(plan.directory)
    top = project.resolve()
    if Path.home().resolve().is_relative_to(top):
        raise UsageError(
            f"--live would mount {project}, and that includes your home directory",
            "Move the project into a folder of its own.",
        )
    if folder := private.enclosing(project, os.environ):
        raise UsageError(
            f"--live would mount {project}, but no job may see what is in {folder}",
            "Move the project to another place.",
        )
    for name in (*([plan.module.copied] if plan.module else []), *plan.directories):
        if not (project / name).resolve().is_relative_to(top):
            raise UsageError(
                f"--live: '{name}' is a link that leads out of the project",
                f"A live job sees {project} and nothing beside it. Run without --live, or mount "
                "by --docker_run_args what the link leads to.",
            )
    hidden = private.inside(project, [*secrets, project / config.FILE_NAME], os.environ)
    return [Mount(str(project), WORKING_DIRECTORY, writable=True)] + [
        Mount(_nothing()[path.is_dir()], f"{WORKING_DIRECTORY}/{path.relative_to(top).as_posix()}")
        for path in hidden
    ]


def output_directory(name: str | None, group: str | None) -> Path | None:
    """The directory that --output names, without links in its path.

    Args:
      name: the flag's value.
      group: name of the experiment group, if it has one already.

    Raises:
      UsageError: no job may see what is there, or it cannot be written to.
    """
    if not name:
        return None
    # Without links, as the engine and the system read ".." behind one in different ways.
    path = Path(os.path.realpath(home.expand(name)))
    for each in (path, outputs.group_directory(path, group or "")):
        if folder := private.enclosing(each, os.environ):
            raise UsageError(f"--output: {each} lies in {folder}, which no job may see")
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not there.is_dir():
        raise UsageError(f"--output {name}: {there} is not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"--output {name}: you may not write to {there}")
    return path


def _nothing() -> tuple[str, str]:
    """What is mounted over a file, and over a folder, that a container must not see."""
    # Not /dev/null: where the engine runs in a virtual machine, only the user's files are shared.
    return str(home.path("empty", "file")), str(home.path("empty", "folder"))


def make_nothing() -> None:
    """Sees to the empty file and folder that are mounted over what a job must not see."""
    home.directory("empty", "folder")
    file = home.path("empty", "file")
    if not file.exists():
        home.write_private(file, "")


def assumed_gpus(mode: Mode) -> tuple[str, ...]:
    """The arguments that most engines give containers the GPUs by; none in CPU mode."""
    return ("--gpus", "all") if mode is Mode.GPU else ()


def gpus(engine: Engine, mode: Mode, command: str) -> tuple[str, ...]:
    """The arguments that give containers the GPUs; none in CPU mode.

    Raises:
      EngineError: they cannot be given; found out before anything is built.
    """
    if mode is Mode.CPU:
        return assumed_gpus(mode)
    if sys.platform == "darwin":
        raise EngineError(
            f"'caliban {command}' doesn't support GPU usage on Macs! Please pass --nogpu to use "
            "this command.",
            "(GPU mode is fine for jobs that run elsewhere; just nothing that runs locally.)",
        )
    return engine.gpu_arguments()


def image(engine: Engine, reference: str, flag: str = "--image_id") -> str:
    """The id of an image that is used as it is.

    Raises:
      UsageError: the engine has none of that name.
    """
    found = engine.image_id(reference)
    if found is None:
        raise UsageError(
            f"{flag} {reference}: the engine at {engine.host} has no such image",
            "'docker image ls' lists those that it has.",
        )
    return found


def with_home(options: Options, engine: Engine, image_id: str) -> Options:
    """Sees to a home directory that the user may write to, which only caliban's own images have."""
    if engine.is_ours(image_id):
        return options
    environment = (("HOME", HOME), *options.environment)
    return replace(options, scratch=(HOME,), environment=environment)


def remove_orphans(containers: Containers) -> None:
    """Removes what earlier shells and notebooks have left behind, and names what still runs."""
    for left in containers.remove_orphans():
        terminal.warn(f"{left} still runs, though its caliban has gone: docker rm -f {left}")


def split(run_args: str) -> tuple[str, ...]:
    """Splits --docker_run_args as a shell does.

    Raises:
      UsageError: it can't be split, or holds what caliban must decide.
    """
    try:
        words = shlex.split(run_args)
    except ValueError as error:
        raise UsageError(f"--docker_run_args cannot be read: {error}: {run_args}") from None
    kept: list[str] = []
    for option in docker_options(words):
        for name in option.names:
            if name in ("", "--help"):
                raise UsageError(
                    "--docker_run_args must hold options of `docker run` and their values, and "
                    f"'{option.words[0]}' is neither: {run_args}",
                    "The image and the command are caliban's affair.",
                )
            if name in _REFUSED:
                raise UsageError(
                    f"--docker_run_args must not hold '{option.words[0]}'",
                    "caliban names, follows and removes the containers itself.",
                )
        # Without it the container is there until its outcome is safe, and is removed then.
        if option.names != ("--rm",):
            kept += option.words
    return tuple(kept)


def _arrow(mount: Mount) -> str:
    return f"{_shortened(mount.source)} -> {mount.target}"


def _shortened(path: str) -> str:
    """A path as people write it, with ~ for the home directory."""
    own = str(Path.home())
    return f"~{path[len(own) :]}" if path == own or path.startswith(f"{own}/") else path
