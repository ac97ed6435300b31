"""`caliban shell` as people use it: typed into a terminal, which tmux holds."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.conftest import wait_for
from tests.conftest import USER
from tests.docker.conftest import Others, write
from tests.parts import OpenScreen
from tests.screen import Screen
from tests.workshop import Workshop, docker

CALIBAN = f"{shlex.quote(sys.executable)} -m caliban shell --nogpu"

# One that wants to be in the way: the laptop's own Python, with a package that is not the image's.
BASHRC = """\
export PATH=$HOME/bin:$HOME/.local/bin:$PATH PYTHONPATH=$HOME/lib
export GOOGLE_APPLICATION_CREDENTIALS=/no/such/key.json
PS1='laptop> '
alias hello='echo Hello from outside'
false
return 1
"""
HOSTILE = {
    ".bashrc": BASHRC,
    "bin/python": "#!/bin/sh\necho the wrong python\n",
    "lib/six.py": "raise ImportError('the wrong six')\n",
    ".local/lib/python3.11/site-packages/six.py": "raise ImportError('the wrong six')\n",
    ".local/lib/python3.12/site-packages/six.py": "raise ImportError('the wrong six')\n",
}

PROBE = """\
import os, pwd, six
from pathlib import Path

entry = pwd.getpwuid(os.getuid())
Path("made inside").write_text("x")
Path.home().joinpath("made at home").write_text("x")
print("id", f"{os.getuid()}:{os.getgid()}", entry.pw_name, entry.pw_dir, Path.home())
print("six", six.__version__)
"""


@pytest.fixture
def project(workshop: Workshop, public: Path) -> Iterator[Path]:
    """A project with a requirement, which others can reach."""
    folder = public / "my project"
    write(folder, {"requirements.txt": "six==1.16.0\n", "probe.py": PROBE})
    yield folder
    for left in workshop.containers("--all"):  # by a test that has failed
        docker("rm", "--force", left, check=False)


# The prompt of the container, in which nothing has been typed.
INSIDE = r"^\[\w+@caliban-shell /usr/app\][#$%]$"


def open_shell(screen: Screen, *args: str) -> None:
    """Types the command and waits for the prompt of the container."""
    screen.line(f"clear; {CALIBAN} {shlex.join(args)}")
    screen.shows(INSIDE, seconds=120)


def runs(workshop: Workshop, command: str) -> None:
    """Waits until a command runs in the one container."""
    wait_for(lambda: command in docker("top", running(workshop), "-eo", "pid,args"))


def is_left(workshop: Workshop) -> bool:
    """Whether there is any container of the session."""
    return bool(workshop.containers("--all"))


def running(workshop: Workshop) -> str:
    """The one container that runs, which the engine may list after its first output has come."""
    wait_for(lambda: len(workshop.containers()) == 1)
    return workshop.containers()[0]


def leave(screen: Screen, code: int) -> None:
    """Checks that the shell has ended with this code, and left the terminal in order."""
    screen.shows(rf"^host {code}>$")
    screen.line("stty -a | grep -o ' echo ' && stty size | sed 's/^/size /'")
    screen.shows(r"^ echo\nsize \d+ \d+")


def test_it_is_you_at_home_in_the_image_and_the_exit_code_comes_back(
    screen: OpenScreen, project: Path, home: Path, workshop: Workshop
) -> None:
    write(home, HOSTILE)
    (home / "bin/python").chmod(0o755)
    name = "root" if os.getuid() == 0 else USER
    work(screen(project), project, home, name, os.getuid(), os.getgid())
    assert not is_left(workshop)


def test_an_ordinary_user_is_at_home_in_it_too(
    screen: OpenScreen, project: Path, public: Path, others: Others, workshop: Workshop
) -> None:
    uid, home = 12345, public / "ho me, 'x'"
    write(home, HOSTILE)
    (home / "bin/python").chmod(0o755)
    for path in (project, home, *project.rglob("*"), *home.rglob("*")):
        os.chown(path, uid, uid)
    account = others.options(uid)
    names = {"HOME": str(home), "USER": "totoro", "LOGNAME": "totoro"}
    opened = screen(project, {**account.pop("env"), **names}, **account)
    work(opened, project, home, "totoro", uid, uid, others.python)
    assert not is_left(workshop)


def work(
    screen: Screen,
    project: Path,
    home: Path,
    name: str,
    uid: int,
    gid: int,
    python: str = sys.executable,
) -> None:
    """Works in a shell for a while, and leaves it."""
    screen.line(f"{shlex.quote(python)} -m caliban shell --nogpu")
    screen.shows(INSIDE, seconds=120)
    screen.shows(rf"^You are {name} \({uid}:{gid}\), in the image caliban:cpu-\w+\.$")
    screen.shows(r"^Mounted: .* -> /usr/app, ~ -> /home/\w+; read-only ~/\.caliban/shell -> ")
    greeting = screen.text().partition(r"\___\__,_|_|_|_.__/")[2]
    assert max(map(len, greeting.splitlines())) < 80

    screen.line("hello; python probe.py")
    screen.shows("^Hello from outside$")
    directory = "/root" if uid == 0 else f"/home/{name}"
    screen.shows(rf"^id {uid}:{gid} {name} {directory} /home/{name}\nsix 1\.16\.0$")
    for made in (project / "made inside", home / "made at home"):
        assert (made.stat().st_uid, made.stat().st_gid) == (uid, gid)

    screen.line("for i in $(seq 50); do stty size; sleep 0.1; done | uniq")
    screen.shows("^24 80$")
    screen.resize(100, 30)
    screen.shows("^30 100$")
    screen.keys("C-c")
    screen.line("exit 7")
    leave(screen, 7)


def test_keys_do_what_they_do_elsewhere(
    screen: OpenScreen, project: Path, workshop: Workshop
) -> None:
    opened = screen(project)
    open_shell(opened)
    opened.line("sleep 1000")
    runs(workshop, "sleep 1000")
    opened.keys("C-c")
    opened.line('echo "code $?"')
    opened.shows("^code 130$")
    opened.line("sleep 1001")
    runs(workshop, "sleep 1001")
    opened.keys("C-z")
    opened.shows(r"^\[1\]\+ +Stopped +sleep 1001$")
    opened.line("bg; jobs")
    opened.shows(r"^\[1\]\+ +Running +sleep 1001 &$")
    opened.line("fg")
    opened.shows("^sleep 1001$")
    opened.keys("C-c")
    opened.line("echo the line before")
    opened.shows("^the line before$")
    # The first of Docker's own keys to detach; it would hold it back until the next one.
    opened.keys("C-p")
    opened.shows(INSIDE.removesuffix("$") + r" echo the line before\Z")
    opened.keys("C-u", "C-d")
    leave(opened, 0)
    assert not is_left(workshop)


def test_zsh_reads_your_settings_and_keeps_your_history(
    screen: OpenScreen, project: Path, home: Path, workshop: Workshop
) -> None:
    write(
        home,
        {
            ".zshenv": "export FROM_ZSHENV=yes ZDOTDIR=$HOME/dot\n",
            "dot/.zshrc": "PATH=$HOME/bin:$PATH\nPROMPT='mine> '\nalias hello='echo Hello'\n"
            "HISTFILE=$ZDOTDIR/history; HISTSIZE=9; SAVEHIST=9\n",
        },
    )
    opened = screen(project, {**os.environ, "SHELL": "/usr/bin/zsh"})
    open_shell(opened)
    opened.line('hello "$FROM_ZSHENV ${path[1]} $ZDOTDIR $SHELL"')
    opened.shows(r"^Hello yes /opt/venv/bin /home/\w+/dot /bin/zsh$")
    opened.line("exit 3")
    leave(opened, 3)
    assert "hello" in (home / "dot/history").read_text()
    # Without a home directory there are no settings, and none are asked for.
    open_shell(opened, "--bare", "--shell", "zsh")
    opened.line("sleep 1000")
    runs(workshop, "sleep 1000")
    opened.keys("C-z")
    opened.shows("^zsh: suspended +sleep 1000$")
    opened.line("fg")
    opened.shows("continued +sleep 1000$")
    opened.keys("C-c")
    opened.shows(rf"\^C\n{INSIDE}")
    opened.keys("C-d")
    leave(opened, 130)
    assert not is_left(workshop)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_shell_in_order(
    screen: OpenScreen, project: Path, home: Path, workshop: Workshop, number: signal.Signals
) -> None:
    opened = screen(project)
    open_shell(opened)
    opened.line("sleep 1000")
    runs(workshop, "sleep 1000")
    os.kill(caliban_in(opened), number)
    leave(opened, 130)
    assert not is_left(workshop)
    assert (home / ".bash_history").read_text() == "sleep 1000\n"


def caliban_in(screen: Screen) -> int:
    """The process of caliban in a terminal."""
    found = subprocess.run(
        ["ps", "--ppid", str(screen.pid()), "-o", "pid="],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(found.stdout)


def test_a_closed_terminal_ends_the_shell_in_order(
    screen: OpenScreen, project: Path, home: Path, workshop: Workshop
) -> None:
    opened = screen(project)
    open_shell(opened)
    opened.line("python3 -c 'import time; time.sleep(1000)'")
    runs(workshop, "python3 -c import time; time.sleep(1000)")
    opened.close()
    wait_for(lambda: not is_left(workshop))
    assert "time.sleep(1000)" in (home / ".bash_history").read_text()


def test_nothing_remains_of_a_shell_that_was_interrupted_on_its_way(
    screen: OpenScreen, project: Path, workshop: Workshop
) -> None:
    opened = screen(project)
    open_shell(opened)  # now the image is there
    opened.line("exit")
    leave(opened, 0)
    for delay in (0, 0.1, 0.2):
        opened = screen(project)
        opened.line(CALIBAN)
        opened.shows("^Mounted: ")
        time.sleep(delay)
        opened.keys("C-c")
        # Too late, it is the shell's: that of a container that has just started.
        outside = r"^host \d+>$"
        if not opened.shows(f"{outside}|{INSIDE}")[0].startswith("host"):
            opened.line("exit")
            opened.shows(outside)
        wait_for(lambda: not is_left(workshop))


def test_a_container_that_somebody_removes_takes_the_shell_with_it(
    screen: OpenScreen, project: Path, workshop: Workshop
) -> None:
    opened = screen(project)
    open_shell(opened)
    container = running(workshop)
    docker("rm", "--force", container)
    opened.shows(r"^The container was removed while the shell ran in it\.$")
    leave(opened, 137)


def test_a_shell_whose_caliban_was_killed_is_named_and_later_removed(
    screen: OpenScreen, project: Path, workshop: Workshop
) -> None:
    killed, after = screen(project), screen(project)
    open_shell(killed)
    os.kill(caliban_in(killed), signal.SIGKILL)
    container = running(workshop)
    open_shell(after)
    left = after.shows(r"^warning: (\S+) still runs, though its caliban has gone: docker rm -f \1$")
    assert docker("inspect", "--format", "{{.Id}}", left[1]).startswith(container)
    after.line("exit")
    leave(after, 0)
    # What it was in goes with the next shell.
    docker("kill", container)
    open_shell(after)
    assert workshop.containers("--all") == workshop.containers()
    after.line("exit")
    leave(after, 0)
    assert not is_left(workshop)


def test_what_docker_refuses_is_said_once(
    screen: OpenScreen, project: Path, workshop: Workshop
) -> None:
    opened = screen(project)
    opened.line(f"{CALIBAN} --docker_run_args '--no-such-flag'")
    error = "caliban: error: the shell could not be started: unknown flag: --no-such-flag"
    opened.shows(f"^{error}\nhost 1>$", seconds=120)
    opened.line(f"clear; {CALIBAN} --docker_run_args '--network no-such-network'")
    error = "caliban: error: the shell could not be started: network no-such-network not found"
    opened.shows(f"^{error}\nhost 1>$")
    assert not is_left(workshop)
