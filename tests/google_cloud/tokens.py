"""Access tokens: who has one, and how one is had for a key or a refresh token."""

from __future__ import annotations

import base64
import json
import threading
import urllib.parse
from typing import Any


class Tokens:
    """The tokens of a server.

    Attributes:
      revoked: the refresh tokens, and the accounts of keys, that get no token any more.
      issued: all tokens so far, by whom they were issued to.
      given: what all new tokens are, for a test in which somebody else accepts them, too; "" for
        the usual ones.
      answer: JSON that is answered to whoever asks for a token; None for one of Google's.
      status: of HTTP, that `answer` has.
    """

    def __init__(self) -> None:
        self.revoked: set[str] = set()
        self.issued: dict[str, str] = {}
        self.given = ""
        self.answer: Any = None
        self.status = 200
        self._valid: set[str] = set()
        self._lock = threading.Lock()

    def new(self, account: str = "somebody@example.com") -> str:
        """A valid token."""
        with self._lock:
            token = self.given or f"ya29.secret-{len(self.issued) + 1:06d}"
            self.issued[token] = account
            self._valid.add(token)
            return token

    def expire(self, token: str) -> None:
        """Makes a token invalid."""
        with self._lock:
            self._valid.discard(token)

    def is_valid(self, token: str) -> bool:
        """Whether a token gives access."""
        with self._lock:
            return token in self._valid

    def issue(self, form: str) -> tuple[int, Any]:
        """Answers a request of OAuth 2: a status of HTTP, and a body."""
        if self.answer is not None:
            return self.status, self.answer
        fields = dict(urllib.parse.parse_qsl(form))
        grant = fields.get("grant_type", "")
        if grant == "refresh_token":
            account = fields["refresh_token"]
        elif grant == "urn:ietf:params:oauth:grant-type:jwt-bearer":
            claims = fields["assertion"].split(".")[1]
            account = json.loads(base64.urlsafe_b64decode(claims + "=="))["iss"]
        else:
            return 400, {"error": "unsupported_grant_type"}
        if account in self.revoked:
            return 400, {
                "error": "invalid_grant",
                "error_description": "Token has been expired or revoked.",
            }
        return 200, {"access_token": self.new(account), "expires_in": 3599, "token_type": "Bearer"}
