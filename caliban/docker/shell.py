"""A shell inside a container: how it is started, and what it reads then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from caliban import home
from caliban.docker.image.context import RESOURCES

SHELLS = ("bash", "zsh")

# Where a container finds the startup files of its shell.
FOLDER = "/opt/caliban"

# Terminals that nearly every distribution knows; the others are close to one of them.
_KNOWN_TERMINALS = ("dumb", "linux", "screen", "screen-256color", "vt100", "xterm")

# Where you are, who, and where in it: "[me@caliban-shell /usr/app]$".
_PROMPTS = {"bash": r"\[\e[36m\][\u@\h \w]\$\[\e[0m\] ", "zsh": "%F{cyan}[%n@%m %~]%#%f "}

# Docker waits after the first of these keys for the others, which would detach the terminal: with
# its own, ^P ^Q, a ^P reached the shell a key too late. This byte no keyboard sends: it is in no
# letter of UTF-8. (Of a program's arguments, Python makes such bytes from a lone surrogate.)
_NO_KEYS = ",".join(["\udcff"] * 8)


def preferred(environment: Mapping[str, str]) -> str:
    """The user's own shell, if it is one of SHELLS; bash otherwise."""
    name = PurePosixPath(environment.get("SHELL") or "bash").name
    return name if name in SHELLS else "bash"


def command(program: str, reads_settings: bool) -> tuple[str, ...]:
    """The argv of a shell.

    Args:
      program: where it is, or its name.
      reads_settings: whether it reads those of the user, by way of FOLDER.
    """
    if PurePosixPath(program).name == "bash":
        return (program, *(("--rcfile", f"{FOLDER}/bashrc") if reads_settings else ()))
    # Without any settings, zsh would ask the user for some.
    return (program, *(() if reads_settings else ("-f",)))


def environment(program: str, reads_settings: bool, terminal: str | None) -> dict[str, str]:
    """The variables that make a container's shell feel at home in the user's terminal.

    Args:
      program: where the shell is.
      reads_settings: whether it reads those of the user; they set the prompt as well.
      terminal: what kind of terminal there is, $TERM; None without a terminal.
    """
    name = PurePosixPath(program).name
    # Without a locale, letters beyond ASCII could not be typed. This one, every image has.
    variables = {"LANG": "C.UTF-8", "SHELL": program}
    if terminal is None:
        return variables
    if terminal:
        variables["TERM"] = _terminal(terminal)
    if name == "zsh":
        return variables | ({"ZDOTDIR": FOLDER} if reads_settings else {"PS1": _PROMPTS[name]})
    if not reads_settings:
        # Before its first prompt, and so after the image's own settings, which set one, too. Not
        # PS1 itself: every `sh` that is started later would inherit what only bash understands.
        variables["PROMPT_COMMAND"] = f"PS1='{_PROMPTS[name]}'; unset PROMPT_COMMAND"
    return variables


def _terminal(kind: str) -> str:
    if kind in _KNOWN_TERMINALS:
        return kind
    return "screen-256color" if kind.startswith("tmux") else "xterm-256color"


def terminal_arguments(has_terminal: bool) -> tuple[str, ...]:
    """The arguments of `docker run` that connect the user's terminal, or a pipe."""
    if has_terminal:
        return ("--interactive", "--tty", "--detach-keys", _NO_KEYS)
    return ("--interactive",)


def hostname_arguments(name: str, run_args: Sequence[str]) -> tuple[str, ...]:
    """The arguments of `docker run` that give a container its name, which the prompt shows.

    Args:
      name: the name.
      run_args: the user's own arguments: in another container's network, or in the machine's own
        namespace, Docker refuses to name it.
    """
    values = [word.rpartition("=")[2] for word in run_args]
    is_shared = any(value.startswith("container:") for value in values)
    if is_shared or any(word.startswith("--uts") for word in run_args):
        return ()
    return ("--hostname", name)


def startup_files() -> Path:
    """Copies what shells read to where the engine can mount it from, and returns that folder.

    Raises:
      CalibanError: it cannot be written.
    """
    folder = home.directory("shell")
    for source in (RESOURCES / "shell").iterdir():
        content = source.read_text()
        copy = folder / source.name
        if not copy.exists() or copy.read_text() != content:
            home.write_private(copy, content)
    return folder
