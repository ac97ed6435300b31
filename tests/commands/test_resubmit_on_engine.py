"""`caliban resubmit` in real containers."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands.test_run_on_engine import RUN, Write, jobs
from tests.conftest import Caliban
from tests.parts import OpenScreen
from tests.workshop import docker

GROUP = ("--xgroup", "g")
SWEEP = (*RUN, *GROUP, "--jobs", "2", "--experiment_config")
AGAIN = ("resubmit", *GROUP)
QUESTION = "do you wish to resubmit these {} jobs? [yN]: "


def mend(project: Path) -> None:
    """Changes the code so that it succeeds whatever its flags say."""
    code = project / "trainer" / "job.py"
    code.write_text(code.read_text().replace("sys.exit(int(next(arguments)))", "sys.exit(0)"))


def statuses(caliban: Caliban) -> list[tuple[int, str]]:
    return [(row["job"], row["status"]) for row in jobs(caliban, *GROUP)]


def test_after_a_change_of_the_code_what_failed_runs_again_in_a_new_image(
    caliban: Caliban, experiments: Write, sweep: Path
) -> None:
    name = experiments([{"say": "a"}, {"say": "b", "exit": 3}, {"say": "c", "exit": 4}])
    caliban(*SWEEP, name, "trainer.job")
    dry = caliban(*AGAIN, "--dry_run")
    assert dry.returncode == 0, dry.stderr
    listed = dry.stdout.splitlines()
    assert listed[0] == "the following jobs would be resubmitted:"
    assert listed[1] == "trainer.job --say b --exit 3"
    assert listed[2].startswith("  job 2        FAILED       LOCAL ")
    assert listed[5:] == [
        "",
        "what has changed since:",
        "  jobs 2, 3: nothing (the same: code, dependencies, base image)",
    ]
    mend(sweep)
    (sweep / "requirements.txt").touch()
    dry = caliban(*AGAIN, "--where", "exit=3.0", "--dry_run")
    assert "  job 2: code (the same: dependencies, base image); dependencies are" in dry.stdout
    assert statuses(caliban) == [(1, "SUCCEEDED"), (2, "FAILED"), (3, "FAILED")]

    done = caliban(*AGAIN, "--yes", "--jobs", "2", "--verbose")
    assert done.returncode == 0, done.stderr
    assert "rebuilding containers..." in done.stderr
    assert QUESTION[:12] not in done.stderr
    newest = jobs(caliban, *GROUP, "--max_jobs", "1")
    assert statuses(caliban)[-2:] != []
    assert {row["job"]: row["status"] for row in newest} == dict.fromkeys((1, 4, 5), "SUCCEEDED")
    assert newest[0]["image"] != newest[1]["image"] == newest[2]["image"]
    nothing = caliban(*AGAIN)
    assert nothing.returncode == 0
    assert "nothing to resubmit" in nothing.stderr


def test_the_user_is_asked_on_a_terminal(caliban: Caliban, sweep: Path, screen: OpenScreen) -> None:
    caliban(*RUN, *GROUP, "trainer.job", "--", "--exit", "3")
    silent = caliban(*AGAIN)
    assert silent.returncode == 2
    assert "--yes" in silent.stderr
    terminal = screen(cwd=sweep)
    terminal.line(shlex.join([sys.executable, "-m", "caliban", *AGAIN]))
    terminal.shows(r"do you wish to resubmit this job\? \[yN\]:$")
    terminal.line("n")
    terminal.shows("^host 0>")
    assert statuses(caliban) == [(1, "FAILED")]
    terminal.clear()
    terminal.line(shlex.join([sys.executable, "-m", "caliban", *AGAIN]))
    terminal.shows(r"\[yN\]:$")
    mend(sweep)
    terminal.line("y")
    terminal.shows("^1 job: 1 SUCCEEDED")
    terminal.shows("^host 0>")


def test_all_jobs_run_in_the_very_image_that_they_had(
    caliban: Caliban, experiments: Write, sweep: Path
) -> None:
    name = experiments([{"say": "a"}, {"say": "b", "exit": 3}])
    caliban(*SWEEP, name, "trainer.job", "--", "--say", "x")
    before = jobs(caliban, *GROUP)
    mend(sweep)
    done = caliban(*AGAIN, "--all_jobs", "--same_image", "--yes")
    assert done.returncode == 1
    assert sorted(done.stdout.split()) == ["a", "b", "x", "x"]
    after = jobs(caliban, *GROUP, "--max_jobs", "1")
    assert [(row["job"], row["status"]) for row in after] == [(3, "SUCCEEDED"), (4, "FAILED")]
    assert {row["image"] for row in after} == {row["image"] for row in before}


def test_one_cause_of_failure_is_run_again(caliban: Caliban, experiments: Write) -> None:
    name = experiments(
        [{"complain": text, "exit": 3} for text in ("no gpu 1", "disk full", "no gpu 2")]
    )
    caliban(*SWEEP, name, "trainer.job")
    dry = caliban(*AGAIN, "--dry_run", "--where", "cause=1").stdout
    assert "--complain 'no gpu 1'" in dry and "--complain 'no gpu 2'" in dry
    assert "disk full" not in dry
    missing = caliban(*AGAIN, "--where", "cause=3", "--yes")
    assert missing.returncode == 2
    assert "there are 2 now" in missing.stderr
    unknown = caliban(*AGAIN, "--where", "exi=3", "--yes")
    assert (unknown.returncode, "Did you mean exit?" in unknown.stderr) == (2, True)


def test_a_project_that_is_gone_can_only_be_run_as_it_was(
    caliban: Caliban, sweep: Path, tmp_path: Path
) -> None:
    caliban(*RUN, *GROUP, "trainer.job", "--", "--exit", "3")
    (sweep / "trainer" / "job.py").unlink()
    part = caliban(*AGAIN, "--yes", cwd=tmp_path)
    assert part.returncode == 2
    assert "trainer/job.py" in part.stderr
    shutil.rmtree(sweep)
    gone = caliban(*AGAIN, "--yes", cwd=tmp_path)
    assert gone.returncode == 2
    assert f"{sweep}, which job 1 needs, is gone" in gone.stderr
    assert "--same_image" in gone.stderr
    same = caliban(*AGAIN, "--yes", "--same_image", cwd=tmp_path)
    assert same.returncode == 1
    assert "1 job: 1 FAILED" in same.stderr


def test_each_image_of_a_group_is_rebuilt(caliban: Caliban, sweep: Path) -> None:
    (sweep / "trainer" / "other.py").write_text("import sys\nsys.exit('always')\n")
    caliban(*RUN, *GROUP, "trainer.job", "--", "--exit", "3")
    caliban(*RUN, *GROUP, "trainer/other.py")
    (sweep / "trainer" / "other.py").write_text("print('mended')\n")
    mend(sweep)
    done = caliban(*AGAIN, "--yes")
    assert done.returncode == 0, done.stderr
    assert "  job 1: code (the same: dependencies, base image)\n" in done.stderr
    assert "  job 2: code (the same: dependencies, base image)\n" in done.stderr
    assert done.stdout == "mended\n"


def test_what_cannot_be_told_of_an_image_that_is_gone_is_said(
    caliban: Caliban, sweep: Path
) -> None:
    caliban(*RUN, *GROUP, "trainer.job", "--", "--exit", "3")
    [row] = jobs(caliban)
    docker("rmi", "--force", row["image"])
    dry = caliban(*AGAIN, "--dry_run")
    assert "  job 1: can't be told, because their image is not in the engine" in dry.stdout
    same = caliban(*AGAIN, "--same_image", "--yes")
    assert same.returncode == 2
    assert "not in the engine" in same.stderr


def test_live_code_is_compared_with_what_it_was(caliban: Caliban, sweep: Path) -> None:
    caliban(*RUN, *GROUP, "--live", "trainer.job", "--", "--exit", "3")
    same = caliban(*AGAIN, "--dry_run").stdout
    assert "  job 1: nothing (the same: live code, dependencies, base image)\n" in same
    mend(sweep)
    (sweep / ".calibanconfig.json").write_text("{}")
    dry = caliban(*AGAIN, "--dry_run").stdout
    assert "  job 1: live code (the same: dependencies, base image)\n" in dry
    done = caliban(*AGAIN, "--yes")
    assert done.returncode == 0, done.stderr
    first, second = jobs(caliban, *GROUP)
    assert first["image"] == second["image"]
    assert first["code"] != second["code"]


def test_another_key_takes_the_place_of_the_one_that_a_job_had(
    caliban: Caliban, sweep: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text("1")
    second.write_text("2")
    code = sweep / "trainer" / "job.py"
    code.write_text("print(open('/.creds/credentials.json').read())\nraise SystemExit(3)\n")
    caliban(*RUN, *GROUP, "--cloud_key", str(first), "trainer.job")
    done = caliban(*AGAIN, "--yes", "--cloud_key", str(second), "--project_id", "p")
    assert done.stdout == "2\n", done.stderr
    assert caliban(*AGAIN, "--yes").stdout == "2\n"
    second.unlink()
    gone = caliban(*AGAIN, "--yes")
    assert gone.returncode == 2
    assert f"{second}, which is gone" in gone.stderr


def test_a_secret_must_be_given_again(caliban: Caliban, sweep: Path) -> None:
    flags = ("--docker_run_args", "--env API_KEY=hush")
    caliban(*RUN, *GROUP, *flags, "trainer.job", "--", "--env", "API_KEY", "--exit", "3")
    refused = caliban(*AGAIN, "--yes")
    assert refused.returncode == 2
    assert "export API_KEY=" in refused.stderr
    done = caliban(*AGAIN, "--yes", env={"API_KEY": "whisper"})
    assert done.stdout == "whisper\n"


def test_an_image_that_was_named_is_not_replaced(caliban: Caliban, sweep: Path) -> None:
    built = caliban("build", "--nogpu", "trainer.job").stdout.strip()
    caliban(*RUN, *GROUP, "--image_id", built, "trainer.job", "--", "--exit", "3")
    mend(sweep)
    done = caliban(*AGAIN, "--yes")
    assert "was named by --image_id" in done.stderr
    rows: list[dict[str, Any]] = jobs(caliban, *GROUP)
    assert [(row["image"], row["status"]) for row in rows] == [(built, "FAILED")] * 2


@pytest.mark.parametrize("flags", [(), ("--xgroup", "")])
def test_a_group_must_be_named(caliban: Caliban, flags: tuple[str, ...]) -> None:
    done = caliban("resubmit", *flags)
    assert done.returncode == 2
    assert "--xgroup" in done.stderr
