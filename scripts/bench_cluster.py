"""What submitting jobs to a cluster costs, beside a loop of Kubernetes' own client.

$CALIBAN_TEST_KUBECONFIG names the cluster, which must run from this machine's engine. 500 jobs of
one second are submitted by caliban and by the loop, in turn, each time into an empty namespace.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import Row, wall

VARIABLE = "CALIBAN_TEST_KUBECONFIG"

JOBS = int(os.environ.get("CALIBAN_BENCH_JOBS", "500"))
ROUNDS = int(os.environ.get("CALIBAN_BENCH_ROUNDS", "3"))

# caliban may take so many times as long: it is to be at least 0.8 times as fast.
BOUND = 1 / 0.8

# As many as caliban sends at a time.
THREADS = 8

# What one would write: no records, no look at the cluster, no bar, and no second attempt.
LOOP = """
import concurrent.futures, sys
from kubernetes import client, config

kubeconfig, namespace, image, jobs, threads = sys.argv[1:]
config.load_kube_config(kubeconfig)
api = client.BatchV1Api()

def submit(seed):
    api.create_namespaced_job(namespace, {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"loop-{seed}"},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "main",
                "image": image,
                "imagePullPolicy": "Never",
                "args": ["--seed", str(seed)],
            }],
        }}},
    })

with concurrent.futures.ThreadPoolExecutor(int(threads)) as pool:
    list(pool.map(submit, range(int(jobs))))
"""


def submitting(folder: Path) -> Iterator[Row]:
    """Submits jobs, by caliban and by the loop."""
    project = folder / "cluster"
    project.mkdir()
    (project / "second.sh").write_text("sleep 1\n")
    (project / "sweep.json").write_text(json.dumps({"seed": list(range(JOBS))}))
    kubeconfig = os.environ[VARIABLE]
    caliban = [sys.executable, "-m", "caliban"]
    with contextlib.chdir(project):
        built = subprocess.run(
            [*caliban, "build", "--nogpu", "second.sh"], capture_output=True, text=True, check=True
        )
        image = built.stdout.strip()
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            with _namespace(kubeconfig) as name:
                submit = (*caliban, "cluster", "job", "submit", "--kubeconfig", kubeconfig)
                sweep = ("--nogpu", "--experiment_config", "sweep.json", "second.sh")
                times[0].append(wall([*submit, "--namespace", name, *sweep]))
            with _namespace(kubeconfig) as name:
                loop = (kubeconfig, name, image, str(JOBS), str(THREADS))
                times[1].append(wall([sys.executable, "-c", LOOP, *loop]))
    ours, theirs = map(statistics.median, times)
    yield Row(f"submitting {JOBS} jobs to a cluster", f"{ours:.2f} s",
              f"a loop of its client, {THREADS} threads: {theirs:.2f} s",
              ours / theirs, BOUND)  # fmt: skip


@contextlib.contextmanager
def _namespace(kubeconfig: str) -> Iterator[str]:
    """A namespace that is empty, and that is gone with all its pods afterwards."""
    from kubernetes import client, config

    config.load_kube_config(kubeconfig)  # type: ignore[no-untyped-call]
    name = f"caliban-bench-{uuid.uuid4().hex[:8]}"
    with client.ApiClient() as api:
        core: Any = client.CoreV1Api(api)
        batch: Any = client.BatchV1Api(api)
        core.create_namespace({"metadata": {"name": name}})
        while not core.list_namespaced_service_account(name).items:
            time.sleep(0.1)
        try:
            yield name
            found = len(batch.list_namespaced_job(name).items)
            assert found == JOBS, f"{found} jobs have been made, and not {JOBS}"
        finally:
            batch.delete_collection_namespaced_job(name, propagation_policy="Background")
            core.delete_collection_namespaced_pod(name, grace_period_seconds=0)
            core.delete_namespace(name)
            while any(each.metadata.name == name for each in core.list_namespace().items):
                time.sleep(1)


def main() -> int:
    """Measures it alone."""
    with tempfile.TemporaryDirectory(prefix="caliban-bench-") as name:
        os.environ["HOME"] = name
        rows = list(submitting(Path(name)))
    for row in rows:
        print("  ".join(row.cells()))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
