"""--resume with --dry_run lists what would be sent, alike on every platform."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands import vertex
from tests.commands.kubernetes import Namespace
from tests.commands.vertex import cloud as cloud
from tests.commands.vertex import image as image
from tests.commands.vertex import pushed as pushed
from tests.conftest import Inline
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.vertex import failure
from tests.workshop import Workshop


def statuses(inline: Inline) -> list[str]:
    shown = inline("status", "--max_jobs", "0", "--json")
    return [job["status"] for job in json.loads(shown.stdout)]


def test_on_vertex_ai(cloud: GoogleCloud, image: str, project: Path, inline: Inline) -> None:
    words = ("--nogpu", "--image_tag", image, "--xgroup", "night", *vertex.FAST)
    sweep = ("--experiment_config", vertex.sweep(project, 3))
    assert inline("cloud", *words, *sweep, "trainer.train").returncode == 0
    failed, _, good = cloud.vertex.jobs
    seeds = [
        job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["args"][1]
        for job in cloud.vertex.jobs
    ]
    cloud.vertex.end(failed["name"], "FAILED", failure(3))
    cloud.vertex.end(good["name"], "SUCCEEDED")
    ended = inline("cloud", "--resume", "night", "--dry_run")
    assert ended.returncode == 0, ended.stderr
    command, line = ended.stdout.splitlines()
    assert command.startswith("trainer.train")
    assert f"--seed {seeds[0]}" in ended.stdout and "exit code 3" in line
    assert "Skipped: 1 experiment submitted before, and not ended yet" in ended.stderr
    assert "1 job; nothing was sent or recorded." in ended.stderr
    assert len(cloud.vertex.jobs) == 3
    assert sorted(statuses(inline)) == ["FAILED", "RUNNING", "SUCCEEDED"]
    assert inline("cloud", "--resume", "night", *vertex.FAST).returncode == 0
    assert len(cloud.vertex.jobs) == 4


def test_on_kubernetes(
    own_namespace: Namespace, sweep: Path, workshop: Workshop, inline: Inline
) -> None:
    (sweep / "sweep.json").write_text(json.dumps({"exit": [0, 3]}))
    ended = inline(
        *("cluster", "job", "submit", "--nogpu", "--min_cpu", "100", "--xgroup", "g"),
        *("--experiment_config", "sweep.json", "trainer.job"),
    )
    assert ended.returncode == 0, ended.stderr
    own_namespace.wait(2)
    ended = inline("cluster", "job", "submit", "--resume", "g", "--dry_run")
    assert ended.returncode == 0, ended.stderr
    command, _ = ended.stdout.splitlines()
    assert command == "trainer.job --exit 3"
    assert "1 job; nothing was sent or recorded." in ended.stderr
    assert len(own_namespace.jobs()) == 2
    assert statuses(inline) == ["SUCCEEDED", "FAILED"]
