"""The files of jobs on a real cluster, in volumes of its node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands.kubernetes import Namespace
from tests.commands.test_cluster_on_kubernetes import SUBMIT, status, submitted
from tests.conftest import Inline
from tests.kubernetes_cluster import Cluster, claimed
from tests.parts import do_without


@pytest.fixture
def volume(cluster: Cluster, own_namespace: Namespace, tmp_path: Path) -> Iterator[Path]:
    """The folder of the claim `results`, which nobody but root may write to so far."""
    if not cluster.has_local_files:
        do_without("kubernetes", "the cluster's nodes don't have this machine's folders")
    folder = tmp_path / "volume"
    folder.mkdir(mode=0o700)
    name = own_namespace.name
    body, claim = claimed(folder, name, "results")
    code, answer = own_namespace.ask("POST", "/api/v1/persistentvolumes", body)
    assert code == 201, answer
    path = own_namespace.path("persistentvolumeclaims")
    code, answer = own_namespace.ask("POST", path, claim)
    assert code == 201, answer
    deadline = time.monotonic() + 30
    while own_namespace.ask("GET", f"{path}/results")[1]["status"].get("phase") != "Bound":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield folder
    own_namespace.clear()
    own_namespace.ask("DELETE", f"/api/v1/persistentvolumes/{name}")


def files(volume: Path) -> dict[str, str]:
    found = (each for each in volume.rglob("*") if each.is_file())
    return {each.relative_to(volume).as_posix(): each.read_text() for each in found}


def test_each_job_of_a_sweep_and_of_its_repetition_has_a_directory_of_its_own(
    own_namespace: Namespace,
    volume: Path,
    experiments: Callable[[Any], str],
    inline: Inline,
) -> None:
    sweep = ("--xgroup", "g/h", "--experiment_config", experiments({"keep": ["one", "two"]}))
    ended = inline(*SUBMIT, "--output", "pvc:results/runs/", *sweep, "trainer.job")
    assert len(submitted(ended)) == 2
    assert "'results' is on one node at a time (ReadWriteOnce)" in ended.stderr
    own_namespace.wait(2)
    first, second = status(inline, "--xgroup", "g/h")
    assert [job["status"] for job in (first, second)] == ["SUCCEEDED"] * 2, first
    for job in (first, second):
        assert job["output"] == f"pvc:results/runs/g_h/{job['job']}-{job['uid'][:6]}"
        assert f"files: {job['output']}\n" in inline("status").stdout
        assert f"files       {job['output']}\n" in inline("show", str(job["job"])).stdout
    where = [f"{job['output'].removeprefix('pvc:results/')}/kept" for job in (first, second)]
    assert files(volume) == {where[0]: "one\n", where[1]: "two\n"}

    ended = inline("resubmit", "--xgroup", "g/h", "--all_jobs", "--where", "keep=two", "--yes")
    assert ended.returncode == 0, ended.stderr
    own_namespace.wait(3)
    again = status(inline, "--xgroup", "g/h")[-1]
    assert (again["status"], again["job"]) == ("SUCCEEDED", 3)
    assert again["output"].startswith("pvc:results/runs/g_h/3-")
    assert sorted(files(volume).values()) == ["one\n", "two\n", "two\n"]


def test_an_exported_job_has_one_each_time_that_it_is_submitted(
    own_namespace: Namespace, volume: Path, sweep: Path, inline: Inline
) -> None:
    given = ("--output", "pvc:results", "--export", "job.yaml")
    ended = inline(*SUBMIT, *given, "trainer.job", "--", "--keep", "mine")
    assert ended.returncode == 0, ended.stderr
    body = yaml.safe_load(Path("job.yaml").read_text())
    names = [
        own_namespace.ask("POST", own_namespace.path("jobs"), body)[1]["metadata"]["name"]
        for _ in range(2)
    ]
    names += submitted(inline("cluster", "job", "submit_file", "job.yaml"))
    own_namespace.wait(3)
    assert files(volume) == {f"{name}/kept": "mine\n" for name in names}


def test_a_claim_that_is_not_there_is_told_before_anything_is_built(
    own_namespace: Namespace, volume: Path, sweep: Path, inline: Inline
) -> None:
    ended = inline(*SUBMIT, "--output", "pvc:result", "trainer.job")
    assert (ended.returncode, ended.stdout) == (2, "")
    missing = f"the namespace {own_namespace.name} of {own_namespace.context} has no "
    assert f"{missing}PersistentVolumeClaim 'result'\nIt has: results.\n" in ended.stderr
    assert "Build" not in ended.stderr and status(inline) == []

    given = ("--xgroup", "g", "--output", "pvc:results", "trainer.job", "--", "--exit", "3")
    submitted(inline(*SUBMIT, *given))
    own_namespace.wait(1)
    own_namespace.clear()
    own_namespace.ask("DELETE", own_namespace.path("persistentvolumeclaims", "results"))
    ended = inline("resubmit", "--xgroup", "g", "--yes")
    assert ended.returncode == 2
    assert "PersistentVolumeClaim 'results'" in ended.stderr and "rebuilding" not in ended.stderr
