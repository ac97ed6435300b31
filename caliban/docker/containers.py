"""Containers of the local engine: started, watched, asked for their outcome, removed."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from caliban import process, terminal
from caliban.docker import creation, state
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

# Label of a container that runs a job: the job's uid.
UID = "caliban.uid"

# What `docker run` says of troubles that pass.
_PASSING = re.compile(
    r"cannot connect to the docker daemon|error during connect|error response from daemon: conflict"
    r"|is already in use by container|connection reset|connection refused|broken pipe|\bEOF\b"
    r"|context canceled|marked for removal|shutting down|transport is closing",
    re.IGNORECASE,
)

# What `docker run` was asking for when the engine went away.
_STARTING = re.compile(r"/containers/\w+/start\b")

# How long a shell has to go, in seconds.
_FAREWELL = 3.0

# How often something that waits looks up, in seconds.
_TICK = 0.2

# More containers than this are looked for in the list of all, in the place of one by one.
_MANY = 8


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

    @property
    def has_socket(self) -> bool:
        """Whether they run on this machine, see Engine."""
        return self._engine.has_socket

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
        code, printed = self.pass_on(child, write, tick)
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
        return state.without_container(code, printed)

    def pass_on(
        self, child: process.Child, write: Callable[[int, bytes], None], tick: Callable[[], None]
    ) -> tuple[int, str]:
        """Passes a container's output on until `docker run` has ended, and asks the engine nothing.

        Args:
          child: what `start` returned.
          write: called with STDOUT or STDERR and the bytes, as they arrive.
          tick: called between two pieces of output and while there is none.

        Returns:
          The exit code of `docker run`, and how what was printed begins.
        """
        printed = bytearray()

        def keep(stream: int, data: bytes) -> None:
            printed.extend(data[: _KEPT - len(printed)])
            write(stream, data)

        _pump(child, keep, tick)
        process.close(child)
        return child.returncode, printed.decode(errors="replace")

    def unstarted(self, code: int, printed: str) -> Outcome | None:
        """The outcome of a job that `docker run` could not start; None if it may be tried again.

        Args:
          code: exit code of `docker run`.
          printed: what it printed.
        """
        # The engine was away, or still has what another `docker run` of the same job left behind.
        if code < 0 or (code in (1, 125) and _PASSING.search(printed)):
            if not _STARTING.search(printed):
                return None
            # It may run, or have run, although the engine knows nothing of that.
            reason = "the engine went away while it started it"
            return Outcome(Status.FAILED, code, reason)
        return state.without_container(code, printed)

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
        create, start = creation.in_two_steps(command, name)
        try:
            code, said = creation.make(create, environment, wants_end)
            if code != 0 or wants_end():
                return state.without_container(code, said.decode(errors="replace"))
            with process.attach(start, environment, keep_stderr=has_terminal) as child:
                while not process.ended(child, _TICK) and not wants_end():
                    pass
                outcome = self._hang_up(name)
                if child.stderr and process.ended(child, _TICK):
                    said = child.stderr.read().strip()
        finally:
            self.remove(name)
        if outcome is None or not outcome.status.is_final:
            return state.without_container(child.returncode, said.decode(errors="replace"))
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
        client, labels = self._engine.client, {OWNER: process.identity(), _USER: str(os.getuid())}
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
            name = state.name_of(each)
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
        if not names:
            return {}
        found: dict[str, Outcome] = {}
        if len(names) > _MANY:
            # Most of a long sweep waits, and has no container. One question finds those that have.
            with self._engine.errors("looking for the containers of jobs"):
                listed = self._engine.client.containers(all=True)
            there = {each.removeprefix("/") for one in listed for each in one["Names"] or ()}
            names = [name for name in names if name in there]
        for name in names:
            if (container := self._engine.container(name)) is not None:
                found[name] = state.outcome(container["State"])
        return found

    def stop(self, name: str, kill: bool = False) -> process.Child:
        """Asks a container to end, without waiting: by SIGTERM, and 10 s later by SIGKILL.

        Args:
          name: name of the container; it is no error if there is none.
          kill: whether to use SIGKILL at once.

        Returns:
          The program that does it, which fails if there is no such container, or not yet.
        """
        # The CLI does the waiting, so that the caller can go on reading the container's output.
        verb = ["kill"] if kill else ["stop", "-t", "10"]
        return process.leave(["docker", *verb, name])

    def discard(self, name: str) -> None:
        """Removes a container that was made and never started, and whoever is about to start it.

        It is no error if there is none, or if it runs by now.
        """
        from docker.errors import APIError

        process.kill("docker", "run", "--name", name)
        with self._engine.errors(f"removing the container {name}"):
            try:
                self._engine.client.remove_container(name, v=True)
            except APIError as error:
                if error.status_code not in (404, 409):  # not there, or not without force
                    raise

    def of_jobs(self) -> dict[str, str]:
        """The names of the containers of jobs, by the jobs' uids, whoever launched them."""
        found = self._engine.containers(UID)
        return {each["Labels"][UID]: state.name_of(each) for each in found}

    def remove(self, name: str) -> None:
        """Removes a container with its anonymous volumes; it is no error if there is none."""
        self._engine.remove_container(name)

    def keeps_bytes(self, name: str) -> bool:
        """Whether `logs` has what a container printed byte for byte: JSON holds text only."""
        container = self._engine.container(name)
        return container is None or container["HostConfig"]["LogConfig"]["Type"] != "json-file"

    def logs(self, name: str, follow: bool = False, tail: int | None = None) -> Iterator[bytes]:
        """What a container has printed, both streams in the order of their lines.

        Args:
          name: name of the container.
          follow: whether to go on with what it prints until it ends.
          tail: how many of the lines that there are now; None for all.
        """
        lines: int | Literal["all"] = "all" if tail is None else tail
        from docker.errors import APIError, NotFound

        with self._engine.errors(f"reading the output of the container {name}"):
            try:
                yield from self._engine.client.logs(name, stream=True, follow=follow, tail=lines)
            except NotFound:
                return
            except APIError as error:
                # That of --log-driver none, for one: what has not been followed is lost.
                if "does not support reading" not in str(error.explanation):
                    raise


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
