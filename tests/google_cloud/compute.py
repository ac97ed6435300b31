"""Compute Engine: which machines and accelerators there are, and the quotas of regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.google_cloud.paging import page
from tests.google_cloud.server import ApiError, Call, Handler

_RESOURCE = "https://www.googleapis.com/compute/v1/projects"


class Compute:
    """What a project can have.

    Attributes:
      machines: by zone, names of types of machines, each with its GPUs, as in ("nvidia-l4", 1).
      accelerators: by zone, names of types of accelerators, each with the most cards a machine has.
      quotas: by region, the limits.
      zones: by region, the last part of their names.
    """

    def __init__(self) -> None:
        self.machines: dict[str, dict[str, tuple[str, int] | None]] = {}
        self.accelerators: dict[str, dict[str, int]] = {}
        self.quotas: dict[str, dict[str, float]] = {}
        self.zones: dict[str, str] = {}

    @property
    def handlers(self) -> dict[str, Handler]:
        """What is served."""
        return {
            "machineTypes.aggregatedList": self._machine_types,
            "acceleratorTypes.aggregatedList": self._accelerator_types,
            "regions.get": self._region,
        }

    def _machine_types(self, call: Call) -> dict[str, Any]:
        found = {
            zone: [_machine(*each) for each in of.items()] for zone, of in self.machines.items()
        }
        return _aggregated("machineTypes", found, call)

    def _accelerator_types(self, call: Call) -> dict[str, Any]:
        found = {
            zone: [{"name": name, "maximumCardsPerInstance": most} for name, most in of.items()]
            for zone, of in self.accelerators.items()
        }
        return _aggregated("acceleratorTypes", found, call)

    def _region(self, call: Call) -> dict[str, Any]:
        region = call.path["region"]
        if region not in self.quotas:
            raise ApiError("NOT_FOUND", f"The resource 'regions/{region}' was not found")
        limits = self.quotas[region].items()
        quotas = [{"metric": name, "limit": limit, "usage": 0} for name, limit in limits]
        project = call.path["project"]
        zones = [
            f"{_RESOURCE}/{project}/zones/{region}-{each}" for each in self.zones.get(region, "abc")
        ]
        return {"name": region, "quotas": quotas, "zones": zones}


def _machine(name: str, gpus: tuple[str, int] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "architecture": "X86_64"}
    if gpus:
        kind, count = gpus
        found["accelerators"] = [{"guestAcceleratorType": kind, "guestAcceleratorCount": count}]
    return found


def _aggregated(key: str, by_zone: dict[str, list[dict[str, Any]]], call: Call) -> dict[str, Any]:
    """A page of an aggregated list, which has items by zone, and a warning for zones without."""
    pairs: Sequence[tuple[str, dict[str, Any]]] = [
        (zone, {**each, "zone": zone}) for zone, of in by_zone.items() for each in of
    ]
    query = {**call.query, "pageSize": call.query.get("maxResults", "")}
    found = page("pairs", pairs, query, 500)
    items: dict[str, Any] = {
        f"zones/{zone}": {"warning": {"code": "NO_RESULTS_ON_PAGE"}} for zone in by_zone
    }
    for zone, each in found.pop("pairs", []):
        items[f"zones/{zone}"].pop("warning", None)
        items[f"zones/{zone}"].setdefault(key, []).append(each)
    return {"id": f"projects/{call.path['project']}", "items": items, **found}
