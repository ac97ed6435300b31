"""A job: what is wanted, what will be sent, how to find it again, and what became of it."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from caliban.model import report
from caliban.model.experiment import Experiment
from caliban.model.report import Metrics, Report


class Status(enum.Enum):
    """Where a job stands.

    UNKNOWN means "could not ask just now": it is never final, and never overwrites what is known.
    """

    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    UNKNOWN = "UNKNOWN"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended, so that its status never changes again."""
        return self in (Status.SUCCEEDED, Status.FAILED, Status.STOPPED)


@dataclass(frozen=True)
class JobRequest:
    """One job of a launch, before a platform has put it in its own words.

    Attributes:
      uid: unique among all jobs ever; the platform's name or label of the job is made from it, so
        that submitting twice is seen.
      experiment: the arguments and parameters of the job.
      image: reference or id of the image to run.
      group: name of the experiment group.
      index: place of the job in its launch, from 0.
      settings: how it is run, in the platform's own words.
      output: where the files go that it writes into its output directory: a directory of its own;
        "" for a job without one.
    """

    uid: str
    experiment: Experiment
    image: str
    group: str
    index: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""


@dataclass(frozen=True)
class Submission:
    """Exactly what will be sent to a platform, as plain JSON: printed, stored, sent and compared.

    Attributes:
      platform: name of the backend, "local" for one.
      target: which of the platform's places: an engine, a cluster, a project.
      payload: the request itself.
    """

    platform: str
    target: str
    payload: Mapping[str, Any]

    @property
    def output(self) -> str:
        """Where the job writes its files: a directory of this machine, or an address elsewhere."""
        return str(self.payload.get("output", ""))


@dataclass(frozen=True)
class Handle:
    """How to find a submitted job again: its id within a platform's target.

    Attributes:
      platform: see Submission.
      target: see Submission.
      id: what the platform calls it there.
      uid: see JobRequest; "" where nobody has said it. It makes no other job of one.
    """

    platform: str
    target: str
    id: str
    uid: str = field(default="", compare=False)


@dataclass(frozen=True)
class Outcome:
    """What is known of a job.

    Attributes:
      status: where it stands.
      exit_code: of its process; None while it runs, or when there never was one.
      reason: why it ended so, for people: "exit code 3", "out of memory"; empty after success.
      started: when its process started (UTC), if it did.
      finished: when it ended (UTC), if it did.
      node: the machine of a cluster that it runs on, or ran on last; "" where nobody says.
      hint: what to do where nobody could be asked; "" for nothing in particular.
    """

    status: Status
    exit_code: int | None = None
    reason: str = ""
    started: datetime.datetime | None = None
    finished: datetime.datetime | None = None
    node: str = field(default="", compare=False)
    hint: str = field(default="", compare=False)

    def describe(self) -> str:
        """The outcome in a few words: "FAILED (exit code 3) in 2.1 s"."""
        text = self.status.value
        if self.reason:
            text += f" ({self.reason})"
        if self.started and self.finished:
            text += f" in {duration(self.finished - self.started)}"
        return text


def concluded(outcome: Outcome, metrics: Metrics, tail: bytes) -> Report:
    """What a job said of itself that has ended.

    Args:
      outcome: how it has.
      metrics: that it printed.
      tail: the end of its output.
    """
    metrics.end()
    if outcome.status is not Status.FAILED:
        return Report(metrics.values)
    last = tail.decode(errors="replace").splitlines()
    return Report(metrics.values, report.cause(last) or outcome.reason)


def duration(span: datetime.timedelta) -> str:
    """A time span for people: "0.3 s", "2 min 5 s", "3 h 12 min".

    One between times of whole seconds, as Kubernetes has them, isn't more exact than that: "2 s".
    """
    if span < datetime.timedelta(minutes=1):
        if not span.microseconds:
            return f"{span.seconds} s" if span > datetime.timedelta() else "under 1 s"
        return f"{max(span.total_seconds(), 0.0):.1f} s"
    minutes, seconds = divmod(round(span.total_seconds()), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"


@dataclass(frozen=True)
class Job:
    """A row of the history, with all that `status` shows of it.

    Attributes:
      id: number of the job in this history.
      uid: see JobRequest; rows that caliban 0.4 wrote have one made from their id.
      user: who launched it.
      group: name of its experiment group.
      experiment_id: number of its experiment; an experiment that is run again has several jobs.
      experiment: its arguments and parameters.
      container_spec_id: number of the image plan it was built from.
      container_spec: that image plan as JSON.
      submission: what was sent.
      handle: how to find it; None for one that has not been sent elsewhere, or nobody knows whether
        it has, and for rows that caliban 0.4 wrote.
      image: the image that it runs, or ran.
      outcome: what is known of it.
      owner: the process that launched it, see process.identity(); empty when none is needed, as for
        one that has been sent elsewhere.
      created: when it was written down (UTC).
      report: what it said of itself.
      stop_requested: when somebody asked it to end (UTC); None if nobody did.
      details: what else is recorded of it: "code", the digest of code that was mounted live, or
        "node", the machine of a cluster; for jobs of caliban 0.4, what that wrote.
    """

    id: int
    uid: str
    user: str
    group: str
    experiment_id: int
    experiment: Experiment
    container_spec_id: int
    container_spec: Mapping[str, Any]
    submission: Submission
    handle: Handle | None
    image: str
    outcome: Outcome
    owner: str
    created: datetime.datetime
    details: Mapping[str, Any] = field(default_factory=dict)
    report: Report = field(default_factory=lambda: Report({}))
    stop_requested: datetime.datetime | None = None
