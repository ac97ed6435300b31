"""`caliban cluster job submit --dry_run`: the jobs that it prints, and which cluster is meant."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import USER, Inline

SUBMIT = ("cluster", "job", "submit")
CPU = (*SUBMIT, "--dry_run", "--nogpu")
GKE = ("--project_id", "fish", "--zone", "us-central1-a", "--cluster_name", "tank")
NOTHING = "nothing was built, pushed, recorded or submitted.\n"


@pytest.fixture(autouse=True)
def kube(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubeconfig whose clusters nobody may ask, and no engine."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return kubeconfig(home / ".kube" / "config", current="team")


def kubeconfig(file: Path, current: str, *more: str) -> Path:
    names = (current, *more)
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": "https://127.0.0.1:9"}} for name in names
        ],
        "users": [{"name": name, "user": {"token": "a"}} for name in names],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": name, "namespace": "vision"}}
            for name in names
        ],
        "current-context": current,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))
    return file


def jobs(stdout: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(stdout))


def container(job: dict[str, Any]) -> dict[str, Any]:
    [found] = job["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def pod(job: dict[str, Any]) -> dict[str, Any]:
    found = job["spec"]["template"]["spec"]
    assert isinstance(found, dict)
    return found


def only(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one job that was printed."""
    assert ended.returncode == 0, ended.stderr
    [found] = jobs(ended.stdout)
    return found


class TestPrinting:
    def test_a_sweep_has_a_job_for_each_experiment(
        self, project: Path, home: Path, inline: Inline
    ) -> None:
        (project / "sweep.json").write_text('{"rate": [0.1, "1e3"], "deep": true}')
        before = sorted(project.rglob("*"))
        ended = inline(
            *CPU, "--experiment_config", "sweep.json", "trainer.train", "--", "--epochs", "2"
        )
        assert ended.returncode == 0
        assert ended.stderr.endswith(f"2 jobs; {NOTHING}")
        first, second = jobs(ended.stdout)
        assert container(first)["args"] == ["--epochs", "2", "--rate", "0.1", "--deep"]
        assert container(second)["args"] == ["--epochs", "2", "--rate", "1e3", "--deep"]
        assert container(first)["image"] == "caliban:not-built-yet"
        assert first["metadata"]["namespace"] == "vision"
        assert first["metadata"]["name"] != second["metadata"]["name"]
        assert re.fullmatch(rf"caliban-{USER}-[0-9a-f]{{16}}", first["metadata"]["name"])
        assert sorted(project.rglob("*")) == before
        assert not (home / ".caliban").exists()

    def test_what_stands_on_the_command_line_is_in_the_job(
        self, project: Path, inline: Inline
    ) -> None:
        job = only(
            inline(
                *(*CPU, "--namespace", "speech", "--name", "My Job", "-l", "team=a", "--xgroup"),
                *(
                    "tuning",
                    "--min_cpu",
                    "500",
                    "--min_mem",
                    "64",
                    "--max_mem",
                    "99",
                    "--service_account",
                    "reader",
                ),
                *("--env_secret", "wandb", "--env_secret", "data", "--queue", "fair"),
                *("--max_retries", "2", "--timeout", "90m", "--ttl", "1d"),
                *("--image_registry", "registry.example.com/team", "trainer.train"),
            )
        )
        metadata, spec = job["metadata"], job["spec"]
        assert metadata["namespace"] == "speech"
        assert metadata["name"].startswith("my-job-")
        assert metadata["labels"]["team"] == "a"
        assert metadata["labels"]["caliban_group"] == "tuning"
        assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "fair"
        assert (spec["backoffLimit"], spec["ttlSecondsAfterFinished"]) == (2, 86_400)
        assert pod(job)["activeDeadlineSeconds"] == 5_400
        assert pod(job)["serviceAccountName"] == "reader"
        inner = container(job)
        assert inner["image"] == "registry.example.com/team/caliban:not-built-yet"
        assert inner["envFrom"] == [{"secretRef": {"name": name}} for name in ("wandb", "data")]
        assert inner["resources"] == {
            "requests": {"cpu": "500m", "memory": "64M"},
            "limits": {"memory": "99M"},
        }

    def test_without_flags_nothing_is_asked_for(self, project: Path, inline: Inline) -> None:
        job = only(inline(*CPU, "trainer.train"))
        assert "resources" not in container(job) and "nodeSelector" not in pod(job)

    def test_a_job_is_no_root_unless_it_has_to_be(self, project: Path, inline: Inline) -> None:
        assert pod(only(inline(*CPU, "trainer.train")))["securityContext"]["runAsNonRoot"]
        job = only(inline(*CPU, "--as_root", "trainer.train"))
        assert "runAsUser" not in pod(job)["securityContext"]
        assert "runAsNonRoot" not in pod(job)["securityContext"]

    def test_an_image_of_the_user_is_told_which_module_to_run(
        self, project: Path, inline: Inline
    ) -> None:
        job = only(inline(*CPU, "--image_tag", "registry.example.com/a:1", "trainer.train"))
        assert container(job)["image"] == "registry.example.com/a:1"
        assert container(job)["command"] == ["python", "-m", "trainer.train"]

    def test_the_registry_of_the_project_is_known(self, project: Path, inline: Inline) -> None:
        (project / ".calibanconfig.json").write_text('{"image_registry": "example.com/team"}')
        job = only(inline(*CPU, "trainer.train"))
        assert container(job)["image"] == "example.com/team/caliban:not-built-yet"


