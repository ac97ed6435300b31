"""Holds JSON to the schemas of a discovery document, more strictly than Google does itself.

Google accepts "3" for 3, names of fields in snake_case, and fields that it will ignore. A body that
is right here is right there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Violation:
    """What is wrong with a field."""

    field: str
    description: str


_INTEGERS = {
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
}
_FORMATS = {
    "google-duration": re.compile(r"-?\d+(\.\d{1,9})?s"),
    "google-datetime": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"),
    "google-fieldmask": re.compile(r"[\w.*]+(,[\w.*]+)*"),
    "byte": re.compile(r"[A-Za-z0-9+/_-]*={0,2}"),
}


@dataclass(frozen=True)
class Schemas:
    """The schemas of an API, by name."""

    by_name: Mapping[str, Any]

    def request(self, name: str, value: object) -> list[Violation]:
        """What is wrong with the body of a request."""
        return list(self._check({"$ref": name}, value, "", is_request=True))

    def response(self, name: str, value: object) -> list[Violation]:
        """What is wrong with an answer, which may have fields that no request has."""
        return list(self._check({"$ref": name}, value, "", is_request=False))

    def _check(
        self, schema: Mapping[str, Any], value: object, field: str, is_request: bool
    ) -> Iterator[Violation]:
        if "$ref" in schema:
            schema = self.by_name[schema["$ref"]]
        kind = schema.get("type", "any")
        if kind == "any":
            return
        if kind == "object":
            yield from self._object(schema, value, field, is_request)
        elif kind == "array":
            if not isinstance(value, list):
                yield Violation(field, f"expected a list, found {_found(value)}")
                return
            for index, each in enumerate(value):
                yield from self._check(schema["items"], each, f"{field}[{index}]", is_request)
        elif problem := _scalar(schema, value):
            yield Violation(field, problem)

    def _object(
        self, schema: Mapping[str, Any], value: object, field: str, is_request: bool
    ) -> Iterator[Violation]:
        if not isinstance(value, dict):
            yield Violation(field, f"expected an object, found {_found(value)}")
            return
        known = schema.get("properties", {})
        others = schema.get("additionalProperties")
        for key, each in value.items():
            inner = f"{field}.{key}" if field else key
            if key not in known:
                if others is None:
                    yield Violation(inner, f'Unknown name "{key}": Cannot find field.')
                else:
                    yield from self._check(others, each, inner, is_request)
                continue
            if is_request and known[key].get("readOnly"):
                yield Violation(inner, "the field is output only")
            if is_request and known[key].get("deprecated"):
                yield Violation(inner, "the field is deprecated")
            yield from self._check(known[key], each, inner, is_request)


def parameter(schema: Mapping[str, Any], text: str) -> str:
    """What is wrong with a parameter of a query; "" if nothing is."""
    value: object = text
    if schema["type"] == "integer" and re.fullmatch(r"-?\d+", text):
        value = int(text)
    elif schema["type"] == "boolean" and text in ("true", "false"):
        value = text == "true"
    return _scalar(schema, value)


def _scalar(schema: Mapping[str, Any], value: object) -> str:
    """What is wrong with a value that is no object and no list; "" if nothing is."""
    kind, form = schema["type"], schema.get("format", "")
    wrong = f"expected {form or kind}, found {_found(value)}"
    if kind == "boolean":
        return "" if isinstance(value, bool) else wrong
    if kind == "integer":
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        return "" if is_integer and _in_range(form, value) else wrong
    if kind == "number":
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if is_number else wrong
    if not isinstance(value, str):
        return wrong
    if "enum" in schema:
        return _enum(schema, value)
    if form in _INTEGERS:
        return "" if re.fullmatch(r"-?\d+", value) and _in_range(form, int(value)) else wrong
    if form in _FORMATS and not _FORMATS[form].fullmatch(value):
        return wrong
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        return f"expected {schema['pattern']}, found {_found(value)}"
    return ""


def _enum(schema: Mapping[str, Any], value: str) -> str:
    if value not in schema["enum"]:
        return f"expected one of {', '.join(schema['enum'])}, found {_found(value)}"
    old = schema.get("enumDeprecated", [False] * len(schema["enum"]))
    return f"{value} is deprecated" if old[schema["enum"].index(value)] else ""


def _in_range(form: str, value: object) -> bool:
    least, most = _INTEGERS[form]
    return isinstance(value, int) and least <= value <= most


def _found(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
