"""`caliban run --output`: what jobs write is on this machine, whatever becomes of them."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

from caliban.docker.engine import Engine
from caliban.errors import INTERRUPTED
from caliban.main import BROKEN_PIPE
from caliban.model.image import OUTPUTS_MARK
from tests.commands.conftest import Start, wait_for
from tests.commands.test_run_on_engine import RUN, Write, containers, jobs
from tests.conftest import Caliban


def kept(folder: Path) -> dict[str, str]:
    """What jobs have written, by their places in a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != OUTPUTS_MARK
    }


def owners(folder: Path) -> set[tuple[int, int]]:
    """Users and groups of all that is in a folder."""
    return {(at.st_uid, at.st_gid) for at in (path.lstat() for path in folder.rglob("*"))}


def test_every_job_of_a_sweep_has_a_directory_of_its_own(
    caliban: Caliban, experiments: Write, sweep: Path
) -> None:
    exits = [[number, number % 5 == 4] for number in range(20)]
    name = experiments({"[keep,exit]": [[number, int(fails)] for number, fails in exits]})
    output = sweep / 'trainer/my, "new" results'
    flags = (
        *("--docker_run_args=--network none", "--experiment_config", name),
        *("--output", str(output.relative_to(sweep)), "--xgroup", "a/b"),
    )
    image = caliban("build", "--nogpu", "trainer.job").stdout
    done = caliban(*RUN, *flags, "trainer.job", timeout=120)
    assert done.returncode == 1
    rows = jobs(caliban)
    assert len(rows) == 20
    assert kept(output / "a_b") == {
        f"{row['job']}/kept": f"{number}\n" for number, row in enumerate(rows)
    }
    assert owners(output) == {(os.getuid(), os.getgid())}
    assert [row["output"] for row in rows] == [f"{output}/a_b/{row['job']}" for row in rows]
    assert f"files go to {output}/a_b\n" in done.stderr
    assert f"{output}/GROUP/JOB -> /output" in done.stderr
    failed = [row for row in rows if row["exit_code"]]
    assert len(failed) == 4
    status = caliban("status", "--xgroup", "a/b").stdout
    assert all(f"files: {row['output']}\n" in status for row in rows)
    assert all(f"its files: {row['output']}\n" in done.stderr for row in failed)
    # They lie among the code, and make no new image of it.
    assert caliban("build", "--nogpu", "trainer.job").stdout == image


def test_the_files_of_a_job_that_is_killed_or_stopped_are_there(
    caliban: Caliban, start: Start, experiments: Write, engine: Engine, tmp_path: Path, home: Path
) -> None:
    name = experiments({"keep": ["a", "b", "c"], "sleep": 60})
    output = tmp_path / "new/results"
    flags = ("--experiment_config", name, "--output", str(output), "--xgroup", "g")
    child = start(*RUN, "--live", *flags, "trainer.job")
    wait_for(lambda: (output / "g/1/kept").exists())
    engine.client.kill(f"caliban-{jobs(caliban)[0]['uid']}")
    wait_for(lambda: (output / "g/2/kept").exists())
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode == 130
    rows = jobs(caliban)
    assert [row["status"] for row in rows] == ["FAILED", "STOPPED", "STOPPED"]
    assert "SIGKILL" in rows[0]["reason"]
    assert kept(output) == {"g/1/kept": "a\n", "g/2/kept": "b\n"}
    assert [row["output"] for row in rows] == [f"{output}/g/1", f"{output}/g/2", None]
    assert sorted(path.name for path in (output / "g").iterdir()) == ["1", "2"]
    assert containers(engine, rows) == []
    left = {path.name for path in (home / ".caliban").iterdir()}
    assert left <= {"accounts", "caliban.db", "caliban.db-reserve", "images", "locks", "logs"}
    assert list((home / ".caliban/locks").iterdir()) == []


def test_a_closed_terminal_ends_the_job_and_leaves_its_files_alone(
    caliban: Caliban, sweep: Path, engine: Engine
) -> None:
    terminal, inner = pty.openpty()
    own = Path(os.ttyname(inner))

    def take_the_terminal() -> None:
        with own.open() as opened:
            fcntl.ioctl(opened, termios.TIOCSCTTY, 0)

    command = [sys.executable, "-m", "caliban", *RUN, "--live", "--output", "out", "--xgroup", "g"]
    child = subprocess.Popen(
        [*command, "trainer.job", "--", "--keep", "this", "--sleep", "60"],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
        preexec_fn=take_the_terminal,
    )
    try:
        os.close(inner)
        wait_for(lambda: (sweep / "out/g/1/kept").exists())
    finally:
        os.close(terminal)
    assert child.wait(timeout=30) in (INTERRUPTED, BROKEN_PIPE)
    rows = jobs(caliban)
    assert [(row["status"], row["reason"]) for row in rows] == [("STOPPED", "interrupted")]
    assert kept(sweep / "out") == {"g/1/kept": "this\n"}
    assert containers(engine, rows) == []


def test_a_job_whose_directory_cannot_be_made_fails_and_the_others_run(
    caliban: Caliban, experiments: Write, sweep: Path
) -> None:
    (sweep / "trainer/rival.py").write_text(
        "import pathlib, sys\n"
        "if sys.argv[-1] == '0': pathlib.Path('out/g/2').touch()\n"
        "pathlib.Path('/output/kept').write_text(sys.argv[-1])\n"
    )
    name = experiments({"number": [0, 1, 2]})
    flags = ("--live", "--output", "out", "--xgroup", "g", "--experiment_config", name)
    done = caliban(*RUN, *flags, "trainer.rival")
    assert done.returncode == 1
    rows = jobs(caliban)
    assert [row["status"] for row in rows] == ["SUCCEEDED", "FAILED", "SUCCEEDED"]
    reason = f"cannot make the output directory {sweep}/out/g/2: File exists"
    assert rows[1]["reason"] == reason
    assert f"job 2 ({reason})" in done.stderr
    assert kept(sweep / "out") == {"g/1/kept": "0", "g/2": "", "g/3/kept": "2"}


def test_another_history_gets_directories_beside_those_that_are_there(
    caliban: Caliban, sweep: Path, tmp_path: Path
) -> None:
    (sweep / "out/g/1").mkdir(parents=True)
    (sweep / "out/g/1/kept").write_text("of another history")
    flags = ("--live", "--output", "out", "--xgroup", "g")
    done = caliban(*RUN, *flags, "trainer.job", "--", "--keep", "new", "--env", "CALIBAN_OUTPUT")
    assert done.stdout == "/output\n", done.stderr
    [row] = jobs(caliban)
    assert row["output"] == f"{sweep}/out/g/1-{row['uid'][:6]}"
    assert kept(sweep / "out/g") == {
        "1/kept": "of another history",
        f"1-{row['uid'][:6]}/kept": "new\n",
    }
