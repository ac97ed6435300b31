"""Credentials of google-auth's that ask for tokens, and for nothing else.

Of its own accord, google-auth also asks Google where a service account may be used, in the
background, and again and again where nobody answers. There is no setting that ends this. Nothing of
what caliban does depends on the answer.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from google.auth.credentials import Credentials


class Bearer(Credentials):
    """What other credentials have: their tokens, and the project that pays."""

    def __init__(self, credentials: Credentials) -> None:
        """Takes the credentials; they stay those that know whether a token is valid."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._credentials = credentials

    def refresh(self, request: Any) -> None:
        """Gets a new token."""
        self._credentials.refresh(request)  # type: ignore[no-untyped-call]

    def before_request(
        self, request: Any, method: str, url: str, headers: MutableMapping[str, str]
    ) -> None:
        """Puts a token that is valid into the headers of a request."""
        if not self._credentials.valid:
            self.refresh(request)
        self._credentials.apply(headers)  # type: ignore[no-untyped-call]
