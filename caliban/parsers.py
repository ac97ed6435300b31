"""Parsers of command lines: what caliban's own do beyond those of argparse."""

from __future__ import annotations

import argparse

# That of the module `typing`, whose import would be a tenth of what `caliban --help` costs.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def options(parser: argparse.ArgumentParser) -> list[str]:
    """The options that a parser knows, by all their names."""
    return [option for action in parser._actions for option in action.option_strings]


class SuggestingParser(argparse.ArgumentParser):
    """A parser that answers a mistyped choice or command with the nearest that there is."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with a message, that of a value which fills no screens."""
        from caliban import terminal

        super().error(terminal.abridged(message, 700))

    def _check_value(self, action: argparse.Action, value: object) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            from caliban.model import suggestion

            # "help" and "version" are no commands.
            is_command = isinstance(action, argparse._SubParsersAction)
            known = [*map(str, action.choices or ()), *(options(self) if is_command else ())]
            if near := suggestion.near(str(value), known):
                error.message = f"invalid choice: {value!r} (did you mean {near[0]}?)"
            raise


class HelpfulParser(SuggestingParser):
    """A parser that knows absl's flags by name only, because importing absl costs more than help.

    The command line is parsed again with absl's own parser as soon as one of its flags is used.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        if self.add_help:
            self.add_argument(
                "--helpfull", action="store_true", help="show full help message and exit"
            )


class ListOfCommands(argparse.HelpFormatter):
    """Help in which the longest of the commands has its summary beside it, as the others have.

    Before version 3.13, Python forgets that they are indented when it looks for the longest.
    """

    def add_argument(self, action: argparse.Action) -> None:
        """Makes room for an argument; for commands, so much more as they are indented."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment


class Description(argparse.RawDescriptionHelpFormatter):
    """Help whose paragraphs are as wide as the terminal, but for those of command lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        return "\n\n".join(
            textwrap.indent(textwrap.dedent(each), "  ")
            if each.lstrip().startswith("caliban ")
            else textwrap.fill(each, width)
            for each in text.strip().split("\n\n")
        )
