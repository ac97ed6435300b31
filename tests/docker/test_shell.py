"""How a shell is started, and what it reads then: real shells with a made-up home directory."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from caliban.docker import shell
from caliban.docker.image.context import RESOURCES

FILES = RESOURCES / "shell"


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("/bin/bash", "bash"),
        ("/usr/local/bin/zsh", "zsh"),
        ("zsh", "zsh"),
        ("/usr/bin/fish", "bash"),
        ("/bin/sh", "bash"),
        ("", "bash"),
        (None, "bash"),
    ],
)
def test_the_shell_is_the_users_own_if_it_is_one_of_two(variable: str | None, name: str) -> None:
    assert shell.preferred({} if variable is None else {"SHELL": variable}) == name


def test_a_shell_reads_settings_only_where_there_are_any() -> None:
    assert shell.command("/bin/bash", True) == ("/bin/bash", "--rcfile", "/opt/caliban/bashrc")
    assert shell.command("/bin/bash", False) == ("/bin/bash",)
    assert shell.command("/bin/zsh", True) == ("/bin/zsh",)
    assert shell.command("/bin/zsh", False) == ("/bin/zsh", "-f")
    assert shell.environment("/bin/zsh", True, "xterm")["ZDOTDIR"] == "/opt/caliban"
    assert "ZDOTDIR" not in shell.environment("/bin/zsh", False, "xterm")


@pytest.mark.parametrize(
    ("outside", "inside"),
    [
        ("xterm", "xterm"),
        ("dumb", "dumb"),
        ("linux", "linux"),
        ("screen-256color", "screen-256color"),
        ("tmux-256color", "screen-256color"),
        ("xterm-kitty", "xterm-256color"),
        ("alacritty", "xterm-256color"),
    ],
)
def test_the_terminal_is_one_that_images_know(outside: str, inside: str) -> None:
    assert shell.environment("/bin/bash", True, outside)["TERM"] == inside


def test_where_the_terminal_has_no_name_docker_gives_it_one() -> None:
    assert "TERM" not in shell.environment("/bin/bash", True, "")


def test_a_shell_without_a_terminal_needs_no_prompt() -> None:
    plain = {"LANG": "C.UTF-8", "SHELL": "/bin/zsh"}
    assert shell.environment("/bin/zsh", False, None) == plain
    assert shell.terminal_arguments(False) == ("--interactive",)


def test_no_key_that_can_be_typed_detaches_the_terminal() -> None:
    keys = shell.terminal_arguments(True)[-1]
    assert {os.fsencode(key) for key in keys.split(",")} == {b"\xff"}


@pytest.mark.parametrize(
    ("run_args", "named"),
    [
        ((), True),
        (("--network", "host"), True),
        (("--network=host", "-v", "/container:/x"), True),
        (("--network", "container:other"), False),
        (("--net=container:other",), False),
        (("--uts", "host"), False),
        (("--uts=host",), False),
    ],
)
def test_a_container_is_named_where_docker_allows_it(
    run_args: tuple[str, ...], named: bool
) -> None:
    expected = ("--hostname", "here") if named else ()
    assert shell.hostname_arguments("here", run_args) == expected


def test_startup_files_are_copied_and_mended(home: Path) -> None:
    folder = shell.startup_files()
    assert folder == home / ".caliban/shell"
    assert {each.name for each in folder.iterdir()} == {"bashrc", ".zshenv", ".zshrc"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = (folder / "bashrc").stat()
    (folder / ".zshrc").write_text("something else")
    shell.startup_files()
    assert (folder / "bashrc").stat() == before
    assert (folder / ".zshrc").read_text() == (FILES / ".zshrc").read_text()


def test_the_prompt_is_the_same_with_and_without_settings() -> None:
    for name, file in (("bash", "bashrc"), ("zsh", ".zshrc")):
        assert f"='{shell._PROMPTS[name]}'\n" in (FILES / file).read_text()


INSIDE = {"PATH": "/image/bin:/usr/bin:/bin", "VIRTUAL_ENV": "/opt/venv", "PYTHONNOUSERSITE": "1"}


def settled(
    name: str, home: Path, settings: str, command: str, variables: Mapping[str, str] = {}
) -> str:
    """What a command prints in a shell that has read our startup files, and with them a user's."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"there is no {name} on this machine")
    (home / f".{name}rc").write_text(settings)
    words = ["--rcfile", str(FILES / "bashrc")] if name == "bash" else []
    done = subprocess.run(
        [program, *words, "-i", "-c", command],
        env={**INSIDE, "HOME": str(home), "ZDOTDIR": str(FILES), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "_caliban" not in done.stderr
    return done.stdout.strip()


@pytest.fixture(params=["bash", "zsh"])
def name(request: pytest.FixtureRequest) -> str:
    """A shell."""
    found: str = request.param
    return found


def test_your_own_settings_hold(name: str, home: Path) -> None:
    settings = "alias hello='echo hello'\nexport EDITOR=ed\ngreet() { echo hi; }\n"
    assert settled(name, home, settings, "alias hello; greet; echo $EDITOR").splitlines()[1:] == [
        *("hi", "ed"),
    ]


@pytest.mark.parametrize("end", ["", "return", "return 3", "false", "set -u", "no-such-command"])
def test_however_your_settings_end_the_image_comes_first(name: str, home: Path, end: str) -> None:
    settings = f"export PATH=$HOME/laptop/bin:$PATH\n{end}\n"
    path = settled(name, home, settings, "echo $PATH").split(":")
    assert path[0] == "/image/bin"
    assert path.index(f"{home}/laptop/bin") > 2


def test_settings_that_leave_path_alone_find_it_alone(name: str, home: Path) -> None:
    assert settled(name, home, "", "echo $PATH") == INSIDE["PATH"]


def test_no_python_of_the_machine_outside_gets_in_the_way(name: str, home: Path) -> None:
    settings = (
        "export PYTHONPATH=$HOME/lib PYTHONHOME=/usr/lib/python2 VIRTUAL_ENV=$HOME/venv\n"
        "export LD_LIBRARY_PATH=/usr/local/cuda/lib64\nunset PYTHONNOUSERSITE\n"
        "alias python=python2\n"
    )
    names = "PYTHONPATH PYTHONHOME VIRTUAL_ENV LD_LIBRARY_PATH PYTHONNOUSERSITE"
    command = f"alias python; env | grep -E '^({names.replace(' ', '|')})=' | sort"
    assert settled(name, home, settings, command).splitlines() == [
        *("PYTHONNOUSERSITE=1", "VIRTUAL_ENV=/opt/venv"),
    ]
    given = {"PYTHONPATH": "/a b"}
    assert "PYTHONPATH=/a b" in settled(name, home, settings, command, given).splitlines()


def test_a_key_that_was_mounted_wins_over_one_in_your_settings(name: str, home: Path) -> None:
    variable = "GOOGLE_APPLICATION_CREDENTIALS"
    settings = f"export {variable}=$HOME/key.json\n"
    assert settled(name, home, settings, f"echo ${variable}") == f"{home}/key.json"
    given = {variable: "/.creds/credentials.json"}
    assert settled(name, home, settings, f"echo ${variable}", given) == given[variable]


def test_nothing_of_ours_stays_but_the_prompt(name: str, home: Path) -> None:
    command = "set | grep -a '^_caliban[a-z_]*=' || echo nothing"
    assert settled(name, home, "", command) == "nothing"


# What each shell does before it shows its prompt, and does not do for a command.
_BEFORE_PROMPT = {
    "bash": 'for each in "${PROMPT_COMMAND[@]}"; do eval "$each"; done',
    "zsh": "for each in $precmd_functions; do $each; done",
}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bash", "PS1='mine> '"),
        ("bash", "alias unset=false export=false local=false; PS1='mine> '"),
        ("bash", "PROMPT_COMMAND='PS1=mine'"),
        ("bash", "PROMPT_COMMAND=('PS1=mine' 'PS1=mine')"),
        ("zsh", "PS1='mine> '"),
        ("zsh", "alias unset=false export=false local=false; PS1='mine> '"),
        ("zsh", "mine() { PS1=mine }; precmd_functions=(mine)"),
        ("zsh", "setopt ksh_arrays sh_word_split no_unset; PS1='mine> '"),
    ],
)
def test_the_prompt_says_where_you_are(name: str, home: Path, settings: str) -> None:
    prompt = settled(name, home, settings, f'{_BEFORE_PROMPT[name]}; echo "<$PS1>"')
    assert prompt == f"<{shell._PROMPTS[name]}>"
