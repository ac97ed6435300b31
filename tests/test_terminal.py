"""What people see: on a terminal, a real one with a small screen behind it, and without one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import pty
import re
import select
import struct
import sys
import termios
from collections.abc import Iterator
from typing import TextIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caliban import steps, terminal

COLUMNS = 40


class Screen:
    """As much of a terminal as is needed to know what a person would see."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = [[]]
        self.row = self.column = 0

    def feed(self, data: bytes) -> None:
        for piece in re.findall(r"\033\[[\d;]*[A-Za-z]|.", data.decode(), re.DOTALL):
            if piece == "\n":
                self.row += 1
                self.lines += [[] for _ in range(self.row + 1 - len(self.lines))]
            elif piece == "\r":
                self.column = 0
            elif piece == "\033[K":
                del self.lines[self.row][self.column :]
            elif piece == "\033[A":
                self.row -= 1
            elif piece.startswith("\033"):
                assert piece.endswith("m"), f"unexpected {piece!r}"
            else:
                assert piece.isprintable(), f"unexpected {piece!r}"
                if self.column == COLUMNS:
                    self.feed(b"\r\n")
                line = self.lines[self.row]
                line += " " * (self.column - len(line))
                line[self.column : self.column + 1] = piece
                self.column += 1

    @property
    def text(self) -> str:
        return "\n".join("".join(line).rstrip() for line in self.lines).rstrip("\n")

    @property
    def last(self) -> str:
        """The line that the cursor is on."""
        return "".join(self.lines[self.row]).rstrip()


