"""`caliban prune`: what caliban made goes, and nothing else, whatever it is that stands nearby."""

from __future__ import annotations

import datetime
import json
import os
import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from caliban import process, terminal
from caliban.commands import prune
from caliban.docker.image import builder
from tests.commands.conftest import Start, wait_for
from tests.conftest import Caliban, Inline
from tests.docker_registry import DockerRegistry
from tests.dockerd import Dockerd

Sweep = Callable[[str, str], str]


@pytest.fixture
def run(
    own_engine: Dockerd, caliban: Caliban, project: Path, monkeypatch: pytest.MonkeyPatch
) -> Sweep:
    """Runs a script as a job of a group, and returns the id of the image that was built for it."""
    own_engine.image("small:1", {})
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", "small:1")

    def one(group: str, script: str) -> str:
        (project / "job.sh").write_text(script)
        answer = caliban("run", "--nogpu", "--xgroup", group, "job.sh")
        assert answer.returncode == 0, answer.stderr
        rows: list[dict[str, Any]] = json.loads(
            caliban("status", "--xgroup", group, "--max_jobs", "0", "--json").stdout
        )
        return str(rows[-1]["image"])

    return one


def images(engine: Dockerd) -> set[str]:
    listed = engine.docker("images", "--all", "--quiet", "--no-trunc").split()
    return set(listed)


def logs(home: Path) -> int:
    return len([*(home / ".caliban" / "logs").iterdir()])


def rows(home: Path, table: str) -> int:
    with closing(sqlite3.connect(home / ".caliban" / "caliban.db")) as database:
        (number,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(number)


def test_everything_goes_but_what_is_recorded_and_what_is_not_calibans(
    run: Sweep, caliban: Caliban, own_engine: Dockerd, home: Path
) -> None:
    before = images(own_engine)
    run("one", "echo one")
    run("two", "echo two")
    assert len(images(own_engine)) > len(before) + 1
    made_of = home / ".caliban" / "images"
    assert [*made_of.iterdir()] != []
    own_engine.docker("create", "--name", "mine", "small:1", "true")
    answer = caliban("prune", "--yes")
    assert answer.returncode == 0, answer.stderr
    assert "Removed 2 images, " in answer.stderr
    assert ", 2 logs, at least " in answer.stderr
    assert images(own_engine) == before
    assert [*made_of.iterdir()] == []
    assert own_engine.docker("ps", "--all", "--format", "{{.Names}}").split() == ["mine"]
    assert logs(home) == 0
    assert (rows(home, "jobs"), rows(home, "experiments")) == (2, 2)
    again = caliban("prune", "--yes")
    assert (again.returncode, again.stdout) == (0, "")
    assert "Nothing to remove." in again.stderr


def test_nothing_happens_before_a_yes(
    run: Sweep, caliban: Caliban, own_engine: Dockerd, home: Path
) -> None:
    run("one", "echo one")
    before = images(own_engine)
    dry = caliban("prune", "--dry_run")
    assert (dry.returncode, logs(home), images(own_engine)) == (0, 1, before)
    assert "image  caliban:cpu-" in dry.stdout
    assert "log  of job 1  " in dry.stdout
    assert "\ntotal: 1 image, " in dry.stdout
    no = caliban("prune", stdin="n\n")
    assert (no.returncode, logs(home), images(own_engine)) == (0, 1, before)
    silent = caliban("prune")
    assert (silent.returncode, logs(home), images(own_engine)) == (2, 1, before)
    assert "Pass --yes" in silent.stderr
    yes = caliban("prune", "--logs", stdin="y\n")
    assert (yes.returncode, logs(home), images(own_engine)) == (0, 0, before)


def test_of_a_group_goes_what_no_other_group_has(
    run: Sweep, caliban: Caliban, own_engine: Dockerd, home: Path
) -> None:
    shared = run("one", "echo shared")
    own = run("one", "echo own")
    assert run("two", "echo shared") == shared
    answer = caliban("prune", "--xgroup", "one", "--yes")
    assert answer.returncode == 0, answer.stderr
    assert shared in images(own_engine)
    assert own not in images(own_engine)
    assert logs(home) == 1
    wrong = caliban("prune", "--xgroup", "none", "--yes")
    assert wrong.returncode == 2
    assert "no experiment group 'none'" in wrong.stderr


def test_what_jobs_elsewhere_need_is_known_by_the_names_that_they_have_for_it(
    run: Sweep, registry_program: None, caliban: Caliban, own_engine: Dockerd, home: Path
) -> None:
    ids = {
        name: run(name, f"echo {name}") for name in ("by-name", "by-digest", "ended", "not-pushed")
    }
    names = {name: named(own_engine, ids[name]) for name in ids}
    with closing(DockerRegistry()) as registry:
        pushed = {}
        for name in ("by-digest", "ended"):
            there = f"{registry.host}/team/{names[name]}"
            own_engine.docker("tag", ids[name], there)
            own_engine.docker("push", there)
            (pushed[name],) = json.loads(
                own_engine.docker("image", "inspect", "--format", "{{json .RepoDigests}}", there)
            )
    know(home, "by-name", names["by-name"], "RUNNING")
    know(home, "by-digest", pushed["by-digest"], "SUBMITTED")
    know(home, "ended", pushed["ended"], "SUCCEEDED")
    dry = caliban("prune", "--dry_run", "--images")
    assert registry.host not in dry.stdout
    answer = caliban("prune", "--images", "--xgroup", "ended", "--yes")
    assert answer.returncode == 0, answer.stderr
    assert {*ids.values()} - images(own_engine) == {ids["ended"]}
    answer = caliban("prune", "--images", "--yes")
    assert answer.returncode == 0, answer.stderr
    left = {*ids.values()} & images(own_engine)
    assert left == {ids["by-name"], ids["by-digest"]}


def named(engine: Dockerd, image: str) -> str:
    """What caliban calls an image."""
    command = ("image", "inspect", "--format", "{{index .RepoTags 0}}", image)
    return engine.docker(*command).strip()


def know(home: Path, group: str, image: str, status: str) -> None:
    """Makes the job of a group one that ran elsewhere, with an image by that name."""
    with closing(sqlite3.connect(home / ".caliban" / "caliban.db")) as database, database:
        database.execute(
            "UPDATE jobs SET image = ?, status = ?, handle_target = 'elsewhere' "
            "WHERE experiment_id IN (SELECT experiments.id "
            "FROM experiments JOIN experiment_groups ON group_id = experiment_groups.id "
            "WHERE name = ?)",
            (image, status, group),
        )


def test_what_is_younger_stays(
    run: Sweep, caliban: Caliban, own_engine: Dockerd, home: Path
) -> None:
    old, new = run("one", "echo old"), run("one", "echo new")
    before = images(own_engine)
    answer = caliban("prune", "--older_than", "7d", "--yes")
    assert (answer.returncode, images(own_engine), logs(home)) == (0, before, 2)
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=8)
    with closing(sqlite3.connect(home / ".caliban" / "caliban.db")) as database, database:
        database.execute(
            "UPDATE jobs SET created = ?, finished = ? WHERE image = ?",
            (past.strftime("%F %T"), past.strftime("%F %T"), old),
        )
    answer = caliban("prune", "--older_than", "7d", "--yes")
    assert (answer.returncode, logs(home)) == (0, 1), answer.stderr
    assert {old, new} <= images(own_engine), "built a minute ago"
    wrong = caliban("prune", "--older_than", "7")
    assert wrong.returncode == 2
    assert "expected a time like 7d" in wrong.stderr


