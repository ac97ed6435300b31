"""What to execute: a Python module, a Python file, or a shell script."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from caliban.errors import UsageError


class Kind(enum.Enum):
    """How the code is started."""

    PYTHON_MODULE = "python module"
    PYTHON_FILE = "python file"
    SHELL_SCRIPT = "shell script"


@dataclass(frozen=True)
class Module:
    """Code to execute, relative to the project directory.

    Attributes:
      kind: how it is started.
      name: dotted name of a Python module, otherwise the path of the file.
      copied: the directory or file that is copied into the image: the top folder that the code
        lives in, or "." for code at the root of the project. It is "src" for a module in there,
        which Python finds once the project is installed.
    """

    kind: Kind
    name: str
    copied: str

    @property
    def command(self) -> tuple[str, ...]:
        """The argv that starts the code; the job's own arguments follow it."""
        if self.kind is Kind.PYTHON_MODULE:
            return ("python", "-m", self.name)
        if self.kind is Kind.PYTHON_FILE:
            return ("python", self.name)
        return ("/bin/bash", self.name)

    @property
    def files(self) -> tuple[str, ...]:
        """The paths that its own file may have: it is the first of these that there is."""
        if self.kind is not Kind.PYTHON_MODULE:
            return (self.name,)
        return tuple(map(str, _candidates(self.name)))

    @property
    def is_python(self) -> bool:
        """Whether it needs a Python interpreter."""
        return self.kind is not Kind.SHELL_SCRIPT


def find(argument: str, project: Path) -> Module:
    """Finds the code that a command line's `module` argument means.

    An existing file comes first: `trainer/train.py` is run as a Python file, any other file by
    bash. Otherwise the argument is a dotted module name, of a module in the project or in its
    folder src.

    Args:
      argument: what the user wrote: "trainer.train", "trainer/train.py", "script.sh", "mycode".
      project: the directory it is relative to.

    Raises:
      UsageError: nothing there, or it lies outside the project.
    """
    path = _inside(argument, project)
    if (project / path).is_file():
        kind = Kind.PYTHON_FILE if path.suffix == ".py" else Kind.SHELL_SCRIPT
        return Module(kind, str(path), _top(path))
    return Module(Kind.PYTHON_MODULE, argument, _top(_module_file(argument, project)))


def _inside(argument: str, project: Path) -> PurePosixPath:
    """The argument as a path relative to the project."""
    hint = f"The code must live inside the current directory, {project}."
    if not argument.strip():
        raise UsageError("the module to run is empty", hint)
    path = PurePosixPath(argument)
    if path.is_absolute():
        raise UsageError(f"'{argument}' is an absolute path", hint)
    parts: list[str] = []
    for part in path.parts:
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            raise UsageError(f"'{argument}' lies outside the project", hint)
    return PurePosixPath(*parts)


def _module_file(name: str, project: Path) -> PurePosixPath:
    """The file of a Python module: `a.b` is a/b.py, or the package a/b with a __main__.py."""
    parts = name.split(".")
    if parts[-1] != "py" and all(part.isidentifier() for part in parts):
        base = PurePosixPath(*parts)
        for candidate in _candidates(name):
            if (project / candidate).is_file():
                return candidate
        if (project / base).is_dir():
            raise UsageError(
                f"'{name}' is a package without a __main__.py",
                f"Name a module in it, as in '{name}.train', or add {base}/__main__.py.",
            )
        missing = f"neither a file '{name}' nor a Python module '{base}.py' exists"
    else:
        missing = f"no file '{name}' exists"
    raise UsageError(
        f"{missing} in {project}",
        "Name the code to run as 'trainer.train', 'trainer/train.py' or 'script.sh'.",
    )


def _candidates(name: str) -> Iterator[PurePosixPath]:
    """The files that a Python module may be, in the order in which they are looked for."""
    for folder in ("", "src"):
        base = PurePosixPath(folder, *name.split("."))
        yield from (base.with_suffix(".py"), base / "__main__.py")


def _top(path: PurePosixPath) -> str:
    return path.parts[0] if len(path.parts) > 1 else "."