class Terminal:
    """Both standard streams on one pseudo-terminal."""

    def __init__(self) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        self.stdout = os.fdopen(os.dup(self._slave), "w")
        self.stderr = os.fdopen(os.dup(self._slave), "w", buffering=1)
        self.screen = Screen()
        self.bytes = b""

    def look(self) -> Screen:
        """The screen with all that was written so far."""
        self.stderr.flush()
        while select.select([self._master], [], [], 0)[0]:
            data = os.read(self._master, 1 << 16)
            self.bytes += data
            self.screen.feed(data)
        return self.screen

    def hang_up(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def close(self) -> None:
        self.hang_up()
        os.close(self._slave)
        for stream in (self.stdout, self.stderr):
            with contextlib.suppress(OSError):
                stream.close()


@contextlib.contextmanager
def open_terminal() -> Iterator[Terminal]:
    """Puts sys.stdout and sys.stderr on a terminal."""
    found = Terminal()
    with pytest.MonkeyPatch.context() as patch, contextlib.closing(found):
        patch.setattr(sys, "stdout", found.stdout)
        patch.setattr(sys, "stderr", found.stderr)
        yield found


class TestColour:
    @pytest.mark.parametrize(
        ("environment", "on_terminal", "elsewhere"),
        [
            ({}, True, False),
            ({"NO_COLOR": "1"}, False, False),
            ({"NO_COLOR": ""}, True, False),
            ({"FORCE_COLOR": "1"}, True, True),
            ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
            ({"TERM": "dumb"}, False, False),
            ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
        ],
        ids=str,
    )
    def test_is_for_terminals_that_want_it(
        self,
        monkeypatch: pytest.MonkeyPatch,
        environment: dict[str, str],
        on_terminal: bool,
        elsewhere: bool,
    ) -> None:
        with open_terminal() as tty:
            for name, value in environment.items():
                monkeypatch.setenv(name, value)

            def paints(stream: TextIO) -> bool:
                painted = terminal.paint("text", "red", stream)
                assert painted in ("text", "\033[31mtext\033[0m")
                return painted != "text"

            assert paints(tty.stdout) is paints(tty.stderr) is on_terminal
            assert paints(io.StringIO()) is elsewhere

    def test_comes_with_links_but_only_on_terminals(self, monkeypatch: pytest.MonkeyPatch) -> None:
        url = "http://127.0.0.1:8888/tree?token=abc"
        with open_terminal():
            assert terminal.link(url) == f"\033]8;;{url}\033\\{url}\033]8;;\033\\"
            monkeypatch.setenv("NO_COLOR", "1")
            assert terminal.link(url) == url
        monkeypatch.delenv("NO_COLOR")
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        assert terminal.link(url) == url

    def test_of_a_note_is_that_of_stderr(self) -> None:
        with open_terminal() as tty:
            terminal.note("done", "green")
            terminal.warn("odd")
            tty.look()
            assert tty.bytes == b"\033[32mdone\033[0m\r\n\033[33mwarning:\033[0m odd\r\n"


def shown(text: str) -> list[str]:
    """The lines of a terminal on which a line is printed that may be folded."""
    with open_terminal() as tty:
        terminal.result(terminal.folded(text))
        tty.stdout.flush()
        return tty.look().text.splitlines()


class TestALongLine:
    def test_is_broken_between_words_where_the_terminal_ends(self) -> None:
        words = [f"word{number}" for number in range(20)]
        lines = shown(f"    {' '.join(words)}")
        assert len(lines) > 2
        assert lines[0].startswith("    word0 ")
        assert all(line.startswith("      word") for line in lines[1:])
        assert " ".join(lines).split() == words
        assert all(len(line) <= COLUMNS for line in lines)

    def test_keeps_a_name_with_what_it_is_the_name_of(self) -> None:
        first = "x" * (COLUMNS - 6)
        assert shown(f"{first} name: long-word") == [first, "  name: long-word"]

    def test_counts_what_is_seen(self) -> None:
        fits = "y" * (COLUMNS - 4) + f" {terminal.paint('end', 'red')}"
        with open_terminal():
            painted = f"{'y' * (COLUMNS - 4)} {terminal.paint('end', 'red')}"
            assert terminal.folded(painted) == painted
        assert shown(fits) == [fits]
        wide = "\N{CJK UNIFIED IDEOGRAPH-4E00}" * ((COLUMNS - 3) // 2)
        with open_terminal():
            assert terminal.folded(f"{wide} ab") == f"{wide} ab"
            assert terminal.folded(f"{wide} abcd") == f"{wide}\n  abcd"

    def test_leaves_words_and_spaces_as_they_are(self) -> None:
        word = "z" * (2 * COLUMNS)
        with open_terminal():
            for text in ("", "   ", "a  b ", word, f"  {word}", "a\tb\nc"):
                assert terminal.folded(text) == text

    def test_is_one_line_where_no_terminal_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "word " * 100
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        assert terminal.folded(text) == text
        with open_terminal() as tty:
            assert terminal.folded(text) != text
            tty.hang_up()
            assert terminal.folded(text).split() == text.split()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (34816, "34.8 kB"), (5e6, "5.0 MB"), (2.5e12, "2500.0 GB")],
)
def test_amounts_of_bytes_are_told_in_the_unit_that_suits_them(size: float, text: str) -> None:
    assert terminal.amount(size) == text


def test_results_go_to_stdout_and_notes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    terminal.result("result")
    terminal.result_json({"name": "ünï", "values": [1, None]})
    terminal.note("note")
    terminal.warn("warning")
    sys.stdout.flush()
    out, err = capfd.readouterr()
    lines = ["result", "{", r'  "name": "\u00fcn\u00ef",', '  "values": [', "    1,", "    null"]
    assert out.splitlines() == [*lines, "  ]", "}"]
    assert err == "note\nwarning: warning\n"


