"""What the engine says of a container: what became of it, and what it is called."""

from __future__ import annotations

import datetime
import signal
from collections.abc import Mapping
from typing import Any

from caliban.model import exit_codes
from caliban.model.job import Outcome, Status


def outcome(state: Mapping[str, Any]) -> Outcome:
    """Reads the State of `docker inspect`."""
    phase, code = state.get("Status"), int(state.get("ExitCode", 0))
    started, finished = moment(state.get("StartedAt")), moment(state.get("FinishedAt"))
    if phase == "created":
        if state.get("Error"):
            return Outcome(Status.FAILED, code or 1, _first_line(state["Error"]))
        return Outcome(Status.SUBMITTED)
    if phase not in ("exited", "dead"):
        return Outcome(Status.RUNNING, started=started)
    status, reason = _meaning(code)
    if state.get("OOMKilled") and code:
        reason = "out of memory"
    if started and finished:
        # The engine notes a start only once it has heard of it: what is short has ended before.
        started = min(started, finished)
    return Outcome(status, code, reason, started, finished)


def without_container(code: int, printed: str) -> Outcome:
    """The outcome when all there is are the exit code of `docker run` and what it printed."""
    if code == 128 + signal.SIGKILL:
        return Outcome(Status.FAILED, code, _meaning(code)[1])
    lines = [line for line in printed.splitlines() if line.strip()]
    # Of another platform than the machine's, for one, before it says what is the matter.
    errors = [line for line in lines if not line.startswith("WARNING: ")]
    said = (errors or lines or ["no container"])[0].strip().removeprefix("docker: ")
    return Outcome(Status.FAILED, code or 125, f"docker run failed: {said}")


def name_of(listed: Mapping[str, Any]) -> str:
    """The name of a container of a list; the id of one that is dead, and has lost its name."""
    return str((listed["Names"] or [listed["Id"]])[0]).removeprefix("/")


def _meaning(code: int) -> tuple[Status, str]:
    return Status.FAILED if code else Status.SUCCEEDED, exit_codes.describe(code)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0]


def moment(text: str | None) -> datetime.datetime | None:
    """Reads the engine's time, in which the year 1 means never."""
    if not text or text.startswith("0001"):
        return None
    return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
