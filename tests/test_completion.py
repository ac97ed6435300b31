"""`caliban completion`: what shells offer at a press of the tab key."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Caliban, Inline
from tests.parts import OpenScreen

# How a shell loads the script, as docs/completion.md says.
LOADED = {
    "bash": 'eval "$(caliban completion bash)"',
    "zsh": "mkdir .zfunc && caliban completion zsh > .zfunc/_caliban && fpath=(.zfunc $fpath) "
    "&& autoload -Uz compinit && compinit -u -D",
}


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program, by the name that the script calls it by."""
    program = tmp_path / "bin" / "caliban"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m caliban "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def offered(line: str) -> list[str]:
    """What bash offers at the end of a line, but for names of files that it finds itself."""
    script = f"""{LOADED["bash"]}
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_TYPE=9
        known=$(complete -p caliban); known=${{known##*-F }}
        ${{known%% *}} caliban
        printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [word.strip() for word in done.stdout.splitlines() if word.strip()]


@pytest.mark.usefixtures("on_path")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("caliban st", ["status", "stop"]),
        ("caliban cluster ", ["ls", "create", "delete", "job", "pod", "node_pool"]),
        ("caliban cluster job submit_", ["submit_file"]),
        ("caliban run --exp", ["--experiment_config"]),
        ("caliban run --nogpu --experiment_config=a --res", ["--resume"]),
        ("caliban shell --shell ", ["bash", "zsh"]),
        ("caliban completion b", ["bash"]),
        ("caliban run train.py -- --exp", []),
        ("caliban nonsense --exp", []),
    ],
)
def test_commands_flags_and_choices_are_offered(line: str, words: list[str]) -> None:
    assert offered(line) == words


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_on_a_terminal_completes(
    shell: str, on_path: None, screen: OpenScreen, project: Path
) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell}")
    terminal = screen()
    options = {"bash": "--norc", "zsh": "-f"}[shell]
    terminal.line(f"PS1='inside> ' exec {program} {options}")
    terminal.shows("^inside>$")
    terminal.line(f"{LOADED[shell]} && echo lo''aded")
    terminal.shows("^loaded$")
    for typed, completed in {
        "caliban cluster job subm": "caliban cluster job submit",
        "caliban logs --fol": "caliban logs --follow",
        "caliban shell --shell z": "caliban shell --shell zsh",
        "caliban run --nogpu trai": "caliban run --nogpu trainer/",
        "caliban run --nogpu trainer/tr": "caliban run --nogpu trainer/train.py",
    }.items():
        terminal.type(typed)
        terminal.keys("Tab")
        terminal.shows(f"^inside> {completed}$")
        terminal.keys("C-u")


def test_only_shells_that_can_be_helped_are_taken(inline: Inline) -> None:
    ended = inline("completion", "fish")
    assert ended.returncode == 2
    assert "invalid choice: 'fish' (choose from" in ended.stderr


def test_nothing_is_done_where_a_command_line_is_only_completed(caliban: Caliban) -> None:
    line = "caliban prune --yes "
    asks = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    ended = caliban(env={**asks, "_ARGCOMPLETE_STDOUT_FILENAME": os.devnull})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert not Path.home().joinpath(".caliban").exists()
