"""Jobs of a file that were sent elsewhere: waited for, and compared."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caliban import flags, launch, terminal
from caliban.commands import (
    job_choice,
    replay,
    replay_jobs,
    replay_table,
    sending,
    tracking_choice,
    watch,
)
from caliban.errors import INTERRUPTED
from caliban.model.job import Job
from caliban.model.reproduction import Verdict
from caliban.remote import output
from caliban.remote.backends import resume_command

if TYPE_CHECKING:
    from caliban.bundle.archive import Archive
    from caliban.bundle.recorded import RecordedJob
    from caliban.history.store import HistoryStore
    from caliban.model.reproduction import Tolerance
    from caliban.remote.backends import Backends

# Between two looks at jobs elsewhere, in seconds, at first and later; and for how long logs are
# waited for that the platform doesn't give.
_SHORTEST, _LONGEST = 0.5, 5.0
_PATIENCE = 60.0


def compare(
    args: argparse.Namespace,
    archive: Archive,
    jobs: Sequence[RecordedJob],
    tolerance: Tolerance,
) -> int:
    """Waits for the jobs of a group that were sent elsewhere, and compares; sends nothing.

    Args:
      args: the command line.
      archive: the file.
      jobs: what was recorded.
      tolerance: how far metrics may be apart.

    Returns:
      The exit code.
    """
    user, group = flags.user_name(), args.xgroup
    with launch.open_history() as store, job_choice.Places() as places:
        there = store.group_jobs(user, group, 1)
        uids = [job.uid for job in there]
        has_ended = wait(store, places.backends(), user, group, uids)
        tracking_choice.send_waiting(store)
        now: dict[str, list[Job]] = {}
        for job in store.jobs(uids):
            now.setdefault(replay_jobs.key(job.experiment), []).append(job)
    rows = []
    for before in jobs:
        # Of two launches with the same experiment, the first one's was sent first.
        found = now.get(replay_jobs.key(before.experiment), [])
        rows.append(replay_table.Row(before, found.pop(0) if found else None, tolerance))
    return tell(args, archive, group, rows, (), not has_ended)


def wait(
    store: HistoryStore, backends: Backends, user: str, group: str, uids: Sequence[str]
) -> bool:
    """Waits until jobs have ended and their logs are here; False if the user doesn't want to.

    Those that were never sent, nobody can wait for.

    Args:
      store: the history.
      backends: of all platforms.
      user: whose jobs.
      group: that they belong to.
      uids: of the jobs.
    """
    shown = terminal.Output(len(uids))
    until, told, noted = float("inf"), set[str](), ""
    pause = _SHORTEST
    try:
        while True:
            with watch.collected() as said:
                sending.bring_up_to_date(store, backends, user, group)
            if (notes := said.getvalue()) != noted:
                noted = notes
                shown.note(notes.rstrip())
            jobs = [job for job in store.jobs(list(uids)) if job.handle]
            still_open = [job for job in jobs if not job.outcome.status.is_final]
            for job in jobs:
                if job.outcome.status.is_final and job.uid not in told:
                    told.add(job.uid)
                    shown.note(f"job {job.id} {job.outcome.status.value}")
                    shown.advance()
            if not still_open:
                until = min(until, time.monotonic() + _PATIENCE)
                if time.monotonic() > until or not {*uids} & {*output.wanted()}:
                    return True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST)
    except KeyboardInterrupt:
        return False
    finally:
        shown.close()


def tell(
    args: argparse.Namespace,
    archive: Archive,
    group: str,
    rows: Sequence[replay_table.Row],
    differences: Sequence[str],
    is_interrupted: bool,
) -> int:
    """Shows the comparison, and how to go on if there is more to come; returns the exit code.

    Args:
      args: the command line.
      archive: the file.
      group: that the jobs belong to.
      rows: the experiments.
      differences: what of the images is not as it was.
      is_interrupted: whether the user doesn't want to wait any more.
    """
    code = replay_table.show(args.json, archive, group, rows, differences)
    still_open = [row.job for row in rows if row.job and row.verdict is Verdict.OPEN]
    unsent = [job for job in still_open if job.handle is None]
    if unsent and args.on is None:
        command = resume_command(unsent[0].submission.platform, group)
        terminal.note(f"'{command}' goes on with what was not submitted.")
    elif still_open:
        terminal.note(f"'{replay.again(args, group, is_sent=not unsent)}' goes on.")
    return INTERRUPTED if is_interrupted else code
