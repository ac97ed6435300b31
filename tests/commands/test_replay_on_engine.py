"""`caliban replay`: what was exported, run again where nothing is known of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pip
import pytest

import caliban as package
from caliban.bundle.archive import Archive
from caliban.docker.engine import Engine
from caliban.docker.identity import ADC_PATH
from tests.bundle import forgery
from tests.commands.test_export_on_engine import exported
from tests.conftest import Caliban
from tests.docker_registry import DockerRegistry
from tests.dockerd import Dockerd
from tests.workshop import Workshop, docker

TUTORIAL = Path(package.__file__).parents[1] / "tutorials" / "basic"
PASSWORD = "hunter-2-in-the-dark"

Elsewhere = Callable[[], None]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """Goes to a clean directory with another HOME, where there is no history."""

    def go() -> None:
        for name in ("elsewhere", "other-home"):
            (tmp_path / name).mkdir()
        monkeypatch.setenv("HOME", str(tmp_path / "other-home"))
        monkeypatch.chdir(tmp_path / "elsewhere")

    return go


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


def replayed(caliban: Caliban, *args: str, code: int = 0) -> dict[str, Any]:
    done = caliban("replay", *args, "--json")
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def results(found: dict[str, Any]) -> list[str]:
    return [each["result"] for each in found["experiments"]]


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
    done = caliban(*group, "--experiment_config", "experiment.json", "trainer.train")
    assert done.returncode == 0, done.stderr
    done = caliban("export", "tuning", "-o", str(tmp_path / "tuning.tar"))
    assert done.returncode == 0, done.stderr
    assert PASSWORD.encode() not in (tmp_path / "tuning.tar").read_bytes()
    with Archive(tmp_path / "tuning.tar") as opened:
        image = opened.manifest["launches"][0]["image"]["id"]
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

    whole = bytearray(Path("tuning.tar").read_bytes())
    at = whole.index(b"scikit-learn==", whole.index(b"launches/0/requirements.lock\0"))
    whole[at] ^= 1
    Path("tuning.tar").write_bytes(whole)
    done = caliban("replay", "tuning.tar")
    assert done.returncode == 2
    assert "'launches/0/requirements.lock' is not as it was written" in done.stderr


@pytest.fixture
def tried(caliban: Caliban, sweep: Path) -> Path:
    """A file with three experiments, of which one failed, whose flags come in an odd order."""
    (sweep / "trainer" / "nothing").mkdir()
    (sweep / "requirements.txt").write_text("# nothing\n")
    jobs = [
        {"say": 'caliban: {"loss": 0.5, "good": true}', "env": "HOME"},
        {"env": "USER", "say": 'caliban: {"loss": 0.25}'},
        {"say": "x", "exit": 3},
    ]
    (sweep / "sweep.json").write_text(json.dumps(jobs))
    done = caliban(
        *("run", "--nogpu", "--xgroup", "tries", "--experiment_config", "sweep.json"),
        *("trainer.job", "--", "--say", "first"),
    )
    assert done.returncode == 1, done.stderr
    return exported(caliban)


def test_all_that_came_of_experiments_is_compared(
    caliban: Caliban, tried: Path, elsewhere: Elsewhere
) -> None:
    elsewhere()
    found = replayed(caliban, str(tried))
    assert results(found) == ["same"] * 3  # one of them failed as it did before
    assert found["image_differences"] == []
    assert [list(each["params"]) for each in found["experiments"]] == [
        ["say", "env"],
        ["env", "say"],
        ["say", "exit"],
    ]
    listed = json.loads(caliban("status", "--xgroup", found["xgroup"], "--json").stdout)
    assert [list(each["params"]) for each in listed] == [
        ["say", "env"],
        ["env", "say"],
        ["say", "exit"],
    ]
    assert {tuple(each["args"]) for each in listed} == {("--say", "first")}
    assert caliban("logs", str(listed[0]["job"])).stdout.startswith("first\n")


def altered(file: Path, path: Path, change: Callable[[list[dict[str, Any]]], None]) -> str:
    """The same file, which claims that its jobs came to something else."""
    with Archive(file) as opened:
        manifest = dict(opened.manifest)
        parts = {name: opened.read(name, 1 << 24) for name in opened.parts}
    change(manifest["jobs"])
    forgery.raw(path, forgery.dumped(manifest, parts), dict(sorted(parts.items())))
    return str(path)


def test_what_differs_or_fails_is_told(
    caliban: Caliban, tried: Path, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    def claim(jobs: list[dict[str, Any]]) -> None:
        jobs[0]["metrics"] = {"loss": 0.505, "good": True}
        jobs[1]["metrics"] = {"loss": 0.25, "gone": 1}
        jobs[2].update(status="SUCCEEDED", exit_code=0)

    elsewhere()
    file = altered(tried, tmp_path / "claims.tar", claim)
    found = replayed(caliban, file, "--xgroup", "a", "--jobs", "2", code=1)
    assert results(found) == ["differs", "differs", "failed"]
    assert [each["differing_metrics"] for each in found["experiments"]] == [["loss"], ["gone"], []]
    done = caliban("replay", file, "--xgroup", "a", "--tolerance", "0.02")
    assert done.returncode == 1
    first, second, third = done.stdout.splitlines()[1:]
    assert first.split()[1] == "same" and "loss=0.505->0.5" in first
    assert "differs" in second and "gone=1->none" in second
    assert "failed" in third and "SUCCEEDED -> FAILED (3)" in third
    assert "1 same, 1 differs, 1 failed" in done.stderr
    found = replayed(
        caliban, file, *("--xgroup", "a", "--only", "1,2"),
        *("--tolerance", "loss=0.02", "--tolerance", "gone=inf"),
    )  # fmt: skip
    assert results(found) == ["same", "same"]


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


def test_a_subset_is_listed_and_nothing_is_done(
    caliban: Caliban, tried: Path, elsewhere: Elsewhere
) -> None:
    elsewhere()
    done = caliban("replay", str(tried), "--where", "status=FAILED", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3: trainer.job --say first --say x --exit 3\n"
    assert json.loads(caliban("status", "--json").stdout) == []
    done = caliban("replay", str(tried), "--only", "2-4", "--dry_run")
    assert done.returncode == 2
    assert "--only 4: the file has 3 experiments" in done.stderr
    done = caliban("replay", str(tried), "--only", "3-2")
    assert done.returncode == 2
    done = caliban("replay", str(tried), "--tolerance", "loss")
    assert done.returncode == 2
    assert "expected a number from 0 on" in done.stderr


def test_an_extracted_file_is_a_project_of_which_the_same_image_is_made(
    caliban: Caliban, tried: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Archive(tried) as opened:
        image = opened.manifest["launches"][0]["image"]["id"]
    elsewhere()
    done = caliban("replay", str(tried), "--extract", "out")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(Path("out") / "0" / "code")
    monkeypatch.delenv("CALIBAN_BASE_IMAGE")
    assert "--experiment_config ../experiments.json trainer.job -- --say first" in done.stderr
    built = caliban("build", "--nogpu", "trainer.job")
    assert built.stdout.strip() == image, built.stderr


def test_live_code_is_mounted_again(caliban: Caliban, sweep: Path, elsewhere: Elsewhere) -> None:
    done = caliban(
        *("run", "--nogpu", "--live", "--xgroup", "tries"), "trainer.job", "--", "--say", "x"
    )
    assert done.returncode == 0, done.stderr
    file = exported(caliban)
    (code,) = {each["code"] for each in json.loads(caliban("status", "--json").stdout)}
    elsewhere()
    found = replayed(caliban, str(file))
    assert results(found) == ["same"]
    assert [each["code"] for each in json.loads(caliban("status", "--json").stdout)] == [code]


def test_files_that_jobs_keep_need_a_directory(
    caliban: Caliban, sweep: Path, elsewhere: Elsewhere
) -> None:
    done = caliban(
        *("run", "--nogpu", "--output", "results", "--xgroup", "tries"),
        *("trainer.job", "--", "--keep", "x"),
    )
    assert done.returncode == 0, done.stderr
    file = exported(caliban)
    elsewhere()
    done = caliban("replay", str(file))
    assert done.returncode == 2
    assert "Name a directory for them: --output DIR" in done.stderr
    assert results(replayed(caliban, str(file), "--output", "kept")) == ["same"]
    assert [path.read_text() for path in Path("kept").rglob("kept")] == ["x\n"]


def test_an_image_from_the_file_is_the_very_one(
    caliban: Caliban,
    tried: Path,
    sweep: Path,
    elsewhere: Elsewhere,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    file = exported(caliban, "--with_image")
    with Archive(file) as opened:
        (image,) = opened.manifest["images"]
    before = os.environ.get("DOCKER_HOST")
    own: Dockerd = request.getfixturevalue("own_engine")  # which has no image at all
    assert os.environ["DOCKER_HOST"] != before
    elsewhere()
    found = replayed(caliban, str(file))
    assert results(found) == ["same"] * 3
    assert own.docker("images", "--quiet", "--no-trunc").split() == [image]
    assert own.docker("images", "--format", "{{.Tag}}").split() == ["<none>"]


def test_jobs_get_no_credentials_unless_a_key_is_given(
    caliban: Caliban, sweep: Path, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    (sweep / "trainer" / "job.py").write_text(
        "import os\nprint('caliban: {\"key\": %s}' % "
        "str('GOOGLE_APPLICATION_CREDENTIALS' in os.environ).lower())\n"
        f"print(os.path.exists('{ADC_PATH}'))\n"
    )
    assert caliban("run", "--nogpu", "--xgroup", "tries", "trainer.job").returncode == 0
    file = exported(caliban)
    elsewhere()
    gcloud = Path(os.environ["HOME"], ".config", "gcloud")
    gcloud.mkdir(parents=True)
    (gcloud / "application_default_credentials.json").write_text("{}")
    (tmp_path / "key.json").write_text("{}")
    os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(tmp_path / "key.json")
    try:
        found = replayed(caliban, str(file))
    finally:
        del os.environ["GOOGLE_APPLICATION_CREDENTIALS"]
    assert results(found) == ["same"]
    job = found["experiments"][0]["replayed"]["job"]
    assert caliban("logs", str(job)).stdout.splitlines()[-1] == "False"
    given = replayed(caliban, str(file), "--cloud_key", str(tmp_path / "key.json"), code=1)
    assert given["experiments"][0]["replayed"]["metrics"] == {"key": True}


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
    (sweep / "requirements.txt").write_text("absl-py\n")
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
