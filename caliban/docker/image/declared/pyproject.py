"""What a pyproject.toml declares, and other files in TOML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caliban.docker.image.declared import requirements
from caliban.errors import UsageError

NAME = "pyproject.toml"

# Of a project whose dependencies are not listed but made by its build backend.
_MADE_BY_BACKEND = ("dependencies", "optional-dependencies")


@dataclass(frozen=True)
class Pyproject:
    """A pyproject.toml; without one, all is empty.

    Attributes:
      path: where it is.
      content: what it holds, checked as far as the properties need it.
    """

    path: Path
    content: Mapping[str, Any]

    @property
    def project(self) -> Mapping[str, Any]:
        """The table [project]."""
        return table(self.path, self.content, "project")

    @property
    def poetry(self) -> Mapping[str, Any]:
        """The table [tool.poetry]."""
        return self._tool("poetry")

    @property
    def is_poetry_only(self) -> bool:
        """Whether the dependencies are declared as only poetry reads them."""
        return "project" not in self.content and "dependencies" in self.poetry

    @property
    def declares(self) -> bool:
        """Whether it declares a project, not just settings of tools."""
        return "project" in self.content or self.is_poetry_only or "metadata" in self._tool("flit")

    @property
    def is_made_by_backend(self) -> bool:
        """Whether the build backend must be asked for the dependencies."""
        dynamic = texts(self.path, self.project, "dynamic", "project.dynamic")
        return "project" not in self.content or any(each in dynamic for each in _MADE_BY_BACKEND)

    @property
    def is_package(self) -> bool:
        """Whether there is a build backend, with which the project itself can be installed."""
        wanted = self._tool("uv").get("package", self.poetry.get("package-mode"))
        return "build-system" in self.content if wanted is None else bool(wanted)

    @property
    def has_entry_points(self) -> bool:
        """Whether it declares commands, or other things that only exist once it is installed."""
        keys = ("scripts", "gui-scripts", "entry-points", "plugins")
        return any(each.get(key) for key in keys for each in (self.project, self.poetry))

    @property
    def extras(self) -> set[str] | None:
        """The names of its optional sets of dependencies; None where only the backend knows."""
        dynamic = texts(self.path, self.project, "dynamic", "project.dynamic")
        if "optional-dependencies" in dynamic:
            made = self._tool("setuptools").get("dynamic", {}).get("optional-dependencies")
            return set(made) if isinstance(made, dict) else None
        listed = self._table_of_lists(self.project, "optional-dependencies", "project.")
        return {*listed, *table(self.path, self.poetry, "extras", "tool.poetry.")}

    @property
    def groups(self) -> set[str]:
        """The names of its dependency groups."""
        found = {*table(self.path, self.content, "dependency-groups")}
        found |= {*table(self.path, self.poetry, "group", "tool.poetry.")}
        if "dev-dependencies" in {**self.poetry, **self._tool("uv")}:
            found.add("dev")
        return found

    @property
    def requires_python(self) -> str:
        """The versions of Python that it is for: ">=3.10"; "" if it does not say so."""
        value = self.project.get("requires-python")
        if value is None:
            found = table(self.path, self.poetry, "dependencies", "tool.poetry.").get("python", "")
            return _of_poetry(found) if isinstance(found, str) else ""
        if not isinstance(value, str):
            raise UsageError(
                f"{self.path}: 'project.requires-python' must be a string, found {value!r}",
                'For example: requires-python = ">=3.10"',
            )
        return value

    def lines(self, extras: Sequence[str], groups: Sequence[str]) -> Iterator[str]:
        """The requirements that it lists, with those of some optional sets.

        Raises:
          UsageError: they are no lists of strings.
        """
        yield from texts(self.path, self.project, "dependencies", "project.dependencies")
        optional = self._table_of_lists(self.project, "optional-dependencies", "project.")
        for name in extras:
            yield from optional.get(name, ())
        yield from self._members(groups, set())

    def sources(self) -> Iterator[tuple[str, str, bool]]:
        """The packages that [tool.uv.sources] finds in the project: name, path, if editable."""
        uv = self._tool("uv")
        for name, value in table(self.path, uv, "sources", "tool.uv.").items():
            for source in value if isinstance(value, list) else [value]:
                if isinstance(source, dict) and isinstance(source.get("path"), str):
                    yield name, source["path"], bool(source.get("editable"))

    @property
    def members(self) -> Sequence[str]:
        """The patterns of the paths of [tool.uv.workspace]'s members."""
        workspace = table(self.path, self._tool("uv"), "workspace", "tool.uv.")
        return texts(self.path, workspace, "members", "tool.uv.workspace.members")

    def _members(self, groups: Sequence[str], seen: set[str]) -> Iterator[str]:
        declared = table(self.path, self.content, "dependency-groups")
        for name in groups:
            if name in seen or name not in declared:
                continue
            seen.add(name)
            key = f"dependency-groups.{name}"
            if not isinstance(declared[name], list):
                raise UsageError(f"{self.path}: '{key}' must be a list, found {declared[name]!r}")
            for each in declared[name]:
                included = each.get("include-group") if isinstance(each, dict) else None
                if isinstance(each, str):
                    yield each
                elif isinstance(included, str) and included in declared:
                    yield from self._members([included], seen)
                else:
                    raise UsageError(
                        f"{self.path}: '{key}' holds {each!r}, expected a requirement or "
                        '{include-group = "NAME"} with the name of another group'
                    )

    def _tool(self, name: str) -> Mapping[str, Any]:
        return table(self.path, table(self.path, self.content, "tool"), name, "tool.")

    def _table_of_lists(
        self, content: Mapping[str, Any], key: str, within: str
    ) -> Mapping[str, Sequence[str]]:
        found = table(self.path, content, key, within)
        return {name: texts(self.path, found, name, f"{within}{key}.{name}") for name in found}


