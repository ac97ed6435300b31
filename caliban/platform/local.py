"""Jobs on this machine, each a container of the local Docker engine."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

from caliban.model import settings
from caliban.model.image import OUTPUT, OUTPUT_VARIABLE
from caliban.model.job import Handle, JobRequest, Outcome, Submission
from caliban.platform.base import Backend
from caliban.process import Child

NAME = "local"


class Containers(Protocol):
    """What is needed of an engine, see docker.containers."""

    @property
    def has_socket(self) -> bool:
        """Whether they run on this machine."""

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> Child: ...  # noqa: D102
    def outcomes(self, names: Sequence[str]) -> dict[str, Outcome]: ...  # noqa: D102
    def pass_on(  # noqa: D102
        self, child: Child, write: Callable[[int, bytes], None], tick: Callable[[], None]
    ) -> tuple[int, str]: ...
    def unstarted(self, code: int, printed: str) -> Outcome | None: ...  # noqa: D102
    def stop(self, name: str, kill: bool = False) -> Child: ...  # noqa: D102
    def discard(self, name: str) -> None: ...  # noqa: D102
    def of_jobs(self) -> dict[str, str]: ...  # noqa: D102
    def remove(self, name: str) -> None: ...  # noqa: D102
    def keeps_bytes(self, name: str) -> bool: ...  # noqa: D102
    def logs(  # noqa: D102
        self, name: str, follow: bool = False, tail: int | None = None
    ) -> Iterator[bytes]: ...


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
      gpus_per_job: how many of them each gets to itself; 0 if it gets all.
      user: uid:gid that the job runs as.
      directory: where it starts; "" for where the image says.
      mounts: files that it sees.
      scratch: folders that are empty when it starts, anybody's to write, and gone with it.
      environment: variables that it finds; None for a value that `docker run` takes from its own
        environment.
      run_args: the user's own arguments for `docker run`, which win over all of these.
      secrets: variables whose values `docker run` finds in its environment, see hide_secrets.
      network: that it is in, unless the user's own arguments name one; "" for the usual one.
    """

    command: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    gpus_per_job: int = 0
    user: str = ""
    directory: str = ""
    mounts: tuple[Mount, ...] = ()
    scratch: tuple[str, ...] = ()
    environment: tuple[tuple[str, str | None], ...] = ()
    run_args: tuple[str, ...] = ()
    secrets: tuple[tuple[str, str], ...] = ()
    network: str = ""

    def to_json(self) -> dict[str, Any]:
        """The options as JSON, without what is as usual; `from_json` reads it back.

        Of the secrets there are the names only, which their values are not recorded with.
        """
        found = settings.to_json(self, Options())
        return {**found, "secrets": [name for name, _ in self.secrets]} if self.secrets else found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Options:
        """Reads what `to_json` wrote; the values of secrets are empty.

        Raises:
          TypeError: it was not written by that.
        """
        listed = settings.read(value, "environment")
        listed |= {
            "mounts": tuple(Mount(**each) for each in value.get("mounts", ())),
            "secrets": tuple((name, "") for name in value.get("secrets", ())),
        }
        return cls(**listed)


