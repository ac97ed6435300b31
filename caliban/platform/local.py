"""Jobs on this machine, each a container of the local Docker engine."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from caliban.model.image import OUTPUT, OUTPUT_VARIABLE
from caliban.model.job import Handle, JobRequest, Outcome, Submission
from caliban.platform.base import Backend
from caliban.process import Child

NAME = "local"


class Containers(Protocol):
    """What is needed of an engine, see docker.containers."""

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> Child: ...  # noqa: D102
    def follow(  # noqa: D102
        self,
        child: Child,
        name: str,
        write: Callable[[int, bytes], None],
        tick: Callable[[], None],
    ) -> Outcome: ...
    def outcomes(self, names: Sequence[str]) -> dict[str, Outcome]: ...  # noqa: D102
    def stop(self, name: str, kill: bool = False) -> None: ...  # noqa: D102
    def remove(self, name: str) -> None: ...  # noqa: D102
    def logs(self, name: str, follow: bool = False) -> Iterator[bytes]: ...  # noqa: D102


@dataclass(frozen=True)
class Mount:
    """A file or folder of this machine that a container sees, read-only unless it is writable."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Options:
    """How the containers of a launch are run.

    Attributes:
      command: argv before the job's own arguments, instead of what the image itself starts.
      gpus: arguments of `docker run` that give it the GPUs.
      user: uid:gid that the job runs as.
      directory: where it starts; "" for where the image says.
      mounts: files that it sees.
      scratch: folders that are empty when it starts, anybody's to write, and gone with it.
      environment: variables that it finds; None for a value that `docker run` takes from its own
        environment.
      run_args: the user's own arguments for `docker run`, which win over all of these.
      secrets: variables whose values `docker run` finds in its environment, see hide_secrets.
    """

    command: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    user: str = ""
    directory: str = ""
    mounts: tuple[Mount, ...] = ()
    scratch: tuple[str, ...] = ()
    environment: tuple[tuple[str, str | None], ...] = ()
    run_args: tuple[str, ...] = ()
    secrets: tuple[tuple[str, str], ...] = ()


def docker_run(
    options: Options, name: str, labels: Mapping[str, str], image: str, arguments: Sequence[str]
) -> list[str]:
    """Writes the `docker run` of a container.

    Args:
      options: how it is run.
      name: its name.
      labels: by which it is found again, without the "caliban." that they begin with.
      image: id or name.
      arguments: those of the job itself, after those of options.command.
    """
    command = ["docker", "run", "--name", name]
    for label, value in labels.items():
        command += ["--label", f"caliban.{label}={value}"]
    # Without an init process Python is process 1, and ignores SIGTERM.
    command += ["--init", "--ipc", "host"]
    if options.user:
        command += ["--user", options.user]
    if options.directory:
        command += ["--workdir", options.directory]
    if options.gpus and not _chooses_gpus(options.run_args):
        command += options.gpus
    for variable, setting in options.environment:
        command += ["--env", variable if setting is None else f"{variable}={setting}"]
    for folder in options.scratch:
        command += ["--tmpfs", f"{folder}:exec,mode=1777"]
    for mount in options.mounts:
        command += ["--mount", _bind(mount)]
    command += options.run_args
    if options.command:
        command += ["--entrypoint", options.command[0]]
    return [*command, image, *options.command[1:], *arguments]


