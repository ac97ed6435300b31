"""Commands as text: readable, on one line, and the same words to a shell."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from caliban.model import shell_words

WORDS = [
    "plain", "", "é", "naïve ü", "学习率=0.1", "it's", "$HOME", "a b", "*", "!x", "=ls", "~",
    "\\", "\\n", "tab\tand\nline", "é\n€", "it's\n", "\\\n", "\x1b[31m", "\u202egnp.exe", "\x7f1",
    "{a,b}", "\x01\x31", "#", "`x`", "^", "\udce9", "\r", "\u200b", "!!\n",
]  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_shell_reads_the_same_words(shell: str, locale: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell}")
    text = shell_words.join(["printf", "%s\\0", *WORDS])
    options = {"bash": ["--norc"], "zsh": ["-f"]}[shell]
    done = subprocess.run(
        [program, *options],
        input=os.fsencode(text),
        env={"LC_ALL": locale},
        capture_output=True,
        check=True,
    )
    assert [os.fsdecode(each) for each in done.stdout.split(b"\0")[:-1]] == WORDS


def test_it_is_one_line_that_steers_no_terminal() -> None:
    text = shell_words.join(WORDS)
    assert text.isprintable()


def test_letters_stay_what_they_are() -> None:
    assert shell_words.quote("é") == "'é'"
    assert shell_words.quote("é\n") == "$'é\\n'"
    assert shell_words.quote("学\udce9") == "$'学\\xe9'"
    assert shell_words.quote("\ud800") == "$'\\xed\\xa0\\x80'"