class Clock:
    """What the steps read the time from: it stands still unless a test moves it."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(steps, "time", found)
    return found


@pytest.mark.usefixtures("clock")
class TestSteps:
    def feed(self, failed: bool) -> steps.Steps:
        view = steps.Steps()
        view.begin("Get it")
        view.line("getting", "getting")
        view.begin("Look at it")
        view.drop()
        view.begin("Make it")
        view.line("RUN make", "")
        view.line("compiling", "compiling")
        view.line("error: no", "error: no")
        view.end(failed)
        return view

    @pytest.mark.parametrize("failed", [False, True])
    def test_where_it_is_kept_everything_is_shown_once(
        self, capfd: pytest.CaptureFixture[str], failed: bool
    ) -> None:
        self.feed(failed)
        lines = ["Get it", "getting", "Look at it", "Make it", "RUN make", "compiling", "error: no"]
        assert capfd.readouterr().err.splitlines() == lines

    def test_on_a_terminal_a_line_remains_of_each_step_that_did_something(self) -> None:
        with open_terminal() as tty:
            terminal.note("before")
            self.feed(failed=False)
            terminal.note("after")
            assert tty.look().text == "before\n    0.0 s  Get it\n    0.0 s  Make it\nafter"

    def test_on_a_terminal_all_that_a_failing_step_printed_remains(self) -> None:
        with open_terminal() as tty:
            self.feed(failed=True)
            *_, failed, first, second, third = tty.look().text.splitlines()
            assert failed == "    0.0 s  failed: Make it"
            assert (first, second, third) == ("RUN make", "compiling", "error: no")

    def test_on_a_terminal_one_line_shows_where_it_is(self) -> None:
        with open_terminal() as tty:
            view = steps.Steps()
            view.begin("Make it")
            assert tty.look().text == "    0.0 s  Make it"
            view.line("\t#5 one", "\tone")
            assert tty.look().text == "    0.0 s  Make it  one"
            view.line("and more " * 20, "and more " * 20)
            assert tty.look().text == "    0.0 s  Make it  and more and more a"
            view.line("nothing of interest", "")
            assert tty.look().last.endswith("and more a")

    def test_on_a_terminal_time_goes_by(self, clock: Clock) -> None:
        with open_terminal() as tty:
            view = steps.Steps()
            view.begin("Wait")
            clock.now += 61.26
            view.tick()
            assert tty.look().last == "   61.3 s  Wait"

    def test_without_a_title_nothing_is_drawn(self) -> None:
        with open_terminal() as tty:
            view = steps.Steps()
            view.tick()
            view.end(failed=False)
            assert tty.look().text == ""

    def test_what_went_well_is_no_part_of_a_failure(self) -> None:
        view = steps.Steps()
        view.begin("Make it")
        view.line("good", "good")
        view.forget()
        view.line("bad", "bad")
        assert view.printed == ["bad"]


class TestPatience:
    def test_something_long_is_shown_with_its_time_until_it_is_done(self, clock: Clock) -> None:
        with open_terminal() as tty:
            with steps.patience("Check it") as tick:
                assert tty.look().last == "    0.0 s  Check it"
                clock.now += 0.3
                tick()
                assert tty.look().last == "    0.3 s  Check it"
            assert tty.look().text == ""

    def test_elsewhere_nothing_is_said(self, capfd: pytest.CaptureFixture[str]) -> None:
        with steps.patience("Check it") as tick:
            tick()
        assert capfd.readouterr() == ("", "")


def test_a_terminal_that_only_prints_lines_gets_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with open_terminal() as tty:
        view = steps.Steps()
        view.begin("Make it")
        view.tick()
        view.line("RUN make", "")
        view.end(failed=False)
        with steps.patience("Check it") as tick:
            tick()
        output = terminal.Output(2)
        output.idle()
        output.note("job 1 SUCCEEDED")
        output.advance()
        output.close()
        assert tty.look().text == "Make it\nRUN make\njob 1 SUCCEEDED"
        assert b"\033" not in tty.bytes


def bar(done: int, total: int) -> re.Pattern[str]:
    return re.compile(rf"jobs: .*{done}/{total} .*")


class TestOutput:
    def test_of_jobs_is_passed_on_byte_for_byte(
        self, capfdbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        data = bytes(range(256))
        output = terminal.Output(3)
        output.write(sys.stdout, data)
        output.write(sys.stderr, data[::-1])
        output.idle()
        output.note("job 1 SUCCEEDED", "green")
        output.advance()
        output.close()
        assert capfdbinary.readouterr() == (data, data[::-1] + b"job 1 SUCCEEDED\n")
        assert not output.lost

    def test_has_a_bar_below_it_that_leaves_no_trace(self) -> None:
        with open_terminal() as tty:
            output = terminal.Output(2)
            output.idle()
            assert bar(0, 2).fullmatch(tty.look().last)
            output.write(sys.stdout, b"one\n")
            assert tty.look().text == "one"
            output.idle()
            first, below = tty.look().text.split("\n")
            assert first == "one"
            assert bar(0, 2).fullmatch(below)
            output.note("job 1 SUCCEEDED")
            output.advance()
            assert tty.look().text.startswith("one\njob 1 SUCCEEDED\n")
            assert bar(1, 2).fullmatch(tty.look().last)
            output.write(sys.stderr, b"two\n")
            output.close()
            assert tty.look().text == "one\njob 1 SUCCEEDED\ntwo"

    def test_that_is_in_the_middle_of_a_line_is_left_alone(self) -> None:
        with open_terminal() as tty:
            output = terminal.Output(2)
            output.idle()
            output.write(sys.stderr, b"loading ")
            output.idle()
            assert tty.look().text == "loading"
            output.write(sys.stderr, b"\r 50%|#####     |")
            output.idle()
            assert tty.look().text == " 50%|#####     |"
            output.write(sys.stderr, b"\r100%|##########|\n")
            output.idle()
            done, below = tty.look().text.split("\n")
            assert done == "100%|##########|"
            assert bar(0, 2).fullmatch(below)
            output.close()

    def test_that_ends_within_a_line_is_ended_before_a_note(self) -> None:
        with open_terminal() as tty:
            output = terminal.Output(2)
            output.write(sys.stdout, b"no newline")
            output.note("job 1 FAILED")
            output.close()
            assert tty.look().text == "no newline\njob 1 FAILED"

    def test_of_a_single_job_has_no_bar(self) -> None:
        with open_terminal() as tty:
            output = terminal.Output(1)
            output.idle()
            output.write(sys.stdout, b"one\n")
            output.advance()
            output.close()
            tty.look()
            assert tty.bytes == b"one\r\n"

    def test_that_goes_to_a_file_does_not_move_the_bar(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with open_terminal() as tty:
            file = io.TextIOWrapper(io.BytesIO())
            monkeypatch.setattr(sys, "stdout", file)
            output = terminal.Output(2)
            output.write(sys.stdout, b"no newline")
            output.idle()
            assert bar(0, 2).fullmatch(tty.look().text)
            output.close()
            assert tty.look().text == ""
            assert file.buffer.getvalue() == b"no newline"

    @settings(
        max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["stdout", "stderr"]),
                st.sampled_from(
                    [
                        *(b"\n", b"word", b"a line\n", b"two\nlines\n", b"\r 50%|##  |", b"\r"),
                        *(b"\r100%|####|\n", b"\033[32mgreen\033[0m\n", b"x" * (COLUMNS + 3)),
                        *(b"\033[K", b"\033[0m", b"one\n\033[Atwo\n"),
                    ]
                ),
                st.integers(0, 2),
            ),
            max_size=12,
        )
    )
    def test_looks_in_the_end_as_if_there_were_no_bar(
        self, written: list[tuple[str, bytes, int]]
    ) -> None:
        with open_terminal() as tty:
            output = terminal.Output(3)
            for name, data, ticks in written:
                output.write(getattr(sys, name), data)
                for _ in range(ticks):
                    output.idle()
            output.close()
            seen = tty.look()
        alone = Screen()
        alone.feed(b"".join(data for _, data, _ in written).replace(b"\n", b"\r\n"))
        assert seen.text == alone.text

    def test_goes_on_when_the_terminal_has_been_closed(self) -> None:
        with open_terminal() as tty:
            output = terminal.Output(2)
            output.write(sys.stdout, b"one\n")
            assert not output.lost
            tty.hang_up()
            output.write(sys.stdout, b"two\n")
            assert output.lost
            output.note("job 1 STOPPED")
            output.idle()
            output.advance()
            with contextlib.suppress(OSError):
                output.close()

    def test_goes_on_when_the_reader_of_a_pipe_has_gone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reader, writer = os.pipe()
        stdout = os.fdopen(writer, "w")
        monkeypatch.setattr(sys, "stdout", stdout)
        output = terminal.Output(2)
        os.close(reader)
        output.write(sys.stdout, b"one\n")
        assert output.lost
        with pytest.raises(OSError) as error:
            stdout.close()
        assert error.value.errno == errno.EPIPE
