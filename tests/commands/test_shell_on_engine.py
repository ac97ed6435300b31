"""`caliban shell` with commands from a pipe: what they find, and what comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.commands.conftest import Start
from tests.conftest import Caliban
from tests.workshop import Workshop, docker

SHELL = ("shell", "--nogpu")


def lines(text: str) -> list[str]:
    """The lines of a text, but for those about what others have left on this machine."""
    return [line for line in text.splitlines() if " still runs, though " not in line]


@pytest.mark.parametrize("code", [0, 127, 137])
def test_the_exit_code_is_that_of_the_shell(
    caliban: Caliban, workshop: Workshop, code: int
) -> None:
    image = workshop.base("plain")
    done = caliban(*SHELL, "--image_id", image, stdin=f"echo out; echo err >&2; exit {code}\n")
    assert (done.returncode, done.stdout) == (code, "out\n")
    said = lines(done.stderr)
    assert said[0].startswith("Mounted: ")
    assert said[1] == "err"
    assert len(said) == 2 or code == 137
    assert workshop.containers("--all") == []


def test_whatever_folders_are_called_files_go_both_ways(
    caliban: Caliban, workshop: Workshop, tmp_path: Path
) -> None:
    project, home = tmp_path / "a b, 'c' \"d\": $e [f]", tmp_path / 'h, "o" m'
    for folder in (project, home):
        folder.mkdir()
        (folder / "from outside").write_text("hello")
    commands = (
        'cat "from outside" ~/"from outside"; pwd\n'
        "touch 'from inside' ~/'from inside'; printf %s \"$SHELL $PYTHONNOUSERSITE\"\n"
    )
    done = caliban(
        *(*SHELL, "--image_id", workshop.base("plain")),
        cwd=project,
        env={"HOME": str(home)},
        stdin=commands,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hellohello/usr/app\n/bin/bash 1"
    assert f"Mounted: {project} -> /usr/app, ~ -> /home/" in done.stderr
    for folder in (project, home):
        assert (folder / "from inside").stat().st_uid == os.getuid()


def test_bare_the_home_directory_is_the_images_own(
    caliban: Caliban, workshop: Workshop, home: Path
) -> None:
    commands = "ls -A ~ | wc -l; touch ~/new && echo $HOME; grep -c /home/ /proc/mounts\n"
    image = ("--image_id", workshop.base("plain"))
    done = caliban(*SHELL, "--bare", *image, stdin=commands)
    assert done.stdout.split() == ["0", "/home/caliban", "1"]
    assert not (home / "new").exists()


def test_what_you_tell_docker_run_wins(
    caliban: Caliban, workshop: Workshop, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("data\n")
    args = f"--hostname other --user 65534:65534 -w /tmp -v {tmp_path}/data:/data -e USER=me"
    commands = "hostname; id -u; pwd; cat /data/file; echo $USER\n"
    image = ("--image_id", workshop.base("plain"))
    done = caliban(*SHELL, "--bare", *image, "--docker_run_args", args, stdin=commands)
    assert done.stdout.split() == ["other", "65534", "/tmp", "data", "me"]


def test_a_container_may_share_the_network_of_another(caliban: Caliban, workshop: Workshop) -> None:
    image = workshop.base("plain")
    other = docker("run", "--detach", "--init", image, "sleep", "99").strip()
    try:
        for network in ("host", f"container:{other}"):
            args = ("--image_id", image, "--docker_run_args", f"--network {network}")
            done = caliban(*SHELL, "--bare", *args, stdin="exit 5\n")
            assert done.returncode == 5, done.stderr
    finally:
        docker("rm", "--force", other)


def test_an_image_without_the_shell_is_an_error_with_advice(
    caliban: Caliban, workshop: Workshop
) -> None:
    plain = workshop.base("plain")
    done = caliban(*SHELL, "--image_id", plain, "--shell", "zsh")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"caliban: error: the image {plain} has no zsh\nIt has bash: --shell bash\n"
    )
    # Not asked for by a flag, it is not insisted on.
    done = caliban(*SHELL, "--image_id", plain, env={"SHELL": "/bin/zsh"}, stdin="exit 4")
    assert done.returncode == 4
    assert "The image has no zsh: this is bash.\n" in done.stderr

    reduced = workshop.base("no-bash", "RUN rm /bin/bash\n")
    done = caliban(*SHELL, "--image_id", reduced, stdin="exit 4")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"caliban: error: the image {reduced} has no bash\n" in done.stderr
    assert "docker run --rm -it --entrypoint sh sha256:" in done.stderr
    assert workshop.containers("--all") == []


def test_a_shell_that_docker_cannot_start_is_an_error(caliban: Caliban, workshop: Workshop) -> None:
    args = ("--image_id", workshop.base("plain"), "--docker_run_args", "--network no-such")
    done = caliban(*SHELL, *args, stdin="echo hello\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("caliban: error: the shell could not be started")
    done = caliban(*SHELL, "--image_id", workshop.base("plain"), "--docker_run_args", "--no-such")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        "caliban: error: the shell could not be started: unknown flag: --no-such"
    )
    assert done.stderr.count("--no-such") == 1
    assert workshop.containers("--all") == []


def test_a_jobs_shell_is_in_its_image_and_sees_nothing_else(
    caliban: Caliban, sweep: Path, workshop: Workshop, home: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key.json"
    key.write_text("{}")
    ran = caliban("run", "--nogpu", "trainer.job", "--", "--say", "what it was")
    assert ran.returncode == 0, ran.stderr
    [job] = json.loads(caliban("status", "--json").stdout)
    # Later edits change nothing, and neither does where one is.
    (sweep / "trainer" / "job.py").write_text("print('what it is')\n")
    commands = (
        "pwd; python -m trainer.job --say 'what it was'; ls ~ | wc -l; touch mine ~/mine\n"
        "cat $GOOGLE_APPLICATION_CREDENTIALS; echo; ls -A /opt; exit 6\n"
    )
    done = caliban(
        *("shell", "--job", str(job["job"]), "--cloud_key", str(key)), cwd=tmp_path, stdin=commands
    )
    assert done.returncode == 6, done.stderr
    assert done.stdout.splitlines() == ["/usr/app", "what it was", "0", "{}", "venv"]
    mounted = f"Mounted: read-only {key} -> /.creds/credentials.json"
    assert [line.partition(";")[0] for line in lines(done.stderr)] == [mounted]
    assert not list(tmp_path.rglob("mine")) and not list(home.rglob("mine"))
    # The same by the image's own name.
    done = caliban(*SHELL, "--pinned", "--image_id", job["image"], stdin="python -m trainer.job\n")
    assert done.returncode == 0, done.stderr

    docker("rmi", "--force", job["image"])
    done = caliban("shell", "--job", str(job["job"]))
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"caliban: error: job {job['job']} ran the image {job['image']}, which the engine at "
    )


def test_a_job_that_ran_live_code_left_none_of_it(
    caliban: Caliban, sweep: Path, workshop: Workshop
) -> None:
    ran = caliban("run", "--nogpu", "--live", "trainer.job", "--", "--say", "x")
    assert ran.returncode == 0, ran.stderr
    done = caliban("shell", "--job", "1", stdin="ls -A | wc -l\n")
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert f"warning: job 1 ran live code, of {sweep}: the image has none of it\n" in done.stderr


def test_a_signal_ends_also_what_will_not_listen(start: Start, workshop: Workshop) -> None:
    child = start(*SHELL, "--image_id", workshop.base("plain"), stdin=subprocess.PIPE)
    assert child.stdin and child.stdout
    child.stdin.write("trap '' HUP INT TERM; echo here; sleep 1000\n")
    child.stdin.flush()
    assert child.stdout.readline() == "here\n"
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    assert child.returncode == 130
    assert workshop.containers("--all") == []
