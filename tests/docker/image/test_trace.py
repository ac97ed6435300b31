"""What BuildKit tells of a build becomes the lines that `docker build` prints."""

from __future__ import annotations

import itertools

import pytest

from caliban.docker.image.trace import Trace


def field(number: int, value: int | bytes) -> bytes:
    """A field of a message in Protocol Buffers' format."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7)


def time(seconds: int, nanoseconds: int = 0) -> bytes:
    return field(1, seconds) + field(2, nanoseconds)


def vertex(name: str, *more: bytes) -> bytes:
    return field(1, field(1, name.encode()) + field(3, name.encode()) + b"".join(more))


def log(name: str, text: str, seconds: int) -> bytes:
    said = (field(1, name.encode()), field(2, time(seconds, 250_000_000)), field(3, 1))
    return field(3, b"".join([*said, field(4, text.encode())]))


def lines(*messages: bytes) -> list[str]:
    trace = Trace()
    return [each.decode() for message in messages for each in trace.lines(message)]


BEGUN, ENDED = field(5, time(1_800_000_000)), field(6, time(1_800_000_002, 500_000_000))


def test_each_step_has_a_number_and_an_end() -> None:
    found = lines(
        vertex("[1/2] FROM base") + vertex("[2/2] RUN make"),
        vertex("[1/2] FROM base", field(4, 1), BEGUN, ENDED),
        vertex("[2/2] RUN make", BEGUN),
        log("[2/2] RUN make", "compi", 1_800_000_001),
        log("[2/2] RUN make", "led\nlinked\n", 1_800_000_002),
        vertex("[2/2] RUN make", BEGUN, ENDED),
        vertex("[2/2] RUN make", BEGUN, ENDED),
    )
    assert found == [
        *("#1 [1/2] FROM base", "#1 CACHED"),
        *("#2 [2/2] RUN make", "#2 1.250 compiled", "#2 2.250 linked", "#2 DONE 2.5s"),
    ]


def test_a_failure_comes_after_all_that_the_step_has_printed() -> None:
    failed = vertex("[1/1] RUN false", BEGUN, ENDED, field(7, b"exit code: 1"))
    begun = vertex("[1/1] RUN false", BEGUN)
    found = lines(begun, log("[1/1] RUN false", "no end of line", 1_800_000_000), failed)
    assert found[1:] == ["#1 0.250 no end of line", "#1 ERROR: exit code: 1"]


def test_a_busy_engine_tells_all_of_a_step_in_one_message() -> None:
    failed = vertex("[2/2] RUN false", BEGUN, ENDED, field(7, b"exit code: 1"))
    said = log("[2/2] RUN false", "why\n", 1_800_000_001)
    found = lines(vertex("[1/2] RUN true", BEGUN, ENDED, field(4, 1)) + failed + said)
    assert found == [
        *("#1 [1/2] RUN true", "#1 CACHED"),
        *("#2 [2/2] RUN false", "#2 1.250 why", "#2 ERROR: exit code: 1"),
    ]


def test_what_newer_versions_say_besides_is_passed_over() -> None:
    more = field(9, b"new") + field(300, 1 << 40) + varint(10 << 3 | 1) + b"\0" * 8
    assert lines(more + field(2, b""), vertex("x", BEGUN, more)) == ["#1 x"]


@pytest.mark.parametrize("message", [b"\x0a\x7fshort", b"\x0b", b"\xff"])
def test_what_is_no_message_is_an_error(message: bytes) -> None:
    with pytest.raises(ValueError, match="BuildKit"):
        list(itertools.chain(Trace().lines(message)))
