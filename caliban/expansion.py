"""The command `expansion`: shows the experiments that an experiment config stands for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from caliban import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: arguments without the program's name; the process's own by default.

    Returns:
      The exit code, as for `caliban`: see `caliban.main.guarded`.

    Raises:
      SystemExit: by argparse, for --help (0) and wrong usage (2).
    """
    args = build_parser().parse_args(argv)

    from caliban.main import guarded

    return guarded("expansion", lambda: run(args))


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="expansion",
        description="Show every experiment that an experiment file stands for: as JSON, or as the "
        "flags that the jobs get.",
    )
    parser.add_argument("--helpfull", action="help", help="show full help message and exit")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--pprint", action="store_true", help="Print indented JSON.")
    parser.add_argument(
        "--print_flags",
        action="store_true",
        help="Print each experiment's flags on a line, quoted for a shell, instead of JSON.",
    )
    parser.add_argument(
        "experiment_config",
        help="Path of an experiment file, or 'stdin' or '-' to read it from standard input.",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes the experiments to stdout, the first one only when the whole config is known good.

    Raises:
      UsageError: the config cannot be read, or is not valid.
    """
    from caliban import document
    from caliban.model import experiment, experiment_text

    config = document.read(args.experiment_config)
    experiment.validate(config, args.experiment_config)
    style = experiment_text.Json()
    if args.print_flags:
        style = experiment_text.Flags()
    elif args.pprint:
        style = experiment_text.IndentedJson()
    for text in experiment_text.texts(config, style):
        # In UTF-8 whatever the locale: the JSON is ASCII, and flags must be what the jobs get.
        sys.stdout.buffer.write(text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
