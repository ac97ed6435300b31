"""The table of commands, and the way from argv to the one that is called."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

from caliban import __version__, parsers
from caliban.errors import UsageError


class Group:
    """A command that has commands of its own.

    Attributes:
      summary: what they are about, in one line.
      commands: by name, see COMMANDS.
    """

    # No dataclass: importing what makes those costs a third of what `caliban --help` may.
    def __init__(self, summary: str, commands: Mapping[str, str | Group]) -> None:
        self.summary = summary
        self.commands = commands


# name -> what it does, in one line. Each is a module of caliban.commands, those of a group in a
# package of its name.
COMMANDS: Mapping[str, str | Group] = {
    "shell": "Open a shell in a container, with the current directory live in it.",
    "notebook": "Start Jupyter in a container, with the current directory live in it.",
    "build": "Build the image that `run` would use, and print its id.",
    "run": "Run code in a container on this machine, once or for every experiment of a sweep.",
    "cloud": "Run code on Vertex AI, once or for every experiment of a sweep.",
    "cluster": Group(
        "Run code on Kubernetes: on GKE, or on any cluster that a kubeconfig names.",
        {
            "ls": "List the GKE clusters of a project.",
            "create": "Make a GKE cluster.",
            "delete": "Delete a GKE cluster.",
            "job": Group(
                "Submit jobs to a cluster, and list them.",
                {
                    "submit": "Submit code, once or for every experiment of a sweep.",
                    "submit_file": "Submit jobs that a file describes.",
                    "ls": "List the jobs of a cluster.",
                },
            ),
            "pod": Group("List pods.", {"ls": "List the pods of a cluster's jobs."}),
            "node_pool": Group("List node pools.", {"ls": "List the node pools of a cluster."}),
        },
    ),
    "status": "Show jobs and what became of them.",
    "show": "Show what exactly a job ran, and what became of it.",
    "diff": "Say what differs between two jobs.",
    "report": "Make a page of an experiment group: table, charts, best runs, failures, origin.",
    "export": "Put an experiment group into one file, with all that it takes to run it again.",
    "replay": "Run the experiments of such a file again, and say whether they come to the same.",
    "resubmit": "Run the jobs of an experiment group again that failed or were stopped.",
    "logs": "Show what jobs have printed, and follow them while they run.",
    "stop": "Stop jobs that run or wait.",
    "prune": "Remove images, containers and logs that nobody needs any more.",
    "completion": "Print a script that makes a shell complete commands and flags.",
}

DESCRIPTION = "Run research code, unchanged, in containers, and keep a record of every job."

# The values of these options may begin with a dash, which argparse takes for another option. By how
# each begins: argparse takes any unambiguous beginning of an option's name.
_DASHED_VALUES = {"--do": "--docker_run_args", "--so": "--sort"}


def run(argv: Sequence[str]) -> int:
    """Parses a command line and runs the command that it names.

    Args:
      argv: the arguments without the program's name.

    Returns:
      The command's exit code.

    Raises:
      SystemExit: by argparse, for --help (0) and wrong usage (2).
      UsageError: for wrong usage that argparse can't see.
    """
    own, script_args = split_at_dashes(argv)
    if any(word.lstrip("-").startswith("flagfile") for word in own):
        from caliban import flagfiles

        own = flagfiles.expand(own)
    own = _join_dashed_values(own)
    path, is_whole = command_path(own)
    command = module_of(path) if is_whole else None
    # Where the command comes first, no other one is spoken of.
    is_first = is_whole and own[: len(path)] == list(path)
    fast = build_parser(parsers.HelpfulParser, path, command, is_first)
    if "--helpfull" in own or _has_unknown_options(own, fast, path):
        return _run_with_absl(own, script_args, path, command)
    return _dispatch(_parse(fast, own, path), path, own, script_args)


def command_paths(
    commands: Mapping[str, str | Group] = COMMANDS, group: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """The names on the way to each command, one of them ("cluster", "job", "submit")."""
    for name, each in commands.items():
        path = (*group, name)
        if isinstance(each, Group):
            yield from command_paths(each.commands, path)
        else:
            yield path


def module_of(path: Sequence[str]) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(".".join(("caliban.commands", *path)))


def command_path(words: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """The command that a command line names.

    Returns:
      The names on the way to it, ("cluster", "job", "submit") for one, and whether they lead to a
      command: not if the last is the name of a group, or there is none.
    """
    path: list[str] = []
    commands = COMMANDS
    for word in words:
        if (found := commands.get(word)) is None:
            continue
        path.append(word)
        if not isinstance(found, Group):
            return tuple(path), True
        commands = found.commands
    return tuple(path), False


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits at the first "--": caliban's own arguments, and those of the user's code."""
    words = list(argv)
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def build_parser(
    parser_class: type[argparse.ArgumentParser],
    path: Sequence[str],
    command: ModuleType | None,
    is_alone: bool = False,
) -> argparse.ArgumentParser:
    """The parser for a command line whose command is known: only that one's flags are defined.

    Args:
      parser_class: of the parser.
      path: the names on the way to the command.
      command: its module; None if the path leads to none.
      is_alone: whether it knows no other command by name: each costs as much as ten flags.
    """
    parser = parser_class(
        prog="caliban",
        description=DESCRIPTION,
        epilog="`caliban COMMAND --help` tells more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    _add_commands(parser, COMMANDS, path, command, is_alone)
    return parser


def _add_commands(
    parser: argparse.ArgumentParser,
    commands: Mapping[str, str | Group],
    path: Sequence[str],
    command: ModuleType | None,
    is_alone: bool,
) -> None:
    """Adds commands; those of a group, and the flags of a command, only along the path.

    Beside the path a command has just its line in the help: nothing is parsed with it, and to give
    it a --help of its own costs as much as all else of a parser.
    """
    parser.formatter_class = parsers.ListOfCommands
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, each in commands.items():
        summary = each.summary if isinstance(each, Group) else each
        if name not in path[:1]:
            if not is_alone:
                subparsers.add_parser(name, help=summary, add_help=False)
            continue
        child = subparsers.add_parser(name, help=summary, description=summary)
        if isinstance(each, Group):
            _add_commands(child, each.commands, path[1:], command, is_alone)
        elif command is not None:
            child.formatter_class = parsers.Description
            child.description = command.__doc__
            from caliban import flag_types

            command.add_arguments(child)
            flag_types.refuse_empty_values(child)
            child.set_defaults(run=command.run)


def _parse(
    parser: argparse.ArgumentParser, words: Sequence[str], path: Sequence[str]
) -> argparse.Namespace:
    """Parses; an unknown flag is answered with the usage of the command it was given to."""
    args, unknown = parser.parse_known_args(words)
    command = _command_parser(parser, path)
    meant = _meant(unknown, parsers.options(command)) if unknown else ""
    if not hasattr(args, "run") and not meant:
        commands = COMMANDS
        for name in path:
            if isinstance(group := commands[name], Group):
                commands = group.commands
        command.error(f"no command is named: {', '.join(commands)}")
    if unknown:
        hint = f" (did you mean {meant}?)" if meant else ""
        command.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return args


def _meant(unknown: Sequence[str], options: Sequence[str]) -> str:
    """What may have been meant by the first of some arguments that a command does not take."""
    import shlex

    from caliban.model import suggestion

    first = unknown[0]
    if not first.startswith("-") and "--xgroup" in options:
        return f"--xgroup {shlex.quote(first)}"  # other commands take a group just so
    return next(iter(suggestion.near(first.partition("=")[0], options)), "")


def _command_parser(
    parser: argparse.ArgumentParser, path: Sequence[str]
) -> argparse.ArgumentParser:
    """The parser of one command within the whole."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and path and path[0] in action.choices:
            return _command_parser(action.choices[path[0]], path[1:])
    return parser


def _has_unknown_options(
    words: Sequence[str], parser: argparse.ArgumentParser, path: Sequence[str]
) -> bool:
    """Whether a word looks like an option that is not ours, and may therefore be absl's."""
    known = {*parsers.options(parser), *parsers.options(_command_parser(parser, path))}
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and not any(each.startswith(option) for each in known):
            return True
        if option[:1] == "-" and option[1:2].isalpha() and not {option, option[:2]} & known:
            return True
    return False


def _join_dashed_values(words: Sequence[str]) -> list[str]:
    """Writes `--docker_run_args "-v a:b"` as `--docker_run_args=-v a:b`."""
    joined: list[str] = []
    rest = iter(words)
    for word in rest:
        option = _DASHED_VALUES.get(word[:4], "")
        is_option = option.startswith(word) and bool(option)
        if is_option and (value := next(rest, None)) is not None:
            joined.append(f"{word}={value}")
        else:
            joined.append(word)
    return joined


def _stray(stray: Sequence[str], own: Sequence[str], script_args: Sequence[str]) -> UsageError:
    """The error about arguments between the module and the "--", with both ways to mend it."""
    import shlex

    rest = len(own) - len(stray)
    flags, module = own[: rest - 1], own[rest - 1]
    through = ["--", *script_args] if script_args else []
    before = shlex.join(["caliban", *flags, *stray, module, *through])
    after = shlex.join(["caliban", *flags, module, "--", *stray, *script_args])
    hint = f"Arguments of your own code go after a '--':  {after}"
    if stray[0].startswith("-"):
        hint = f"Flags of caliban go before the module:      {before}\n{hint}"
    return UsageError(f"'{shlex.join(stray)}' stands after the module, but not after '--'", hint)


def _run_with_absl(
    own: Sequence[str],
    script_args: Sequence[str],
    path: Sequence[str],
    command: ModuleType | None,
) -> int:
    """Parses with absl's flags as well, and runs under absl, which makes them work (--pdb)."""
    import logging

    from absl import app
    from absl import logging as absl_logging
    from absl.flags import argparse_flags

    level = logging.root.level

    class AbslParser(parsers.SuggestingParser, argparse_flags.ArgumentParser):
        """Of absl's, which knows all of its flags."""

    parser = build_parser(AbslParser, path, command)
    args = _parse(parser, own, path)
    try:
        app.run(
            lambda _: _dispatch(args, path, own, script_args),
            argv=["caliban"],
            flags_parser=lambda argv: argv,
        )
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    finally:
        # It writes to the stderr of now, which may be closed when this is called again in a process
        # of somebody else's.
        logging.root.removeHandler(absl_logging.get_absl_handler())
        logging.root.setLevel(level)
    return 0


def _dispatch(
    args: argparse.Namespace,
    path: Sequence[str],
    own: Sequence[str],
    script_args: Sequence[str],
) -> int:
    if getattr(args, "stray", []):
        raise _stray(args.stray, own, script_args)
    if script_args and not hasattr(args, "module"):
        raise UsageError(f"'caliban {' '.join(path)}' takes no arguments after '--'")
    args.command = " ".join(path)
    args.script_args = tuple(script_args)
    code: int = args.run(args)
    return code
