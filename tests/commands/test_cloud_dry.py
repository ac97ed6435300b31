"""`caliban cloud` without Google: what it says of wrong wishes, and what it would send."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caliban.main import main
from caliban.model import hardware
from tests.conftest import USER, Inline
from tests.google_cloud.discovery import methods
from tests.google_cloud.test_schema import capture
from tests.google_cloud.vertex import violations

MORE = "https://cloud.google.com/vertex-ai/docs/training/configure-compute"


@pytest.fixture(autouse=True)
def nobody_to_ask(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is neither network nor engine, and no region or project but those that a test names."""

    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"somebody asks {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setenv("PROJECT_ID", "p1")


def requests(inline: Inline, *words: str, region: str = "us-central1") -> list[dict[str, Any]]:
    """The bodies of the requests that a command line makes."""
    ended = inline("cloud", "--dry_run", "--region", region, *words)
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, Any]] = json.loads(ended.stdout)
    return found


def refusal(inline: Inline, *words: str) -> str:
    """What is said of a wrong command line, without line ends."""
    ended = inline("cloud", "--dry_run", *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    return " ".join(ended.stderr.split())


def machine(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["jobSpec"]["workerPoolSpecs"][0]["machineSpec"]
    return found


class TestTheMessagesOfTheGpuPage:
    def test_a_number_of_gpus_that_no_machine_has(self, inline: Inline) -> None:
        said = refusal(inline, "--gpu_spec", "3xV100", "trainer.train")
        assert "--gpu_spec" in said
        assert "3 GPUs of type V100 aren't available for any machine type" in said
        assert "Try one of: 1, 2, 4, 8." in said
        assert MORE in said
        assert "--force submits the job as it is" in said

    def test_a_machine_that_cannot_have_so_many(self, inline: Inline) -> None:
        words = ("--gpu_spec", "2xV100", "--machine_type", "n1-standard-96")
        said = refusal(inline, *words, "trainer.train")
        assert "'n1-standard-96' isn't a valid machine type for 2 V100 GPUs" in said
        listed = re.search(r"Try one of: (.*?)\.", said)
        assert listed
        assert {*listed[1].split(", ")} == {
            *("n1-highcpu-16", "n1-highmem-16", "n1-highmem-2", "n1-highmem-4", "n1-highmem-8"),
            *("n1-standard-16", "n1-standard-4", "n1-standard-8"),
        }
        assert MORE in said

    def test_a_region_that_has_none(self, inline: Inline) -> None:
        said = refusal(inline, "--gpu_spec", "2xV100", "--region", "us-west2", "trainer.train")
        assert "GPUs of type V100 aren't available in us-west2" in said
        assert "Try one of these regions: asia-east1, europe-west4, us-central1" in said

    @pytest.mark.parametrize("count", [4, 8])
    def test_a_type_of_tpu_that_is_for_clusters(self, inline: Inline, count: int) -> None:
        said = refusal(inline, "--tpu_spec", f"{count}xV4", "trainer.train")
        assert "Vertex AI doesn't train on TPUs of type V4" in said
        assert "Try one of: V2, V3, V5E, V6E; or a cluster." in said

    def test_force_lets_all_of_them_pass(self, inline: Inline) -> None:
        words = ("--gpu_spec", "3xV100", "--machine_type", "n1-standard-96", "--force")
        (body,) = requests(inline, *words, "trainer.train", region="us-west2")
        assert machine(body) == {
            "machineType": "n1-standard-96",
            "acceleratorType": "NVIDIA_TESLA_V100",
            "acceleratorCount": 3,
        }

    def test_the_examples_that_are_right(self, inline: Inline) -> None:
        (body,) = requests(inline, "--gpu_spec", "2xV100", "trainer.train")
        assert machine(body)["machineType"] == "n1-standard-8"
        words = ("--gpu_spec", "8xV100", "--machine_type", "n1-highcpu-96")
        (body,) = requests(inline, *words, "trainer.train")
        assert machine(body)["acceleratorCount"] == 8


def test_help_names_the_families_of_machines(inline: Inline) -> None:
    known = hardware.load()
    families = sorted({name.partition("-")[0] for name in {*known.machines} - known.tpu_machines})
    said = " ".join(inline("cloud", "--help").stdout.split())
    assert f"one of {', '.join(families[:-1])} or {families[-1]};" in said


class TestTheMode:
    @pytest.mark.parametrize(
        ("words", "gpu", "tpu", "type_"),
        [
            ([], "true", "false", "g2-standard-8"),
            (["--nogpu"], "false", "false", "n1-highcpu-32"),
            (["--tpu_spec", "8xV3"], "false", "true", "cloud-tpu"),
            (["--nogpu", "--tpu_spec", "8xV2"], "false", "true", "cloud-tpu"),
            (["--machine_type", "a2-highgpu-4g"], "true", "false", "a2-highgpu-4g"),
            (["--gpu_spec", "1xT4"], "true", "false", "n1-standard-8"),
        ],
    )
    def test_is_that_of_the_machine(
        self, inline: Inline, words: list[str], gpu: str, tpu: str, type_: str
    ) -> None:
        (body,) = requests(inline, *words, "trainer.train")
        assert machine(body)["machineType"] == type_
        assert (body["labels"]["gpu_enabled"], body["labels"]["tpu_enabled"]) == (gpu, tpu)

    @pytest.mark.parametrize(
        ("words", "gpu"),
        [
            ([], "false"),
            (["--gpu_spec", "1xL4"], "true"),
            (["--machine_type", "g2-standard-4"], "true"),
        ],
    )
    def test_that_a_flag_asks_for_wins_over_the_files(
        self, project: Path, inline: Inline, words: list[str], gpu: str
    ) -> None:
        (project / ".calibanconfig.json").write_text('{"default_mode": "cpu"}')
        (body,) = requests(inline, *words, "trainer.train")
        assert body["labels"]["gpu_enabled"] == gpu

    def test_cannot_be_both(self, inline: Inline) -> None:
        said = refusal(inline, "--nogpu", "--gpu_spec", "1xL4", "trainer.train")
        assert "--nogpu and --gpu_spec 1xL4 contradict one another" in said


class TestAllThatIsWrong:
    def test_is_told_at_once(self, project: Path, inline: Inline) -> None:
        (project / "bad.json").write_text('{"lr": [}')
        ended = inline(
            *("cloud", "--gpu_spec", "3xV100", "--tpu_spec", "7xV3", "--label", "nonsense"),
            *("--service_account", "me", "--network", "default", "--boot_disk_gb", "7"),
            *("--output", "results", "--experiment_config", "bad.json", "--cloud_key", "gone.json"),
            *("--image_registry", "https://x y", "--project_id", "A/B", "missing.module"),
        )
        assert ended.returncode == 2
        for part in (
            *("3 GPUs of type V100", "7 TPUs of type V3", "the label 'nonsense'"),
            *("'me' is not a service account", "'default' is not the full name of a network"),
            *("a boot disk can't have 7 GB", "--output results", "bad.json", "gone.json"),
            *("https://x y", "'A/B' can't be the id of a project", "missing"),
        ):
            assert part in ended.stderr
        assert ended.stderr.startswith("caliban: error: 12 problems:")

    def test_is_a_project_that_nobody_names(
        self, inline: Inline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PROJECT_ID")
        said = refusal(inline, "--nogpu", "trainer.train")
        assert "no project of Google Cloud is named" in said
        assert "$PROJECT_ID" in said

    def test_is_a_region_without_vertex_ai_and_who_has_named_it(
        self, inline: Inline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REGION", "us-central9")
        said = refusal(inline, "--nogpu", "trainer.train")
        assert "Vertex AI doesn't train in 'us-central9' (from $REGION)" in said
        assert "Try one of: us-central1" in said
        (body,) = requests(inline, "--nogpu", "--force", "trainer.train", region="us-central9")
        assert body["displayName"]

    def test_is_what_no_machine_of_googles_can_run(self, inline: Inline) -> None:
        words = ("--nogpu", "--platform", "linux/arm64", "trainer.train")
        assert "--platform linux/arm64: the jobs' machines are linux/amd64" in refusal(
            inline, *words
        )

    def test_is_a_registry_without_a_repository(self, project: Path, inline: Inline) -> None:
        prefix = "us-central1-docker.pkg.dev/p1"
        said = refusal(inline, "--nogpu", "--image_registry", prefix, "trainer.train")
        assert f"'{prefix}' names no repository of Artifact Registry" in said
        (project / ".calibanconfig.json").write_text(json.dumps({"image_registry": prefix}))
        assert "names no repository" in refusal(inline, "--nogpu", "trainer.train")

    def test_is_a_machine_in_capitals(self, inline: Inline) -> None:
        said = refusal(inline, "--nogpu", "--machine_type", "N1-STANDARD-8", "trainer.train")
        assert "Try one of: n1-standard-8," in said

    def test_are_arguments_that_are_no_text(self, project: Path, inline: Inline) -> None:
        said = refusal(inline, "--nogpu", "trainer.train", "--", "--file", "a\udcff")
        assert "the argument 'a\\udcff' is not valid UTF-8" in said
        for flag, value in (("--name", "\udcff"), ("--output", "gs://bucket/\udcff")):
            said = refusal(inline, "--nogpu", flag, value, "trainer.train")
            assert f"argument {flag}: expected valid UTF-8" in said
        said = refusal(inline, "--nogpu", "--name", "a\nb", "trainer.train")
        assert "argument --name: expected one line without control characters" in said

    def test_is_a_module_that_is_missing(self, inline: Inline) -> None:
        assert "no module is named" in refusal(inline, "--nogpu")
        assert "the module to run is empty" in refusal(inline, "--nogpu", "")
        said = refusal(inline, "--resume", "night", "trainer.train")
        assert "caliban cloud --resume night" in said
        said = refusal(inline, "--resume", "night")
        assert "no experiment group 'night'" in said

    @pytest.mark.parametrize(
        ("more", "named"),
        [
            (("--spot",), "--spot"),
            (("--xgroup", "other"), "--xgroup"),
            (("-l", "a=b", "--replicas", "2"), "--label --replicas"),
            (("--region", "us-east1", "--cloud_key", "k.json", "--per_minute", "9"), "--region"),
            (("--", "--epochs", "3"), "--"),
        ],
    )
    def test_is_what_a_resumed_group_would_pass_over(
        self, inline: Inline, more: tuple[str, ...], named: str
    ) -> None:
        ended = inline("cloud", "--resume", "night", *more)
        assert ended.returncode == 2
        if named == "--":
            assert "nothing stands after '--'" in ended.stderr
        else:
            assert f"--resume and {named} don't go together" in ended.stderr

    @pytest.mark.parametrize(
        "text",
        ["gs://bucket/../other", "gs://bucket/a/./b", "gs://bucket//a", "gs://b-1/" + "ä" * 400],
    )
    def test_is_an_output_that_is_another_folder_as_a_file(self, inline: Inline, text: str) -> None:
        said = refusal(inline, "--nogpu", "--output", text, "trainer.train")
        assert "can't be" in said

    def test_is_an_address_of_the_api_that_gets_no_token(
        self, inline: Inline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM", "http://example.com/")
        said = refusal(inline, "--nogpu", "trainer.train")
        assert "without encryption" in said

    @pytest.mark.parametrize(
        "text", ["results", "gs:/b", "gs://B/x", "gs://", "s3://b", "gs://b/a*"]
    )
    def test_is_an_output_that_is_not_in_cloud_storage(self, inline: Inline, text: str) -> None:
        said = refusal(inline, "--nogpu", "--output", text, "trainer.train")
        assert "gs://my-bucket/some/path" in said

    def test_is_a_bucket_that_cannot_be_called_so(self, inline: Inline) -> None:
        said = refusal(inline, "--nogpu", "--output", "gs://Mine/x", "trainer.train")
        assert "--output gs://Mine/x: no folder of Cloud Storage has such a name" in said
        assert "3 or more letters a to z" in said


class TestWhatIsSaid:
    def test_names_who_has_named_the_project_and_the_region(
        self, inline: Inline, monkeypatch: pytest.MonkeyPatch, home: Path
    ) -> None:
        line = "1 job on n1-highcpu-32 in us-central1 (from caliban's default), project p1"
        ended = inline("cloud", "--nogpu", "--dry_run", "trainer.train")
        assert f"{line} (from $PROJECT_ID)" in ended.stderr
        configuration = home / ".config/gcloud/configurations/config_default"
        configuration.parent.mkdir(parents=True)
        configuration.write_text("[core]\nproject=p2\n[ai]\nregion=us-east1\n")
        monkeypatch.delenv("PROJECT_ID")
        ended = inline("cloud", "--nogpu", "--dry_run", "trainer.train")
        assert (
            "in us-east1 (from gcloud's configuration), project p2 (from gcloud's configuration)"
            in ended.stderr
        )
        assert "projects/p2/locations/us-east1/customJobs" in ended.stderr
        monkeypatch.setenv("REGION", "europe-west4")
        ended = inline("cloud", "--nogpu", "--project_id", "p3", "--dry_run", "trainer.train")
        assert "in europe-west4 (from $REGION), project p3\n" in ended.stderr

    def test_names_what_costs_more_and_less(self, inline: Inline) -> None:
        words = ("--nogpu", "--spot", "--replicas", "4", "--dry_run", "trainer.train")
        said = inline("cloud", *words).stderr
        assert "1 job on 4 spot machines each: n1-highcpu-32 in us-central1" in said

    def test_names_labels_that_lose(self, inline: Inline) -> None:
        words = ("-l", "epochs=9", "--label", "team:a", "-l", "team=b", "trainer.train")
        ended = inline("cloud", "--nogpu", "--dry_run", *words, "--", "--epochs", "2")
        (body,) = json.loads(ended.stdout)
        assert (body["labels"]["epochs"], body["labels"]["team"]) == ("2", "b")
        assert "--label epochs and --epochs are one label, 'epochs': --epochs wins" in ended.stderr
        assert "--label team=a and --label team=b are one label, 'team'" in ended.stderr

    def test_of_many_labels_is_short(self, project: Path, inline: Inline) -> None:
        experiment = {f"[{name}.x,{name}_x]": [[1, 2]] for name in "abcdefghij"}
        (project / "e.json").write_text(json.dumps(experiment))
        words = ("--nogpu", "--experiment_config", "e.json", "trainer.train")
        ended = inline("cloud", "--dry_run", *words)
        assert ended.stderr.count("are one label") == 5
        assert "the same goes for 5 more labels" in ended.stderr

    def test_is_that_nothing_was_done(self, inline: Inline, home: Path) -> None:
        ended = inline("cloud", "--nogpu", "--dry_run", "trainer.train")
        assert ended.stderr.endswith("1 job; nothing was built, sent or recorded.\n")
        assert not (home / ".caliban").exists()


class TestTheRequests:
    def test_are_those_of_gcloud_for_the_same_wishes(self, inline: Inline) -> None:
        (found,) = requests(
            inline,
            *("--gpu_spec", "1xL4", "--machine_type", "g2-standard-8", "--spot", "--timeout", "1h"),
            *("--service_account", "sa@p1.iam.gserviceaccount.com", "--boot_disk_gb", "200"),
            *("--name", "cal_job", "-l", "job_name=x", "--output", "gs://bucket/out"),
            *("trainer.train", "--", "--lr", "0.1"),
        )
        expected = capture("vertex-custom-job-l4-spot")
        pool = found["jobSpec"]["workerPoolSpecs"][0]
        usual = expected["jobSpec"]["workerPoolSpecs"][0]
        assert found["labels"].items() > expected["labels"].items()
        assert pool["containerSpec"].pop("env") == [
            {"name": "CALIBAN_OUTPUT", "value": "/gcs/bucket/out/NEW-GROUP/JOB"}
        ]
        assert found["jobSpec"].pop("baseOutputDirectory") == {
            "outputUriPrefix": "gs://bucket/out/NEW-GROUP/JOB"
        }
        # What no flag of caliban's says: where the image is, a variable, where all outputs go.
        pool["containerSpec"].pop("imageUri")
        usual["containerSpec"].pop("imageUri")
        usual["containerSpec"].pop("env")
        expected["jobSpec"].pop("baseOutputDirectory")
        found["labels"] = expected["labels"]
        assert found == expected

    def test_of_several_machines_are_those_of_gcloud_too(self, inline: Inline) -> None:
        (found,) = requests(
            inline,
            *("--gpu_spec", "2xT4", "--replicas", "4", "--name", "n"),
            *("--service_account", "sa@p1.iam.gserviceaccount.com"),
            *("--network", "projects/12345/global/networks/default"),
            *("--image_tag", "us-docker.pkg.dev/p1/r/i", "trainer.train", "--", "--lr", "0.1"),
        )
        expected = capture("vertex-custom-job-t4-workers")
        for pool in (*found["jobSpec"]["workerPoolSpecs"], *expected["jobSpec"]["workerPoolSpecs"]):
            pool["containerSpec"]["imageUri"] = ""  # a name without a tag stands for :latest
        assert found["jobSpec"] == expected["jobSpec"]
        assert found["displayName"] == expected["displayName"]

    def test_are_one_for_each_experiment(self, project: Path, inline: Inline) -> None:
        (project / "e.json").write_text('{"lr": [0.1, 0.01], "epochs": [2, 4]}')
        found = requests(inline, "--nogpu", "--experiment_config", "e.json", "trainer.train")
        assert [body["displayName"] for body in found] == [
            f"caliban_{USER}_{number}" for number in (1, 2, 3, 4)
        ]
        assert found[1]["labels"]["lr"] == "0_1"
        pool = found[1]["jobSpec"]["workerPoolSpecs"][0]
        assert pool["containerSpec"]["args"] == ["--lr", "0.1", "--epochs", "4"]

    def test_have_the_image_of_the_registry(self, project: Path, inline: Inline) -> None:
        def image(*words: str) -> str:
            (body,) = requests(inline, "--nogpu", *words, "trainer.train")
            uri: str = body["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["imageUri"]
            return uri.rpartition("/")[0]

        assert image() == "us-central1-docker.pkg.dev/p1/caliban"
        assert image("--project_id", "example.com:p") == (
            "us-central1-docker.pkg.dev/example.com/p/caliban"
        )
        assert image("--image_registry", "registry.example.com/team") == "registry.example.com/team"
        (project / ".calibanconfig.json").write_text('{"image_registry": "r.example.com/mine"}')
        assert image() == "r.example.com/mine"

    def test_run_the_module_in_an_image_that_is_given(self, inline: Inline) -> None:
        tag = "us-docker.pkg.dev/p1/r/i:v1"
        (body,) = requests(inline, "--nogpu", "--image_tag", tag, "trainer.train", "--", "--a")
        container = body["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
        assert container == {
            "imageUri": tag,
            "command": ["python", "-m", "trainer.train"],
            "args": ["--a"],
        }

    def test_say_nothing_of_what_is_not_built(self, project: Path, inline: Inline) -> None:
        (project / "requirements.txt").write_text("tqdm\n")
        words = ("--dry_run", "--nogpu", "trainer.train")
        assert "Dependencies: requirements.txt\n" in inline("cloud", *words).stderr
        given = ("--image_tag", "registry.example.com/i:v1")
        assert "Dependencies" not in inline("cloud", *given, *words).stderr

    def test_have_no_credentials(self, project: Path, inline: Inline, home: Path) -> None:
        key = home / "key.json"
        key.write_text('{"type": "service_account", "private_key": "hunter2"}')
        words = ("--nogpu", "--cloud_key", str(key), "trainer.train")
        ended = inline("cloud", "--dry_run", *words)
        assert ended.returncode == 0
        for text in (ended.stdout, ended.stderr):
            assert "hunter2" not in text
            assert "key.json" not in text


MACHINES = sorted(hardware.load().machines)
WORDS = st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True)
SPECS = [f"{n}x{gpu.name}" for gpu in hardware.load().gpus.values() for n in gpu.counts]
LINE = st.characters(exclude_categories=["C", "Zl", "Zp"])
FLAGS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("--nogpu", "--spot", "--force"), st.none()),
        "--region": st.sampled_from(hardware.load().regions),
        "--machine_type": st.sampled_from(MACHINES),
        "--gpu_spec": st.sampled_from(SPECS),
        "--tpu_spec": st.sampled_from(["8xV2", "8xV3", "4xV5E", "1xV6E"]),
        "--name": st.text(LINE, max_size=150).filter(str.strip),
        "--label": st.builds(lambda a, b: f"{a}={b}", WORDS, st.text(max_size=80)),
        "--service_account": st.sampled_from(["sa@p1.iam.gserviceaccount.com", "nobody"]),
        "--network": st.sampled_from(["projects/1/global/networks/n", "default"]),
        "--timeout": st.sampled_from(["90m", "36h", "2d", "1h30m", "7"]),
        "--output": st.sampled_from(["gs://bucket", "gs://bucket/a b/c/", "gs://b-1.x/y"]),
        "--boot_disk_gb": st.sampled_from(["50", "100", "64000"]),
        "--replicas": st.integers(1, 20).map(str),
        "--xgroup": st.text(max_size=80).filter(lambda text: text.isprintable() and text.strip()),
        "--image_tag": st.sampled_from(["us-docker.pkg.dev/p1/r/i:v1", "r.example.com/i"]),
        "--per_minute": st.sampled_from(["1", "600"]),
    },
)


@settings(max_examples=1000, deadline=None, suppress_health_check=[*HealthCheck])
@given(flags=FLAGS, script_args=st.lists(st.text(max_size=70), max_size=4))
def test_every_combination_of_flags_is_refused_in_words_or_makes_a_body_that_the_api_takes(
    flags: dict[str, str | None], script_args: list[str], nobody_to_ask: None
) -> None:
    words = [f"{flag}={value}" if value is not None else flag for flag, value in flags.items()]
    arguments = [os.fsencode(a.replace("\0", "")).decode(errors="ignore") for a in script_args]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["cloud", "--dry_run", *words, "trainer.train", "--", *arguments])
    said = f"{shlex.join(words)}: {err.getvalue()}"
    assert code in (0, 2), said
    if code == 2:
        assert err.getvalue().startswith("caliban: error: "), said
        assert "--force" not in flags or not SPECIFIC.search(err.getvalue()), said
        return
    (body,) = json.loads(out.getvalue())
    schemas = methods("aiplatform", "v1")[0].schemas
    assert schemas.request("GoogleCloudAiplatformV1CustomJob", body) == [], said
    assert list(violations(body)) == [], said
    container = body["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
    assert container.get("args", []) == arguments


# Refusals that --force does without.
SPECIFIC = re.compile("available|valid machine type|has no machine type|doesn't train|comes with")