def _name(uid: str) -> str:
    """The name of a job's container."""
    return f"caliban-{uid}"


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
    if options.gpus and not chooses_gpus(options.run_args):
        command += options.gpus
    if options.network and not chooses_network(options.run_args):
        command += ["--network", options.network]
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

    def __init__(
        self, containers: Containers, host: str, secrets: Mapping[str, str] | None = None
    ) -> None:
        """Takes the engine.

        Args:
          containers: of the engine.
          host: its address.
          secrets: variables that jobs find, whose values are in no command; see hide_secrets.
        """
        self._containers = containers
        self._secrets = secrets or {}
        self._children: dict[Handle, Child] = {}
        self.machine = socket.gethostname()
        self.target = f"{self.machine} {host}"

    def plan(self, request: JobRequest) -> Submission:
        """Writes the `docker run` of a job, whose settings are Options."""
        options = Options.from_json(request.settings)
        environment: dict[str, str | None] = {"PYTHONUNBUFFERED": "1", **dict(options.environment)}
        mounts = options.mounts
        payload: dict[str, Any] = {"settings": request.settings}
        if request.output:
            environment[OUTPUT_VARIABLE] = OUTPUT
            mounts = (*mounts, Mount(request.output, OUTPUT, writable=True))
            payload["output"] = request.output
        # Named only: `docker run` takes their values, the terminal's size, from its environment.
        environment |= {"COLUMNS": None, "LINES": None}
        command = docker_run(
            replace(options, environment=tuple(environment.items()), mounts=mounts),
            _name(request.uid),
            {"uid": request.uid, "xgroup": request.group},
            request.image,
            request.experiment.flags(),
        )
        return Submission(NAME, self.target, {"command": command, **payload})

    def handle_of(self, uid: str) -> Handle:
        """Where a job of this uid would be found."""
        return Handle(NAME, self.target, _name(uid))

    def handle(self, submission: Submission) -> Handle:
        """Where the job of a submission will be found: the name of its container."""
        command = submission.payload["command"]
        return Handle(NAME, submission.target, command[command.index("--name") + 1])

    def submit(
        self,
        submission: Submission,
        gpus: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> Handle:
        """Starts the container. Its name is made from the uid, and the engine takes a name once.

        Args:
          submission: what `plan` returned.
          gpus: arguments of `docker run` that take the place of those that give it all GPUs.
          variables: values of this job's own, for those that it is to find by name.
        """
        handle = self.handle(submission)
        command = list(submission.payload["command"])
        if gpus:
            everything = list(submission.payload["settings"]["gpus"])
            at = next(
                index
                for index in range(len(command))
                if command[index : index + len(everything)] == everything
            )
            command[at : at + len(everything)] = gpus
        self._children[handle] = self._containers.start(
            command, {**terminal_size(), **self._secrets, **(variables or {})}
        )
        return handle

    def follow(
        self, handle: Handle, write: Callable[[int, bytes], None], tick: Callable[[], None]
    ) -> tuple[int, str]:
        """Passes on the output of a job that was just submitted, as long as `docker run` does.

        That is until the job has ended, unless it could not be started, or the engine went away.

        Args:
          handle: of the job.
          write: called with 1 (stdout) or 2 (stderr) and the bytes, as they arrive.
          tick: called several times a second.

        Returns:
          The exit code of `docker run`, and how what was printed begins.
        """
        return self._containers.pass_on(self._children.pop(handle), write, tick)

    def unstarted(self, code: int, printed: str) -> Outcome | None:
        """The outcome of a job that `follow` found not started; None if it may be tried again."""
        return self._containers.unstarted(code, printed)

    def is_near(self, submission: Submission) -> bool:
        """Whether a job reaches what listens on the loopback of this machine."""
        options = Options.from_json(submission.payload.get("settings", {}))
        network = _network(options.run_args) or options.network
        return self._containers.has_socket and network == "host"

    def discard(self, handle: Handle) -> None:
        """Sees to it that a job which does not run yet won't be started by somebody else."""
        self._containers.discard(handle.id)

    def containers(self) -> dict[str, Handle]:
        """Where the containers of jobs are, by uid: all that the engine has, whoever's they are."""
        found = self._containers.of_jobs()
        return {uid: Handle(NAME, self.target, name) for uid, name in found.items()}

    def status(self, handles: Sequence[Handle]) -> dict[Handle, Outcome]:
        """Asks the engine what became of jobs."""
        found = self._containers.outcomes([handle.id for handle in handles])
        return {handle: found[handle.id] for handle in handles if handle.id in found}

    def stop(self, handle: Handle, kill: bool = False) -> Child:
        """Asks a job to end by SIGTERM, and 10 s later, or at once with `kill`, by SIGKILL.

        Returns:
          The program that does it, which fails if the job has no container, or not yet.
        """
        return self._containers.stop(handle.id, kill)

    def logs(
        self, handle: Handle, follow: bool = False, tail: int | None = None
    ) -> Iterator[bytes]:
        """What a job has printed, as long as its container is there."""
        return self._containers.logs(handle.id, follow, tail)

    def keeps_bytes(self, handle: Handle) -> bool:
        """Whether `logs` has what a job printed byte for byte; otherwise it is UTF-8 text."""
        return self._containers.keeps_bytes(handle.id)

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


def without_values(run_args: Sequence[str]) -> list[str]:
    """The user's own arguments for `docker run`, with the names of variables alone."""
    words: list[str] = []
    for word in hide_secrets(run_args)[0]:
        if words and _ENV_FLAG.fullmatch(words[-1]):
            word = word.partition("=")[0]
        elif match := _ENV_WORD.fullmatch(word):
            word = f"{match['flag']}{match['name']}"
        words.append(word)
    return words


def variables(submission: Submission, image: str) -> list[str]:
    """The names of the environment variables that a job is given."""
    command = list(submission.payload.get("command", ()))
    own = command[: command.index(image)] if image in command else []  # then come the job's own
    found = [word for flag, word in pairwise(own) if _ENV_FLAG.fullmatch(flag)]
    found += [match["name"] for match in map(_ENV_WORD.fullmatch, own) if match]
    return sorted({word.partition("=")[0] for word in found})


# --env, or -e, perhaps after other short flags: "-ie".
_ENV_FLAG = re.compile(r"--env|-[itPq]*e")

# The same with a variable in one word: "--env=NAME=value", "-eNAME".
_ENV_WORD = re.compile(r"(?P<flag>--env=|-[itPq]*e=?)(?P<name>[^=]+)(?:=.*)?", re.DOTALL)

# A name that says so, or a value that is an address with a password in it.
_SECRET = re.compile(
    r"(?P<flag>--env=|-[itPq]*e=?)?"
    r"(?:(?P<name>[\w.-]*(?:KEY|TOKEN|SECRET|PASS|PWD|AUTH|CREDENTIAL|_PAT\b|_PW\b)[\w.-]*)=(?P<value>.*)"
    r"|(?P<url_name>[\w.-]+)=(?P<url>\w[\w+.-]*://[^/]*:[^/]*@.*))",
    re.IGNORECASE | re.DOTALL,
)


def chooses_gpus(run_args: Sequence[str]) -> bool:
    """Whether the user's own arguments say which GPUs a container gets."""
    return any(
        word.startswith(("--gpus", "--runtime")) or "nvidia.com/gpu" in word for word in run_args
    )


def chooses_network(run_args: Sequence[str]) -> bool:
    """Whether the user's own arguments say which network a container is in."""
    return bool(_network(run_args))


def _network(run_args: Sequence[str]) -> str:
    """The network that the user's own arguments name last; "" for none."""
    found = ""
    for word, following in pairwise((*run_args, "")):
        name, equals, value = word.partition("=")
        if name in ("--network", "--net"):
            found = value if equals else following
    return found


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
    # A terminal that has not been told its size, as that of some programs, has none.
    return {"COLUMNS": str(size.columns), "LINES": str(size.lines)} if size.columns else {}
