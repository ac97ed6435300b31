"""A lock: the versions of the Python packages of an image, as a requirements file with hashes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PYTHON, _DECLARATION = "# Python ", "# Resolved from "

# The line of a package: numpy==2.1.0 \, or metrics @ git+https://host/metrics@5e1f...
_PACKAGE = re.compile(r"([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?\s*(?:==\s*([^\s;\\]+)|@\s*([^\s;\\]+))")


@dataclass(frozen=True)
class Lock:
    """The versions that a declaration was resolved to.

    Attributes:
      python: the version of Python that they are for: "3.12".
      declaration: digest of what they were resolved from, see docker.lock.declaration.
      packages: the lines of the requirements file.
    """

    python: str
    declaration: str
    packages: str

    @classmethod
    def parse(cls, text: str) -> Lock:
        """Reads what `str` wrote."""
        lines = text.splitlines(keepends=True)
        python, declaration = (line.rpartition(" ")[2].strip() for line in (*lines, "", "")[:2])
        return cls(python, declaration, "".join(lines[2:]))

    def __str__(self) -> str:
        """The text by which an ImagePlan and the history know it."""
        head = f"{_PYTHON}{self.python}\n{_DECLARATION}{self.declaration}\n"
        return head + self.packages

    @property
    def installed(self) -> str:
        """The file that is installed from: the same for all declarations with these versions."""
        return f"{_PYTHON}{self.python}\n{self.packages}"

    @property
    def versions(self) -> dict[str, str]:
        """The version of each package, or where it comes from, by its name."""
        matches = (_PACKAGE.match(line) for line in self.packages.splitlines())
        return {match[1]: match[2] or match[3] for match in matches if match}


def changes(before: Lock, after: Lock) -> Iterator[str]:
    """What has changed in a lock, a line for each package: "numpy 2.1.0 -> 2.2.0"."""
    old, new = before.versions, after.versions
    if before.python != after.python:
        yield f"Python {before.python} -> {after.python}"
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            yield f"{name} {new[name]}, which is new"
        elif name not in new:
            yield f"{name} {old[name]}, which is not needed any more"
        elif old[name] != new[name]:
            yield f"{name} {old[name]} -> {new[name]}"
