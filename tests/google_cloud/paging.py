"""Pages of a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.google_cloud.server import ApiError


def page(
    key: str, items: Sequence[Any], query: Mapping[str, Any], most: int, default: int = 0
) -> dict[str, Any]:
    """One page of a list.

    Args:
      key: under which the answer has the items.
      items: all of them.
      query: has pageSize and pageToken, if the client has said so.
      most: items a page, whatever the client says.
      default: items a page if it says nothing; as many as there can be if this is 0.
    """
    token = str(query.get("pageToken") or "p0")
    if not (token.startswith("p") and token[1:].isdigit()):
        raise ApiError("INVALID_ARGUMENT", "Invalid page token.")
    start = int(token[1:])
    size = int(query.get("pageSize") or 0)
    if size < 0:
        raise ApiError("INVALID_ARGUMENT", "Invalid page size.")
    end = start + min(size or default or most, most)
    answer: dict[str, Any] = {}
    if found := list(items[start:end]):
        answer[key] = found
    if end < len(items):
        answer["nextPageToken"] = f"p{end}"
    return answer