class TestGPUs:
    def gpus(self, job: dict[str, Any]) -> str | None:
        limits = container(job).get("resources", {}).get("limits", {})
        found: str | None = limits.get("nvidia.com/gpu")
        return found

    def test_a_job_gets_one_of_any_type_by_default(self, project: Path, inline: Inline) -> None:
        job = only(inline(*SUBMIT, "--dry_run", "trainer.train"))
        assert self.gpus(job) == "1" and "nodeSelector" not in pod(job)

    def test_the_project_may_have_another_default(self, project: Path, inline: Inline) -> None:
        (project / ".calibanconfig.json").write_text('{"default_mode": "cpu"}')
        assert self.gpus(only(inline(*SUBMIT, "--dry_run", "trainer.train"))) is None
        wanted = (*SUBMIT, "--dry_run", "--gpu_spec", "2xL4", "trainer.train")
        assert self.gpus(only(inline(*wanted))) == "2"

    def test_any_type_in_any_number_may_be_there(self, project: Path, inline: Inline) -> None:
        ended = inline(*SUBMIT, "--dry_run", "--gpu_spec", "3xRTX3090", "trainer.train")
        assert self.gpus(only(ended)) == "3"

    def test_tpus_are_not_there(self, project: Path, inline: Inline) -> None:
        ended = inline(*SUBMIT, "--dry_run", "--tpu_spec", "8xV5E", "trainer.train")
        assert ended.returncode == 2
        assert "only clusters of GKE have TPUs such as 8xV5E" in ended.stderr


