"""Print a script that makes a shell complete commands and flags at a press of the tab key.

Where bash finds it (with the package bash-completion), or zsh in a directory of its $fpath, it is
loaded when it is first needed. Otherwise the shell's own settings can load it, see the last line.

  caliban completion bash > ~/.local/share/bash-completion/completions/caliban
  caliban completion zsh > ~/.zfunc/_caliban
  eval "$(caliban completion bash)"
"""

from __future__ import annotations

import argparse

from caliban import terminal

SHELLS = ("bash", "zsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument("shell", choices=SHELLS, help="The shell that is to complete them.")


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    from argcomplete.shell_integration import shellcode

    terminal.result(shellcode(["caliban"], shell=args.shell).strip())
    return 0
