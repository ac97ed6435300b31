"""scripts/refresh_hardware.py: the table of hardware is brought up to date, and nothing else is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import caliban
from caliban.model import hardware
from tests.google_cloud.client import private_key, write_key
from tests.google_cloud.cloud import GoogleCloud

SCRIPT = Path(caliban.__file__).parents[1] / "scripts" / "refresh_hardware.py"


@pytest.fixture
def cloud() -> Iterator[GoogleCloud]:
    """A cloud that has just what the table says it has."""
    with GoogleCloud() as started:
        for gpu in hardware.load().gpus.values():
            for zone in (f"{region}-a" for region in gpu.regions or ("us-central1",)):
                started.compute.accelerators.setdefault(zone, {})[gpu.compute] = 8
                machines = started.compute.machines.setdefault(zone, {"n1-standard-8": None})
                for count, names in gpu.machines.items():
                    machines |= dict.fromkeys(names, (gpu.compute, count))
        yield started


def refresh(cloud: GoogleCloud, table: Path) -> list[str]:
    """Runs the script; returns what it says."""
    key = write_key(cloud, table.with_name("key.json"), "robot@p1", private_key())
    ended = subprocess.run(
        [sys.executable, SCRIPT, "p1", "--table", table],
        env={**os.environ, **cloud.environment(), "GOOGLE_APPLICATION_CREDENTIALS": key},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    return ended.stderr.splitlines()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return Path(shutil.copy(hardware.TABLE, tmp_path))


def test_what_is_as_it_was_stays_to_the_byte(cloud: GoogleCloud, table: Path) -> None:
    text = table.read_text().replace("regions = []", 'regions = ["us-central1"]')
    table.write_text(text)
    assert refresh(cloud, table) == []
    assert table.read_text() == text


def test_what_has_changed_is_taken_over_and_what_is_new_is_told(
    cloud: GoogleCloud, table: Path
) -> None:
    zones = cloud.compute.accelerators
    for of_zone in zones.values():
        of_zone.pop("nvidia-tesla-p100", None)
    zones["europe-north2-b"] = {"nvidia-tesla-t4": 4, "nvidia-x900": 8, "nvidia-l4-vws": 1}
    for machines in cloud.compute.machines.values():
        machines.pop("g2-standard-12", None)
        machines.pop("a2-megagpu-16g", None)
    cloud.compute.machines["us-west8-c"] = {"a3-edgegpu-8g": ("nvidia-h100-80gb", 8)}

    assert refresh(cloud, table) == [
        "A100: a2-megagpu-16g is gone",
        "H100: a3-edgegpu-8g with 8 of them is not in the table",
        "L4: g2-standard-12 is gone",
        "P100: none anywhere; left as it was",
        "nvidia-x900: a type of GPU that is not in the table",
    ]
    before, after = hardware.load().gpus, hardware.load(table).gpus
    assert set(after["T4"].regions) - set(before["T4"].regions) == {"europe-north2"}
    assert set(after["H100"].regions) - set(before["H100"].regions) == {"us-west8"}
    assert after["P100"] == before["P100"]
    assert after["A100"].counts == [1, 2, 4, 8]
    assert "g2-standard-12" not in after["L4"].machines[1]
    assert after["L4"].machines[1][0] == before["L4"].machines[1][0]
    assert hardware.load(table).tpus == hardware.load().tpus
