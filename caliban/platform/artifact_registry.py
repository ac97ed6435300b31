"""Artifact Registry: the repository that a project's images are pushed to, made on first use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from caliban.errors import CalibanError, RefusedError
from caliban.platform.rest import Session, endpoint, once

URL = "https://artifactregistry.googleapis.com/"

# The project of a domain has two parts: "example.com/id", for "example.com:id".
_PREFIX = re.compile(
    r"(?P<region>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>[^/]+\.[^/]+/[^/]+|[^/.]+)/(?P<id>[^/]+)"
    r"(?:/.*)?"
)

# Seconds between two looks at an operation, and those after which it is given up.
_INTERVAL = 2.0
_PATIENCE = 120.0


@dataclass(frozen=True)
class Repository:
    """A repository of images.

    Attributes:
      project: id of the project that it belongs to.
      region: where it is.
      id: its name there.
    """

    project: str
    region: str
    id: str

    @classmethod
    def parse(cls, prefix: str) -> Repository | None:
        """The repository that names of images begin with; None if they are not in this registry."""
        match = _PREFIX.fullmatch(prefix)
        return match and cls(match["project"].replace("/", ":"), match["region"], match["id"])

    @property
    def host(self) -> str:
        """The registry that it is in, which docker logs in to."""
        return f"{self.region}-docker.pkg.dev"

    @property
    def prefix(self) -> str:
        """What the names of its images begin with."""
        # A project of a domain is "example.com:id", and no image's name has a colon.
        return f"{self.host}/{self.project.replace(':', '/')}/{self.id}"

    @property
    def parent(self) -> str:
        """The place of it, as the API names it."""
        return f"projects/{self.project}/locations/{self.region}"


def ensure(session: Session, repository: Repository, environment: Mapping[str, str]) -> bool:
    """Makes a repository unless it is there.

    Args:
      session: to ask with.
      repository: that is wanted.
      environment: variables, by which the API can be elsewhere; see rest.endpoint.

    Returns:
      Whether it was made.

    Raises:
      CalibanError: there is another kind of repository with this name, or none can be made.
    """
    base = endpoint("artifactregistry", URL, environment) + "v1/"
    url = f"{base}{repository.parent}/repositories"

    def find() -> str | None:
        try:
            return str(session.get(f"{url}/{repository.id}").get("format"))
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def make() -> str:
        body = {"format": "DOCKER", "labels": {"created_by": "caliban"}}
        try:
            operation = session.post(url, body, params={"repositoryId": repository.id})
        except RefusedError as error:
            if error.status == 409:  # somebody else was quicker
                return "DOCKER"
            raise
        _wait(session, f"{base}{operation['name']}", operation)
        return "DOCKER"

    there = find()
    if there is None:
        once(make, find, session.clock)
        return True
    if there != "DOCKER":
        raise CalibanError(
            f"the repository '{repository.id}' in {repository.region} is for {there}, not for "
            "images",
            "Name another one.",
        )
    return False


def _wait(session: Session, url: str, operation: Mapping[str, object]) -> None:
    """Waits until an operation is done.

    Raises:
      CalibanError: it has failed, or takes too long.
    """
    gives_up = session.clock.now() + _PATIENCE
    while not operation.get("done"):
        if session.clock.now() > gives_up:
            raise CalibanError(f"{operation.get('name')} is not done after {_PATIENCE:.0f} s")
        session.clock.sleep(_INTERVAL)
        operation = session.get(url)
    error = operation.get("error")
    if isinstance(error, dict):
        raise CalibanError(f"the repository can't be made: {error.get('message')}")
