"""The one boundary at which errors become messages and exit codes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caliban.errors import CalibanError, UsageError
from caliban.main import guarded


def fail(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize("code", [0, 1, 7])
def test_what_ends_well_ends_with_its_own_exit_code(
    capfd: pytest.CaptureFixture[str], code: int
) -> None:
    assert guarded("caliban", lambda: code) == code
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CalibanError("it broke"), 1, "caliban: error: it broke\n"),
        (CalibanError("it broke", "mend it"), 1, "caliban: error: it broke\nmend it\n"),
        (UsageError("not so", "but so"), 2, "caliban: error: not so\nbut so\n"),
        (KeyboardInterrupt(), 130, "caliban: error: interrupted\n"),
    ],
)
def test_errors_become_a_message_and_an_exit_code(
    capfd: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    assert guarded("caliban", lambda: fail(error)) == code
    assert capfd.readouterr() == ("", text)


def test_a_name_that_no_file_can_have_is_the_users(capfd: pytest.CaptureFixture[str]) -> None:
    assert guarded("caliban", lambda: Path("x" * 100_000).exists()) == 2
    said = capfd.readouterr().err
    assert said.startswith("caliban: error: no file can have so long a name: xxx")
    assert len(said) < 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_that_ask_for_an_end_end_it_in_order(
    capfd: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    cleaned_up = []

    def work() -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            cleaned_up.append(True)
        return 0

    assert guarded("caliban", work) == 130
    assert cleaned_up
    assert capfd.readouterr().err == "caliban: error: interrupted\n"
    assert signal.getsignal(number) is before


def test_a_signal_that_was_ignored_before_stays_ignored() -> None:
    def work() -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert guarded("caliban", work) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_reader_that_has_gone_is_no_error(project: Path) -> None:
    (project / "many.json").write_text(json.dumps({"a": list(range(2000))}))
    command = [sys.executable, "-m", "caliban", "run", "--nogpu", "--dry_run"]
    command += ["--experiment_config", "many.json", "trainer.train"]
    ended = subprocess.run(
        ["bash", "-c", f"{shlex.join(command)} | head -1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, code = ended.stdout.splitlines()
    assert first.startswith("docker run ")
    assert int(code) == 128 + signal.SIGPIPE
    assert ended.stderr == ""


def test_a_full_disk_is_no_bug(project: Path, home: Path) -> None:
    command = [sys.executable, "-m", "caliban", "run", "--nogpu", "--dry_run", "trainer.train"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("caliban: error: ")
    assert "No space left on device" in ended.stderr
    assert "bug" not in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert not (home / ".caliban").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_bug(project: Path, home: Path, closed: str) -> None:
    command = f"{sys.executable} -m caliban run --nogpu --dry_run trainer.train {closed}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False)
    assert not (home / ".caliban").exists()


def test_a_bug_is_kept_in_a_private_file_and_named(
    capfd: pytest.CaptureFixture[str], home: Path
) -> None:
    assert guarded("caliban", lambda: fail(LookupError("where is it"))) == 3
    out, err = capfd.readouterr()
    [report] = (home / ".caliban").glob("crash-*.txt")
    assert out == ""
    assert err == (
        "caliban: error: this is a bug in caliban: LookupError: where is it\n"
        f"Details are in {report}. Please report it with that file.\n"
    )
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert stat.S_IMODE(report.parent.stat().st_mode) == 0o700
    text = report.read_text()
    assert text.startswith("Traceback (most recent call last):\n")
    assert "raise error\nLookupError: where is it\n" in text
    assert sys.version in text


def test_a_bug_is_shown_where_no_file_can_be_written(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert guarded("caliban", lambda: fail(LookupError("where is it"))) == 3
    err = capfd.readouterr().err
    assert err.startswith("caliban: error: this is a bug in caliban: LookupError: where is it\n")
    assert "Traceback (most recent call last):\n" in err


def test_an_error_of_the_system_is_a_bug_unless_the_reader_has_gone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert guarded("caliban", lambda: fail(FileNotFoundError(2, "not there"))) == 3
    assert "this is a bug in caliban: FileNotFoundError" in capfd.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8:strict", "ascii", "latin-1"])
def test_a_message_is_shown_whatever_is_in_it_and_whatever_the_terminal_can_show(
    encoding: str,
) -> None:
    # A name that is no text, half of a character out of a JSON file, and other people's letters.
    code = (
        "import sys; from caliban.main import guarded; from caliban.errors import UsageError\n"
        "def fail(): raise UsageError('\\udcff \\ud800 \\u65e5\\u672c end')\n"
        "sys.exit(guarded('caliban', fail))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.startswith(b"caliban: error: ")
    assert ended.stderr.endswith(b" end\n")
    assert ended.stderr.count(b"\n") == 1


def test_what_was_printed_stands_before_the_error() -> None:
    code = "from caliban.main import guarded; guarded('caliban', lambda: print('first') or 1 / 0)"
    ended = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    )
    assert ended.stdout.startswith(b"first\ncaliban: error: this is a bug")
