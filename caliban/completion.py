"""Answers a shell that asks, at a press of the tab key, how a command line may go on."""

from __future__ import annotations

import argparse
import os

from caliban import cli, parsers


def answer() -> int:
    """Tells the shell, in the words of argcomplete, and ends the process.

    Returns:
      1, where nobody has asked.
    """
    import argcomplete

    words = os.environ["COMP_LINE"].split()
    path, is_whole = cli.command_path(cli.split_at_dashes(words)[0])
    if "--" in words:  # what follows is for the user's own code: files, for all that is known
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("words", nargs=argparse.REMAINDER)
    else:
        command = cli.module_of(path) if is_whole else None
        parser = cli.build_parser(parsers.HelpfulParser, path, command)
    # Before a command is named, flags would only stand in the way of the names.
    argcomplete.autocomplete(parser, always_complete_options="long" if is_whole else False)
    return 1