def read(project: Path) -> Pyproject:
    """Reads the pyproject.toml of a directory.

    Raises:
      UsageError: it is no TOML.
    """
    path = project / NAME
    return Pyproject(path, toml(path) if path.is_file() else {})


def toml(path: Path) -> dict[str, Any]:
    """Reads a file in TOML.

    Raises:
      UsageError: it cannot be read, or is no TOML.
    """
    import tomllib

    try:
        return tomllib.loads(requirements.text(path))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def table(path: Path, content: Mapping[str, Any], key: str, within: str = "") -> Mapping[str, Any]:
    """A table of a TOML file; empty if it is not there.

    Args:
      path: the file, for messages.
      content: what holds it.
      key: its name there.
      within: what stands before that name in messages, "tool.".

    Raises:
      UsageError: it is no table.
    """
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise UsageError(f"{path}: '{within}{key}' must be a table, found {value!r}")
    return value


def texts(path: Path, content: Mapping[str, Any], key: str, name: str) -> Sequence[str]:
    """A list of strings of a TOML file; empty if it is not there.

    Args:
      path: the file, for messages.
      content: what holds it.
      key: its name there.
      name: its whole name, for messages.

    Raises:
      UsageError: it is none.
    """
    value = content.get(key, [])
    if not isinstance(value, list):
        raise UsageError(f"{path}: '{name}' must be a list of strings, found {value!r}")
    for each in value:
        if not isinstance(each, str):
            raise UsageError(f"{path}: '{name}' must be a list of strings, it holds {each!r}")
    return value


def _of_poetry(constraint: str) -> str:
    """A version constraint of poetry's as everybody else writes it; "" where that can't be."""
    clauses: list[str] = []
    for clause in constraint.split(","):
        match = re.fullmatch(r"\s*(\^|~=?|)\s*(\d+)(?:\.(\d+))?([\d.]*)(\.?\*)?\s*", clause)
        if match is None or match[1] == "~=":
            clauses.append(clause.strip())
            continue
        operator, major, minor, rest, _ = match.groups()
        version = f"{major}.{minor or 0}{rest}"
        if operator == "^":
            clauses.append(f">={version},<{int(major) + 1}")
        elif operator == "~" and minor:
            clauses.append(f">={version},<{major}.{int(minor) + 1}")
        else:
            clauses.append(f"=={major}.{minor}.*" if minor else f"=={major}.*")
    return "" if "|" in constraint or constraint.strip() == "*" else ",".join(clauses)
