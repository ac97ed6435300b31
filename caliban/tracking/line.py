"""What is known of a job that speaks with a tracking server, and what it can be told without it.

Reference: https://mlflow.org/docs/latest/rest-api.html
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from caliban.model import tracking
from caliban.tracking.journal import Journal, Names, Request

# What jobs write, whose answer is empty.
_WRITES = frozenset(
    f"runs/{name}"
    for name in (
        *("log-metric", "log-parameter", "log-batch", "log-inputs", "log-model", "outputs"),
        *("set-tag", "delete-tag"),
    )
)
_UPDATE, _GET = "runs/update", "runs/get"


@dataclass
class Line:
    """A job that speaks with a tracking server.

    Attributes:
      uid: of the job.
      experiment: name of its experiment.
      journal: what it has said while the server was away.
      names: of its run, by which the server knows it; None while that is not known.
      run_id: by which the job itself knows it.
      runs: what the server said of runs, by id.
      experiments: the same of experiments.
    """

    uid: str
    experiment: str
    journal: Journal
    names: Names | None = None
    run_id: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: list[dict[str, Any]] = field(default_factory=list)

    @property
    def stand_in(self) -> Names:
        """The names of its run for as long as there is none."""
        return Names.stand_in(tracking.run_name(self.uid))

    @property
    def is_behind(self) -> bool:
        """Whether the server has not been told everything."""
        return self.names is None or not self.journal.is_empty()

    def begin(self, run: Mapping[str, Any] | None, run_id: str = "") -> None:
        """Lets the job have a run.

        Args:
          run: as the server has made it; None if it is to be made later, or nobody knows it well.
          run_id: its id; "" if it has none yet.
        """
        name = self.stand_in.run
        if run:
            self.names = Names.of(run)
        info: Mapping[str, Any] = (
            run["info"]
            if run
            else {
                "run_id": run_id or name,
                "run_uuid": run_id or name,
                "run_name": name,
                "experiment_id": name,
                "status": "RUNNING",
                "start_time": int(time.time() * 1000),
                "artifact_uri": f"mlflow-artifacts:/{name}",
                "lifecycle_stage": "active",
            }
        )
        self.run_id = info["run_id"]
        self.runs[self.run_id] = dict(info)
        self.experiments.append(
            {
                "experiment_id": info["experiment_id"],
                "name": self.experiment,
                "lifecycle_stage": "active",
            }
        )

    def learn(self, answer: Mapping[str, Any]) -> None:
        """Takes note of what a server has answered."""
        if info := answer.get("run", {}).get("info"):
            self.runs[info["run_id"]] = dict(info)
        experiment = answer.get("experiment")
        if experiment and experiment not in self.experiments:
            self.experiments.append(experiment)

    def answer(self, request: Request) -> dict[str, Any] | None:
        """The answer to what can be done later, or is known; None if there is none."""
        told = request.arguments
        run = self.runs.get(str(told.get("run_id") or told.get("run_uuid")))
        if request.file or request.method in _WRITES:
            return {}
        if run and request.method == _GET:
            tags = [{"key": "mlflow.runName", "value": run.get("run_name", "")}]
            return {"run": {"info": run, "data": {"tags": tags}, "inputs": {}}}
        if run and request.method == _UPDATE:
            run |= {key: told[key] for key in ("status", "end_time", "run_name") if key in told}
            return {"run_info": run}
        for key, method in (
            ("name", "experiments/get-by-name"),
            ("experiment_id", "experiments/get"),
        ):
            wanted = told.get("experiment_name" if key == "name" else key)
            for each in self.experiments:
                if request.method == method and each.get(key) == wanted:
                    return {"experiment": each}
        return None
