"""A job as a run of MLflow: its name, parameters, metrics and tags."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caliban.model.experiment_text import quoted
from caliban.model.job import Job, Status
from caliban.model.provenance import Provenance

# The variables by which MLflow itself finds server, experiment and run.
URI, EXPERIMENT, NAME, ID = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_NAME",
    "MLFLOW_RUN_ID",
)

# Those by which it logs in. Their values are in no command, no image and no history.
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")

# The variable whose tags MLflow gives to a run that it makes: by them the run of a job is found. Of
# a name in NAME, MLflow itself takes no notice.
CONTEXT = "MLFLOW_RUN_CONTEXT"
UID, RUN_NAME = "caliban.uid", "mlflow.runName"

# Keeps MLflow from sending telemetry. Its thread for that changes the environment while a request
# reads it, which ends a job now and then.
NO_TELEMETRY = "MLFLOW_DISABLE_TELEMETRY"

# Keeps MLflow from printing addresses of a relay, which lead nowhere later.
QUIET = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"

# The tag of runs that caliban has made.
MADE = "caliban.made"

# Limits of MLflow, in characters, and what it doesn't take in a name.
_LONGEST_NAME = 250
_LONGEST_PARAMETER = 6000
_LONGEST_TAG = 5000
_STRANGE = re.compile(r"[^\w. /-]", re.ASCII)

_STATES = {Status.SUCCEEDED: "FINISHED", Status.FAILED: "FAILED", Status.STOPPED: "KILLED"}


def run_name(uid: str) -> str:
    """The name of a job's run, which no other run has."""
    return f"caliban-{uid}"


def own_variables(uid: str) -> dict[str, str]:
    """The variables by which a job that uses MLflow makes a run that is found again."""
    tags = {UID: uid, RUN_NAME: run_name(uid)}
    return {NAME: run_name(uid), CONTEXT: json.dumps(tags)}


@dataclass(frozen=True)
class Run:
    """What a run says of a job that has ended.

    Attributes:
      params: the experiment's parameters.
      metrics: those numbers that the job has reported.
      tags: what else is known of it.
      state: in MLflow's words.
      started: in milliseconds since 1970; None if the job never started.
      finished: the same.
      provenance: what exactly it ran; None if that is not recorded.
    """

    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    state: str
    started: int | None
    finished: int | None
    provenance: Mapping[str, Any] | None


def run_of(job: Job, provenance: Provenance | None) -> Run:
    """Puts a job that has ended into MLflow's words."""
    outcome = job.outcome
    metrics: dict[str, float] = {}
    texts: dict[str, str] = {}
    for name, value in job.report.metrics.items():
        number = _number(value)
        if number is None:
            texts[f"caliban.metric.{name}"] = str(value)
        else:
            metrics[_name(name)] = number
    module = job.container_spec.get("module")
    source = provenance.source if provenance else None
    repository = source.repository if source else None
    tags = {
        "caliban.job": str(job.id),
        UID: job.uid,
        "caliban.group": job.group,
        "caliban.user": job.user,
        "caliban.platform": job.submission.platform,
        "caliban.image": job.image,
        "caliban.flags": quoted(job.experiment),
        "caliban.outcome": outcome.status.value,
        "caliban.reason": outcome.reason,
        "caliban.cause": job.report.cause,
        "caliban.code": source.digest if source else "",
        "mlflow.user": job.user,
        "mlflow.source.name": str(module.get("name", "")) if isinstance(module, Mapping) else "",
        "mlflow.source.git.commit": repository.commit if repository else "",
        **texts,
    }
    started, finished = (
        int(each.timestamp() * 1000) if each else None
        for each in (outcome.started, outcome.finished)
    )
    return Run(
        {
            _name(name): str(value)[:_LONGEST_PARAMETER]
            for name, value in job.experiment.params.items()
        },
        metrics,
        {_name(name): value[:_LONGEST_TAG] for name, value in tags.items() if value},
        _STATES[outcome.status],
        started,
        finished,
        provenance.to_json() if provenance else None,
    )


def _number(value: object) -> float | None:
    """A metric as a number. Those that JSON lacks, as infinity, are recorded as texts."""
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            return None
    if value in ("nan", "inf", "-inf"):
        return float(str(value))
    return None


def number_text(value: float) -> float | str:
    """A number as the JSON of MLflow's server has it."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _name(text: str) -> str:
    return _STRANGE.sub("_", text)[:_LONGEST_NAME]
