"""Containers of the local engine: started, watched, asked for their outcome, removed."""

from __future__ import annotations

import contextlib
import datetime
import os
import selectors
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from caliban import process, terminal
from caliban.docker.engine import Engine
from caliban.errors import EngineError
from caliban.interrupt import Interruption
from caliban.model.job import Outcome, Status

STDOUT, STDERR = 1, 2

# How many of the first bytes of a job's output are kept, in case they are docker's own.
_KEPT = 4096

# Label of a container that somebody works in: the process that attends to it, see process.identity.
OWNER = "caliban.owner"

# Label with the number of the user whose container it is: what others left is their affair.
_USER = "caliban.user"

# How long a shell has to go, in seconds.
_FAREWELL = 3.0

# How long an interruption waits for a container that is being made, in seconds.
_MAKING = 20.0

# What `docker run` shares with `docker start`, and not with `docker create`.
_START_FLAGS = ("--detach-keys", "--sig-proxy")

# How often something that waits looks up, in seconds.
_TICK = 0.2


def attended_labels() -> dict[str, str]:
    """The labels of a container that this process attends to, see platform.local.docker_run."""
    return {"owner": process.identity(), "user": str(os.getuid())}


class Containers:
    """The containers of jobs on one engine, each found by its name.

    `docker run` starts them, because it understands every argument that a user may pass through;
    all else goes over the engine's API, which needs no new process.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> process.Child:
        """Starts a container.

        Args:
          command: a `docker run` that stays in the foreground.
          environment: variables for `docker run`, which passes on those that its --env names.
        """
        # From two pipes, nobody can tell what came first. Where it all goes to one place anyway,
        # one pipe keeps the order in which the job wrote.
        return process.spawn(
            command, environment=environment, merge_stderr=terminal.streams_are_one()
        )

    def follow(
        self,
        child: process.Child,
        name: str,
        write: Callable[[int, bytes], None],
        tick: Callable[[], None],
    ) -> Outcome:
        """Passes a container's output on until the container has ended.

        Args:
          child: what `start` returned.
          name: name of the container.
          write: called with STDOUT or STDERR and the bytes, as they arrive.
          tick: called between two pieces of output and while there is none.
        """
        printed = bytearray()

        def keep(stream: int, data: bytes) -> None:
            printed.extend(data[: _KEPT - len(printed)])
            write(stream, data)

        _pump(child, keep, tick)
        process.close(child)
        outcome = self.outcomes([name]).get(name)
        while outcome is not None and outcome.status is Status.RUNNING:
            # `docker run` has gone before the container: something ended it, or the engine
            # restarted and let its containers live.
            _sleep(tick)
            outcome = self.outcomes([name]).get(name)
        if outcome is not None and outcome.status.is_final:
            return outcome
        # Somebody has removed the container, or it was never started, or never made: whatever
        # `docker run` says, the job has not succeeded.
        return _outcome_without_container(child.returncode, printed.decode(errors="replace"))

    def attach(
        self,
        command: Sequence[str],
        name: str,
        environment: Mapping[str, str],
        wants_end: Callable[[], bool],
        has_terminal: bool = True,
    ) -> Outcome:
        """Lets the user work in a container until it ends, and removes it.

        Args:
          command: a `docker run` that stays in the foreground. The container is made first, and
            started in a second step: so it is known, at any time, whether there is one to remove.
          name: name of the container.
          environment: variables for docker, which passes on those that its --env names.
          wants_end: asked several times a second; once it is true, the container has to end.
          has_terminal: whether the container has one. All that comes over stderr is then docker's
            own: it is part of the outcome, or shown at the end. Otherwise it has been seen.

        Returns:
          What became of it; without a time when it started, if it was never made, or if somebody
          removed it (exit code 137).

        Raises:
          EngineError: the engine doesn't answer any more.
        """
        create, start = _in_two_steps(command, name)
        try:
            code, said = _make(create, environment, wants_end)
            if code != 0 or wants_end():
                return _outcome_without_container(code, said.decode(errors="replace"))
            with process.attach(start, environment, keep_stderr=has_terminal) as child:
                while not process.ended(child, _TICK) and not wants_end():
                    pass
                outcome = self._hang_up(name)
                if child.stderr and process.ended(child, _TICK):
                    said = child.stderr.read().strip()
        finally:
            self.remove(name)
        if outcome is None or not outcome.status.is_final:
            return _outcome_without_container(child.returncode, said.decode(errors="replace"))
        if outcome.started and said:
            terminal.note(said.decode(errors="replace"))
        return outcome

    def _hang_up(self, name: str) -> Outcome | None:
        """Ends what still runs in a container whose user has gone; None if there is no container.

        To a shell it is a closed terminal: it saves its history, and takes leave of its programs.
        SIGTERM it would ignore.
        """
        outcome = self.outcomes([name]).get(name)
        if outcome is None or outcome.status is not Status.RUNNING:
            return outcome
        with contextlib.suppress(EngineError), self._engine.errors(f"ending the container {name}"):
            self._engine.client.kill(name, "SIGHUP")
        for _ in range(round(_FAREWELL / _TICK)):
            time.sleep(_TICK)
            outcome = self.outcomes([name]).get(name)
            if outcome is None or outcome.status is not Status.RUNNING:
                break
        return outcome

    def find_program(self, image: str, program: str) -> str:
        """Where an image has a program, by its PATH; "" if it has none of that name.

        Args:
          image: id.
          program: name.
        """
        from docker.errors import NotFound

        # Only in a container can files be looked up. This one is never started.
        name = f"caliban-look-{uuid.uuid4().hex[:12]}"
        client, labels = self._engine.client, {OWNER: process.identity()}
        try:
            with self._engine.errors(f"looking into the image {image}"):
                with Interruption() as interruption:  # or it might be made after its removal
                    client.create_container(image, ["true"], name=name, labels=labels)
                if interruption.count:
                    raise KeyboardInterrupt
                variables = client.inspect_container(name)["Config"]["Env"] or []
                path = next((each[5:] for each in variables if each.startswith("PATH=")), "")
                # Nearly always in the first; each look takes some 50 ms.
                for folder in dict.fromkeys(["/bin", *path.split(":"), "/usr/bin"]):
                    with contextlib.suppress(NotFound):
                        content, _ = client.get_archive(name, f"{folder}/{program}")
                        for _ in content:
                            pass  # read to its end, the connection can be used again
                        return f"{folder}/{program}"
        finally:
            self.remove(name)
        return ""

    def remove_orphans(self) -> list[str]:
        """Removes ended containers of `attach` and of notebooks whose caliban was killed.

        Returns:
          The names of those that still run: somebody may be at work in them, by a browser.
        """
        running = []
        with self._engine.errors("looking for containers that were left behind"):
            mine = [OWNER, f"{_USER}={os.getuid()}"]
            found = self._engine.client.containers(all=True, filters={"label": mine})
        for each in found:
            name = each["Names"][0].removeprefix("/")
            if process.is_alive(each["Labels"][OWNER]) is False:
                if each["State"] in ("running", "paused", "restarting"):
                    running.append(name)
                else:
                    self.remove(name)
        return running

    def outcomes(self, names: Sequence[str]) -> dict[str, Outcome]:
        """What became of containers; those that the engine doesn't know are missing.

        Raises:
          EngineError: the engine doesn't answer.
        """
        from docker.errors import NotFound

        found: dict[str, Outcome] = {}
        for name in names:
            with self._engine.errors(f"asking for the container {name}"):
                try:
                    state = self._engine.client.inspect_container(name)["State"]
                except NotFound:
                    continue
                found[name] = _outcome(state)
        return found

    def stop(self, name: str, kill: bool = False) -> None:
        """Asks a container to end, without waiting: by SIGTERM, and 10 s later by SIGKILL.

        Args:
          name: name of the container; it is no error if there is none.
          kill: whether to use SIGKILL at once.
        """
        # The CLI does the waiting, so that the caller can go on reading the container's output.
        verb = ["kill"] if kill else ["stop", "-t", "10"]
        process.leave(["docker", *verb, name])

    def remove(self, name: str) -> None:
        """Removes a container with its anonymous volumes; it is no error if there is none."""
        from docker.errors import NotFound

        with self._engine.errors(f"removing the container {name}"):
            try:
                self._engine.client.remove_container(name, v=True, force=True)
            except NotFound:
                return

    def logs(self, name: str, follow: bool = False) -> Iterator[bytes]:
        """What a container has printed, both streams in the order of their lines."""
        with self._engine.errors(f"reading the output of the container {name}"):
            yield from self._engine.client.logs(name, stream=True, follow=follow)


def _in_two_steps(command: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """Splits a `docker run` into the `docker create` and the `docker start` of its container."""
    create, start = ["docker", "create"], ["docker", "start", "--attach", "--interactive"]
    words = iter(command[2:])
    for word in words:
        flag, equals, _ = word.partition("=")
        if flag not in _START_FLAGS:
            create.append(word)
        elif flag == "--detach-keys" and not equals:
            start += [word, next(words, "")]
        else:
            start.append(word)
    return create, [*start, name]


def _make(
    create: Sequence[str], environment: Mapping[str, str], wants_end: Callable[[], bool]
) -> tuple[int, bytes]:
    """Runs a `docker create`; returns its exit code, and what it said on stderr."""
    patience = round(_MAKING / _TICK)
    # In a session of its own, out of reach of ^C: it would go, and the engine would go on.
    with process.start(create, environment=environment) as child:
        while not process.ended(child, _TICK) and patience:
            patience -= wants_end()
        ended = child.poll() is not None
        said = child.stderr.read().strip() if ended and child.stderr else b""
    return child.returncode, said


def _pump(
    child: process.Child, write: Callable[[int, bytes], None], tick: Callable[[], None]
) -> None:
    """Reads a program's stdout and stderr, until both are closed."""
    with selectors.DefaultSelector() as selector:
        for number, pipe in ((STDOUT, child.stdout), (STDERR, child.stderr)):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, number)
        while selector.get_map():
            for key, _ in selector.select(_TICK):
                data = os.read(key.fd, 1 << 16)
                if data:
                    write(key.data, data)
                else:
                    selector.unregister(key.fileobj)
            tick()


