"""Which Python a project asks for, and who has it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from caliban.docker.image.declared import requirements
from caliban.errors import UsageError
from caliban.model.image import DEFAULT_BASE_IMAGES, Mode

# Those that the default base image can be had with.
SUPPORTED = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
# Those that a base image may have.
_KNOWN = (*(f"3.{minor}" for minor in range(6, 20)),)

FILE = ".python-version"
_VERSION = r"(?:(?:c?python|cp)-?@?)?(3\.\d+)(?:\.\d+)?(?:rc\d+|[ab]\d+)?"


@dataclass(frozen=True)
class Wanted:
    """The Python that a project asks for.

    Attributes:
      request: "3.12", or a specifier, ">=3.10,<3.13"; "" if it asks for none.
      source: the file that says so, with its key.
    """

    request: str = ""
    source: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether it is one version."""
        return re.fullmatch(r"\d+\.\d+", self.request) is not None


def named(project: Path) -> tuple[Wanted, str]:
    """The version that the project's .python-version names, and a warning if it is of no use.

    The digits after the second are left out: what differs between those is bugs that were mended.

    Raises:
      UsageError: it cannot be read.
    """
    path = project / FILE
    if not path.is_file():
        return Wanted(), ""
    lines = [line.partition("#")[0].strip() for line in requirements.text(path).splitlines()]
    first = next(filter(None, lines), "")
    match = re.fullmatch(_VERSION, first)
    if match is None:
        return Wanted(), f"{FILE} is ignored: '{first}' is not a version like 3.12"
    return Wanted(match[1], FILE), ""


def allowed(request: str) -> list[str]:
    """The versions that a request allows, "3.10", "3.11" and so on: any, where it is "".

    Raises:
      UsageError: it is no request.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    if Wanted(request).is_exact:
        return [request]
    try:
        specifier = SpecifierSet(request)
    except InvalidSpecifier:
        raise UsageError(
            f"'{request}' does not say which versions of Python are wanted",
            'Specifiers of versions look like ">=3.10,<3.13".',
        ) from None
    # The first or the newest release of a version must be among them: ">=3.10.4" allows 3.10.
    return [each for each in _KNOWN if any(f"{each}.{last}" in specifier for last in (0, 10, 99))]


def agree(candidates: list[Wanted], project: Path) -> Wanted:
    """The first of several requests, which the others must allow.

    Raises:
      UsageError: they contradict one another, or there is no such Python.
    """
    asked = [each for each in candidates if each.request]
    for each in asked:
        try:
            versions = allowed(each.request)
        except UsageError as error:
            raise UsageError(f"{project}: {each.source}: {error.message}", error.hint) from None
        if not set(versions) & set(allowed(asked[0].request)):
            raise UsageError(
                f"{project}: {asked[0].source} asks for Python {asked[0].request}, and "
                f"{each.source} for {each.request}"
                if each is not asked[0]
                else f"{project}: no version of Python satisfies {each.source}, {each.request}",
                "Change one of them.",
            )
    return asked[0] if asked else Wanted()


def environment(request: str, folder: str, venv: str) -> str:
    """The shell command that makes a virtual environment of the Python that is asked for.

    It is the base image's own Python if that is such a one. Otherwise uv downloads one.

    Args:
      request: see Wanted.
      folder: where a Python that is downloaded is installed.
      venv: where the environment is made; it sees the packages that its Python has.
    """
    log = "/tmp/python.log"
    make = f"uv venv --quiet --python {shlex.quote(request)} --system-site-packages {venv}"
    told = shlex.quote(f"error: the base image has no Python {request}, and uv could not get one")
    return (
        f"{{ {{ UV_PYTHON_INSTALL_DIR={folder} {make} 2> {log} && rm {log}; }} "
        f"|| {{ sed 's/^error: /uv: /' {log}; echo {told}; exit 1; }}; }}"
    )


def base_image(configured: str, mode: Mode, wanted: Wanted) -> tuple[str, Wanted]:
    """The base image, and the Python that must be installed into it unless it has that.

    The default one is taken in the version of Python that the project asks for, the default version
    if it allows that, and otherwise the newest.

    Args:
      configured: the base image, as far as the project's files play no part.
      mode: for CPU or GPU.
      wanted: the Python that the project asks for.
    """
    image, _, tag = configured.partition(":")
    default, _, flavour = tag.partition("-")
    if configured != DEFAULT_BASE_IMAGES[mode] or image != "python" or not wanted.request:
        return configured, wanted
    versions = [each for each in SUPPORTED if each in allowed(wanted.request)]
    if not versions:
        return configured, wanted
    version = default if default in versions else versions[-1]
    return f"{image}:{version}-{flavour}", Wanted()
