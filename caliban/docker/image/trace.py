"""What BuildKit tells of a build by the engine's API, in the lines that `docker build` prints."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

# Numbers of fields in buildkit/api/services/control/control.proto: StatusResponse, Vertex and
# VertexLog; and in google/protobuf/timestamp.proto.
_VERTEXES, _LOGS = 1, 3
_DIGEST, _NAME, _CACHED, _STARTED, _COMPLETED, _ERROR = 1, 3, 4, 5, 6, 7
_LOG_VERTEX, _LOG_TIME, _LOG_TEXT = 1, 2, 4
_SECONDS, _NANOSECONDS = 1, 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass
class _Step:
    """What has been said of a step so far.

    Attributes:
      number: by which its lines are told from those of others.
      started: when, in seconds.
      partial: the beginning of a line that it has printed.
      has_ended: whether all has been said.
    """

    number: int
    started: float
    partial: bytes = b""
    has_ended: bool = False


class Trace:
    """The messages of one build."""

    def __init__(self) -> None:
        """Of which none has come yet."""
        self._steps: dict[bytes, _Step] = {}

    def lines(self, message: bytes) -> Iterator[bytes]:
        """The lines, without their ends, that a message makes.

        Args:
          message: a serialized StatusResponse.

        Raises:
          ValueError: it is none.
        """
        logs: dict[bytes, list[dict[int, int | bytes]]] = {}
        steps = []
        for number, value in _fields(message):
            if number == _VERTEXES and isinstance(value, bytes):
                steps.append(dict(_fields(value)))
            elif number == _LOGS and isinstance(value, bytes):
                log = dict(_fields(value))
                logs.setdefault(_bytes(log, _LOG_VERTEX), []).append(log)
        for each in steps:
            # A busy engine tells of a step, of what it printed, and of its end in one message.
            yield from self._begin(each)
            for log in logs.pop(_bytes(each, _DIGEST), ()):
                yield from self._log(log)
            yield from self._end(each)
        for log in itertools.chain(*logs.values()):
            yield from self._log(log)

    def _begin(self, fields: dict[int, int | bytes]) -> Iterator[bytes]:
        key = _bytes(fields, _DIGEST)
        if _STARTED in fields and key not in self._steps:
            step = self._steps[key] = _Step(len(self._steps) + 1, _time(_bytes(fields, _STARTED)))
            yield b"#%d %s" % (step.number, _bytes(fields, _NAME))

    def _end(self, fields: dict[int, int | bytes]) -> Iterator[bytes]:
        step = self._steps.get(_bytes(fields, _DIGEST))
        if step is None or _COMPLETED not in fields or step.has_ended:
            return
        step.has_ended = True
        if step.partial:
            yield step.partial
        if error := _bytes(fields, _ERROR):
            yield b"#%d ERROR: %s" % (step.number, error)
        elif fields.get(_CACHED):
            yield b"#%d CACHED" % step.number
        else:
            seconds = _time(_bytes(fields, _COMPLETED)) - step.started
            yield b"#%d DONE %.1fs" % (step.number, seconds)

    def _log(self, fields: dict[int, int | bytes]) -> Iterator[bytes]:
        step = self._steps.get(_bytes(fields, _LOG_VERTEX))
        if step is None:
            return
        seconds = _time(_bytes(fields, _LOG_TIME)) - step.started
        *lines, rest = _bytes(fields, _LOG_TEXT).split(b"\n")
        for line in lines:
            yield (step.partial or b"#%d %.3f " % (step.number, seconds)) + line
            step.partial = b""
        if rest:
            step.partial = (step.partial or b"#%d %.3f " % (step.number, seconds)) + rest


def _bytes(fields: dict[int, int | bytes], number: int) -> bytes:
    value = fields.get(number, b"")
    return value if isinstance(value, bytes) else b""


def _time(timestamp: bytes) -> float:
    fields = dict(_fields(timestamp))
    return int(fields.get(_SECONDS, 0)) + int(fields.get(_NANOSECONDS, 0)) / 1e9


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in Protocol Buffers' format, with their numbers."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a message of BuildKit has a field of the unknown kind {kind}")
        if at + size > len(message):
            raise ValueError("a message of BuildKit is cut off")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next field begins."""
    value = shift = 0
    while at < len(message):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
    raise ValueError("a message of BuildKit is cut off")
