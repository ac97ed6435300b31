"""Other programs: started, read, ended; and processes told apart."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from caliban import process
from caliban.errors import CalibanError
from caliban.process import Completed

HOST = socket.gethostname()


def wait_until_gone(pid: int) -> bool:
    """Whether a process ends within a few seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


class TestRun:
    @pytest.mark.parametrize(
        ("script", "completed"),
        [
            ("true", Completed(0, "", "")),
            ("echo out; echo err >&2; exit 3", Completed(3, "out\n", "err\n")),
            ("printf 'ünï \\377'", Completed(0, "ünï �", "")),
            ("kill -9 $$", Completed(-9, "", "")),
            ("cat", Completed(0, "", "")),  # there is nothing to read on its stdin
        ],
    )
    def test_keeps_all_that_a_program_says(self, script: str, completed: Completed) -> None:
        assert process.run(["sh", "-c", script]) == completed

    def test_keeps_much_of_both_streams(self) -> None:
        script = "head -c 500000 /dev/zero; head -c 500000 /dev/zero >&2"
        ended = process.run(["sh", "-c", script])
        assert (len(ended.stdout), len(ended.stderr)) == (500_000, 500_000)

    def test_gives_it_variables_on_top_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OWN", "1")
        script = 'echo "$OWN $MORE"'
        assert process.run(["sh", "-c", script], {"MORE": "2"}).stdout == "1 2\n"
        assert process.run(["sh", "-c", script]).stdout == "1 \n"
        assert "MORE" not in os.environ

    def test_a_program_that_is_not_installed_is_an_error_that_names_it(self) -> None:
        with pytest.raises(CalibanError) as error:
            process.run(["no-such-program", "--with", "two words"])
        assert error.value.message == (
            "the program 'no-such-program' is not installed, or not on PATH"
        )
        assert error.value.hint == "It was needed for: no-such-program --with 'two words'"

    def test_a_file_that_is_no_program_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("")
        with pytest.raises(CalibanError, match=r"cannot start .*/text: Permission denied"):
            process.run([str(tmp_path / "text")])


class TestStart:
    def test_a_program_reads_what_it_is_sent(self) -> None:
        with process.start(["cat"], stdin=process.PIPE) as child:
            assert child.communicate(b"\0\xff\n") == (b"\0\xff\n", b"")

    def test_both_streams_can_be_one(self) -> None:
        with process.start(["sh", "-c", "echo a; echo b >&2; echo c"], merge_stderr=True) as child:
            assert child.stderr is None
            assert child.communicate()[0] == b"a\nb\nc\n"

    def test_a_program_that_is_left_running_is_ended(self) -> None:
        with process.start(["sleep", "60"]) as child:
            assert child.poll() is None
        assert child.returncode == -signal.SIGTERM
        assert child.stdout is not None
        assert child.stdout.closed

    def test_a_program_is_ended_when_the_block_fails(self) -> None:
        with pytest.raises(LookupError), process.start(["sleep", "60"]) as child:
            raise LookupError
        assert child.returncode == -signal.SIGTERM

    def test_a_program_that_did_not_read_all_is_closed_all_the_same(self) -> None:
        with process.start(["true"], stdin=process.PIPE) as child:
            assert child.stdin is not None
            child.wait()
            child.stdin.write(b"not read")
        assert child.returncode == 0

    def test_an_interrupt_of_the_terminal_does_not_reach_it(self) -> None:
        # ^C goes to all processes of the terminal's foreground group.
        with process.start(["sleep", "60"]) as child:
            assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid != os.getsid(0)


def test_a_program_that_is_left_goes_on_by_itself(tmp_path: Path) -> None:
    begin, done = tmp_path / "begin", tmp_path / "done"
    waiting = f"until [ -e {begin} ]; do sleep 0.05; done"
    child = process.leave(["sh", "-c", f"{waiting}; echo done; echo done > {done}"])
    assert not done.exists()
    begin.touch()
    assert child.wait(60) == 0
    assert done.exists()


def test_a_program_that_cannot_be_left_is_an_error() -> None:
    with pytest.raises(CalibanError, match="the program 'no-such-program' is not installed"):
        process.leave(["no-such-program"])


def test_programs_are_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    assert process.find("tool") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process.find("tool") == str(tmp_path / "tool")


