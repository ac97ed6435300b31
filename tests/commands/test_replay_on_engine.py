"""`caliban replay`: what was exported, run again where nothing is known of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pip
import pytest

import caliban as package
from caliban.bundle.archive import Archive
from caliban.docker.engine import Engine
from caliban.docker.identity import ADC_PATH
from caliban.docker.image.builder import Builder
from tests.commands.conftest import Start, kept_output, wait_for
from tests.commands.replays import EXPERIMENTS, Elsewhere, altered, image_of, replayed, results
from tests.commands.test_export_on_engine import exported
from tests.conftest import Caliban
from tests.docker.conftest import variables_for
from tests.docker_registry import DockerRegistry
from tests.dockerd import Dockerd
from tests.workshop import Workshop, docker

pytestmark = pytest.mark.takes(12)

TUTORIAL = Path(package.__file__).parents[1] / "tutorials" / "basic"
PASSWORD = "hunter-2-in-the-dark"


def forget(label: str, base: str, engine: Engine) -> None:
    """Removes all images with a label but one, layers of builds among them."""
    kept = engine.image_id(base)
    listed = ("images", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}")
    for _ in range(9):  # an image goes only after those that were built on it
        found = dict.fromkeys(each for each in docker(*listed).split() if each != kept)
        if found:
            docker("rmi", "--force", *found, check=False)
    assert {*docker(*listed).split()} == {kept}


def pip_freeze(image: str) -> str:
    """What `pip freeze` says in an image: by the pip of these tests, as the image has none."""
    folder = Path(pip.__file__).parent
    own = ("--volume", f"{folder}:/opt/pip/pip:ro", "--env", "PYTHONPATH=/opt/pip")
    return docker("run", "--rm", *own, "--entrypoint", "python", image, "-m", "pip", "freeze")


def test_the_tutorial_comes_to_the_same_where_nothing_is_known_of_it(
    caliban: Caliban,
    tmp_path: Path,
    workshop: Workshop,
    engine: Engine,
    elsewhere: Elsewhere,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = workshop.base("replay", "LABEL caliban.replayed=yes")
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", base)
    shutil.copytree(TUTORIAL, tmp_path / "basic")
    monkeypatch.chdir(tmp_path / "basic")
    monkeypatch.setenv("MY_PASSWORD", PASSWORD)
    group = ("run", "--nogpu", "--xgroup", "tuning", "--docker_run_args", "-e MY_PASSWORD")
    done = caliban(*group, "--jobs", "3", "--experiment_config", "experiment.json", "trainer.train")
    assert done.returncode == 0, done.stderr
    done = caliban("export", "tuning", "-o", str(tmp_path / "tuning.tar"))
    assert done.returncode == 0, done.stderr
    assert PASSWORD.encode() not in (tmp_path / "tuning.tar").read_bytes()
    image = image_of(tmp_path / "tuning.tar")
    with Archive(tmp_path / "tuning.tar") as opened:
        recorded = [each["metrics"] for each in opened.manifest["jobs"]]
    installed = pip_freeze(image)
    assert "scikit-learn==" in installed
    forget("caliban.replayed=yes", base, engine)
    assert engine.image_id(image) is None

    elsewhere()
    monkeypatch.delenv("MY_PASSWORD")
    shutil.move(tmp_path / "tuning.tar", "tuning.tar")
    shutil.rmtree(tmp_path / "basic")
    done = caliban("replay", "tuning.tar", "--xgroup", "again")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[1] for row in rows] == ["same"] * 3
    assert f"accuracy={recorded[0]['accuracy']}" in rows[0]
    assert "a file cannot ask for: --docker_run_args '-e MY_PASSWORD'" in done.stderr
    assert "The image is made of the same" in done.stderr
    listed = json.loads(caliban("status", "--xgroup", "again", "--json").stdout)
    assert [each["metrics"] for each in listed] == recorded
    assert pip_freeze(listed[0]["image"]) == installed

    found = replayed(caliban, "tuning.tar", "--xgroup", "again", "--only", "2-3")
    assert [each["replayed"]["job"] for each in found["experiments"]] == [2, 3]  # not run anew
    assert len(json.loads(caliban("status", "--xgroup", "again", "--json").stdout)) == 3
    done = caliban("replay", "tuning.tar", "--xgroup", "again", "--only", "3")
    assert "Skipped: 1 experiment succeeded before with this image (--rerun)" in done.stderr
    found = replayed(caliban, "tuning.tar", "--xgroup", "again", "--only", "3", "--rerun")
    assert [each["replayed"]["job"] for each in found["experiments"]] == [4]

    whole = bytearray(Path("tuning.tar").read_bytes())
    at = whole.index(b"scikit-learn==", whole.index(b"launches/0/requirements.lock\0"))
    whole[at] ^= 1
    Path("tuning.tar").write_bytes(whole)
    done = caliban("replay", "tuning.tar")
    assert done.returncode == 2
    assert "'launches/0/requirements.lock' is not as it was written" in done.stderr


def test_all_that_came_of_experiments_is_compared(
    caliban: Caliban, tried: Path, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    def claim(manifest: dict[str, Any]) -> None:
        jobs = manifest["jobs"]
        jobs[0]["metrics"] = {"loss": 0.505, "good": True}
        jobs[1]["metrics"] = {"loss": 0.25, "gone": 1}
        jobs[2].update(status="SUCCEEDED", exit_code=0)

    elsewhere()
    found = replayed(caliban, str(tried), "--xgroup", "a", "--jobs", "2")
    assert results(found) == ["same"] * 3  # one of them failed as it did before
    assert found["image_differences"] == []
    params = [list(each) for each in EXPERIMENTS]
    assert [list(each["params"]) for each in found["experiments"]] == params
    listed = json.loads(caliban("status", "--xgroup", "a", "--json").stdout)
    assert [list(each["params"]) for each in listed] == params
    assert {tuple(each["args"]) for each in listed} == {("--say", "first")}
    assert caliban("logs", str(listed[0]["job"])).stdout.startswith("first\n")

    file = altered(tried, tmp_path / "claims.tar", claim)
    done = caliban("replay", file, "--xgroup", "a", "--tolerance", "0.001")
    assert done.returncode == 1
    first, second, third = done.stdout.splitlines()[1:]
    assert "differs" in first and "loss=0.505->0.5" in first
    assert "differs" in second and "gone=1->none" in second
    assert "failed" in third and "SUCCEEDED -> FAILED (3)" in third
    assert "2 differs, 1 failed" in done.stderr
    found = replayed(
        caliban, file, *("--xgroup", "a", "--only", "1,2"),
        *("--tolerance", "loss=0.02", "--tolerance", "gone=inf"),
    )  # fmt: skip
    assert results(found) == ["same", "same"]


def test_an_interrupted_replay_goes_on_and_so_does_one_that_was_killed(
    caliban: Caliban, start: Start, tried: Path, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    def claim(manifest: dict[str, Any]) -> None:
        first, second, _ = manifest["jobs"]
        first["params"] = [["say", "quick"]]
        second["params"] = [["tidy", True], ["say", "slow"], ["sleep", 5]]
        first["metrics"] = second["metrics"] = {}
        manifest["jobs"] = [first, second]

    def run_until_slow() -> Any:
        seen = sum("slow" in text for text in kept_output(home).values())
        child = start("replay", "slow.tar", "--jobs", "1", "--xgroup", "g")
        wait_for(lambda: sum("slow" in text for text in kept_output(home).values()) > seen, 60)
        return child

    elsewhere()
    home = Path(os.environ["HOME"])
    altered(tried, Path("slow.tar"), claim)
    child = run_until_slow()
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate(timeout=30)
    assert child.returncode == 130
    again = "caliban replay --jobs 1 --xgroup g slow.tar"
    assert f"'{again}' goes on with what has not succeeded." in stderr
    first, second = stdout.splitlines()[1:]
    assert "same" in first and "SUCCEEDED -> STOPPED" in second
    assert "terminated in order" in caliban("logs", "2").stdout

    child = run_until_slow()
    child.kill()
    child.communicate()
    found = replayed(caliban, *again.split()[2:])
    assert results(found) == ["same", "same"]
    assert [each["replayed"]["job"] for each in found["experiments"]] == [1, 3]
    assert caliban("logs", "3").stdout.splitlines() == ["first", "slow"]  # adopted, and run once


def test_what_was_replayed_is_exported_and_replayed_again(
    caliban: Caliban, tried: Path, elsewhere: Elsewhere, engine: Engine
) -> None:
    elsewhere()
    shutil.copy(tried, "tried.tar")
    replayed(caliban, "tried.tar", "--xgroup", "a")
    assert caliban("export", "a", "-o", "a.tar").returncode == 0
    with Archive(tried) as before, Archive(Path("a.tar")) as after:
        was, now = (each.manifest["launches"][0] for each in (before, after))
        for name in ("code", "source", "dockerfile"):
            assert was[name] == now[name], name
        for name in ("name", "base", "base_id", "base_digest"):
            assert was["image"][name] == now["image"][name], name
        assert {name for name in before.parts if name.startswith("files/")} == {
            name for name in after.parts if name.startswith("files/")
        }
    found = replayed(caliban, "a.tar", "--xgroup", "b")
    assert (results(found), found["image_differences"]) == (["same"] * 3, [])

    # Nothing is built anew of a file, but by a replay.
    file = Path("tried.tar").resolve()
    done = caliban("resubmit", "--xgroup", "a", "--dry_run")
    assert done.returncode == 2
    assert f"was replayed from the file {file}, which is no project" in done.stderr
    assert f"caliban replay {file} --xgroup a\n" in done.stderr

    # The code is in the image; what its dependencies are resolved from is in the file alone.
    file.unlink()
    done = caliban("export", "a", "-o", "c.tar")
    assert done.returncode == 2
    assert "the code that ran is not there any more: requirements.txt\n" in done.stderr


def test_secrets_are_lent_to_the_build_if_they_are_given(
    caliban: Caliban,
    tried: Path,
    elsewhere: Elsewhere,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables_for(Builder.BUILDKIT, engine, tmp_path).items():
        monkeypatch.setenv(name, value)

    def claim(manifest: dict[str, Any]) -> None:
        (launch,) = manifest["launches"]
        launch["plan"]["secrets"] = ["TOKEN"]
        # Another image than the one that is there.
        launch["code"] = [each for each in launch["code"] if "__init__" not in each["path"]]

    elsewhere()
    file = altered(tried, Path("secret.tar"), claim)
    done = caliban("replay", file)
    assert done.returncode == 2
    assert "the image needs build secrets that were not given: TOKEN\n" in done.stderr
    monkeypatch.setenv("MINE", PASSWORD)
    found = replayed(caliban, file, "--secret", "id=TOKEN,env=MINE", "--xgroup", "a")
    assert results(found) == ["same"] * 3
    image = json.loads(caliban("status", "--xgroup", "a", "--json").stdout)[0]["image"]
    assert PASSWORD not in docker("history", "--no-trunc", image) + docker("inspect", image)
    records = [each.read_bytes() for each in Path(os.environ["HOME"]).rglob("*") if each.is_file()]
    assert not any(PASSWORD.encode() in each for each in records)


def test_an_image_on_another_base_is_used_and_told_of(
    caliban: Caliban, tried: Path, elsewhere: Elsewhere, workshop: Workshop, engine: Engine
) -> None:
    with Archive(tried) as opened:
        base = opened.manifest["launches"][0]["plan"]["base_image"]
    before = engine.image_id(base)
    assert before
    elsewhere()
    docker("tag", workshop.base("other", "LABEL caliban.other=yes"), base)
    try:
        done = caliban("replay", str(tried))
    finally:
        docker("tag", before, base)
    assert done.returncode == 0, done.stderr
    assert "the image is not as caliban:cpu-" in done.stderr
    assert f"base image {base}: {before.removeprefix('sha256:')[:12]} -> " in done.stderr


def test_an_extracted_file_is_a_project_of_which_the_same_image_is_made(
    caliban: Caliban,
    tried: Path,
    elsewhere: Elsewhere,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Archive(tried) as opened:
        name = opened.manifest["launches"][0]["image"]["name"]
    elsewhere()
    done = caliban("replay", str(tried), "--extract", "out")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(Path("out") / "0" / "code")
    monkeypatch.delenv("CALIBAN_BASE_IMAGE")
    assert "--experiment_config ../experiments.json trainer.job -- --say first" in done.stderr
    built = caliban("build", "--nogpu", "trainer.job")
    assert engine.image_name(built.stdout.strip()) == name, built.stderr


# Says which credentials it finds, and keeps a file.
SPECIAL = f"""
import json, os
key = "GOOGLE_APPLICATION_CREDENTIALS" in os.environ
print("caliban:", json.dumps({{"key": key, "adc": os.path.exists("{ADC_PATH}")}}))
with open(os.path.join(os.environ["CALIBAN_OUTPUT"], "kept"), "w") as file:
    file.write("x")
