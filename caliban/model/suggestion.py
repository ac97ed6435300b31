"""What may have been meant by a word that is none of those that are known."""

from __future__ import annotations

from collections.abc import Iterable


def near(wrong: str, known: Iterable[str], most: int = 1) -> list[str]:
    """The words that come near, the nearest first; upper and lower case make no difference.

    Args:
      wrong: what was typed.
      known: what could have been.
      most: how many are wanted.
    """
    import difflib

    spelled = {each.casefold(): each for each in known}
    return [spelled[each] for each in difflib.get_close_matches(wrong.casefold(), spelled, most)]


def question(wrong: str, known: Iterable[str]) -> str:
    """A hint: "Did you mean tuning?"; "" if nothing comes near.

    Args:
      wrong: what was typed.
      known: what could have been.
    """
    found = near(wrong, known, most=3)
    return f"Did you mean {' or '.join(found)}?" if found else ""
