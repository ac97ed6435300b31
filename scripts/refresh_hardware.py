"""Brings caliban/resources/google/hardware.toml up to date, from Compute Engine's API.

    .venv/bin/python scripts/refresh_hardware.py PROJECT

It asks with your own credentials, as caliban does. Which region has which GPU is taken over, and
machines that there are no more are removed. What is new is only told: whether Vertex AI trains on
it, Compute Engine doesn't know.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caliban.errors import CalibanError
from caliban.model import hardware
from caliban.platform import google
from caliban.platform.rest import Session, endpoint

URL = "https://compute.googleapis.com/compute/v1/"


@dataclass
class Found:
    """What Compute Engine has.

    Attributes:
      regions: by type of GPU, where there are any: {"nvidia-l4": {"us-central1"}}.
      machines: by type of machine with GPUs of its own, which and how many.
    """

    regions: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    machines: dict[str, tuple[str, int]] = field(default_factory=dict)


def ask(session: Session, project: str, url: str = URL) -> Found:
    """Asks for all types of GPUs and machines, in all zones.

    Args:
      session: to ask with.
      project: who is asking.
      url: of the API.
    """
    found = Found()
    for each in _aggregated(session, f"{url}projects/{project}/aggregated/", "acceleratorTypes"):
        found.regions[each["name"]].add(_region(each))
    for each in _aggregated(session, f"{url}projects/{project}/aggregated/", "machineTypes"):
        for gpus in each.get("accelerators", ()):
            kind = gpus["guestAcceleratorType"]
            found.machines[each["name"]] = (kind, gpus["guestAcceleratorCount"])
            found.regions[kind].add(_region(each))
    return found


def _aggregated(session: Session, url: str, kind: str) -> Iterator[dict[str, Any]]:
    for page in session.pages(url + kind, {"maxResults": "500"}):
        for of_zone in page.get("items", {}).values():
            for each in of_zone.get(kind, ()):
                if each.get("deprecated", {}).get("state") not in ("OBSOLETE", "DELETED"):
                    yield each


def _region(item: Mapping[str, Any]) -> str:
    """The region of something in a zone, "us-central1" for ".../zones/us-central1-a"."""
    zone: str = item["zone"].rpartition("/")[2]
    return zone.rpartition("-")[0]


def update(table: dict[str, Any], found: Found) -> list[str]:
    """Takes over what Compute Engine has, and returns what a person should look at."""
    notes = []
    known = set()
    for name, gpu in table["gpus"].items():
        kind = gpu["vertex"].lower().replace("_", "-")
        known.add(kind)
        if kind not in found.regions:
            notes.append(f"{name}: none anywhere; left as it was")
            continue
        gpu["regions"] = sorted(found.regions[kind])
        if "machines" in gpu:
            notes += _update_machines(name, kind, gpu["machines"], found)
    strangers = (kind for kind in found.regions if kind not in known and "-vws" not in kind)
    notes += [f"{kind}: a type of GPU that is not in the table" for kind in sorted(strangers)]
    return notes


def _update_machines(
    name: str, kind: str, machines: dict[str, list[str]], found: Found
) -> Iterator[str]:
    there = {machine: str(count) for machine, (of, count) in found.machines.items() if of == kind}
    listed = {machine for names in machines.values() for machine in names}
    for count, names in list(machines.items()):
        machines[count] = [machine for machine in names if there.get(machine) == count]
        yield from (f"{name}: {gone} is gone" for gone in names if gone not in machines[count])
        if not machines[count]:
            del machines[count]
    for machine in sorted(set(there) - listed, key=hardware.natural):
        yield f"{name}: {machine} with {there[machine]} of them is not in the table"


def render(text: str, table: Mapping[str, Any]) -> str:
    """Writes a table in place of that in `text`, whose comment at the top is kept."""
    comment = text[: text.index("\n[") + 1]
    sections = []
    for name, section in table.items():
        if name in ("gpus", "tpus"):
            sections += [_section(f"{name}.{key}", each) for key, each in section.items()]
        else:
            sections.append(_section(name, section))
    return "\n".join([comment.rstrip() + "\n", *sections])


def _section(name: str, values: Mapping[str, Any]) -> str:
    lines = [line for key, value in values.items() for line in _lines(key, value)]
    return "\n".join([f"[{name}]", *lines, ""])


def _lines(key: str, value: object) -> Iterator[str]:
    """A value as TOML, which for strings, numbers and lists of them is as in JSON."""
    if isinstance(value, dict):
        for inner, each in value.items():
            yield from _lines(f"{key}.{inner}", each)
        return
    line = f"{key} = {json.dumps(value)}"
    if len(line) <= 100 or not isinstance(value, list):
        yield line
        return
    items = ", ".join(map(json.dumps, value)) + ","
    yield f"{key} = ["
    yield from textwrap.wrap(
        items, 96, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
    yield "]"


def main() -> int:
    """Brings a table up to date; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("project", help="a project of Google Cloud that you may look into")
    parser.add_argument("--table", type=Path, default=hardware.TABLE, help="the file to change")
    args = parser.parse_args()
    try:
        session = Session(google.access(None, os.environ).credentials)
        try:
            found = ask(session, args.project, endpoint("compute", URL, os.environ))
        finally:
            session.close()
    except CalibanError as error:
        print(error.message, error.hint, sep="\n", file=sys.stderr)
        return error.exit_code
    text = args.table.read_text()
    table = tomllib.loads(text)
    for note in update(table, found):
        print(note, file=sys.stderr)
    args.table.write_text(render(text, table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
