"""Where the runs of jobs are kept, and what jobs are told of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import config, terminal
from caliban.errors import CalibanError
from caliban.model.job import Job
from caliban.platform.local import Options

if TYPE_CHECKING:
    from caliban.commands.image_choice import ImageChoice
    from caliban.history.store import HistoryStore
    from caliban.platform.base import RemoteBackend
    from caliban.remote.submit import Unsent
    from caliban.tracking.place import Place

# How long somebody waits who has asked for something else, in seconds.
_PATIENCE = 15.0


def choose(settings: config.Config, directory: Path) -> Place | None:
    """Where the runs of a project's jobs are kept; None for nowhere.

    Raises:
      UsageError: the project's configuration names no such place.
    """
    if settings.mlflow is None:
        return None
    from caliban.tracking import place

    return place.find(settings.mlflow, directory, os.environ)


def of_choice(image: ImageChoice) -> Place | None:
    """The same for the project of an image.

    Raises:
      UsageError: its configuration names no such place.
    """
    return choose(image.settings, Path(image.plan.directory))


def of_jobs(jobs: Sequence[Job]) -> Place | None:
    """The same for jobs that run again: what their project says now."""
    for directory in dict.fromkeys(str(job.container_spec.get("directory", "")) for job in jobs):
        if directory:
            try:
                return choose(config.load(Path(directory)), Path(directory))
            except CalibanError as error:
                terminal.warn(f"these jobs get no runs in MLflow: {error.message}")
    return None


def here(options: Options, where: Place | None) -> Options:
    """How containers are run whose jobs find their runs.

    The variables are named only: each job has values of its own, and some are passwords.

    Args:
      options: how they are run besides.
      where: the runs are kept.
    """
    if where is None:
        return options
    from caliban.model import tracking

    ours = (tracking.URI, tracking.EXPERIMENT, tracking.NAME, tracking.ID, tracking.CONTEXT)
    logins = [name for name in tracking.CREDENTIALS if name in os.environ]
    environment: dict[str, str | None] = dict.fromkeys((*ours, tracking.QUIET, *logins))
    environment |= {**_telemetry(), **dict(options.environment)}
    # Their own network would not lead them to a server that only this machine reaches.
    network = "host" if where.is_on_loopback or not where.is_server else ""
    return replace(options, environment=tuple(environment.items()), network=network)


def elsewhere(
    where: Place | None, group: str, has_proxy: bool = False
) -> tuple[tuple[str, str], ...]:
    """What all jobs of a group find in their environment that are sent elsewhere.

    Args:
      where: their runs are kept.
      group: name of the experiment group.
      has_proxy: whether something beside each job leads to Cloud SQL.
    """
    if where is None:
        return ()
    from caliban.model import tracking

    url = where.url
    if where.instance and has_proxy:
        from caliban.platform.kubernetes.manifest import CLOUD_SQL_PORT

        url = f"postgresql://{where.user}@127.0.0.1:{CLOUD_SQL_PORT}/{where.database}"
    elif where.is_on_loopback:
        return ()
    return ((tracking.URI, url), (tracking.EXPERIMENT, group), *_telemetry().items())


def _telemetry() -> dict[str, str]:
    """Without telemetry of MLflow's, unless the user has said something else."""
    from caliban.model import tracking

    return {tracking.NO_TELEMETRY: os.environ.get(tracking.NO_TELEMETRY, "true")}


def tell_unreachable(where: Place | None, has_proxy: bool = False) -> None:
    """Says so if jobs elsewhere can't reach the place where their runs are kept."""
    if where and where.is_on_loopback and not (where.instance and has_proxy):
        terminal.warn(
            f"{where} is reached from this machine only: the jobs are not told of it, and "
            "'caliban status' makes their runs when they have ended"
        )


def expect(store: HistoryStore, uids: Sequence[str], where: Place | None = None) -> None:
    """Takes note of jobs sent elsewhere, whose runs are completed when they have ended.

    Args:
      store: the history.
      uids: of the jobs, which are of one project.
      where: their runs are kept; None for what that project says.
    """
    jobs = store.jobs(uids[:1])
    if where := where or of_jobs(jobs):
        from caliban.tracking import outbox

        outbox.expect(outbox.Entry(uid, where, jobs[0].group) for uid in uids)


def with_runs(backend: RemoteBackend, jobs: Sequence[Unsent]) -> list[Unsent]:
    """The same jobs, told of runs that are made for them, as far as there is time for that.

    Those that are told of none make one, which is found by its tag.

    Args:
      backend: of the platform that they are sent to.
      jobs: that are noted already, see `expect`.
    """
    from caliban.model import tracking
    from caliban.tracking import ahead, outbox

    entries = []
    for job in jobs:
        entry = outbox.find(job.uid)
        is_told = tracking.URI in backend.particulars(job.submission).variables
        if is_told and entry and entry.place.is_server:
            entries.append(entry)
    run_ids, why = ahead.make(entries, _PATIENCE)
    if why:
        number = len(entries) - len(run_ids)
        what = "1 job is" if number == 1 else f"{number} jobs are"
        terminal.warn(f"{what} not told of a run of MLflow, and can make one: {why}")
    return [
        replace(
            job,
            submission=backend.with_variables(job.submission, {tracking.ID: run_ids[job.uid]}),
        )
        if job.uid in run_ids
        else job
        for job in jobs
    ]


def send_waiting(store: HistoryStore) -> None:
    """Sends to MLflow what waits for that, and says what waits on."""
    from caliban.remote import output
    from caliban.tracking import completion

    for left in completion.flush(store, _PATIENCE, output.wanted()):
        jobs = "1 job waits" if left.number == 1 else f"{left.number} jobs wait"
        terminal.warn(f"{jobs} to be written to MLflow: {left.why}")
