"""What is recorded of jobs that run in real containers, and what it says when code changes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from caliban.docker.engine import Engine
from tests.conftest import Caliban
from tests.provenance.test_git import call

RUN = ("run", "--nogpu", "--xgroup", "tries")

SECRET = "k4r9x2m7q8w1"


@pytest.fixture
def repository(sweep: Path) -> Path:
    """The project, in a repository of git."""
    call(sweep, "init", "-q")
    call(sweep, "add", ".")
    call(sweep, "commit", "-q", "-m", "first")
    return sweep


def show(caliban: Caliban, number: int) -> dict[str, Any]:
    done = caliban("show", "--json", str(number))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["provenance"]
    return found


def test_a_run_records_code_image_machine_and_flags_and_no_secret(
    caliban: Caliban, repository: Path, engine: Engine, home: Path
) -> None:
    (repository / "trainer" / "extra.py").write_text("a = 1\n")
    args = f"--env API_TOKEN={SECRET} --env PLAIN=visible-value"
    words = (*RUN, "--docker_run_args", args, "trainer.job", "--", "--env", "API_TOKEN")
    done = caliban(*words)
    assert done.stdout == f"{SECRET}\n", done.stderr
    found = show(caliban, 1)
    commit = call(repository, "rev-parse", "HEAD")
    assert found["source"]["repository"]["commit"] == commit
    assert found["source"]["repository"]["changed"] == {"trainer/extra.py": "??"}
    assert "+a = 1\n" in found["source"]["repository"]["diff"]
    assert {"trainer/__init__.py", "trainer/extra.py", "trainer/job.py"} <= set(
        found["source"]["files"]
    )
    inside = engine.image(found["image"]["id"])
    assert inside is not None
    assert found["image"]["name"] in inside["RepoTags"]
    assert found["image"]["base_id"] == engine.image_id(found["image"]["base"])
    assert {"API_TOKEN", "PLAIN"} <= set(found["variables"])
    assert found["flags"] == {
        "docker_run_args": "--env API_TOKEN --env PLAIN",
        "nogpu": True,
        "xgroup": "tries",
    }
    assert found["plan"]["module"]["name"] == "trainer.job"
    assert found["machine"]["engine"] == engine.client.version()["Version"]
    assert found["machine"]["cpus"] > 0
    shown = caliban("show", "1").stdout
    assert commit in shown
    assert "visible-value" not in shown
    for file in home.glob(".caliban/caliban.db*"):
        assert SECRET.encode() not in file.read_bytes()


def test_what_was_edited_between_two_runs_is_what_diff_names(
    caliban: Caliban, repository: Path
) -> None:
    assert caliban(*RUN, "trainer.job", "--", "--say", "1").returncode == 0
    same = caliban(*RUN, "--rerun", "trainer.job", "--", "--say", "1")
    assert same.returncode == 0, same.stderr
    done = caliban("diff", "1", "2")
    assert [line.split()[0] for line in done.stdout.splitlines() if line[:2] == "  "] == ["rerun"]
    (repository / "trainer" / "job.py").write_text("print('edited')\n")
    assert caliban(*RUN, "trainer.job", "--", "--say", "2").returncode == 0
    done = caliban("diff", "1", "3")
    assert done.returncode == 1
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "say 1 -> 2" in lines
    assert "trainer/job.py changed" in lines
    assert "+print('edited')" in caliban("show", "--diff", "3").stdout


def test_jobs_that_run_again_in_their_image_keep_where_its_code_came_from(
    caliban: Caliban, repository: Path
) -> None:
    commit = call(repository, "rev-parse", "HEAD")
    assert caliban(*RUN, "trainer.job", "--", "--exit", "3").returncode == 1
    (repository / "trainer" / "job.py").write_text("print('edited')\n")
    call(repository, "commit", "-q", "-a", "-m", "second")
    again = ("resubmit", "--xgroup", "tries", "--yes")
    assert caliban(*again, "--same_image").returncode == 1
    assert caliban("run", "--resume", "tries").returncode == 1
    done = caliban(*again)
    assert done.returncode == 0, done.stderr
    found = [show(caliban, number) for number in (1, 2, 3, 4)]
    commits = [each["source"]["repository"]["commit"] for each in found]
    assert commits == [commit] * 3 + [call(repository, "rev-parse", "HEAD")]
    assert [each["command"] for each in found] == ["run", "resubmit", "run", "resubmit"]
    assert found[2]["flags"] == {"resume": "tries"}
    assert len({each["image"]["id"] for each in found[:3]}) == 1


def test_an_image_that_is_given_says_nothing_of_the_code_in_the_directory(
    caliban: Caliban, repository: Path, engine: Engine
) -> None:
    import os

    base = os.environ["CALIBAN_BASE_IMAGE"]
    done = caliban(*RUN, "--image_id", base, "trainer.job", "--", "--say", "hi")
    found = show(caliban, 1)
    assert found["source"] is None, done.stderr
    assert found["image"]["id"] == engine.image_id(base)


def test_live_code_is_listed_as_it_was_at_the_launch(caliban: Caliban, repository: Path) -> None:
    (repository / "trainer" / "job.py").write_text("print('live')\n")
    done = caliban("run", "--nogpu", "--live", "trainer.job")
    assert done.stdout == "live\n", done.stderr
    found = show(caliban, 1)
    assert "trainer/job.py" in found["source"]["files"]
    assert found["source"]["repository"]["changed"] == {"trainer/job.py": ".M"}


def test_a_sweep_has_one_record_with_its_experiment_file(
    caliban: Caliban, repository: Path
) -> None:
    (repository / "sweep.json").write_text('{"say": ["a", "b", "c"]}  # a comment')
    done = caliban(*RUN, "--jobs", "3", "--experiment_config", "sweep.json", "trainer.job")
    assert done.returncode == 0, done.stderr
    found = [show(caliban, number) for number in (1, 2, 3)]
    assert found[0] == found[1] == found[2]
    assert json.loads(found[0]["experiments"]) == {"say": ["a", "b", "c"]}


def test_without_git_everything_else_is_recorded(
    caliban: Caliban, sweep: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    for program in ("docker", "sh"):
        found = subprocess.run(["which", program], capture_output=True, text=True, check=True)
        (tmp_path / "bin" / program).symlink_to(found.stdout.strip())
    done = caliban(*RUN, "trainer.job", "--", "--say", "hi", env={"PATH": str(tmp_path / "bin")})
    assert done.stdout == "hi\n", done.stderr
    assert "warning" not in done.stderr
    source = show(caliban, 1)["source"]
    assert (source["repository"], source["note"]) == (None, "git is not installed")
    assert "trainer/job.py" in source["files"]
