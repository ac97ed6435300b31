"""Start Jupyter in a container, with the current directory live in it.

Its address is printed once it answers: open that in a browser. It holds a token, without which
nobody gets in, and leads to this machine only. ^C here, or "Shut Down" there, ends it.

Notebooks are kept in the current directory, which is at /usr/app inside, and are yours. Cells find
the packages that jobs find, in the same versions. Your home directory is there too, and with it
your Jupyter settings, unless --bare.

  caliban notebook --nogpu
  caliban notebook --nogpu --lab --port 8889
  caliban notebook --nogpu --lab -jv 4.4 --bare
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import flags, terminal
from caliban.errors import INTERRUPTED, CalibanError, Problems, UsageError
from caliban.interrupt import Interruption

if TYPE_CHECKING:
    from caliban.docker.containers import Containers
    from caliban.model.job import Outcome
    from caliban.platform.local import Options

# How long a request to stop is given before it is repeated, in seconds. It comes to nothing as long
# as the container is not there yet.
_AGAIN = 3.0

# After how many seconds without an answer the user is told that something may be wrong.
_PATIENCE = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    flags.add_image_arguments(parser)
    flags.add_docker_run_args(parser)
    parser.add_argument(
        "-p",
        "--port",
        type=_port,
        metavar="PORT",
        help="Port to use for Jupyter, inside the container and on this machine (default: the "
        "first free one from 8888 on).",
    )
    parser.add_argument(
        "-jv",
        "--jupyter_version",
        metavar="VERSION",
        help="Version of Jupyter Notebook, or with --lab of JupyterLab, to install: 7.4.2, or 7.4 "
        "for the newest of those (default: Jupyter Notebook 7 with the JupyterLab of its time).",
    )
    parser.add_argument(
        "--lab", action="store_true", help="Run JupyterLab instead of Jupyter Notebook."
    )
    flags.add_bare_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Serves until it is stopped; 0 if that was done in the browser."""
    from caliban.commands import container_choice, image_choice
    from caliban.docker import jupyter
    from caliban.docker.containers import Containers
    from caliban.docker.engine import Engine
    from caliban.history.opening import open_history

    problems = Problems()
    choice = image_choice.choose(args, problems)
    requirement = problems.attempt(lambda: jupyter.requirement(args.lab, args.jupyter_version), "")
    run_args = problems.attempt(lambda: container_choice.split(args.docker_run_args), None)
    shares_network = problems.attempt(lambda: jupyter.shares_network(run_args or ()), False)
    ports = problems.attempt(lambda: _ports(args.port), None)
    problems.check()
    assert choice is not None and run_args is not None and ports is not None

    engine = Engine()
    engine.check_program()
    project = Path(choice.plan.directory)
    container = container_choice.at_home(choice.credentials, engine, run_args, project, args.bare)
    gpus = container_choice.gpus(engine, choice.mode, "notebook")
    plan = choice.plan.interactive(jupyter=requirement)
    _, image = image_choice.images(args, choice, engine, open_history).ensure(plan)
    container = replace(container, options=_furnished(container.options, gpus, args.bare))
    container.prepare()
    containers = Containers(engine)
    container_choice.remove_orphans(containers)
    wanted = _Jupyter(containers, container.options, image, args.lab, args.bare, shares_network)
    return wanted.run(ports)


def _furnished(options: Options, gpus: tuple[str, ...], bare: bool) -> Options:
    """Adds what Jupyter needs, and what makes its terminals the same as `caliban shell`."""
    from caliban.docker import jupyter, shell
    from caliban.platform.local import Mount

    files = () if bare else (Mount(str(shell.startup_files()), shell.FOLDER),)
    variables = {**shell.environment("bash", not bare, None), **jupyter.ENVIRONMENT}
    # Named only: the token is in no command line.
    environment = {**dict(options.environment), **variables, jupyter.TOKEN: None}
    hostname = shell.hostname_arguments("caliban-notebook", options.run_args)
    return replace(
        options,
        gpus=gpus,
        mounts=(*options.mounts, *files),
        environment=tuple(environment.items()),
        run_args=(*hostname, *options.run_args),
    )


def _port(text: str) -> int:
    """An argparse type: a port that a program can listen on."""
    if not text.isdecimal() or len(text) > 5 or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"expected a port, 1 to 65535, found '{text}'")
    return int(text)


def _ports(wanted: int | None) -> Iterable[int]:
    """The ports to try, one after another."""
    from caliban.docker import jupyter

    if wanted is None:
        return jupyter.free_ports()
    if jupyter.is_taken(wanted):
        raise UsageError(
            f"--port {wanted}: something else listens on that port already",
            "Name another, or leave --port out: the first free one is taken.",
        )
    return (wanted,)


