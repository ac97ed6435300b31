"""What a project may have in a region of Google Cloud: its zones, and the quotas there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from caliban.errors import RefusedError, UsageError
from caliban.platform.gke.clusters import explained
from caliban.platform.rest import Session, endpoint

URL = "https://compute.googleapis.com/compute/v1/"


@dataclass(frozen=True)
class Region:
    """A region, as one project sees it.

    Attributes:
      name: its name.
      zones: the usual ones, in alphabetical order.
      quotas: the limits, by metric: "NVIDIA_L4_GPUS".
    """

    name: str
    zones: tuple[str, ...]
    quotas: Mapping[str, float]


def ask(session: Session, project: str, name: str, environment: Mapping[str, str]) -> Region:
    """Asks compute v1 for a region.

    Args:
      session: to ask with.
      project: whose quotas.
      name: of the region.
      environment: variables, by which the API can be elsewhere; see rest.endpoint.

    Raises:
      UsageError: there is no such region.
      CalibanError: it can't be asked.
    """
    url = endpoint("compute", URL, environment)
    try:
        with explained(project, "roles/compute.viewer"):
            found = session.get(f"{url}projects/{project}/regions/{name}")
    except RefusedError as error:
        if error.status != 404:
            raise
        raise UsageError(
            f"there is no region '{name}': {error.message}", "Run: gcloud compute regions list"
        ) from None
    zones = (str(each).rpartition("/")[2] for each in found.get("zones", ()))
    quotas = {each["metric"]: each.get("limit", 0.0) for each in found.get("quotas", ())}
    # Not those of special machines only, which are called us-central1-ai1a and the like.
    usual = sorted(each for each in zones if re.fullmatch(f"{name}-[a-z]", each))
    return Region(name, tuple(usual), quotas)
