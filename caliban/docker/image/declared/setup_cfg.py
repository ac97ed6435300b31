"""setup.cfg, as setuptools reads it."""

from __future__ import annotations

import configparser
from pathlib import Path

from caliban.docker.image.declared import requirements
from caliban.errors import UsageError

NAME = "setup.cfg"


def read(project: Path) -> configparser.RawConfigParser:
    """Reads the setup.cfg of a directory; without one, it has no sections.

    Raises:
      UsageError: it cannot be read, or is not in the format of such files.
    """
    parser = configparser.RawConfigParser()
    path = project / NAME
    if path.is_file():
        try:
            parser.read_string(requirements.text(path), str(path))
        except configparser.Error as error:
            raise UsageError(
                f"{path} cannot be read: {_reason(error)}",
                "setuptools reads sections, like [metadata], with lines like name = value.",
            ) from None
    return parser


def declares(project: Path) -> bool:
    """Whether it declares a project, and not just settings of tools.

    Raises:
      UsageError: see `read`.
    """
    found = read(project)
    return found.has_section("metadata") or found.has_section("options")


def python_requires(project: Path) -> str:
    """The versions of Python that it says the project is for; "" for any.

    Raises:
      UsageError: see `read`.
    """
    found = read(project)
    names = ("python_requires", "python-requires")  # setuptools took the second one for long, too
    values = (found.get("options", name, fallback="") for name in names)
    return next(filter(None, (value.strip() for value in values)), "")


def _reason(error: configparser.Error) -> str:
    """What is wrong, without the line itself."""
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
