"""Documents: which are read, with which values, and what is said about the others."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caliban import document
from caliban.errors import UsageError

with warnings.catch_warnings(action="ignore"):  # Its parser uses modules that Python will drop.
    import commentjson


def read(content: str | bytes, name: str = "exp.json") -> object:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return document.read(name)


def problem(content: str | bytes, name: str = "exp.json") -> str:
    with pytest.raises(UsageError) as caught:
        read(content, name)
    assert caught.value.exit_code == 2
    return caught.value.message


# --- JSON with comments, measured against commentjson ---

SPACE = st.sampled_from(
    [
        "",
        "",
        "",
        " ",
        "\n",
        "\t",
        "\r\n",
        "\f",
        " # x\n",
        "// x\r\n",
        '#"\n',
        "//,]\n",
        "# a // b\n",
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    | st.sampled_from(["#", "//", "a // b", ",]", "\\", '"', '\\"#', "\u2028"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@st.composite
def commented(draw: st.DrawFn) -> str:
    """A document with white space and comments between all tokens, and trailing commas."""

    def written(value: Any) -> str:
        if not isinstance(value, list | dict):
            return json.dumps(value, ensure_ascii=draw(st.booleans()))
        if isinstance(value, list):
            items = [written(each) for each in value]
            opening, closing = "[]"
        else:
            items = [f"{json.dumps(k)}{draw(SPACE)}:{written(v)}" for k, v in value.items()]
            opening, closing = "{}"
        comma = draw(st.sampled_from(["", "", ","]))
        inside = f"{draw(SPACE)},{draw(SPACE)}".join(items) + draw(SPACE) + comma
        return opening + draw(SPACE) + inside + draw(SPACE) + closing + draw(SPACE)

    text = draw(SPACE) + written(draw(VALUES)) + draw(SPACE)
    return text.encode(errors="ignore").decode()


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A document with some characters taken out, put in or doubled: mostly no JSON any more."""
    text = draw(commented())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        until = at + draw(st.integers(0, 2))
        insert = st.sampled_from([*"{}[]:,\"#/\\\n\t\f\v 01-+.eE'", "//", "null", "NaN", "\ufeff"])
        text = text[:at] + draw(insert | st.just("") | st.just(text[at:until] * 2)) + text[until:]
    return text


