"""How jobs are run, as JSON: of a frozen dataclass of plain values, just what is not as usual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any


def to_json(settings: Any, usual: Any) -> dict[str, Any]:
    """Settings as JSON.

    Args:
      settings: to be written.
      usual: of the same class, with what needs no word.
    """
    return {key: each for key, each in asdict(settings).items() if each != getattr(usual, key)}


def read(value: Mapping[str, Any], *pairs: str) -> dict[str, Any]:
    """The arguments that make settings again of what `to_json` wrote.

    Args:
      value: that.
      pairs: the fields that are tuples of pairs.
    """
    found: dict[str, Any] = {
        key: tuple(each) if isinstance(each, list) else each for key, each in value.items()
    }
    for key in pairs:
        found[key] = tuple((name, text) for name, text in value.get(key, ()))
    return found
