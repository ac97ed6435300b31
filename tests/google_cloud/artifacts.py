"""Artifact Registry: the repositories that images are in. The images are a registry's matter."""

from __future__ import annotations

import re
from typing import Any

from tests.google_cloud.paging import page
from tests.google_cloud.server import ApiError, Call, Handler


class Artifacts:
    """The repositories of all projects.

    Attributes:
      repositories: by name.
      slow: how often the operation that makes one is asked for before it is done.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.slow = 0
        self._operations: dict[str, int] = {}

    @property
    def handlers(self) -> dict[str, Handler]:
        """What is served."""
        base = "projects.locations"
        return {
            f"{base}.repositories.create": self._create,
            f"{base}.repositories.get": self._get,
            f"{base}.repositories.list": self._list,
            f"{base}.operations.get": self._operation,
        }

    def _create(self, call: Call) -> dict[str, Any]:
        parent, wanted = call.path["parent"], call.query.get("repositoryId", "")
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", wanted):
            raise ApiError("INVALID_ARGUMENT", f"'{wanted}' is not an id of a repository")
        if call.body.get("format") != "DOCKER":
            raise ApiError("INVALID_ARGUMENT", "format is required")
        name = f"{parent}/repositories/{wanted}"
        if name in self.repositories:
            raise ApiError("ALREADY_EXISTS", "the repository already exists")
        self.repositories[name] = {**call.body, "name": name}
        operation = f"{parent}/operations/{len(self.repositories)}"
        self._operations[operation] = self.slow
        return self._state(operation)

    def _get(self, call: Call) -> dict[str, Any]:
        if call.path["name"] not in self.repositories:
            raise ApiError("NOT_FOUND", f"{call.path['name']} is not found")
        return self.repositories[call.path["name"]]

    def _list(self, call: Call) -> dict[str, Any]:
        parent = call.path["parent"] + "/"
        found = [each for name, each in self.repositories.items() if name.startswith(parent)]
        return page("repositories", found, call.query, 1000)

    def _operation(self, call: Call) -> dict[str, Any]:
        name = call.path["name"]
        if name not in self._operations:
            raise ApiError("NOT_FOUND", f"{name} is not found")
        return self._state(name)

    def _state(self, name: str) -> dict[str, Any]:
        left = self._operations[name]
        self._operations[name] = max(0, left - 1)
        return {"name": name, "done": True, "response": {}} if not left else {"name": name}
