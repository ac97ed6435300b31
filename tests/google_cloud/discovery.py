"""What Google's APIs take and return, by the documents that google-api-python-client ships."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any


@functools.cache
def document(api: str, version: str) -> dict[str, Any]:
    """The document of an API, as its JSON."""
    import googleapiclient

    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    found: dict[str, Any] = json.loads((folder / f"{api}.{version}.json").read_text())
    return found
