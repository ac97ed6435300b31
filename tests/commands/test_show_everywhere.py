"""`caliban show` and `caliban diff`: the same answers for jobs of every platform."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import vertex
from tests.commands.kubernetes import Namespace
from tests.commands.test_provenance_elsewhere import SUBMIT, commit, squeezed
from tests.commands.vertex import cloud as cloud
from tests.conftest import Inline
from tests.docker_registry import DockerRegistry
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.vertex import failure
from tests.workshop import Workshop, docker

METRIC = 'caliban: {"accuracy": 0.5}'
JOB = ("--xgroup", "tries", "trainer.job", "--", "--say", METRIC, "--exit", "3")


def answers(inline: Inline, number: int) -> dict[str, Any]:
    """What exactly a job ran, and what it came to, as `show --json` says it."""
    done = inline("show", "--json", str(number))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_show_answers_what_exactly_ran_on_every_platform(
    cloud: GoogleCloud,
    own_namespace: Namespace,
    sweep: Path,
    docker_registry: DockerRegistry,
    workshop: Workshop,
    inline: Inline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = f"{docker_registry.host}/team/shown:1"
    for name in (f"{docker_registry.host}/team/another:1", base):  # one image, known by both
        docker("tag", workshop.base("plain"), name)
        docker("push", name)
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", base)
    (sweep / "requirements.txt").write_text("six\n")
    at = commit(sweep)
    (sweep / "trainer" / "new.py").touch()
    registry = ("--image_registry", f"{docker_registry.host}/team")

    assert inline("run", "--nogpu", *JOB).returncode == 1
    ended = inline(*SUBMIT, "--context", own_namespace.context, *registry, *JOB)
    assert ended.returncode == 0, ended.stderr
    own_namespace.wait(1)
    ended = inline("cloud", "--nogpu", *registry, *vertex.FAST, *JOB)
    assert ended.returncode == 0, ended.stderr
    (name,) = (each["name"] for each in cloud.vertex.jobs)
    cloud.logs.write(name, METRIC)
    cloud.vertex.end(name, "FAILED", failure(3))
    assert inline("status", "--xgroup", "tries").returncode == 0

    shown = [answers(inline, number) for number in (1, 2, 3)]
    assert [each["platform"] for each in shown] == ["local", "kubernetes", "vertex"]
    for number, found in enumerate(shown, 1):
        assert (found["status"], found["exit_code"]) == ("FAILED", 3), found
        assert found["reason"] and found["started"] and found["finished"]
        assert found["metrics"] == {"accuracy": 0.5}
        record = found["provenance"]
        assert record["image"]["id"].startswith("sha256:")
        assert record["image"]["base"] == base
        assert record["image"]["base_digest"].startswith(f"{docker_registry.host}/team/shown@")
        assert "six==" in record["plan"]["lock"]
        assert record["plan"]["module"]["name"] == "trainer.job"
        assert record["source"]["repository"]["commit"] == at
        assert record["source"]["repository"]["changed"] == {"trainer/new.py": "??"}
        assert "trainer/new.py" in record["source"]["files"]
        assert record["flags"]["xgroup"] == "tries"
        lines = squeezed(inline("show", str(number)).stdout)
        assert f"job {number} of tries: FAILED" in lines[0]
        assert "accuracy 0.5" in lines
        assert any(line.startswith(f"base {base} {docker_registry.host}") for line in lines)
        assert any(line.startswith("packages Python ") and "six" in line for line in lines)
        assert inline("show", "--lock", str(number)).stdout == record["plan"]["lock"]
    machines = [each["provenance"]["machine"] for each in shown]
    assert machines[0]["cpus"] and machines[0]["memory"] and machines[0]["engine"]
    assert machines[1]["requested"]["cpu"] == "100m"
    assert machines[2]["requested"]["type"]
    digests = {each["provenance"]["image"]["digest"] for each in shown[1:]}
    assert all(each.startswith(f"{docker_registry.host}/team/") for each in digests)

    for other in ("2", "3"):
        done = inline("diff", "1", other, "--json")
        assert done.returncode == 1
        sections = json.loads(done.stdout)["differences"]
        assert "platform" in {each["name"] for each in sections["machine"]}
        assert not {"code", "packages", "parameters", "metrics"} & set(sections)