def test_what_others_need_and_what_is_built_on_calibans_stays(
    run: Sweep, caliban: Caliban, own_engine: Dockerd
) -> None:
    used = run("one", "echo used")
    own_engine.docker("create", "--name", "mine", used)
    parent = run("one", "echo parent")
    name = own_engine.docker("inspect", "--format", "{{index .RepoTags 0}}", parent).strip()
    text = f"FROM {name}\nLABEL mine=1\n"
    own_engine.docker("build", "--tag", "mine:1", "-", stdin=text.encode())
    renamed = run("one", "echo renamed")
    own_engine.docker("tag", renamed, "mine:2")
    gone = run("one", "echo gone")
    answer = caliban("prune", "--images", "--yes")
    assert answer.returncode == 0, answer.stderr
    assert {used, parent, renamed} <= images(own_engine)
    assert gone not in images(own_engine)
    assert own_engine.docker("inspect", "--format", "{{.Config.Labels.mine}}", "mine:1") == "1\n"


KILLED = """
from caliban.docker.engine import Engine
from caliban.docker.image import lock

engine = Engine()
engine.client.get_archive = lambda *_: (print("made", flush=True), input())
lock._read(engine, "small:1")
"""


def test_a_container_that_a_build_has_read_from_goes_once_its_caliban_is_gone(
    caliban: Caliban, own_engine: Dockerd
) -> None:
    own_engine.image("small:1", {})
    listed = ("ps", "--all", "--format", "{{.Names}}")
    with process.start([sys.executable, "-c", KILLED], process.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"made\n"
        name = own_engine.docker(*listed).strip()
        assert name.startswith("caliban-step-")
        assert caliban("prune", "--yes").stdout == ""
        child.kill()
    answer = caliban("prune", "--yes")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(f"container  {name}  ")
    assert own_engine.docker(*listed) == ""


def test_an_open_job_keeps_all_that_it_needs(
    run: Sweep, start: Start, caliban: Caliban, own_engine: Dockerd, project: Path, home: Path
) -> None:
    run("one", "echo quick")
    (project / "job.sh").write_text("echo here; sleep 60")
    child = start("run", "--nogpu", "--xgroup", "two", "job.sh")
    wait_for(lambda: len(own_engine.docker("ps", "--quiet").split()) == 1)
    wait_for(lambda: logs(home) == 2)
    answer = caliban("prune", "--yes")
    assert answer.returncode == 0, answer.stderr
    assert "Removed 1 image, " in answer.stderr
    assert len(own_engine.docker("ps", "--quiet").split()) == 1
    assert logs(home) == 1
    child.kill()
    child.communicate()
    # It is nobody's now, and runs on.
    answer = caliban("prune", "--yes")
    assert len(own_engine.docker("ps", "--quiet").split()) == 1
    assert logs(home) == 1


def test_an_image_stays_that_a_job_needs_which_was_launched_before_the_yes(
    run: Sweep, inline: Inline, own_engine: Dockerd, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = run("one", "echo one")

    def launch(*_: object) -> bool:
        with closing(sqlite3.connect(home / ".caliban" / "caliban.db")) as database:
            database.execute("UPDATE jobs SET status = 'SUBMITTED'")
            database.commit()
        return True

    monkeypatch.setattr(terminal, "confirm", launch)
    answer = inline("prune", "--images")
    assert answer.returncode == 1
    assert "stays: a job that was launched meanwhile needs it" in answer.stderr
    assert image in images(own_engine)


def test_a_log_that_is_just_being_compressed_is_none_that_stops_anything(
    run: Sweep, caliban: Caliban, home: Path
) -> None:
    run("one", "echo one")
    [log] = (home / ".caliban" / "logs").iterdir()
    log.with_suffix("").symlink_to("gone")  # as if it had been listed a moment ago
    answer = caliban("prune", "--logs", "--yes")
    assert (answer.returncode, logs(home)) == (0, 0), answer.stderr


def test_containers_of_jobs_that_this_history_does_not_know_are_others(
    run: Sweep, caliban: Caliban, own_engine: Dockerd
) -> None:
    run("one", "echo one")
    label = ("--label", "caliban.uid=0123456789abcdef")
    own_engine.docker("create", "--name", "caliban-0123456789abcdef", *label, "small:1", "true")
    answer = caliban("prune", "--containers", "--yes")
    assert answer.returncode == 0
    assert "Not touched: 1 container of a job that your history does not know." in answer.stderr
    assert "caliban-0123456789abcdef" in own_engine.docker("ps", "--all")


def test_images_that_others_have_built_stay(
    run: Sweep, caliban: Caliban, own_engine: Dockerd, tmp_path: Path
) -> None:
    image = run("one", "echo one")
    for other in (
        {"HOME": str(tmp_path / "other")},
        {"CALIBAN_DB_URL": f"sqlite:///{tmp_path}/other.db"},
    ):
        env = {**os.environ, **other}
        answer = caliban("prune", "--images", "--yes", env=env)
        assert answer.returncode == 0, answer.stderr
        assert "Not touched: 1 image that was built by others (--all_users)." in answer.stderr
        assert image in images(own_engine)
    again = caliban("run", "--nogpu", "--xgroup", "two", "job.sh", env=env)
    assert again.returncode == 0, again.stderr
    answer = caliban("prune", "--images", "--dry_run", env=env)
    assert "total: 1 image, " in answer.stdout, "its own jobs have used it"
    env["HOME"] = str(tmp_path / "third")
    env["CALIBAN_DB_URL"] = ""
    answer = caliban("prune", "--images", "--all_users", "--yes", env=env)
    assert answer.returncode == 0, answer.stderr
    assert image not in images(own_engine)


def test_the_steps_of_a_build_that_may_be_under_way_stay(
    inline: Inline, own_engine: Dockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_engine.image("small:1", {})
    text = b'FROM small:1\nLABEL caliban=""\nENV step=1\n'
    step = own_engine.docker("build", "--quiet", "-", stdin=text).strip()
    inline("prune", "--images", "--yes")
    assert step in images(own_engine), "it is of just now"
    monkeypatch.setattr(prune, "_BUILDING", datetime.timedelta())
    with builder.one_at_a_time("caliban:cpu-0123456789abcdef"):
        inline("prune", "--images", "--yes")
    assert step in images(own_engine), "a build is under way"
    answer = inline("prune", "--images", "--yes")
    assert answer.returncode == 0, answer.stderr
    assert step not in images(own_engine)


def test_sizes_stand_one_below_the_other(run: Sweep, caliban: Caliban) -> None:
    run("one", "echo one")
    run("two", f"echo {' '.join(str(number**9) for number in range(99))}")
    long, short, _ = caliban("prune", "--logs", "--dry_run").stdout.splitlines()
    assert re.search(r"of job 2  \d{3} B  used", long)
    assert re.search(r"of job 1   \d{2} B  used", short)


def test_without_an_engine_logs_can_go_and_nothing_else(
    run: Sweep, caliban: Caliban, home: Path
) -> None:
    run("one", "echo one")
    nowhere = {**os.environ, "DOCKER_HOST": "unix:///nonexistent.sock"}
    answer = caliban("prune", "--yes", env=nowhere)
    assert (answer.returncode, logs(home)) == (1, 1)
    assert "no Docker engine answers" in answer.stderr
    answer = caliban("prune", "--logs", "--yes", env=nowhere)
    assert (answer.returncode, logs(home)) == (0, 0)
