"""From the command line to the labels that each job elsewhere gets."""

from __future__ import annotations

from collections.abc import Sequence

from caliban import terminal
from caliban.errors import Problems
from caliban.model import labels

# How many labels are told about one by one.
_TOLD = 5


def choose(texts: Sequence[str], problems: Problems) -> tuple[tuple[str, str], ...]:
    """Reads the values of --label; if two are for one label, the later one counts, and it is said.

    Args:
      texts: the values.
      problems: where what is wrong is collected.

    Returns:
      Key and value of each, as the user writes them.
    """
    found: dict[str, tuple[str, str]] = {}
    for text in texts:
        label = problems.attempt(lambda text=text: labels.parse(text), None)  # type: ignore[misc]
        if label is None:
            continue
        key = labels.key(label[0])
        if key in found and found[key] != label:
            before, now = ("=".join(each) for each in (found[key], label))
            terminal.warn(f"--label {before} and --label {now} are one label, '{key}': {now} wins")
        found[key] = label
    return tuple(found.values())


def tell(notes: Sequence[str]) -> None:
    """Says which labels are not what they seem.

    Args:
      notes: see Labels.
    """
    for each in notes[:_TOLD]:
        terminal.warn(each)
    if len(notes) > _TOLD:
        terminal.warn(f"the same goes for {len(notes) - _TOLD} more labels")