@dataclass(frozen=True)
class _Jupyter:
    """Jupyter, as it is to be run.

    Attributes:
      containers: of the engine.
      options: how its container is run.
      image: id.
      lab: JupyterLab instead of Jupyter Notebook.
      bare: whether the home directory stays out.
      shares_network: whether the container has no network of its own.
    """

    containers: Containers
    options: Options
    image: str
    lab: bool
    bare: bool
    shares_network: bool

    def run(self, ports: Iterable[int]) -> int:
        """Serves on the first port that the engine gives away; returns the exit code.

        Raises:
          CalibanError: the server did not start, or ended by an error.
        """
        from caliban.docker import jupyter

        output, said = terminal.Output(1), "all are taken"
        with Interruption() as interruption:
            for port in ports:
                service = _Service(self, port, output, interruption)
                outcome = service.run()
                if interruption.count:
                    return INTERRUPTED
                if output.lost:
                    raise output.lost
                said = f"{outcome.reason} {service.last_line()}"
                if not jupyter.is_conflict(said):
                    return service.result(outcome)
        raise CalibanError(f"Jupyter found no free port: {said}", "Name one by --port.")

    def command(self, port: int, name: str) -> list[str]:
        """The `docker run` of the server."""
        from caliban.docker import jupyter, shell
        from caliban.docker.containers import attended_labels
        from caliban.platform.local import docker_run

        address = "127.0.0.1" if self.shares_network else "0.0.0.0"
        publish = () if self.shares_network else ("--publish", f"127.0.0.1:{port}:{port}")
        terminals = shell.command("bash", not self.bare)
        options = replace(
            self.options,
            command=jupyter.command(self.lab, port, address, terminals),
            run_args=(*publish, *self.options.run_args),
        )
        return docker_run(options, name, attended_labels(), self.image, ())


class _Service:
    """One container that serves, from its start to its removal."""

    def __init__(
        self, wanted: _Jupyter, port: int, output: terminal.Output, interruption: Interruption
    ) -> None:
        import secrets

        self._wanted = wanted
        self._port = port
        self._output = output
        self._interruption = interruption
        self._token = secrets.token_hex(24)
        self._name = f"caliban-notebook-{uuid.uuid4().hex[:12]}"
        self._said = bytearray()
        self._answers = False
        self._worry_at = time.monotonic() + _PATIENCE
        self._asked = 0
        self._ask_again = 0.0

    def run(self) -> Outcome:
        """Serves until the server ends, or the user wants it to."""
        from caliban.docker import jupyter

        containers, secrets = self._wanted.containers, dict(self._wanted.options.secrets)
        command = self._wanted.command(self._port, self._name)
        try:
            child = containers.start(command, {**secrets, jupyter.TOKEN: self._token})
            return containers.follow(child, self._name, self._write, self._tick)
        finally:
            containers.remove(self._name)

    def result(self, outcome: Outcome) -> int:
        """The exit code of a server that has ended by itself.

        Raises:
          CalibanError: it ended by an error.
        """
        if outcome.started is None:
            reason = outcome.reason.removeprefix("docker run failed: ")
            reason = reason.removeprefix("Error response from daemon: ")
            raise CalibanError(f"Jupyter could not be started: {reason}")
        if not self._answers:
            self._output.write(sys.stderr, bytes(self._said))
            raise CalibanError(
                f"Jupyter did not start: {self.last_line() or outcome.reason}",
                "If that comes of settings in your home directory: --bare leaves them out.",
            )
        if outcome.exit_code != 0:
            raise CalibanError(f"Jupyter ended by {outcome.reason}")
        terminal.note("Jupyter was shut down.")
        return 0

    def last_line(self) -> str:
        """What was said last before the server answered."""
        lines = self._said.decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _write(self, _stream: int, data: bytes) -> None:
        # Kept until the server answers: it may be of no interest, when a port was taken.
        if not self._answers:
            self._said += data
        elif not self._asked:
            self._output.write(sys.stderr, data)

    def _tick(self) -> None:
        from caliban.docker import jupyter

        wishes = self._interruption.count or int(self._output.lost is not None)
        if wishes:
            self._stop(wishes)
        elif not self._answers and jupyter.answers(self._port, self._token):
            self._answers = True
            self._greet()
        elif not self._answers and time.monotonic() > self._worry_at:
            self._worry_at = math.inf
            self._output.note(f"Jupyter does not answer yet at 127.0.0.1:{self._port}.", "yellow")
            self._output.write(sys.stderr, bytes(self._said))

    def _stop(self, wishes: int) -> None:
        if wishes > self._asked:
            what = "Stopping Jupyter; ^C again kills it." if wishes == 1 else "Killing Jupyter."
            self._output.note(what, "yellow")
        elif time.monotonic() < self._ask_again:
            return
        self._asked = wishes
        self._ask_again = time.monotonic() + _AGAIN
        self._wanted.containers.stop(self._name, kill=wishes > 1)

    def _greet(self) -> None:
        """Says where it is; by then, what it has said before is worth reading."""
        from caliban.docker import jupyter

        self._output.write(sys.stderr, bytes(self._said))
        name = "JupyterLab" if self._wanted.lab else "Jupyter"
        self._output.note(f"{name} runs; ^C ends it. Open this in a browser:")
        url = jupyter.url(self._wanted.lab, self._port, self._token)
        self._output.write(sys.stdout, f"{terminal.link(url)}\n".encode())
