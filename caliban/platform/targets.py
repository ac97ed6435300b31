"""Asks the places of a platform for their jobs, all at the same time."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from caliban.errors import CalibanError
from caliban.model.job import Handle, Outcome, Status


def outcomes(
    handles: Sequence[Handle],
    ask: Callable[[str, Sequence[str]], Mapping[str, Outcome]],
    patience: float,
    silence: Callable[[str], str] = "{} doesn't answer".format,
) -> dict[Handle, Outcome]:
    """What became of jobs, by one question for each target.

    Args:
      handles: of the jobs.
      ask: says for a target and the ids of jobs what became of those that it has; it raises
        CalibanError if it can't be asked.
      patience: seconds after which a target that doesn't answer is left out.
      silence: says why one doesn't.

    Returns:
      The outcomes of the jobs that there are. Those of a target that can't be asked just now are
      UNKNOWN; the reason says why, the hint what to do about it.
    """
    wanted: dict[str, list[str]] = defaultdict(list)
    for handle in handles:
        wanted[handle.target].append(handle.id)
    found: dict[str, Mapping[str, Outcome]] = {}
    problems: dict[str, Outcome] = {}
    unforeseen: list[Exception] = []

    def work(target: str) -> None:
        try:
            found[target] = ask(target, wanted[target])
        except CalibanError as error:
            problems[target] = Outcome(Status.UNKNOWN, reason=error.message, hint=error.hint)
        except Exception as error:  # noqa: BLE001 - it is raised where somebody sees it
            unforeseen.append(error)

    # Daemons: a target that never answers must not keep the program from ending.
    threads = [threading.Thread(target=work, args=(each,), daemon=True) for each in wanted]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if unforeseen:
        raise unforeseen[0]
    known: dict[Handle, Outcome] = {}
    for handle in handles:
        if handle.target not in found:
            silent = Outcome(Status.UNKNOWN, reason=silence(handle.target))
            known[handle] = problems.get(handle.target, silent)
        elif handle.id in found[handle.target]:
            known[handle] = found[handle.target][handle.id]
    return known
