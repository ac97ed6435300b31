"""Makes experiment configs for property tests: valid ones, and ones with something wrong."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

# Text that a command line can carry.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Z", "C"], exclude_characters="[],-"),
    min_size=1,
    max_size=8,
)
SCALARS = (
    TEXT
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.sampled_from(["-1", "--x", "a b", "it's", "$HOME", "# no comment", "// nor this", ""])
)
CELLS = SCALARS | st.lists(SCALARS, max_size=2)


@st.composite
def sweeps(draw: st.DrawFn) -> dict[str, Any]:
    """A dict of flags, some of them in compound keys."""
    names = draw(st.lists(NAMES, unique=True, max_size=5))
    sweep: dict[str, Any] = {}
    while names:
        arity = draw(st.integers(0, len(names)))
        if arity == 0:
            sweep[names.pop()] = draw(SCALARS | st.lists(CELLS, min_size=1, max_size=3))
        else:
            comma = draw(st.sampled_from([",", ", ", " , "]))
            key = f"[{comma.join(names.pop() for _ in range(arity))}]"
            one_row = st.lists(SCALARS, min_size=arity, max_size=arity)
            row = st.lists(CELLS, min_size=arity, max_size=arity)
            sweep[key] = draw(one_row | st.lists(row, min_size=1, max_size=3))
    return sweep


CONFIGS: st.SearchStrategy[Any] = st.recursive(
    sweeps(), lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=4
)

# What makes any dict wrong: keys, whatever their value; values of a plain key; rows.
WRONG_KEYS = (
    *("", " ", "two words", "tab\t", "new\nline", "a,b", "[a", "a]", "[]", "[ ]", "\0", "\ud800"),
    *("-", "--", "-flag", "--long_flag"),
    *("[long_a,,long_b]", "[long_a,]", "[,long_a]", "[long_a][b]", "[long_a b,long_c]"),
    *("[long_a,--long_b]", "[long_a,long_a]", "[long_a]"),
)
WRONG_VALUES: tuple[Any, ...] = (
    *(None, {}, {"a": 1}, [], [None], [1, {}], [[1], [[None]]]),
    *(float("inf"), [float("nan")], "nul\0", ["half of a pair \ud800"]),
)
WRONG_ROWS: tuple[Any, ...] = (
    *(None, 1, "ab", {}, [], [[]], [1], [1, 2, 3], [[1, 2], [1]], [[1], [2]], [1, [2, 3]]),
    *([[1, None]], [None, 1], [[1, 2], [{}, 1]], [1, float("inf")]),
)
WRONG_ENTRIES: list[dict[str, Any]] = [
    *({key: [[1, 2]]} for key in WRONG_KEYS),
    *({"plain_flag": value} for value in WRONG_VALUES),
    *({"[long_a,long_b]": rows} for rows in WRONG_ROWS),
    {"long_a": 1, "[long_a,long_b]": [1, 2]},
    {"[long_a,long_b]": [1, 2], "long_b": 1},
    {"[long_a,long_b]": [1, 2], "[ long_a , long_b ]": [1, 2]},
]


@st.composite
def wrong_configs(draw: st.DrawFn) -> str:
    """JSON that is well-formed, and no experiment config."""
    sweep = draw(sweeps())
    position = draw(st.integers(0, len(sweep)))
    entries = list(sweep.items())
    entries[position:position] = draw(st.sampled_from(WRONG_ENTRIES)).items()
    not_a_sweep: Any = draw(st.sampled_from([None, [], 3, "x", True, 1.5, [[]], [{}, [None]]]))
    config: Any = draw(st.sampled_from([dict(entries), not_a_sweep, [not_a_sweep, sweep]]))
    for _ in range(draw(st.integers(0, 2))):
        config = draw(st.sampled_from([[config], [sweep, config], [config, sweep]]))
    return json.dumps(config)


@st.composite
def broken_documents(draw: st.DrawFn) -> bytes:
    """What is not even JSON."""
    text = json.dumps({**draw(sweeps()), "last": [1, "two", {"three": None}]})
    structure = [at for at, each in enumerate(text) if each in '{}[]:"' and text[at - 1] != "\\"]
    at = draw(st.sampled_from(structure))
    return draw(
        st.sampled_from(
            [
                text[:at].encode(),
                (text[:at] + text[at + 1 :]).encode(),
                (text + text).encode(),
                (text[:-1] + ', "last": 1}').encode(),
                (text[:-1] + ',, "x": 1}').encode(),
                (text[:-1] + ' "x": 1}').encode(),
                (text[:-1] + ", 'x': 1}").encode(),
                (text[:-1] + ", x: 1}").encode(),
                (text[:-1] + ', "x": True}').encode(),
                (text[:-1] + ', "x": NaN}').encode(),
                (text[:-1] + ', "x": -Infinity}').encode(),
                (text[:-1] + ', "x": 1e999}').encode(),
                (text[:-1] + ', "x": 01}').encode(),
                (text[:-1] + ', "x": +1}').encode(),
                (text[:-1] + ', "x": "\n"}').encode(),
                (text[:-1] + ', "x": "\\x41"}').encode(),
                (text[:-1] + ', "x": "\xff"}').encode("latin-1"),
                (text[:-1] + ', "x": ' + "9" * 5000 + "}").encode(),
                (text[:-1] + ', "x": ' + "[" * 100_000 + "}").encode(),
                f"/* comment */ {text}".encode(),
                f"# all of it is a comment: {text}".encode(),
                b"",
                b"\0",
            ]
        )
    )


MALFORMED: st.SearchStrategy[bytes] = wrong_configs().map(str.encode) | broken_documents()
