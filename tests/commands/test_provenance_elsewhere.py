"""What is recorded of jobs on Vertex AI and on a real cluster, before they are sent."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import yaml

from caliban.docker.engine import Engine
from tests.commands import vertex
from tests.commands.kubernetes import Namespace
from tests.commands.vertex import cloud as cloud
from tests.commands.vertex import image as image
from tests.commands.vertex import pushed as pushed
from tests.conftest import Inline
from tests.docker_registry import DockerRegistry
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault
from tests.google_cloud.vertex import failure
from tests.provenance.test_git import call
from tests.workshop import Workshop

SUBMIT = ("cluster", "job", "submit", "--nogpu", "--min_cpu", "100", "--min_mem", "200")

SECRET = "k4r9x2m7q8w1"


def commit(project: Path) -> str:
    """Puts the project into a repository of git; returns its commit."""
    call(project, "init", "-q")
    call(project, "add", ".")
    call(project, "commit", "-q", "-m", "first")
    return call(project, "rev-parse", "HEAD")


def show(inline: Inline, number: int = 1) -> dict[str, Any]:
    done = inline("show", "--json", str(number))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["provenance"]
    return found


def squeezed(text: str) -> list[str]:
    """The lines of a text, with one space between words."""
    return [" ".join(line.split()) for line in text.splitlines()]


class TestOnVertexAI:
    def test_a_job_tells_its_code_image_machine_and_flags(
        self,
        cloud: GoogleCloud,
        project: Path,
        engine: Engine,
        docker_registry: DockerRegistry,
        inline: Inline,
    ) -> None:
        at = commit(project)
        (project / "trainer" / "train.py").write_text("print('edited')\n")
        words = ("--gpu_spec", "2xT4", "--region", "europe-west4", "--spot", "--xgroup", "night")
        ended = inline(
            *("cloud", *words, "--image_registry", f"{docker_registry.host}/team", *vertex.FAST),
            *("--service_account", vertex.ROBOT),
            *("--experiment_config", vertex.sweep(project, 2), "trainer.train"),
        )
        assert ended.returncode == 0, ended.stderr
        found = show(inline)
        assert found == show(inline, 2)
        [pushed] = {
            each["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["imageUri"]
            for each in vertex.created(cloud)
        }
        assert found["image"]["digest"] == pushed
        inside = engine.image(found["image"]["id"])
        assert inside is not None and found["image"]["name"] in inside["RepoTags"]
        assert found["image"]["name"].startswith("caliban:gpu-")
        assert found["source"]["repository"]["commit"] == at
        assert found["source"]["repository"]["changed"]["trainer/train.py"] == ".M"
        assert "trainer/train.py" in found["source"]["files"]
        assert json.loads(found["experiments"]) == {"seed": [0, 1]}
        assert found["command"] == "cloud"
        assert found["flags"]["gpu_spec"] == "2xT4"
        machine = found["machine"]
        assert machine["requested"] == {
            "project": "p1",
            "region": "europe-west4",
            "type": "n1-standard-8",
            "accelerators": "2 x NVIDIA_TESLA_T4",
            "strategy": "SPOT",
            "service account": vertex.ROBOT,
        }
        assert (machine["host"], machine["cpu"], machine["cpus"]) == ("", "", 0)
        shown = squeezed(inline("show", "1").stdout)
        assert f"digest {pushed}" in shown
        assert f"commit {at} on main" in shown
        assert "accelerators 2 x NVIDIA_TESLA_T4" in shown
        assert "+print('edited')" in inline("show", "--diff", "1").stdout

    def test_a_named_image_says_nothing_of_the_directory(
        self, cloud: GoogleCloud, image: str, project: Path, inline: Inline
    ) -> None:
        commit(project)
        words = ("--nogpu", "--image_tag", image, "--xgroup", "night", "--output", "gs://bucket/x")
        ended = inline("cloud", *words, *vertex.FAST, "trainer.train")
        assert ended.returncode == 0, ended.stderr
        assert "warning" not in ended.stderr
        found = show(inline)
        assert found["source"] is None
        assert found["image"]["digest"].startswith(image.removesuffix(":v1") + "@sha256:")
        assert (found["image"]["id"], found["image"]["base"]) == ("", "")
        assert found["variables"] == ["CALIBAN_OUTPUT"]

    def test_is_written_down_although_nothing_could_be_sent(
        self, cloud: GoogleCloud, image: str, inline: Inline
    ) -> None:
        cloud.faults.add("customJobs.create", Fault(status=403))
        words = ("--nogpu", "--image_tag", image, "--xgroup", "night", *vertex.FAST)
        assert inline("cloud", *words, "trainer.train").returncode == 1
        assert show(inline)["command"] == "cloud"
        cloud.faults.clear()
        before = show(inline)
        ended = inline("cloud", "--resume", "night", *vertex.FAST)
        assert ended.returncode == 0, ended.stderr
        assert show(inline) == before

    def test_what_runs_again_keeps_where_its_code_came_from(
        self,
        cloud: GoogleCloud,
        project: Path,
        docker_registry: DockerRegistry,
        inline: Inline,
    ) -> None:
        at = commit(project)
        registry = ("--image_registry", f"{docker_registry.host}/team", *vertex.FAST)
        base = ("--nogpu", "--xgroup", "night")
        ended = inline("cloud", *base, *registry, "trainer.train")
        assert ended.returncode == 0, ended.stderr
        (project / "trainer" / "train.py").write_text("print('edited')\n")
        call(project, "commit", "-q", "-a", "-m", "second")
        newest = ("resubmit", "--xgroup", "night", "--yes")
        for again in (("cloud", "--resume", "night"), (*newest, "--same_image"), newest):
            cloud.vertex.end(cloud.vertex.jobs[-1]["name"], "FAILED", failure(3))
            ended = inline(*again)
            assert ended.returncode == 0, ended.stderr
        found = [show(inline, number) for number in (1, 2, 3, 4)]
        commits = [each["source"]["repository"]["commit"] for each in found]
        assert commits == [at] * 3 + [call(project, "rev-parse", "HEAD")]
        assert [each["command"] for each in found] == ["cloud", "cloud", "resubmit", "resubmit"]
        assert found[0]["image"] == found[1]["image"] == found[2]["image"]
        assert found[3]["image"]["digest"] != found[0]["image"]["digest"]
        lines = squeezed(inline("diff", "1", "4").stdout)
        assert "trainer/train.py changed" in lines
        assert "machine" not in lines

    def test_a_history_that_takes_no_record_sends_the_jobs_all_the_same(
        self,
        cloud: GoogleCloud,
        image: str,
        inline: Inline,
        home: Path,
    ) -> None:
        words = ("--nogpu", "--image_tag", image, "--xgroup", "night", *vertex.FAST)
        assert inline("cloud", *words, "trainer.train").returncode == 0
        with sqlite3.connect(home / ".caliban" / "caliban.db") as connection:
            connection.execute("drop table provenances")
        ended = inline("cloud", *words, "--rerun", "trainer.train")
        assert ended.returncode == 0, ended.stderr
        assert "what exactly these jobs ran is not recorded" in ended.stderr
        assert len(cloud.vertex.jobs) == 2


class TestOnKubernetes:
    def test_a_job_tells_its_code_image_and_what_it_asks_the_cluster_for(
        self,
        own_namespace: Namespace,
        sweep: Path,
        docker_registry: DockerRegistry,
        workshop: Workshop,
        inline: Inline,
    ) -> None:
        at = commit(sweep)
        body = {"metadata": {"name": "keys"}, "stringData": {"API_TOKEN": SECRET}}
        assert own_namespace.ask("POST", own_namespace.path("secrets"), body)[0] == 201
        prefix = f"{docker_registry.host}/team"
        words = ("--image_registry", prefix, "--env_secret", "keys", "--xgroup", "g")
        ended = inline(*SUBMIT, *words, "trainer.job", "--", "--env", "API_TOKEN")
        assert ended.returncode == 0, ended.stderr
        found = show(inline)
        own_namespace.wait(1)
        assert inline("logs", "1").stdout == f"{SECRET}\n"
        [job] = own_namespace.jobs()
        [container] = job["spec"]["template"]["spec"]["containers"]
        assert found["image"]["digest"] == container["image"]
        assert found["image"]["name"].startswith("caliban:cpu-")
        assert found["source"]["repository"]["commit"] == at
        assert found["command"] == "cluster job submit"
        assert found["secrets"] == ["keys"]
        assert found["variables"] == sorted(each["name"] for each in container["env"])
        assert found["machine"]["requested"] == {
            "cluster": own_namespace.context,
            "namespace": own_namespace.name,
            "cpu": "100m",
            "memory": "200M",
        }
        assert SECRET not in json.dumps(found)
        status = inline("status")  # by which it is learned where the job has run
        assert status.returncode == 0
        shown = squeezed(inline("show", "1").stdout)
        [pod] = own_namespace.pods()
        assert f"node {pod['spec']['nodeName']}" in shown
        assert "secrets keys" in shown
        report = inline("report", "g", "--md", "-o", "report.md")
        assert report.returncode == 0, report.stderr
        assert f"cluster {own_namespace.context}" in Path("report.md").read_text()

    def test_an_export_has_code_and_image_of_jobs_that_ran_there(
        self, own_namespace: Namespace, sweep: Path, workshop: Workshop, inline: Inline
    ) -> None:
        ended = inline(*SUBMIT, "--xgroup", "g", "trainer.job", "--", "--say", "hi")
        assert ended.returncode == 0, ended.stderr
        own_namespace.wait(1)
        ended = inline("export", "g", "-o", "g.tar")
        assert ended.returncode == 0, ended.stderr
        image = show(inline)["image"]
        assert image["name"].startswith("caliban:cpu-") and image["id"].startswith("sha256:")

    def test_a_job_of_a_file_tells_its_names_and_what_it_asks_for(
        self, own_namespace: Namespace, project: Path, workshop: Workshop, inline: Inline
    ) -> None:
        container = {
            "name": "main",
            "image": workshop.base("plain"),
            "command": ["true"],
            "env": [
                {"name": "PLAIN", "value": "visible-value"},
                {
                    "name": "TOKEN",
                    "valueFrom": {
                        "secretKeyRef": {"name": "keys", "key": "token", "optional": True}
                    },
                },
            ],
            "resources": {"limits": {"memory": "100Mi"}},
        }
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"generateName": "mine-"},
            "spec": {
                "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
            },
        }
        (project / "mine.yaml").write_text(yaml.safe_dump(job))
        ended = inline("cluster", "job", "submit_file", "--xgroup", "g", "mine.yaml")
        assert ended.returncode == 0, ended.stderr
        found = show(inline)
        assert found["variables"] == ["PLAIN", "TOKEN"]
        assert found["secrets"] == ["keys"]
        assert found["machine"]["requested"]["memory limit"] == "100Mi"
        assert found["image"]["name"] == workshop.base("plain")
        assert "visible-value" not in json.dumps(found)
        shown = squeezed(inline("show", "1").stdout)
        assert "command caliban cluster job submit_file --xgroup g mine.yaml" in shown
