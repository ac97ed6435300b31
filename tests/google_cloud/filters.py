"""The filters of Google's list methods: labels.a=b AND (state="X" OR NOT display_name="y").

Two comparisons side by side mean AND. See https://google.aip.dev/160.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Test = Callable[[Mapping[str, Any]], bool]

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<bracket>[()])
    | (?P<word>AND|OR|NOT)(?=[\s(])
    | (?P<field>[\w./@-]+)\s*(?P<operator>!=|>=|<=|=|:|>|<)\s*
      (?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s()"]+))
    )""",
    re.VERBOSE,
)


class FilterError(ValueError):
    """A filter that cannot be."""


def parse(text: str, fields: re.Pattern[str]) -> Test:
    """Makes a test of a filter.

    Args:
      text: the filter; empty for everything.
      fields: which fields may be asked about.

    Raises:
      FilterError: it is none, or asks about others.
    """
    if not text.strip():
        return lambda item: True
    parser = _Parser(list(_tokens(text)), fields)
    test = parser.either()
    if parser.tokens:
        raise FilterError(f"unexpected '{parser.tokens[0].group().strip()}'")
    return test


def _tokens(text: str) -> Iterator[re.Match[str]]:
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if not match:
            raise FilterError(f"cannot read the filter at '{text[at : at + 20]}'")
        yield match
        at = match.end()


class _Parser:
    def __init__(self, tokens: list[re.Match[str]], fields: re.Pattern[str]) -> None:
        self.tokens = tokens
        self._fields = fields

    def either(self) -> Test:
        tests = [self._both()]
        while self._take("OR"):
            tests.append(self._both())
        return lambda item: any(test(item) for test in tests)

    def _both(self) -> Test:
        tests = [self._one()]
        while self.tokens and (self._take("AND") or self._next() not in ("OR", ")")):
            tests.append(self._one())
        return lambda item: all(test(item) for test in tests)

    def _one(self) -> Test:
        if self._take("NOT"):
            test = self._one()
            return lambda item: not test(item)
        if self._take("("):
            inner = self.either()
            if not self._take(")"):
                raise FilterError("a bracket is not closed")
            return inner
        if not self.tokens or not self.tokens[0]["field"]:
            raise FilterError("a comparison is missing")
        return self._comparison(self.tokens.pop(0))

    def _comparison(self, token: re.Match[str]) -> Test:
        field, operator = token["field"], token["operator"]
        if not self._fields.fullmatch(field):
            raise FilterError(f"'{field}' is not a field to filter by")
        quoted = token["quoted"]
        wanted = token["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)

        def test(item: Mapping[str, Any]) -> bool:
            found = _value(item, field)
            if operator == ":" and wanted == "*":
                return found is not None
            return found is not None and _COMPARE[operator](str(found), wanted)

        return test

    def _next(self) -> str:
        return self.tokens[0].group().strip()

    def _take(self, text: str) -> bool:
        if self.tokens and self._next() == text:
            self.tokens.pop(0)
            return True
        return False


_COMPARE: Mapping[str, Callable[[str, str], bool]] = {
    "=": lambda found, wanted: found == wanted,
    "!=": lambda found, wanted: found != wanted,
    ">": lambda found, wanted: found > wanted,
    ">=": lambda found, wanted: found >= wanted,
    "<": lambda found, wanted: found < wanted,
    "<=": lambda found, wanted: found <= wanted,
    ":": lambda found, wanted: wanted.replace("*", "") in found,
}


def _value(item: Mapping[str, Any], field: str) -> object:
    found: Any = item
    for part in field.split("."):
        camel = re.sub(r"_(\w)", lambda match: match[1].upper(), part)
        if not isinstance(found, Mapping):
            return None
        found = found.get(part, found.get(camel))
    return found