def strict(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """What caliban refuses beyond commentjson: a key that comes twice."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def finite(literal: str) -> float:
    """What caliban refuses beyond commentjson: a number that no float can hold."""
    if abs(float(literal)) == float("inf"):
        raise ValueError("too large")
    return float(literal)


def agrees_with_commentjson(text: str) -> bool:
    try:
        theirs = repr(commentjson.loads(text, object_pairs_hook=strict, parse_float=finite))
    except Exception:  # noqa: BLE001 - lark, json and commentjson each have their own.
        theirs = "refused"
    try:
        ours = repr(read(text))
    except UsageError:
        ours = "refused"
    return ours == theirs


@given(commented())
@settings(max_examples=300, deadline=None)
def test_a_document_with_comments_has_the_same_value_as_for_commentjson(text: str) -> None:
    assert agrees_with_commentjson(text)


# For documents without comments as well, commentjson ends in Python's own decoder: its grammar lets
# `1.`, `.5`, `+1` and `01` through, the decoder does not. There is no difference but those above,
# and a byte order mark at the start of a file, which is not part of the text.
@given(mutated())
@settings(max_examples=500, deadline=None)
@example("[1,]")
@example("[,]")
@example("{,}")
@example("[1,,]")
@example("[,1]")
@example('{"a":,}')
@example("[1, # comment\n]")
@example("[1, # ]\n2]")
@example("1.")
@example(".5")
@example("+1")
@example("-0")
@example("01")
@example("1e5")
@example('"a\nb"')
@example('"a\tb"')
@example('"\\x"')
@example("NaN")
@example("[-Infinity]")
@example("1e400")
@example('{"a":1,"a":2}')
@example("{'a': 1}")
@example("/* */ 1")
@example("tru#\ne")
@example("1 # x\r2")
@example("1 2")
@example('"unterminated # string\n')
@example('["a" # "b"\n]')
@example("\v1")
@example("\f1")
@example("\xa01")
@example("")
@example("# nothing")
def test_a_mutated_document_is_refused_exactly_when_commentjson_refuses_it(text: str) -> None:
    if not text.startswith("\ufeff"):
        assert agrees_with_commentjson(text)


def test_the_text_may_be_in_any_encoding_of_unicode_with_or_without_a_mark() -> None:
    text = '{"name": "größe"} # 語'
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        assert read(text.encode(encoding)) == {"name": "größe"}


def test_no_text_takes_long_to_be_refused() -> None:
    started = time.process_time()
    for text in ("#" * 100_000, "[1," + "# " * 100_000, "," * 100_000, '"\\' * 100_000):
        assert problem("[" + text)
    many = ", ".join(f'"{index}": 1' for index in range(50_000))
    assert "50001" not in problem(f'{{{many}, "49999": 1}}')
    assert time.process_time() - started < 5


def test_ten_thousand_dicts_with_comments_cost_at_most_ten_times_those_without() -> None:
    plain = [
        f'  {{"lr": 0.{index}, "model": "resnet", "layers": [1, 2]}},' for index in range(10_000)
    ]
    plain[-1] = plain[-1].rstrip(",")
    comments = [f"{line} # line {index}" for index, line in enumerate(plain)]

    def cost(lines: list[str]) -> float:
        times = []
        for _ in range(3):
            started = time.process_time()
            read("\n".join(["[", *lines, "]"]))
            times.append(time.process_time() - started)
        return min(times)

    assert cost(comments) <= 10 * cost(plain)


# --- Messages ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": "b"\n "c": 1}', "2:2: found \"c\", expected ',' or a closing bracket"),
        ('{\n  # note\n  "a": [1, 2}', "3:13: found }, expected ',' or a closing bracket"),
        ('{"a" 1}', "1:6: found 1, expected ':'"),
        ('{"a": tru}', "1:7: found tru, expected a value"),
        ('{"a": 1, # b\n\n', "3:1: found the end of the document, expected a key in double quotes"),
        ("{a: 1}", "1:2: found a, expected a key in double quotes"),
        ("{} {}", "1:4: found {, expected the end of the document"),
        ("", "1:1: found the end of the document, expected a value"),
        ('{"a": "b', "1:7: unterminated string starting here"),
        ('{"a": "b\tc"}', "1:9: invalid control character here"),
        ('{"a": NaN}', "1:7: found NaN, expected a finite number"),
        ('["NaN", -Infinity]', "1:9: found -Infinity, expected a finite number"),
        ('{"1e400": 1e400}', "1:11: found 1e400, expected a number that fits a float"),
        (
            '[{"a": {"lr": 1},\n # "lr"\n "lr": 2, "l\\u0072": 3}]',
            '3:11: found "l\\u0072", expected a key that this dict does not have already',
        ),
        (
            "[" + "9" * 5000 + "]",
            f"1:2: found {'9' * 37}..., expected an int of at most 4300 digits",
        ),
    ],
)
def test_the_message_names_the_line_the_column_what_is_there_and_what_should_be(
    content: str, message: str
) -> None:
    assert problem(content).splitlines()[0] == f"exp.json:{message}"


def test_the_message_shows_the_place() -> None:
    assert problem('{\n\t"a": 1 # one\n\t"b": 2\n}').splitlines()[1:] == [
        '   "b": 2',
        "   ^",
    ]
    long = '{"a": "' + "x" * 500 + '" "b": 1}'
    _, excerpt, caret = problem(long).splitlines()
    assert excerpt[caret.index("^") :] == '"b": 1}'
    assert len(excerpt) < 100


def test_deep_nesting_is_refused() -> None:
    assert problem("[" * 100_000) == "exp.json: has too many lists and dicts within one another"


@pytest.mark.parametrize("name", ["exp.json", "exp.yaml"])
def test_bytes_that_are_not_text_are_named(name: str) -> None:
    assert problem(b'a: 1\n"\xe9": 2', name) == f"{name}:2: found byte 0xe9, expected text in UTF-8"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, why in {
        "missing.json": "No such file or directory",
        str(tmp_path): "Is a directory",
        "~no-such-user/exp.json": "Could not determine home directory.",
        "a\0b": "embedded null byte",
    }.items():
        with pytest.raises(UsageError) as caught:
            document.read(path)
        assert caught.value.message == f"cannot read '{path}': {why}"


def test_a_tilde_is_the_home_directory(home: Path) -> None:
    (home / "exp.json").write_text("{}")
    assert document.read("~/exp.json") == {}


# --- stdin ---


class Stdin(io.TextIOWrapper):
    """Standard input, redirected from a file."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))


@pytest.mark.parametrize("word", ["stdin", "STDIN", "Stdin", "-"])
def test_the_word_stdin_in_any_case_or_a_dash_reads_standard_input(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(word).write_text("[]")
    monkeypatch.setattr(sys, "stdin", Stdin(b'{"a": 1} # x'))
    assert document.read(word) == {"a": 1}
    assert document.read(f"./{word}") == []
    assert capsys.readouterr().err == ""


def test_a_problem_in_standard_input_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"{'a': 1}"))
    with pytest.raises(UsageError, match=r"^stdin:1:2: found ', expected a key in double quotes"):
        document.read("STDIN")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match=r"^cannot read from stdin: it is closed"):
        document.read("stdin")


