"""Experiments as text: as JSON, or as the words of a shell command.

A sweep of a few values a key has millions of experiments. So each value is turned into text once,
not once for each experiment that has it, and no more than a small part of the whole is in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from caliban.model import experiment, shell_words
from caliban.model.experiment import Experiment, Value

# How much text is kept ready to be repeated, in characters: enough to keep the interpreter's part
# of the work small, too little to be seen in the memory that a process takes.
_READY = 2**18

# Values beyond this many are turned into text as they come: their texts would fill the memory.
_MOST_FRAGMENTS = 2**16


class Json:
    """What `json.dumps` makes of the list of all experiments."""

    start, separator, end = "[", ", ", "]\n"
    opening, comma, closing = "{", ", ", "}"

    def record(self, params: Mapping[str, Value]) -> str:
        """One experiment: `opening`, the params' texts with `comma` between, `closing`."""
        return json.dumps(params)


class IndentedJson(Json):
    """What `json.dumps` with an indent of 2 makes of that list."""

    start, separator, end = "[\n  ", ",\n  ", "\n]\n"
    opening, comma, closing = "{\n    ", ",\n    ", "\n  }"

    def record(self, params: Mapping[str, Value]) -> str:
        """One experiment, indented; a newline within a string is escaped, so none is touched."""
        return json.dumps(params, indent=2).replace("\n", "\n  ")


class Flags(Json):
    """A line of flags for each experiment, quoted so that a shell reads back the same words.

    A value that holds a newline does not break its line.
    """

    start, separator, end = "", "\n", "\n"
    opening, comma, closing = "", " ", ""

    def record(self, params: Mapping[str, Value]) -> str:
        """One experiment's flags."""
        return shell_words.join(Experiment((), params).flags())


def texts(config: object, style: Json) -> Iterator[str]:
    """Yields the text of all experiments of a valid config, in the order of `expand`, in pieces."""
    before = style.start
    for sweep in experiment.dicts(config):
        for text in _sweep_texts(sweep, style):
            yield before
            yield text
            before = style.separator
    yield style.end


def _sweep_texts(sweep: Mapping[str, Value], style: Json) -> Iterator[str]:
    """Yields the texts of a dict's experiments, some with many of them."""
    axes = experiment.axes(sweep)
    lengths = list(map(len, axes.values()))
    if math.prod(lengths) <= sum(lengths, start=1) or sum(lengths) > _MOST_FRAGMENTS:
        # Few values come twice, or there are too many of them to keep.
        yield from map(style.record, experiment.expand_dict(sweep))
        return
    fragments = [
        [_fragment(experiment.unpack({key: value}), style) for value in values]
        for key, values in axes.items()
    ]
    # The product of the last axes is kept as one list, as long as it is short. Its items are then
    # joined with what the first axes have to say between them.
    tails = [""]
    while fragments:
        longest = len(max(fragments[-1], key=len)) + len(max(tails, key=len))
        if len(fragments[-1]) * len(tails) * longest > _READY:
            break
        tails = [_joined(pair, style) for pair in product(fragments.pop(), tails)]
    for first in product(*fragments):
        head = _joined(first, style)
        rest = [style.comma + tail if tail else "" for tail in tails] if head else tails
        between = style.closing + style.separator + style.opening + head
        step = max(1, _READY // len(between))
        for at in range(0, len(rest), step):
            yield style.opening + head + between.join(rest[at : at + step]) + style.closing


def _fragment(params: Mapping[str, Value], style: Json) -> str:
    return style.record(params).removeprefix(style.opening).removesuffix(style.closing)


def _joined(fragments: Sequence[str], style: Json) -> str:
    """Joins what there is: a flag that is false has no text."""
    return style.comma.join(filter(None, fragments))


def quoted(experiment: Experiment) -> str:
    """The arguments of an experiment, as they would be typed into a shell."""
    return shell_words.join(experiment.flags())