"""


def test_jobs_get_of_this_machine_what_is_given_to_them(
    caliban: Caliban, sweep: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sweep / "trainer" / "job.py").write_text(SPECIAL)
    run = ("run", "--nogpu", "--live", "--output", "results", "--xgroup", "tries")
    done = caliban(*run, "trainer.job")
    assert done.returncode == 0, done.stderr
    file = str(exported(caliban))
    (code,) = {each["code"] for each in json.loads(caliban("status", "--json").stdout)}
    elsewhere()
    gcloud = Path(os.environ["HOME"], ".config", "gcloud")
    gcloud.mkdir(parents=True)
    (gcloud / "application_default_credentials.json").write_text("{}")
    Path("key.json").write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(Path("key.json").resolve()))
    done = caliban("replay", file)
    assert done.returncode == 2
    assert "Name a place for them: --output DIR" in done.stderr

    found = replayed(caliban, file, "--output", "kept")
    assert results(found) == ["same"]
    assert found["experiments"][0]["replayed"]["metrics"] == {"key": False, "adc": False}
    assert [path.read_text() for path in Path("kept").rglob("kept")] == ["x"]
    # The code was mounted, and is the same.
    assert [each["code"] for each in json.loads(caliban("status", "--json").stdout)] == [code]
    given = replayed(caliban, file, "--output", "kept", "--cloud_key", "key.json", code=1)
    assert given["experiments"][0]["replayed"]["metrics"] == {"key": True, "adc": False}


def test_an_image_from_the_file_is_the_very_one_and_is_exported_again(
    caliban: Caliban,
    whole: Path,
    elsewhere: Elsewhere,
    request: pytest.FixtureRequest,
) -> None:
    image = image_of(whole)
    before = os.environ.get("DOCKER_HOST")
    own: Dockerd = request.getfixturevalue("own_engine")  # which has no image at all
    assert os.environ["DOCKER_HOST"] != before
    elsewhere()
    shutil.copy(whole, "whole.tar")
    found = replayed(caliban, "whole.tar", "--xgroup", "a")
    assert results(found) == ["same"] * 3
    assert own.docker("images", "--quiet", "--no-trunc").split() == [image]
    assert own.docker("images", "--format", "{{.Tag}}").split() == ["<none>"]
    done = caliban("export", "a", "-o", "a.tar")
    assert done.returncode == 0, done.stderr
    with Archive(whole) as before_, Archive(Path("a.tar")) as after:
        was, now = (each.manifest["launches"][0] for each in (before_, after))
        assert [was[name] for name in ("code", "image")] == [
            now[name] for name in ("code", "image")
        ]


def test_a_base_image_whose_name_has_moved_is_had_by_its_digest(
    caliban: Caliban,
    sweep: Path,
    elsewhere: Elsewhere,
    workshop: Workshop,
    engine: Engine,
    docker_registry: DockerRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"{docker_registry.host}/team/base:1"
    docker("tag", workshop.base("plain"), name)
    docker("push", name)
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", name)
    (sweep / "requirements.txt").write_text("# nothing\n")
    assert caliban("run", "--nogpu", "--xgroup", "tries", "trainer.job").returncode == 0
    file = exported(caliban)
    with Archive(file) as opened:
        digest = opened.manifest["launches"][0]["image"]["base_digest"]
    assert digest.startswith(f"{docker_registry.host}/team/base@sha256:")
    docker("tag", workshop.base("other", "LABEL caliban.other=yes"), name)
    docker("rmi", digest)
    elsewhere()
    done = caliban("replay", str(file))
    assert done.returncode == 0, done.stderr
    assert "The image is made of the same" in done.stderr
    assert "Resolve the dependencies" not in done.stderr
    assert engine.image_id(digest)


def test_a_project_that_is_installed_is_made_of_the_same(
    caliban: Caliban, sweep: Path, elsewhere: Elsewhere
) -> None:
    # Of its packages, the build backend gets an empty __init__.py; the code has the real one.
    (sweep / "trainer" / "__init__.py").write_text("VERSION = 3\n")
    (sweep / "trainer" / "job.py").write_text(
        "import trainer\nprint('caliban: {\"version\": %d}' % trainer.VERSION)\n"
    )
    (sweep / "pyproject.toml").write_text(
        '[project]\nname = "trainer"\nversion = "1.0"\nreadme = "README.md"\n'
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    )
    (sweep / "README.md").write_text("A trainer.\n")
    (sweep / "requirements.txt").write_text("-e .\n")
    done = caliban("run", "--nogpu", "--xgroup", "tries", "trainer.job")
    assert done.returncode == 0, done.stderr
    file = exported(caliban)
    elsewhere()
    found = replayed(caliban, str(file))
    assert (results(found), found["image_differences"]) == (["same"], [])