def _sleep(tick: Callable[[], None]) -> None:
    time.sleep(_TICK)
    tick()


def _outcome(state: Mapping[str, Any]) -> Outcome:
    """Reads the State of `docker inspect`."""
    phase, code = state.get("Status"), int(state.get("ExitCode", 0))
    started, finished = _time(state.get("StartedAt")), _time(state.get("FinishedAt"))
    if phase == "created":
        if state.get("Error"):
            return Outcome(Status.FAILED, code or 1, _first_line(state["Error"]))
        return Outcome(Status.SUBMITTED)
    if phase not in ("exited", "dead"):
        return Outcome(Status.RUNNING, started=started)
    status, reason = _meaning(code)
    if state.get("OOMKilled") and code:
        reason = "out of memory"
    return Outcome(status, code, reason, started, finished)


def _outcome_without_container(code: int, printed: str) -> Outcome:
    """The outcome when all there is are the exit code of `docker run` and what it printed."""
    if code == 128 + signal.SIGKILL:
        return Outcome(Status.FAILED, code, _meaning(code)[1])
    said = _first_line(printed).removeprefix("docker: ") if printed.strip() else "no container"
    return Outcome(Status.FAILED, code or 125, f"docker run failed: {said}")


def _meaning(code: int) -> tuple[Status, str]:
    if code == 0:
        return Status.SUCCEEDED, ""
    if 128 < code <= 128 + signal.NSIG:
        try:
            return Status.FAILED, f"signal {code - 128} ({signal.Signals(code - 128).name})"
        except ValueError:
            pass
    return Status.FAILED, f"exit code {code}{_SHELL_CODES.get(code, '')}"


# What shells, and the init process of a container, mean by these.
_SHELL_CODES = {126: " (the command cannot be executed)", 127: " (command not found)"}


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0]


def _time(text: str | None) -> datetime.datetime | None:
    """Reads the engine's time, in which the year 1 means never."""
    if not text or text.startswith("0001"):
        return None
    return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
