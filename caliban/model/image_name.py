"""Names of images, as docker and registries write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from caliban.errors import UsageError

# The registry of images whose name has none.
DEFAULT_HOST = "docker.io"

# https://github.com/distribution/reference: names are in lower case, but for the host and the tag.
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::\d+)?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = (
    rf"(?P<repository>(?:(?P<host>{_HOST})/)?(?P<path>{_PART}(?:/{_PART})*))"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)

_HINT = "A name is like registry.example.com/team/image:tag or team/image@sha256:..."


@dataclass(frozen=True)
class ImageName:
    """The name of an image.

    Attributes:
      repository: the name without tag and digest, as it was written.
      tag: "" for none, which means "latest" where there is no digest either.
      digest: "sha256:..."; "" for none.
    """

    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Reads a name.

        Raises:
          UsageError: no image can be called so.
        """
        match = re.fullmatch(_NAME, text, re.ASCII)
        if match is None:
            raise UsageError(f"'{text}' is not the name of an image{_why(text)}", _HINT)
        return cls(match["repository"], match["tag"] or "", match["digest"] or "")

    @property
    def host(self) -> str:
        """The registry that it is in, with its port: what docker logs in to."""
        first, slash, _ = self.repository.partition("/")
        is_host = bool(slash) and (
            first == "localhost" or bool(re.search("[.:]", first)) or first != first.lower()
        )
        return first if is_host else DEFAULT_HOST

    @property
    def path(self) -> str:
        """Its name in that registry, without tag and digest."""
        path = self.repository.removeprefix(f"{self.host}/")
        is_official = self.host == DEFAULT_HOST and "/" not in path
        return f"library/{path}" if is_official else path

    def __str__(self) -> str:
        """The name, as it was written."""
        tag = f":{self.tag}" if self.tag else ""
        return self.repository + tag + (f"@{self.digest}" if self.digest else "")


def registry(text: str) -> str:
    """Reads what the names of images in a registry begin with: "localhost:5000", "host/team".

    Raises:
      UsageError: no name can begin so.
    """
    prefix = text.strip().removesuffix("/")
    if not re.fullmatch(_NAME, f"{prefix}/image", re.ASCII):
        raise UsageError(
            f"'{text}' is not what the names of images in a registry begin with{_why(prefix)}",
            "It is like registry.example.com/team, localhost:5000, or "
            "us-central1-docker.pkg.dev/PROJECT/REPOSITORY.",
        )
    return prefix


def _why(text: str) -> str:
    """What is wrong with a name, as far as that is one of the usual mistakes."""
    if "://" in text:
        return ": leave out what ends with ://"
    if not re.search("[^A-Z]", text) or re.search("/[^:@]*[A-Z]", text):
        return ": it has to be in lower case"
    return ""