# Attaches a program to the terminal that it is given, and ends with that program's exit code.
ATTACH = """
import os, sys
from caliban import process

os.dup2(os.open(sys.argv[1], os.O_RDWR), 0)
with process.attach(["sh", "-c", sys.argv[2]]) as child:
    process.ended(child, 30)
sys.exit(child.returncode)
"""


class TestAttach:
    @pytest.mark.parametrize("end", ["exit 3", "kill -9 $$"])
    def test_gives_the_terminal_its_settings_back(self, end: str) -> None:
        master, slave = pty.openpty()
        try:
            before = termios.tcgetattr(slave)
            script = f"stty raw -echo < /dev/tty && {end}"
            # In a session of its own, the terminal that it opens first becomes its terminal.
            done = subprocess.run(
                [sys.executable, "-c", ATTACH, os.ttyname(slave), script],
                start_new_session=True,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stderr == ""
            assert done.returncode in (3, 247)
            assert termios.tcgetattr(slave) == before
        finally:
            os.close(master)
            os.close(slave)

    def test_keeps_what_it_says_on_stderr_if_asked_to(self) -> None:
        with process.attach(["sh", "-c", "echo err >&2"], keep_stderr=True) as child:
            assert process.ended(child, 10)
            assert child.stderr is not None
            assert child.stderr.read() == b"err\n"

    def test_ends_what_still_runs(self) -> None:
        with process.attach(["sh", "-c", "trap '' TERM; sleep 60"]) as child:
            assert not process.ended(child, 0.1)
        assert child.returncode == -signal.SIGKILL

    def test_a_program_that_is_not_installed_is_an_error(self) -> None:
        attached = process.attach(["no-such-program"])
        with pytest.raises(CalibanError, match="no-such-program"), attached:
            pass


class TestIdentity:
    def of(self, child: subprocess.Popen[bytes]) -> str:
        """What a running child calls itself, by the same means."""
        return f"{HOST}/{child.pid}/{process._start_time(child.pid)}"

    def test_names_this_process_the_same_each_time(self) -> None:
        host, pid, started = process.identity().split("/")
        assert (host, int(pid)) == (HOST, os.getpid())
        assert started
        assert process.identity() == process.identity()

    def test_is_that_which_the_process_gives_itself(self) -> None:
        code = "from caliban import process; print(process.identity(), flush=True); input()"
        command = [sys.executable, "-c", code]
        with process.start(command, stdin=process.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline().decode().strip() == self.of(child)

    def test_of_a_running_process_is_alive(self) -> None:
        assert process.is_alive(process.identity()) is True
        with process.start(["sleep", "60"]) as child:
            assert process.is_alive(self.of(child)) is True

    def test_of_a_process_that_has_ended_is_not(self) -> None:
        with process.start(["sleep", "60"]) as child:
            owner = self.of(child)
        assert wait_until_gone(child.pid)
        assert process.is_alive(owner) is False

    def test_of_a_process_whose_end_nobody_took_note_of_is_not_alive(self) -> None:
        child = subprocess.Popen(["sleep", "60"])
        try:
            owner = self.of(child)
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
            assert process.is_alive(owner) is False
        finally:
            child.wait()

    def test_is_not_taken_over_by_a_later_process_with_the_same_number(self) -> None:
        host, pid, started = process.identity().split("/")
        assert process.is_alive(f"{host}/{pid}/{int(started) - 1}") is False
        assert process.is_alive(f"{host}/{pid}/") is False

    @pytest.mark.parametrize(
        "owner", ["", "elsewhere.example/1/2", f"{HOST}", f"{HOST}/", f"{HOST}/x/1", f"{HOST}/-1/1"]
    )
    def test_of_elsewhere_cannot_be_told(self, owner: str) -> None:
        assert process.is_alive(owner) is None

    def test_tells_processes_with_strange_names_apart(self, tmp_path: Path) -> None:
        program = tmp_path / "a) R 1 (b"
        program.symlink_to("/bin/sleep")
        with process.start([str(program), "60"]) as child:
            deadline = time.monotonic() + 5
            comm = Path(f"/proc/{child.pid}/comm")
            while comm.read_text().strip() != program.name and time.monotonic() < deadline:
                time.sleep(0.01)
            assert comm.read_text().strip() == program.name
            started = process._start_time(child.pid)
            ticks = os.sysconf("SC_CLK_TCK")
            since_boot = float(Path("/proc/uptime").read_text().split()[0])
            assert since_boot - 60 < int(started) / ticks <= since_boot
