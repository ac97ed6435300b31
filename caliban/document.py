"""Reads one document: JSON with comments or YAML, from a file or from stdin."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from caliban import terminal
from caliban.errors import UsageError

if TYPE_CHECKING:
    import yaml

_STDIN = "stdin"
_DEEPEST_YAML = 100

# No text makes these slow: what repeats is possessive, and an unterminated string is one as well,
# so that each character is looked at once.
_STRING = r'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"?'
_COMMENT = r"(?:#|//)[^\n]*+"

# What JSON does not have and people write; strings come first, so that nothing within them is.
_EXTRAS = rf"{_STRING}|{_COMMENT}|\f|,(?=(?:[ \t\r\n\f]|{_COMMENT})*+[\]}}])"

_TOKEN = rf"(?P<string>{_STRING})\s*(?P<colon>:)?|[{{}}]|[-+.\w]+"
_WORD = rf"{_STRING}|[-+.\w]+|\S"


def read(source: str) -> object:
    """Reads a document.

    JSON may have comments from `#` or `//` to the end of the line, a comma after the last item of
    a list or dict, and form feeds as white space. NaN, Infinity, numbers too large for a float,
    and a key that comes twice in one dict are refused. The text is UTF-8, or UTF-16 or UTF-32,
    with or without a byte order mark.

    Args:
      source: path of a file, `~` expanded; the word "stdin" in any case, or "-". Files that end in
        .yaml or .yml hold YAML, of which the safe subset is read; anything else is JSON.

    Returns:
      Dicts with strings as keys, lists, strings, ints, finite floats, bools and None; YAML has
      infinite floats, dates and some more types as well.

    Raises:
      UsageError: it cannot be read or parsed; the message names the file, the line, the column,
        what was found there, and what was expected.
    """
    if source.lower() == _STDIN or source == "-":
        source = _STDIN
    text = _decode(source, _bytes(source))
    if _is_yaml(source):
        return _parse_yaml(source, text)[0]
    return _parse_json(source, text)


def read_all(source: str) -> list[object]:
    """Reads the documents of a file; the same as `read`, but YAML may have several, or empty ones.

    Args:
      source: see `read`.

    Raises:
      UsageError: see `read`.
    """
    if not _is_yaml(source):
        return [read(source)]
    return _parse_yaml(source, _decode(source, _bytes(source)), has_several=True)


def _is_yaml(source: str) -> bool:
    return Path(source).suffix.lower() in (".yaml", ".yml")


def _bytes(source: str) -> bytes:
    try:
        if source != _STDIN:
            return Path(source).expanduser().read_bytes()
        if sys.stdin is None:
            raise UsageError("cannot read from stdin: it is closed")
        if sys.stdin.isatty():
            terminal.note("Reading from the terminal: end the document with Ctrl-D.")
        return sys.stdin.buffer.read()
    except OSError as error:
        raise UsageError(f"cannot read '{source}': {error.strerror}") from error
    except (RuntimeError, ValueError) as error:  # An unknown ~user, a NUL in the path.
        raise UsageError(f"cannot read '{source}': {error}") from error


def _decode(name: str, data: bytes) -> str:
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = data[error.start : error.start + 1].hex()
        raise UsageError(
            f"{name}:{line}: found byte 0x{found}, expected text in {encoding.upper()}"
        ) from error


# A line with such a word is not shown: a configuration may hold the password of a database.
_SECRET = "(?i)passw|secret|token"


def _error(name: str, text: str, at: int, problem: str) -> UsageError:
    """An error that shows the place `text[at]`."""
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    line = text.count("\n", 0, at) + 1
    message = f"{name}:{line}:{at - start + 1}: {problem}"
    first = max(start, at - 60)
    excerpt = text[first : min(at + 20, len(text) if end < 0 else end)]
    if excerpt.strip() and not re.search(_SECRET, text[start : len(text) if end < 0 else end]):
        excerpt = "".join(each if each.isprintable() else " " for each in excerpt).rstrip()
        message += f"\n  {excerpt}\n  {' ' * (at - first)}^"
    return UsageError(message)


class _Refused(ValueError):  # noqa: N818 - caught here, always.
    """Raised by the JSON decoder's hooks, which don't know where in the text they are.

    Attributes:
      expected: what would be right.
      find: finds what is wrong in a text without comments.
    """

    def __init__(self, expected: str, find: Callable[[str], int]) -> None:
        super().__init__(expected)
        self.expected = expected
        self.find = find


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise _Refused("a key that this dict does not have already", _find_repeated_key)
    return result


def _finite(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):
        pattern = re.escape(literal)
        raise _Refused("a number that fits a float", lambda text: _find(text, pattern))
    return number


def _no_constant(literal: str) -> NoReturn:
    raise _Refused("a finite number", lambda text: _find(text, literal))


_JSON = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant
)

# The decoder's own messages that are better said with what was found.
_EXPECTED = {
    "Expecting value": "a value",
    "Expecting property name enclosed in double quotes": "a key in double quotes",
    "Expecting ':' delimiter": "':'",
    "Expecting ',' delimiter": "',' or a closing bracket",
    "Extra data": "the end of the document",
}


def _parse_json(name: str, text: str) -> object:
    try:
        try:
            return _JSON.decode(text)
        except json.JSONDecodeError:
            # Most documents have no comments, and taking them out costs more than decoding.
            return _JSON.decode(_without_extras(text))
    except json.JSONDecodeError as error:
        if error.msg in _EXPECTED:
            raise _unexpected(name, text, error.pos, _EXPECTED[error.msg]) from None
        problem = re.sub(" at$", " here", error.msg[0].lower() + error.msg[1:])
        raise _error(name, text, error.pos, problem) from None
    except _Refused as error:
        at = error.find(_without_extras(text))
        raise _unexpected(name, text, at, error.expected) from None
    except RecursionError:
        raise UsageError(f"{name}: has too many lists and dicts within one another") from None
    except ValueError:  # From int(), which takes quadratic time for long ones and so has a limit.
        longest = sys.get_int_max_str_digits()
        at = _find(_without_extras(text), rf"-?\d{{{longest + 1},}}")
        raise _unexpected(name, text, at, f"an int of at most {longest} digits") from None


def _without_extras(text: str) -> str:
    """Blanks out comments and trailing commas, so that all the rest stays at its place."""
    return re.sub(
        _EXTRAS, lambda match: match[0] if match[0].startswith('"') else " " * len(match[0]), text
    )


def _unexpected(name: str, text: str, at: int, expected: str) -> UsageError:
    """An error about the word at `text[at]`, or the first one after it."""
    match = re.compile(_WORD).search(_without_extras(text), at)
    found = "the end of the document" if match is None else match[0]
    found = found if len(found) <= 40 else f"{found[:37]}..."
    at = match.start() if match else len(text)
    return _error(name, text, at, f"found {found}, expected {expected}")


def _find(text: str, pattern: str) -> int:
    """The place of the first token, not within a string, that is what the pattern says."""
    tokens = (match for match in re.finditer(_TOKEN, text) if re.fullmatch(pattern, match[0]))
    return next((match.start() for match in tokens), 0)


def _find_repeated_key(text: str) -> int:
    """The place of the first key that its dict has already."""
    scopes: list[set[str]] = []
    for match in re.finditer(_TOKEN, text):
        if match[0] == "{":
            scopes.append(set())
        elif match[0] == "}":
            scopes.pop()
        elif match["colon"]:
            key = json.loads(match["string"])
            if key in scopes[-1]:
                return match.start()
            scopes[-1].add(key)
    return 0


def _parse_yaml(name: str, text: str, has_several: bool = False) -> list[object]:
    """The documents of a text: one that is not empty or, with `has_several`, those that are not."""
    import yaml

    try:
        _limit_depth(text)
        loader = _strict_loader()
        documents: list[object] = (
            [each for each in yaml.load_all(text, Loader=loader) if each is not None]
            if has_several
            else [yaml.load(text, Loader=loader)]
        )
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(filter(None, (error.context, error.problem)))
        mark = error.problem_mark or error.context_mark
        raise _error(name, text, mark.index if mark else 0, problem) from None
    except yaml.reader.ReaderError:
        match = yaml.reader.Reader.NON_PRINTABLE.search(text)
        problem = f"found {ascii(match[0]) if match else 'a character'}, which YAML does not allow"
        raise _error(name, text, match.start() if match else 0, problem) from None
    if not documents or documents == [None]:
        raise UsageError(f"{name}: is empty")
    return documents


def _limit_depth(text: str) -> None:
    """Refuses deep nesting, at which LibYAML's loader would overflow the C stack."""
    import yaml

    depth = 0
    events: Iterator[Any] = yaml.parse(text, Loader=_safe_loader())
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST_YAML:
            problem = f"found more than {_DEEPEST_YAML} lists and dicts within one another"
            raise yaml.constructor.ConstructorError(None, None, problem, event.start_mark)


