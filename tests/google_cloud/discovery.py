"""What Google's APIs take and return, by the documents that google-api-python-client ships."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.google_cloud.schema import Schemas


@functools.cache
def document(api: str, version: str) -> dict[str, Any]:
    """The document of an API, as its JSON."""
    import googleapiclient

    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    found: dict[str, Any] = json.loads((folder / f"{api}.{version}.json").read_text())
    return found


@dataclass(frozen=True)
class Method:
    """A method of an API.

    Attributes:
      id: as in "aiplatform.projects.locations.customJobs.create".
      verb: of HTTP.
      path: which paths mean it; what its groups match are its parameters of the path.
      query: its other parameters.
      request: name of the schema of its body; "" without one.
      response: name of the schema of its answer.
      schemas: of its API.
    """

    id: str
    verb: str
    path: re.Pattern[str]
    query: Mapping[str, Any]
    request: str
    response: str
    schemas: Schemas

    @property
    def name(self) -> str:
        """The last two parts of the id, as in "customJobs.create"."""
        return ".".join(self.id.split(".")[-2:])


@functools.cache
def methods(api: str, version: str) -> tuple[Method, ...]:
    """All methods of an API."""
    found = document(api, version)
    schemas = Schemas(found["schemas"])
    return tuple(_method(each, found, schemas) for each in _walk(found))


def _walk(resource: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from resource.get("methods", {}).values()
    for each in resource.get("resources", {}).values():
        yield from _walk(each)


def _method(found: Mapping[str, Any], api: Mapping[str, Any], schemas: Schemas) -> Method:
    parameters = {**api["parameters"], **found.get("parameters", {})}
    return Method(
        id=found["id"],
        verb=found["httpMethod"],
        path=_pattern(found, parameters),
        query={key: each for key, each in parameters.items() if each["location"] == "query"},
        request=found.get("request", {}).get("$ref", ""),
        response=found.get("response", {}).get("$ref", ""),
        schemas=schemas,
    )


def _pattern(found: Mapping[str, Any], parameters: Mapping[str, Any]) -> re.Pattern[str]:
    """Turns "v1/{+parent}/customJobs" into a regular expression with a group `parent`."""
    text = ""
    for part in re.split(r"(\{\+?\w+\})", found["path"]):
        if not part.startswith("{"):
            text += re.escape(part)
            continue
        name = part.strip("{+}")
        inner = parameters[name].get("pattern", "^[^/]+$").removeprefix("^").removesuffix("$")
        text += f"(?P<{name}>{re.sub(r'[(](?![?])', '(?:', inner)})"
    return re.compile(text)