class LocalBackend(Backend):
    """The Backend of this machine, whose jobs can also be followed from their first byte on."""

    def __init__(self, containers: Containers, host: str, options: Options = Options()) -> None:
        self._containers = containers
        self._options = options
        self._children: dict[Handle, Child] = {}
        self.target = f"{socket.gethostname()} {host}"

    def plan(self, request: JobRequest) -> Submission:
        """Writes the `docker run` of a job."""
        options = self._options
        environment: dict[str, str | None] = {"PYTHONUNBUFFERED": "1", **dict(options.environment)}
        mounts = options.mounts
        payload: dict[str, Any] = {}
        if request.output:
            environment[OUTPUT_VARIABLE] = OUTPUT
            mounts = (*mounts, Mount(request.output, OUTPUT, writable=True))
            payload["output"] = request.output
        # Named only: `docker run` takes their values, the terminal's size, from its environment.
        environment |= {"COLUMNS": None, "LINES": None}
        command = docker_run(
            replace(options, environment=tuple(environment.items()), mounts=mounts),
            f"caliban-{request.uid}",
            {"uid": request.uid, "xgroup": request.group},
            request.image,
            request.experiment.flags(),
        )
        return Submission(NAME, self.target, {"command": command, **payload})

    def handle(self, submission: Submission) -> Handle:
        """Where the job of a submission will be found: the name of its container."""
        command = submission.payload["command"]
        return Handle(NAME, submission.target, command[command.index("--name") + 1])

    def submit(self, submission: Submission) -> Handle:
        """Starts the container. Its name is made from the uid, and the engine takes a name once."""
        handle = self.handle(submission)
        self._children[handle] = self._containers.start(
            submission.payload["command"], {**terminal_size(), **dict(self._options.secrets)}
        )
        return handle

    def follow(
        self, handle: Handle, write: Callable[[int, bytes], None], tick: Callable[[], None]
    ) -> Outcome:
        """Passes on the output of a job that was just submitted, until it has ended.

        Args:
          handle: of the job.
          write: called with 1 (stdout) or 2 (stderr) and the bytes, as they arrive.
          tick: called several times a second.
        """
        return self._containers.follow(self._children.pop(handle), handle.id, write, tick)

    def status(self, handles: Sequence[Handle]) -> dict[Handle, Outcome]:
        """Asks the engine what became of jobs."""
        found = self._containers.outcomes([handle.id for handle in handles])
        return {handle: found[handle.id] for handle in handles if handle.id in found}

    def stop(self, handle: Handle, kill: bool = False) -> None:
        """Asks a job to end by SIGTERM, and 10 s later, or at once with `kill`, by SIGKILL."""
        self._containers.stop(handle.id, kill)

    def logs(self, handle: Handle, follow: bool = False) -> Iterator[bytes]:
        """What a job has printed, as long as its container is there."""
        return self._containers.logs(handle.id, follow)

    def release(self, handle: Handle) -> None:
        """Removes the container of a job whose outcome and output have been kept."""
        self._containers.remove(handle.id)


def hide_secrets(run_args: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Takes values that look secret out of the user's arguments for `docker run`.

    `--env API_KEY=abc` becomes `--env API_KEY`, which makes `docker run` look the value up in its
    own environment: so it is neither in the process list, nor in the history.

    Returns:
      The arguments, and the values by name.
    """
    words: list[str] = []
    values: dict[str, str] = {}
    for word in run_args:
        match = _SECRET.fullmatch(word)
        is_value = bool(words) and bool(_ENV_FLAG.fullmatch(words[-1]))
        if match and (match["flag"] or is_value):
            name = match["name"] or match["url_name"]
            values[name] = match["value"] or match["url"] or ""
            word = f"{match['flag'] or ''}{name}"
        words.append(word)
    return words, values


# --env, or -e, perhaps after other short flags: "-ie".
_ENV_FLAG = re.compile(r"--env|-[itPq]*e")

# A name that says so, or a value that is an address with a password in it.
_SECRET = re.compile(
    r"(?P<flag>--env=|-[itPq]*e=?)?"
    r"(?:(?P<name>[\w.-]*(?:KEY|TOKEN|SECRET|PASS|PWD|AUTH|CREDENTIAL|_PAT\b|_PW\b)[\w.-]*)=(?P<value>.*)"
    r"|(?P<url_name>[\w.-]+)=(?P<url>\w[\w+.-]*://[^/]*:[^/]*@.*))",
    re.IGNORECASE | re.DOTALL,
)


def _chooses_gpus(run_args: Sequence[str]) -> bool:
    """Whether the user's own arguments say which GPUs a container gets."""
    return any(
        word.startswith(("--gpus", "--runtime")) or "nvidia.com/gpu" in word for word in run_args
    )


# What a field of CSV holds only in quotes.
_SPECIAL = frozenset(',"\r\n')


def _bind(mount: Mount) -> str:
    """The value of --mount, which `docker run` reads as a line of CSV."""
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    if not mount.writable:
        fields.append("readonly")
    return ",".join(
        '"' + field.replace('"', '""') + '"' if _SPECIAL & set(field) else field for field in fields
    )


def terminal_size() -> dict[str, str]:
    """The size of the terminal, so that a job's bars and tables fit it; empty without one."""
    try:
        size = os.get_terminal_size(2)
    except OSError:
        return {}
    return {"COLUMNS": str(size.columns), "LINES": str(size.lines)}