def test_reading_from_a_terminal_says_that_it_waits() -> None:
    ours, theirs = os.openpty()
    program = "from caliban import document; print(document.read('stdin'))"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(document.__file__).parents[1])},
    ) as process:
        os.close(theirs)
        os.write(ours, b'{"a": 1}\n\x04')
        out, err = process.communicate(timeout=30)
        os.close(ours)
    assert out == "{'a': 1}\n"
    assert err == "Reading from the terminal: end the document with Ctrl-D.\n"


# --- YAML ---


def test_a_yaml_file_has_the_same_meaning() -> None:
    text = 'lr: [0.1, 1.0e-2]  # comment\nname: größe\n"[a,b]": [[1, x], [2, null]]\nflag: true\n'
    wanted = {"lr": [0.1, 0.01], "name": "größe", "[a,b]": [[1, "x"], [2, None]], "flag": True}
    for name in ("exp.yaml", "exp.yml", "exp.YAML"):
        assert read(text, name) == wanted


def test_yaml_may_share_entries_and_override_them() -> None:
    text = "- &base {a: 1, b: 2}\n- &more {<<: *base, b: 3}\n- <<: *more\n  c: 4\n- *more\n"
    assert read(text, "exp.yaml") == [
        {"a": 1, "b": 2},
        {"a": 1, "b": 3},
        {"a": 1, "b": 3, "c": 4},
        {"a": 1, "b": 3},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", '3:1: found the key "a" twice in one dict'),
        ("x:\n  1: 2\n", "2:3: found 1 as a key, expected a string: put it in quotes"),
        ("on: 2\n", "1:1: found on as a key, expected a string: put it in quotes"),
        (
            "[a,b]: [1, 2]\n",
            "1:1: found a list or dict as a key, expected a string: put it in quotes",
        ),
        ("a: [1,\nb: 2\n", "3:1: while parsing a flow sequence, "),
        ("a: 'x\n", "2:1: while scanning a quoted scalar, "),
        ("é: \x01", "1:4: found '\\x01', which YAML does not allow"),
        ("a: 2001-99-99\n", "1:4: found 2001-99-99, expected a valid timestamp"),
        ("a: !!int x\n", "1:4: found x, expected a valid int"),
        ("a: !!python/name:os.system x\n", "1:4: could not determine a constructor for the tag"),
        ("&a [1, *a]\n", "1:1: found unconstructable recursive node"),
        ("&a {b: *a}\n", "1:1: found unconstructable recursive node"),
        ("a\n---\nb\n", "2:1: expected a single document in the stream"),
        ("[" * 100_000, "1:101: found more than 100 lists and dicts within one another"),
        ("9" * 5000, "1:1: found 9999999999999999999999999999999999999999, expected a valid int"),
        ("", " is empty"),
        ("# nothing\n", " is empty"),
    ],
)
def test_a_problem_in_yaml_is_named_with_its_place(content: str, message: str) -> None:
    assert problem(content, "exp.yaml").startswith(f"exp.yaml:{message}")


@given(st.text(max_size=30) | st.text("{}[]&*!|>'\"%@`#-:?,. \n\tab1<=~", max_size=30))
@settings(max_examples=500)
def test_any_yaml_is_read_or_refused_with_one_message(text: str) -> None:
    try:
        read(text.encode(errors="ignore"), "exp.yaml")
    except UsageError as error:
        assert "exp.yaml" in error.message
