"""Runs that are made before their jobs are sent elsewhere, so that those are told of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence

from caliban.errors import CalibanError
from caliban.tracking import outbox
from caliban.tracking.outbox import Entry
from caliban.tracking.server import Server


def make(entries: Sequence[Entry], seconds: float) -> tuple[dict[str, str], str]:
    """Makes the runs of jobs, as many as there is time for.

    Args:
      entries: of one place, which is a server; a run that is there already is not made again.
      seconds: how long it may take.

    Returns:
      The ids of the runs, by the jobs' uids; and why some have none, in words.
    """
    found = {entry.uid: entry.run_id for entry in entries if entry.run_id}
    until = time.monotonic() + seconds
    for url in {entry.place.url for entry in entries[:1]}:
        with contextlib.closing(Server(url, os.environ)) as server:
            for entry in entries:
                if entry.uid in found:
                    continue
                if time.monotonic() > until:
                    return found, "it takes too long"
                try:
                    found[entry.uid] = server.schedule(entry.experiment, entry.uid)
                    outbox.tell(entry.uid, found[entry.uid])
                except CalibanError as error:
                    return found, error.message
    return found, ""