class TestGKE:
    def submit(self, inline: Inline, *args: str) -> subprocess.CompletedProcess[str]:
        return inline(*SUBMIT, "--dry_run", *GKE, *args, "trainer.train")

    def test_the_usual_job_has_a_gpu_on_a_spot_machine(self, project: Path, inline: Inline) -> None:
        job = only(self.submit(inline))
        assert job["metadata"]["namespace"] == "default"
        assert container(job)["image"] == (
            "us-central1-docker.pkg.dev/fish/caliban/caliban:not-built-yet"
        )
        assert container(job)["resources"] == {
            "requests": {"cpu": "1500m", "memory": "7000M"},
            "limits": {"nvidia.com/gpu": "1"},
        }
        selector = pod(job)["nodeSelector"]
        assert selector["cloud.google.com/gke-accelerator"] == "nvidia-l4"
        assert selector["cloud.google.com/gke-spot"] == "true"

    def test_a_job_without_gpus_asks_for_what_is_documented(
        self, project: Path, inline: Inline
    ) -> None:
        job = only(self.submit(inline, "--nogpu"))
        assert container(job)["resources"] == {"requests": {"cpu": "31000m", "memory": "25000M"}}

    def test_what_is_said_of_the_machine_counts(self, project: Path, inline: Inline) -> None:
        given = ("--gpu_spec", "2xV100", "--min_cpu", "4000", "--min_mem", "9000")
        job = only(self.submit(inline, *given, "--nonpreemptible"))
        assert container(job)["resources"] == {
            "requests": {"cpu": "4000m", "memory": "9000M"},
            "limits": {"nvidia.com/gpu": "2"},
        }
        selector = pod(job)["nodeSelector"]
        assert selector["cloud.google.com/gke-accelerator"] == "nvidia-tesla-v100"
        assert "cloud.google.com/gke-spot" not in selector

    @pytest.mark.parametrize("flag", ["--nonpreemptible", "--nonpreemptible_tpu"])
    def test_tpus_have_type_and_topology_and_an_image_without_gpus(
        self, project: Path, inline: Inline, flag: str
    ) -> None:
        job = only(self.submit(inline, "--tpu_spec", "8xV5E", flag))
        assert container(job)["resources"]["limits"] == {"google.com/tpu": "8"}
        assert pod(job)["nodeSelector"] == {
            "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
            "cloud.google.com/gke-tpu-topology": "2x4",
        }
        assert job["metadata"]["labels"]["gpu_enabled"] == "false"

    @pytest.mark.parametrize(
        ("args", "wrong", "hint"),
        [
            (["--gpu_spec", "3xV100"], "3 GPUs of type V100 aren't available", "1, 2, 4, 8"),
            (["--gpu_spec", "1xK80"], "there are no GPUs of type K80 any more", "--force"),
            (["--gpu_spec", "V100"], "not a number and a type of GPUs, as in 2xV100", "Types"),
            (["--tpu_spec", "8xV3"], "GKE has no TPUs of type V3 any more", "V4, V5E, V5P, V6E"),
            (["--tpu_spec", "3xV5E"], "3 TPUs of type V5E aren't available", "1, 4, 8"),
            (["--nogpu", "--gpu_spec", "1xL4"], "--nogpu and --gpu_spec 1xL4 contradict", ""),
            (["--gpu_spec", "1xL4", "--tpu_spec", "8xV5E"], "can't be in one job", "--tpu_spec"),
        ],
    )
    def test_what_is_not_there_is_told_with_what_is(
        self, project: Path, inline: Inline, args: list[str], wrong: str, hint: str
    ) -> None:
        ended = self.submit(inline, *args)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert wrong in ended.stderr and hint in ended.stderr

    def test_a_region_without_such_gpus_is_told_before_anything_is_asked(
        self, project: Path, inline: Inline
    ) -> None:
        where = ("--project_id", "fish", "--zone", "us-west2-a", "--cluster_name", "tank")
        ended = inline(*SUBMIT, "--dry_run", *where, "--gpu_spec", "1xV100", "trainer.train")
        assert ended.returncode == 2
        assert "GPUs of type V100 aren't available in us-west2" in ended.stderr

    def test_force_lets_it_pass(self, project: Path, inline: Inline) -> None:
        job = only(self.submit(inline, "--force", "--gpu_spec", "3xNVIDIA_NEW"))
        assert container(job)["resources"]["limits"] == {"nvidia.com/gpu": "3"}
        assert pod(job)["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-new"

    def test_a_context_that_gcloud_has_made_is_one_of_gke(
        self, project: Path, home: Path, inline: Inline
    ) -> None:
        kubeconfig(home / ".kube/config", "gke_fish_us-central1-a_tank")
        job = only(inline(*SUBMIT, "--dry_run", "trainer.train"))
        assert pod(job)["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
        assert container(job)["image"].startswith("us-central1-docker.pkg.dev/fish/caliban/")

    def test_flags_that_have_lost_their_meaning_are_accepted(
        self, project: Path, inline: Inline
    ) -> None:
        ended = self.submit(inline, "--tpu_driver", "1.14", "--nonpreemptible_tpu")
        assert ended.returncode == 0
        assert "warning: --tpu_driver has no effect any more" in ended.stderr
        assert "warning: --nonpreemptible_tpu has no effect without --tpu_spec" in ended.stderr


class TestWhichCluster:
    """By the namespace of the context, or the repository of the image, which tell it."""

    def cluster(self, ended: subprocess.CompletedProcess[str]) -> str:
        job = only(ended)
        return f"{job['metadata']['namespace']} {container(job)['image']}"

    def test_the_current_context_if_nothing_is_named(self, project: Path, inline: Inline) -> None:
        ended = inline(*CPU, "trainer.train")
        assert self.cluster(ended) == "vision caliban:not-built-yet"
        assert "Cluster: team/vision\n" in ended.stderr

    def test_a_context_that_is_named_is_not_told(
        self, project: Path, home: Path, inline: Inline
    ) -> None:
        kubeconfig(home / ".kube/config", "team", "other")
        ended = inline(*CPU, "--context", "other", "trainer.train")
        assert ended.returncode == 0 and "Cluster:" not in ended.stderr

    def test_a_kubeconfig_of_another_name_counts(
        self, project: Path, tmp_path: Path, inline: Inline
    ) -> None:
        file = kubeconfig(tmp_path / "mine", "far")
        ended = inline(*CPU, "--kubeconfig", str(file), "trainer.train")
        assert f"Cluster: far/vision ({file})\n" in ended.stderr

    def test_a_context_that_is_not_there_is_told_with_those_that_are(
        self, project: Path, inline: Inline
    ) -> None:
        ended = inline(*CPU, "--context", "elsewhere", "trainer.train")
        assert ended.returncode == 2
        assert "elsewhere" in ended.stderr and "team" in ended.stderr

    @pytest.mark.parametrize("who", ["environment", "configuration", "flag"])
    def test_a_project_that_is_named_means_gke(
        self, project: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch, who: str
    ) -> None:
        named = ["--zone", "us-central1-a", "--cluster_name", "tank"]
        if who == "environment":
            monkeypatch.setenv("PROJECT_ID", "fish")
        elif who == "flag":
            named += ["--project_id", "fish"]
        else:
            content = {"gcloud": {"project_id": "fish"}}
            (project / ".calibanconfig.json").write_text(json.dumps(content))
        ended = inline(*CPU, *named, "trainer.train")
        assert self.cluster(ended).startswith("default us-central1-docker.pkg.dev/fish/")

    def test_a_context_wins_over_a_project_of_the_environment(
        self, project: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PROJECT_ID", "fish")
        ended = inline(*CPU, "--context", "team", "trainer.train")
        assert self.cluster(ended) == "vision caliban:not-built-yet"

    @pytest.mark.parametrize("flag", ["--context", "--kubeconfig"])
    @pytest.mark.parametrize(
        "other", [("--cluster_name", "tank"), ("--zone", "us-central1-a"), ("--region", "us-west1")]
    )
    def test_two_clusters_are_one_too_many(
        self, project: Path, inline: Inline, kube: Path, flag: str, other: tuple[str, str]
    ) -> None:
        value = "team" if flag == "--context" else str(kube)
        ended = inline(*CPU, flag, value, *other, "trainer.train")
        assert ended.returncode == 2
        assert f"{flag} and {other[0]} both say which cluster is meant" in ended.stderr

    def test_nothing_at_all_is_told_with_all_that_there_could_be(
        self, project: Path, inline: Inline, kube: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kube.unlink()
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        ended = inline(*CPU, "trainer.train")
        assert ended.returncode == 2
        assert "no cluster is named, and there is no kubeconfig" in ended.stderr
        assert all(flag in ended.stderr for flag in ("--context", "--project_id"))


class TestDocumented:
    """What caliban 0.4's documents have is understood as they have it."""

    def test_every_flag_of_submit(self, project: Path, inline: Inline) -> None:
        (project / "data").mkdir()
        (project / "key.json").write_text("{}")
        (project / "setup.py").write_text("from setuptools import setup\nsetup()\n")
        (project / "sweep.json").write_text('{"rate": [1, 2]}')
        common = (
            *(*SUBMIT, "--cluster_name", "tank", "--zone", "us-central1-a", "--project_id", "fish"),
            *("--cloud_key", "key.json", "--extras", "a", "-d", "data", "--dir", "trainer"),
            *("--min_cpu", "1500", "--min_mem", "7000", "--force", "--name", "cifar10-test"),
            *("--experiment_config", "sweep.json", "-l", "team=a", "--label", "paper=b"),
            *("--nonpreemptible", "--dry_run", "--export", "my-job-spec.yaml", "--xgroup", "g"),
        )
        for more in (
            ("--gpu_spec", "1xT4"),
            ("--nogpu", "--image_tag", "gcr.io/fish/0f6d8a3ddbee:latest"),
            ("--tpu_spec", "8xV5E", "--tpu_driver", "1.14", "--nonpreemptible_tpu"),
        ):
            ended = inline(*common, *more, "trainer.train", "--", "--foo", "3")
            assert ended.returncode == 0, ended.stderr
            assert len(jobs(ended.stdout)) == 2
        assert not list(project.glob("my-job-spec*"))

    def test_every_flag_of_submit_file(self, project: Path, inline: Inline) -> None:
        Path("my-job.yaml").write_text(inline(*CPU, "trainer.train").stdout)
        (project / "key.json").write_text("{}")
        given = (*GKE, "--cloud_key", "key.json", "--dry_run", "my-job.yaml")
        ended = inline("cluster", "job", "submit_file", *given)
        assert ended.returncode == 0, ended.stderr


class TestWrongUsage:
    def test_all_problems_are_told_at_once(self, project: Path, inline: Inline) -> None:
        ended = inline(
            *(*SUBMIT, *GKE, "--gpu_spec", "3xV100", "-l", "novalue", "--export", "jobs.txt"),
            *("--experiment_config", "nowhere.json", "--service_account", "Not Valid"),
            *("--image_registry", "no registry", "trainer.nothing"),
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        for wrong in (
            *("3 GPUs of type V100", "'novalue'", "'jobs.txt'", "nowhere.json"),
            *("no registry", "trainer.nothing"),
        ):
            assert wrong in ended.stderr
        assert re.search(r"error: \d problems:", ended.stderr)

    @pytest.mark.parametrize(
        ("flag", "value"),
        [
            *(("--service_account", "Not Valid"), ("--env_secret", "A_B"), ("--queue", "-q")),
            *(("--namespace", "Not_Valid"), ("--min_cpu", "0"), ("--min_mem", "1GB")),
            *(("--ttl", "soon"), ("--timeout", "0"), ("--max_retries", "-1")),
        ],
    )
    def test_a_value_that_cannot_be_is_told(
        self, project: Path, inline: Inline, flag: str, value: str
    ) -> None:
        ended = inline(*CPU, f"{flag}={value}", "trainer.train")
        assert (ended.returncode, ended.stdout) == (2, "")
        assert value in ended.stderr

    def test_a_module_or_a_group_is_needed_and_not_both(
        self, project: Path, inline: Inline
    ) -> None:
        ended = inline(*CPU)
        assert ended.returncode == 2 and "no module is named" in ended.stderr
        ended = inline(*SUBMIT, "--resume", "tuning", "trainer.train")
        assert ended.returncode == 2 and "no module is named" in ended.stderr

    def test_an_argument_that_is_no_text_is_refused(self, project: Path) -> None:
        ended = subprocess.run(
            [sys.executable, "-m", "caliban", *CPU, "trainer.train", "--", b"\xff"],
            env=os.environ,
            capture_output=True,
            check=False,
        )
        assert ended.returncode == 2
        assert ended.stderr.count(b"not valid UTF-8") == 1


class TestFiles:
    def test_what_a_file_describes_is_printed_as_it_would_be_sent(
        self, project: Path, inline: Inline
    ) -> None:
        printed = inline(*CPU, "trainer.train", "--", "--epochs", "$(N)").stdout
        Path("job.yaml").write_text(printed)
        ended = inline("cluster", "job", "submit_file", "--dry_run", "job.yaml")
        job, before = only(ended), only(subprocess.CompletedProcess([], 0, printed, ""))
        assert container(job) == container(before)
        assert job["metadata"]["name"] != before["metadata"]["name"]
        assert job["metadata"]["name"].startswith(f"caliban-{USER}-")
        assert len(job["metadata"]["name"]) == len(before["metadata"]["name"])
        assert job["metadata"]["labels"]["caliban_uid"] in job["metadata"]["name"]
        assert ended.stderr.endswith("1 job; nothing was recorded or submitted.\n")

    def test_variables_of_kubernetes_stay_what_they_are(
        self, project: Path, inline: Inline
    ) -> None:
        content = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"generateName": "mine-", "namespace": "speech"},
            "spec": {
                "template": {
                    "spec": {
                        "restartPolicy": "Never",
                        "containers": [{"name": "a", "image": "a:1", "args": ["$(N)", "$$(M)"]}],
                    }
                }
            },
        }
        Path("job.json").write_text(json.dumps(content))
        job = only(inline("cluster", "job", "submit_file", "--dry_run", "job.json"))
        assert container(job)["args"] == ["$(N)", "$$(M)"]
        assert job["metadata"]["namespace"] == "speech"
        assert "generateName" not in job["metadata"]
        assert job["metadata"]["name"].startswith("mine-")

    def test_all_files_are_looked_at_before_anything_is_said(
        self, project: Path, inline: Inline
    ) -> None:
        Path("a.yaml").write_text("kind: Pod\napiVersion: v1\n")
        ended = inline("cluster", "job", "submit_file", "a.yaml", "b.yaml", "c.txt")
        assert ended.returncode == 2
        for wrong in ("a.yaml, document 1", "b.yaml", "'c.txt'"):
            assert wrong in ended.stderr

    def test_another_namespace_than_that_of_the_job_is_refused(
        self, project: Path, inline: Inline
    ) -> None:
        Path("job.yaml").write_text(inline(*CPU, "trainer.train").stdout)
        ended = inline("cluster", "job", "submit_file", "--namespace", "speech", "job.yaml")
        assert ended.returncode == 2
        assert "is for the namespace 'vision', and --namespace names 'speech'" in ended.stderr


def test_the_files_of_jobs_go_to_a_bucket_on_gke_only(project: Path, inline: Inline) -> None:
    output = ("--output", "gs://my-bucket/runs", "trainer.train")
    ended = inline(*CPU, *GKE, "--xgroup", "night", *output)
    assert ended.returncode == 0, ended.stderr
    [job] = jobs(ended.stdout)
    assert "only-dir=runs/night/JOB,uid=1000,gid=1000" in str(job)
    ended = inline(*CPU, *output)
    assert ended.returncode == 2
    assert "--output gs://my-bucket/runs: only clusters of GKE have buckets" in ended.stderr
    for more in (("--export", "job.yaml"), ("--xgroup", "a b")):
        ended = inline(*CPU, *GKE, *more, *output)
        assert ended.returncode == 2 and "bucket" in ended.stderr
