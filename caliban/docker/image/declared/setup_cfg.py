"""setup.cfg, as setuptools reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from caliban.docker.image.declared import requirements
from caliban.errors import UsageError

if TYPE_CHECKING:
    import configparser

NAME = "setup.cfg"


def read(project: Path) -> Mapping[str, Mapping[str, str]]:
    """Reads the options of each section of a directory's setup.cfg; without one, there are none.

    Raises:
      UsageError: it cannot be read, or is not in the format of such files.
    """
    path = project / NAME
    if not path.is_file():
        return {}
    import configparser

    parser = configparser.RawConfigParser()
    try:
        parser.read_string(requirements.text(path), str(path))
    except configparser.Error as error:
        raise UsageError(
            f"{path} cannot be read: {_reason(error)}",
            "setuptools reads sections, like [metadata], with lines like name = value.",
        ) from None
    return {name: dict(section) for name, section in parser.items()}


def declares(project: Path) -> bool:
    """Whether it declares a project, and not just settings of tools.

    Raises:
      UsageError: see `read`.
    """
    found = read(project)
    return "metadata" in found or "options" in found


def python_requires(project: Path) -> str:
    """The versions of Python that it says the project is for; "" for any.

    Raises:
      UsageError: see `read`.
    """
    options = read(project).get("options", {})
    names = ("python_requires", "python-requires")  # setuptools took the second one for long, too
    values = (options.get(name, "") for name in names)
    return next(filter(None, (value.strip() for value in values)), "")


def _reason(error: configparser.Error) -> str:
    """What is wrong, without the line itself."""
    import configparser

    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"line {error.lineno} stands before the first section"
    if isinstance(error, configparser.ParsingError):
        lines = ", ".join(str(number) for number, _ in error.errors)
        return f"neither a section nor name = value in line {lines}"
    if isinstance(error, configparser.DuplicateSectionError):
        return f"the section [{error.section}] comes again in line {error.lineno}"
    if isinstance(error, configparser.DuplicateOptionError):
        return f"'{error.option}' of [{error.section}] comes again in line {error.lineno}"
    return error.message.splitlines()[0]
