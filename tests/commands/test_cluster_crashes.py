"""Every tenth answer of a real cluster gets lost, and caliban is killed: each job is there once.

$CALIBAN_TEST_JOBS says how many jobs there are.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

from tests.commands.conftest import Start, wait_for
from tests.commands.kubernetes import Namespace
from tests.conftest import Caliban
from tests.kubernetes_cluster import Cluster, lock_nodes
from tests.kubernetes_proxy import Proxy
from tests.workshop import Workshop

# Read before any test has an environment of its own.
_JOBS = int(os.environ.get("CALIBAN_TEST_JOBS", "60"))

_RESUME = ("cluster", "job", "submit", "--resume", "g")


@lock_nodes()
def test_each_job_is_there_once_although_answers_get_lost_and_caliban_is_killed_twice(
    own_namespace: Namespace,
    cluster: Cluster,
    workshop: Workshop,
    project: Path,
    start: Start,
    caliban: Caliban,
) -> None:
    (project / "sweep.json").write_text(json.dumps({"seed": list(range(_JOBS))}))
    with Proxy(cluster, project, own_namespace.kubeconfig) as way:
        way.lose, way.delay = 10, 0.02

        def sent() -> int:
            """How many requests to make a job there were."""
            return sum("dryRun" not in path for path in way.asked("POST", "/jobs?"))

        # The jobs want a GPU that isn't there, so that they wait, and cost nothing.
        child = start(
            *("cluster", "job", "submit", "--force", "--kubeconfig", str(way.kubeconfig)),
            *("--xgroup", "g", "--image_tag", workshop.base("plain")),
            *("--experiment_config", "sweep.json", "trainer.train"),
        )
        for part in (1, 2):
            wait_for(lambda part=part: sent() >= part * _JOBS // 4)  # type: ignore[misc]
            child.send_signal(signal.SIGKILL)
            child.wait()
            child = start(*_RESUME)
        _, stderr = child.communicate(timeout=300)
        assert child.returncode == 0, stderr
        assert sent() > _JOBS  # some were sent again, because nobody knew
        made = [
            job["spec"]["template"]["spec"]["containers"][0]["args"] for job in own_namespace.jobs()
        ]
        assert Counter(map(tuple, made)) == {("--seed", str(seed)): 1 for seed in range(_JOBS)}
        wait_for(lambda: len(own_namespace.pods()) == _JOBS, 120)
        asked = len(way.requests)
        shown = caliban("status", "--xgroup", "g", "--max_jobs", "0", "--json")
        assert shown.returncode == 0, shown.stderr
        lists = [path for _, path in way.requests[asked:] if f"/{own_namespace.name}/" in path]
        assert len(lists) == 2, lists  # the jobs, and their pods
        jobs = json.loads(shown.stdout)
        assert Counter(job["status"] for job in jobs) == {"SUBMITTED": _JOBS}
        again = caliban(*_RESUME)
        assert again.returncode == 0, again.stderr
        assert len(own_namespace.jobs()) == _JOBS