def _safe_loader() -> Any:
    """LibYAML's safe loader, several times as fast, where there is one."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _strict_loader() -> Any:
    """A safe loader that refuses repeated keys, keys that are no strings, and endless nesting."""
    import yaml

    def refuse(node: yaml.Node, problem: str) -> NoReturn:
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    def describe(node: yaml.Node) -> str:
        return node.value[:40] if isinstance(node, yaml.ScalarNode) else "a list or dict"

    checked: set[yaml.Node] = set()

    class Loader(_safe_loader()):  # type: ignore[misc]
        def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
            try:
                return super().construct_object(node, deep)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                # The constructors let these out: a month 13, an int of 5000 digits.
                refuse(
                    node, f"found {describe(node)}, expected a valid {node.tag.rpartition(':')[2]}"
                )

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            # This puts the entries of `<<: *other` into the node: before, it has only its own.
            if node not in checked:
                checked.add(node)
                self.check_keys(node)
            super().flatten_mapping(node)

        def check_keys(self, node: yaml.MappingNode) -> None:
            keys: set[str] = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, str):
                    found = f"found {describe(key_node)} as a key"
                    refuse(key_node, f"{found}, expected a string: put it in quotes")
                if key in keys:
                    refuse(key_node, f"found the key {json.dumps(key)} twice in one dict")
                keys.add(key)

    # With deep=True a node within itself is an error; otherwise it makes an endless document.
    for tag, construct in (("map", Loader.construct_mapping), ("seq", Loader.construct_sequence)):
        Loader.add_constructor(f"tag:yaml.org,2002:{tag}", partial(construct, deep=True))
    return Loader
