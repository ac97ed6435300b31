"""`caliban cluster job` on a real cluster, with a real engine and a real registry."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands.conftest import wait_for
from tests.commands.kubernetes import Namespace
from tests.commands.test_cluster_files import ODD
from tests.conftest import Inline
from tests.docker_registry import DockerRegistry
from tests.kubernetes_cluster import lock_nodes
from tests.parts import do_without
from tests.workshop import Workshop, docker

# A little CPU for each job: those without any get next to nothing of a busy machine.
SUBMIT = ("cluster", "job", "submit", "--nogpu", "--min_cpu", "100")
TUTORIAL = Path(__file__).parents[2] / "tutorials" / "basic"


def status(inline: Inline, *args: str) -> list[dict[str, Any]]:
    """What `caliban status` says of all jobs."""
    ended = inline("status", "--max_jobs", "0", "--json", *args)
    assert ended.returncode == 0, ended.stderr
    jobs: list[dict[str, Any]] = json.loads(ended.stdout)
    return jobs


def container(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return found


def submitted(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """The names of the jobs that were accepted."""
    assert ended.returncode == 0, ended.stderr
    return re.findall(r"^job \d+ (\S+)", ended.stdout, re.MULTILINE)


class TestTutorial:
    def test_its_sweep_runs_from_a_registry_and_its_failure_is_mended(
        self,
        own_namespace: Namespace,
        docker_registry: DockerRegistry,
        workshop: Workshop,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        inline: Inline,
    ) -> None:
        project = tmp_path / "basic"
        shutil.copytree(TUTORIAL, project, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.chdir(project)
        prefix = f"{docker_registry.host}/team"
        where = ("--context", own_namespace.context, "--image_registry", prefix)
        sweep = ("--experiment_config", "experiment.json", "trainer.train", "--", "--epochs", "2")
        exported = inline(*SUBMIT, *where, "--export", "job.yaml", "trainer.train")
        assert exported.returncode == 0, exported.stderr
        image = container(yaml.safe_load(Path("job.yaml").read_text()))["image"]
        assert re.fullmatch(rf"{re.escape(prefix)}/caliban@sha256:[0-9a-f]{{64}}", image)
        # The registry has it now. The engine, which is the cluster's as well, forgets that it does.
        docker("rmi", "--no-prune", image)

        names = submitted(inline(*SUBMIT, *where, "--xgroup", "tuning", *sweep))
        assert len(names) == 3
        jobs = own_namespace.wait(3)
        assert {job["metadata"]["name"] for job in jobs} == {*names}
        assert {container(job)["image"] for job in jobs} == {image}
        assert f'Successfully pulled image "{image}"' in own_namespace.events()

        shown = status(inline, "--xgroup", "tuning")
        assert [job["status"] for job in shown] == ["SUCCEEDED"] * 3
        assert all(job["started"] <= job["finished"] and job["image"] == image for job in shown)
        assert [job["params"]["learning_rate"] for job in shown] == [0.1, 0.01, 0.001]
        for job in shown:
            printed = inline("logs", str(job["job"])).stdout
            accuracy = re.search(r"Test accuracy: ([\d.]+)", printed)
            assert accuracy and abs(job["metrics"]["accuracy"] - float(accuracy[1])) < 1e-3

        code = project / "trainer" / "train.py"
        good = code.read_text()
        code.write_text(f"raise SystemExit(7)\n{good}")
        submitted(inline(*SUBMIT, *where, "--xgroup", "broken", "trainer.train"))
        own_namespace.wait(4)
        [failed] = status(inline, "--xgroup", "broken")
        assert (failed["status"], failed["exit_code"], failed["reason"]) == (
            *("FAILED", 7),
            "exit code 7",
        )
        code.write_text(good)
        ended = inline("resubmit", "--xgroup", "broken", "--yes")
        assert ended.returncode == 0, ended.stderr
        own_namespace.wait(5)
        newest = status(inline, "--xgroup", "broken")[-1]
        assert newest["status"] == "SUCCEEDED", f"{newest}\n{own_namespace.account()}"
        assert newest["image"].startswith(f"{prefix}/caliban@sha256:")
        assert newest["image"] != failed["image"]


class TestLocalImage:
    def test_a_cluster_of_this_engine_needs_no_registry(
        self, own_namespace: Namespace, sweep: Path, inline: Inline
    ) -> None:
        ended = inline(*SUBMIT, "trainer.job", "--", "--say", "hello $HOME $(X)", "--env", "HOME")
        [name] = submitted(ended)
        [job] = own_namespace.wait(1)
        assert job["metadata"]["name"] == name
        assert container(job)["imagePullPolicy"] == "Never"
        [shown] = status(inline)
        assert (shown["status"], shown["platform"]) == ("SUCCEEDED", "kubernetes")
        assert inline("logs", "1").stdout == "hello $HOME $(X)\n/home/caliban\n"
        # What the history knows, it needn't ask for again.
        own_namespace.clear()
        assert [each["status"] for each in status(inline)] == ["SUCCEEDED"]

    def test_the_same_launch_into_the_group_submits_what_is_missing(
        self, own_namespace: Namespace, experiments: Callable[[Any], str], inline: Inline
    ) -> None:
        def submit(content: Any, *more: str) -> list[str]:
            file = experiments(content)
            given = ("--xgroup", "g", "--experiment_config", file, *more)
            return submitted(inline(*SUBMIT, *given, "trainer.job"))

        assert len(submit({"exit": [0, 3]})) == 2
        own_namespace.wait(2)
        assert len(submit({"exit": [0, 3, 4]})) == 2
        own_namespace.wait(4)
        assert submit({"exit": [0]}) == []
        assert len(submit({"exit": [0]}, "--rerun")) == 1

    def test_stop_deletes_a_job_and_keeps_what_it_said(
        self, own_namespace: Namespace, sweep: Path, inline: Inline
    ) -> None:
        words = ("--say", "working", "--tidy", "--sleep", "600")
        submitted(inline(*SUBMIT, "trainer.job", "--", *words))
        wait_for(lambda: [job["status"] for job in status(inline)] == ["RUNNING"])
        wait_for(lambda: "working" in inline("logs", "1").stdout)
        ended = inline("stop", "1", "--yes")
        assert ended.returncode == 0, ended.stderr
        assert [job["status"] for job in status(inline)] == ["STOPPED"]
        assert "working" in inline("logs", "1").stdout
        assert own_namespace.jobs() == []

    def test_an_image_of_the_engine_is_used_as_it_is(
        self, own_namespace: Namespace, sweep: Path, inline: Inline
    ) -> None:
        image = inline("build", "--nogpu", "trainer.job").stdout.strip()
        ended = inline(*SUBMIT, "--image_tag", image, "trainer.job", "--", "--say", "mine")
        submitted(ended)
        own_namespace.wait(1)
        assert [job["status"] for job in status(inline)] == ["SUCCEEDED"]
        assert inline("logs", "1").stdout == "mine\n"


class TestFiles:
    def test_exported_jobs_run_by_whomever_they_are_submitted(
        self, own_namespace: Namespace, experiments: Callable[[Any], str], inline: Inline
    ) -> None:
        file = experiments({"say": ["one", "1e3", "$(X)"]})
        given = ("--export", "jobs.yaml", "--experiment_config", file)
        ended = inline(*SUBMIT, *given, "trainer.job")
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.splitlines() == [f"jobs_{number}.yaml" for number in range(3)]
        assert own_namespace.jobs() == [] and status(inline) == []

        body = yaml.safe_load(Path("jobs_0.yaml").read_text())
        for _ in range(2):  # as `kubectl create -f` does
            code, answer = own_namespace.ask("POST", own_namespace.path("jobs"), body)
            assert code == 201, answer
        given = ("--xgroup", "files", "jobs_1.yaml", "jobs_2.yaml")
        names = submitted(inline("cluster", "job", "submit_file", *given))
        assert len(names) == 2
        own_namespace.wait(4)
        shown = status(inline, "--xgroup", "files")
        assert [job["status"] for job in shown] == ["SUCCEEDED"] * 2
        assert [job["args"] for job in shown] == [["--say", "1e3"], ["--say", "$$(X)"]]
        assert [inline("logs", str(job["job"])).stdout for job in shown] == ["1e3\n", "$(X)\n"]

    def test_kubectl_reads_what_was_written_whatever_the_arguments_look_like(
        self, own_namespace: Namespace, project: Path, inline: Inline
    ) -> None:
        if shutil.which("kubectl") is None:
            do_without("kubectl", "there is no kubectl on PATH")
        ended = inline(*SUBMIT, "--dry_run", "trainer.train", "--", *ODD)
        assert ended.returncode == 0, ended.stderr
        Path("odd.yaml").write_text(ended.stdout)
        read = subprocess.run(
            ["kubectl", "create", "--dry-run=client", "--validate=false", "-ojson", "-fodd.yaml"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert container(json.loads(read.stdout)) == container(yaml.safe_load(ended.stdout))

    def test_any_job_of_the_user_is_recorded_and_seen_through(
        self, own_namespace: Namespace, workshop: Workshop, inline: Inline
    ) -> None:
        jobs = [
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": "mine", "labels": {"team": "vision"}},
                "spec": {
                    "backoffLimit": 0,
                    "template": {
                        "spec": {
                            "restartPolicy": "Never",
                            "containers": [
                                {
                                    "name": "main",
                                    "image": workshop.base("plain"),
                                    "imagePullPolicy": "Never",
                                    "command": ["sh", "-c"],
                                    "args": [f"echo said; exit {code}"],
                                }
                            ],
                        }
                    },
                },
            }
            for code in (0, 3)
        ]
        Path("mine.yaml").write_text(yaml.safe_dump_all(jobs))
        names = submitted(inline("cluster", "job", "submit_file", "--xgroup", "mine", "mine.yaml"))
        assert all(name.startswith("mine-") for name in names)
        found = own_namespace.wait(2)
        assert {job["metadata"]["labels"]["team"] for job in found} == {"vision"}
        shown = status(inline, "--xgroup", "mine")
        assert [(job["status"], job["exit_code"]) for job in shown] == [
            *(("SUCCEEDED", 0), ("FAILED", 3)),
        ]
        assert [inline("logs", str(job["job"])).stdout for job in shown] == ["said\n"] * 2
        ended = inline("resubmit", "--xgroup", "mine", "--yes")
        assert ended.returncode == 0, ended.stderr
        assert len(own_namespace.jobs()) == 3

    def test_what_the_cluster_would_not_take_is_not_recorded(
        self, own_namespace: Namespace, workshop: Workshop, inline: Inline
    ) -> None:
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "mine"},
            "spec": {"template": {"spec": {"containers": [{"name": "NO", "image": "a"}]}}},
        }
        Path("mine.json").write_text(json.dumps(job))
        ended = inline("cluster", "job", "submit_file", "mine.json")
        assert ended.returncode != 0
        assert "restartPolicy" in ended.stderr
        assert status(inline) == [] and own_namespace.jobs() == []


class TestLists:
    def test_jobs_and_pods_are_listed_whoever_has_made_them(
        self, own_namespace: Namespace, sweep: Path, inline: Inline
    ) -> None:
        group = ("--xgroup", "a group of mine")
        [name] = submitted(inline(*SUBMIT, *group, "trainer.job", "--", "--exit", "7"))
        other = yaml.safe_load(inline(*SUBMIT, "--dry_run", "trainer.job").stdout)
        other["metadata"] = {"name": "of-somebody-else"}
        other["spec"]["template"]["metadata"] = {}
        other["spec"].pop("podFailurePolicy", None)
        assert own_namespace.ask("POST", own_namespace.path("jobs"), other)[0] == 201
        own_namespace.wait(1)
        ended = inline("cluster", "job", "ls")
        assert ended.returncode == 0, ended.stderr
        head, *rows = ended.stdout.splitlines()
        assert head.split() == ["NAME", "STATUS", "CREATED", "TIME", "XGROUP", "REASON"]
        assert {row.split()[0] for row in rows} == {name, "of-somebody-else"}
        [row] = [row for row in rows if row.startswith(name)]
        assert "FAILED" in row and row.endswith("exit code 7") and group[1] in row
        [job] = json.loads(inline("cluster", "job", "ls", *group, "--json").stdout)
        assert (job["name"], job["status"], job["exit_code"]) == (name, "FAILED", 7)
        pods = json.loads(inline("cluster", "pod", "ls", *group, "--json").stdout)
        assert [(pod["job"], pod["status"], pod["exit_code"], pod["reason"]) for pod in pods] == [
            (name, "FAILED", 7, "exit code 7")
        ]
        assert pods[0]["node"] == own_namespace.pods()[0]["spec"]["nodeName"]

    def test_nothing_is_no_error(self, own_namespace: Namespace, inline: Inline) -> None:
        ended = inline("cluster", "pod", "ls")
        assert (ended.returncode, ended.stdout) == (0, "")
        assert "no pods in " in ended.stderr
        ended = inline("cluster", "job", "ls", "--xgroup", "tunning")
        assert (ended.returncode, ended.stdout) == (0, "")
        assert "no jobs of group 'tunning' in " in ended.stderr

    @pytest.mark.parametrize("kind", ["job", "pod"])
    def test_a_namespace_that_is_not_there_is_one(
        self, own_namespace: Namespace, inline: Inline, kind: str
    ) -> None:
        ended = inline("cluster", kind, "ls", "--namespace", "nowhere")
        assert (ended.returncode, ended.stdout) == (2, "")
        missing = f"the cluster {own_namespace.context} has no namespace 'nowhere'\nIt has: "
        assert missing in ended.stderr


class TestRefusals:
    """Nothing is built or recorded for jobs that the cluster would not take."""

    def refused(
        self, inline: Inline, workshop: Workshop, *args: str
    ) -> subprocess.CompletedProcess[str]:
        ended = inline("cluster", "job", "submit", *args, "trainer.job")
        assert "Build" not in ended.stderr and ended.stdout == ""
        assert status(inline) == []
        return ended

    @lock_nodes()
    def test_a_cluster_without_gpus_has_none_for_the_usual_job(
        self, own_namespace: Namespace, sweep: Path, workshop: Workshop, inline: Inline
    ) -> None:
        ended = self.refused(inline, workshop)
        assert ended.returncode == 2
        assert f"no node of {own_namespace.context} has a GPU (nvidia.com/gpu)" in ended.stderr
        assert "--nogpu" in ended.stderr and '"default_mode": "cpu"' in ended.stderr

    @lock_nodes()
    def test_force_submits_it_for_nodes_that_may_come(
        self, own_namespace: Namespace, sweep: Path, inline: Inline
    ) -> None:
        submitted(inline("cluster", "job", "submit", "--force", "trainer.job"))
        wait_for(lambda: "Unschedulable" in status(inline)[0]["reason"])
        assert status(inline)[0]["status"] == "SUBMITTED"

    def test_a_user_without_rights_is_told_before_the_build(
        self, own_namespace: Namespace, sweep: Path, workshop: Workshop, inline: Inline
    ) -> None:
        if own_namespace.viewer is None:
            pytest.skip("the cluster has no user without rights")
        where = ("--kubeconfig", str(own_namespace.viewer))
        ended = self.refused(inline, workshop, "--nogpu", *where)
        assert ended.returncode == 1
        assert "jobs" in ended.stderr and "viewer" in ended.stderr

    def test_a_namespace_that_is_not_there_is_told_before_the_build(
        self, own_namespace: Namespace, sweep: Path, workshop: Workshop, inline: Inline
    ) -> None:
        ended = self.refused(inline, workshop, "--nogpu", "--namespace", "defautl")
        assert ended.returncode == 2
        assert re.search(
            rf"{own_namespace.context} has no namespace 'defautl'\nIt has: default\b.*\.\n"
            "Make it: kubectl .* create namespace defautl",
            ended.stderr,
        )

    def test_a_server_that_is_away_is_told_within_seconds(
        self, own_namespace: Namespace, sweep: Path, workshop: Workshop, inline: Inline
    ) -> None:
        away = yaml.safe_load(own_namespace.kubeconfig.read_text())
        away["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
        Path("away").write_text(yaml.safe_dump(away))
        start = time.monotonic()
        ended = self.refused(inline, workshop, "--nogpu", "--kubeconfig", "away")
        assert time.monotonic() - start < 20
        assert ended.returncode == 1
        assert f"the cluster {own_namespace.context} doesn't answer" in ended.stderr
