"""What became of a container: from the engine's words, or from `docker run` alone."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caliban import process
from caliban.docker import containers, creation, state
from caliban.docker.engine import Engine
from caliban.model.job import Outcome, Status

STARTED = datetime.datetime(2026, 11, 21, 3, 41, 39, 123456, datetime.UTC)
FINISHED = STARTED + datetime.timedelta(seconds=61)
TIMES = {
    "StartedAt": "2026-11-21T03:41:39.123456789Z",
    "FinishedAt": "2026-11-21T03:42:40.123456789Z",
}
NEVER = "0001-01-01T00:00:00Z"


def exited(code: int, **more: Any) -> dict[str, Any]:
    """The State of `docker inspect`."""
    return {"Status": "exited", "ExitCode": code, "OOMKilled": False, "Error": "", **TIMES, **more}


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        (0, Status.SUCCEEDED, ""),
        (1, Status.FAILED, "exit code 1"),
        (3, Status.FAILED, "exit code 3"),
        (126, Status.FAILED, "exit code 126 (the command cannot be executed)"),
        (127, Status.FAILED, "exit code 127 (command not found)"),
        (128, Status.FAILED, "exit code 128"),
        (130, Status.FAILED, "signal 2 (SIGINT)"),
        (134, Status.FAILED, "signal 6 (SIGABRT)"),
        (137, Status.FAILED, "signal 9 (SIGKILL)"),
        (139, Status.FAILED, "signal 11 (SIGSEGV)"),
        (143, Status.FAILED, "signal 15 (SIGTERM)"),
        (193, Status.FAILED, "exit code 193"),
        (255, Status.FAILED, "exit code 255"),
    ],
)
def test_the_exit_code_says_how_it_ended(code: int, status: Status, reason: str) -> None:
    assert state.outcome(exited(code)) == Outcome(status, code, reason, STARTED, FINISHED)


def test_out_of_memory_is_told_from_other_kills() -> None:
    outcome = state.outcome(exited(137, OOMKilled=True))
    assert outcome == Outcome(Status.FAILED, 137, "out of memory", STARTED, FINISHED)


def test_a_job_that_got_over_a_shortage_of_memory_has_succeeded() -> None:
    # The engine sets OOMKilled also when it was some other process of the container that died.
    outcome = state.outcome(exited(0, OOMKilled=True))
    assert outcome == Outcome(Status.SUCCEEDED, 0, "", STARTED, FINISHED)


def test_a_dead_container_has_ended() -> None:
    assert state.outcome(exited(3, Status="dead")).status is Status.FAILED


@pytest.mark.parametrize("phase", ["running", "paused", "restarting", "removing"])
def test_until_then_it_is_running(phase: str) -> None:
    found = exited(0, Status=phase, FinishedAt=NEVER)
    assert state.outcome(found) == Outcome(Status.RUNNING, started=STARTED)


def test_a_container_that_was_made_has_not_started_yet() -> None:
    found = exited(0, Status="created", StartedAt=NEVER, FinishedAt=NEVER)
    assert state.outcome(found) == Outcome(Status.SUBMITTED)


def test_nothing_has_ended_before_it_started_though_the_engine_may_say_so() -> None:
    found = state.outcome(exited(0, FinishedAt="2026-11-21T03:41:39.120456789Z"))
    assert found.started == found.finished == STARTED - datetime.timedelta(milliseconds=3)


@pytest.mark.parametrize(("code", "recorded"), [(127, 127), (0, 1)])
def test_a_container_that_could_not_be_started_has_failed(code: int, recorded: int) -> None:
    message = 'OCI runtime create failed: exec: "python": not found\nmore of it'
    found = exited(code, Status="created", StartedAt=NEVER, FinishedAt=NEVER, Error=message)
    assert state.outcome(found) == Outcome(
        Status.FAILED, recorded, 'OCI runtime create failed: exec: "python": not found'
    )


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-21T03:41:39.123456789Z", STARTED),
        ("2026-11-21T03:41:39.123456Z", STARTED),
        ("2026-11-21T05:41:39.123456789+02:00", STARTED),
        ("2026-11-21T03:41:39Z", STARTED.replace(microsecond=0)),
        ("2026-11-21T03:41:39.5Z", STARTED.replace(microsecond=500_000)),
        (NEVER, None),
        ("", None),
        (None, None),
    ],
)
def test_times_are_read_as_the_engine_writes_them(
    text: str | None, time: datetime.datetime | None
) -> None:
    read = state.outcome(exited(0, StartedAt=text)).started
    assert read == time
    assert read is None or read.tzinfo is datetime.UTC


@pytest.mark.parametrize(
    ("code", "printed", "outcome"),
    [
        (
            0,
            "Usage: docker run",
            Outcome(Status.FAILED, 125, "docker run failed: Usage: docker run"),
        ),
        (0, "", Outcome(Status.FAILED, 125, "docker run failed: no container")),
        (125, "docker: no.\nSee\n", Outcome(Status.FAILED, 125, "docker run failed: no.")),
        (137, "output", Outcome(Status.FAILED, 137, "signal 9 (SIGKILL)")),
    ],
)
def test_without_a_container_a_job_has_failed(code: int, printed: str, outcome: Outcome) -> None:
    assert state.without_container(code, printed) == outcome


def pump(script: str, tick: Callable[[], None] = lambda: None) -> dict[int, bytes]:
    """What a shell script wrote, by stream; `tick` is something else there has to be time for."""
    written = {containers.STDOUT: b"", containers.STDERR: b""}

    def write(stream: int, data: bytes) -> None:
        assert data
        written[stream] += data

    with process.start(["sh", "-c", script]) as child:
        containers._pump(child, write, tick)
        child.wait()
    return written


def test_output_is_passed_on_byte_for_byte_and_by_stream() -> None:
    written = pump(r"printf 'a\0\377\r50%%'; printf 'b\n' >&2; printf c")
    assert written == {containers.STDOUT: b"a\0\xff\r50%c", containers.STDERR: b"b\n"}


def test_much_output_is_passed_on_to_its_end() -> None:
    written = pump("head -c 3000000 /dev/zero; head -c 200000 /dev/zero >&2")
    assert {stream: len(data) for stream, data in written.items()} == {
        containers.STDOUT: 3_000_000,
        containers.STDERR: 200_000,
    }


def test_there_is_time_for_something_else_while_a_job_is_silent(tmp_path: Path) -> None:
    times: list[float] = []

    def tick() -> None:
        times.append(time.monotonic())
        if len(times) == 5:
            (tmp_path / "end").touch()  # without which the job goes on for a minute

    pump(f"for i in $(seq 600); do [ -e {tmp_path}/end ] && exit; sleep 0.1; done", tick)
    assert 5 <= len(times) < 100
    # It is not busy with that: as often as _TICK says, and when a stream is closed.
    assert len(times) - 4 <= (times[-1] - times[0]) / containers._TICK


def test_what_a_job_leaves_behind_in_the_background_is_read_as_well() -> None:
    written = pump("(sleep 0.3; printf late) & printf early")
    assert written[containers.STDOUT] == b"earlylate"


@pytest.mark.parametrize(
    ("given", "create", "start"),
    [
        (["--tty", "image", "bash"], ["--tty", "image", "bash"], []),
        (["--detach-keys", "ctrl-x", "image"], ["image"], ["--detach-keys", "ctrl-x"]),
        (["--detach-keys=a,b", "image"], ["image"], ["--detach-keys=a,b"]),
        (["--sig-proxy=false", "image"], ["image"], ["--sig-proxy=false"]),
        (["--sig-proxy", "image"], ["image"], ["--sig-proxy"]),
    ],
)
def test_what_is_run_in_two_steps_keeps_all_its_flags(
    given: list[str], create: list[str], start: list[str]
) -> None:
    assert creation.in_two_steps(["docker", "run", *given], "name") == (
        ["docker", "create", *create],
        ["docker", "start", "--attach", "--interactive", *start, "name"],
    )


class _WithDead(Engine):
    """An engine with a container that could not be removed: such a one has lost its name."""

    def containers(self, label: str) -> list[dict[str, Any]]:
        return [
            {"Id": "4f5e", "Names": [], "State": "dead", "Labels": {label: "a"}},
            {"Id": "9c0f", "Names": ["/caliban-b"], "State": "exited", "Labels": {label: "b"}},
        ]


def test_a_dead_container_goes_by_its_id() -> None:
    found = containers.Containers(_WithDead()).of_jobs()
    assert found == {"a": "4f5e", "b": "caliban-b"}


def test_what_docker_warns_of_is_not_why_there_is_no_container() -> None:
    warning = "WARNING: The requested image's platform (linux/arm64) does not match\n"
    error = "docker: Error response from daemon: no such runtime.\nSee 'docker run --help'.\n"
    found = state.without_container(125, warning + error)
    assert found.reason == "docker run failed: Error response from daemon: no such runtime."
    assert state.without_container(1, warning).reason == f"docker run failed: {warning.strip()}"
