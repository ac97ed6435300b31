"""Which GPUs a machine has, by what `nvidia-smi -L` prints, and how a container gets some."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from caliban.docker import gpus
from caliban.errors import EngineError
from tests.dockerd import gpu_tools

Listed = Callable[[Sequence[str]], None]


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listed:
    """Makes `nvidia-smi -L` print these lines."""

    def write(lines: Sequence[str]) -> None:
        monkeypatch.setenv("PATH", f"{gpu_tools(tmp_path, lines)}:{os.environ['PATH']}")

    return write


def test_every_gpu_is_a_device(listed: Listed) -> None:
    listed(
        [
            "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5c1d3e2f-0000-1111-2222-333344445555)",
            "GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-0aa13e2f-0000-1111-2222-333344445555)",
        ]
    )
    assert gpus.devices() == [
        "GPU-5c1d3e2f-0000-1111-2222-333344445555",
        "GPU-0aa13e2f-0000-1111-2222-333344445555",
    ]


def test_the_parts_of_a_divided_gpu_stand_for_it(listed: Listed) -> None:
    listed(
        [
            "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)",
            "  MIG 3g.20gb     Device  0: (UUID: MIG-1111)",
            "  MIG 3g.20gb     Device  1: (UUID: MIG-2222)",
            "GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)",
            "GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-cccc)",
            "  MIG 1c.2g.10gb  Device  0: (UUID: MIG-GPU-cccc/5/0)",
        ]
    )
    assert gpus.devices() == ["MIG-1111", "MIG-2222", "GPU-bbbb", "MIG-GPU-cccc/5/0"]


def test_a_machine_without_any_has_none(listed: Listed) -> None:
    listed([])
    assert gpus.devices() == []


def test_a_driver_that_does_not_answer_is_an_error(listed: Listed, tmp_path: Path) -> None:
    listed([])
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'Failed to initialize NVML' >&2\nexit 9")
    with pytest.raises(EngineError, match="'nvidia-smi -L' failed: Failed to initialize NVML"):
        gpus.devices()


def test_without_the_drivers_program_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EngineError, match="'nvidia-smi', which lists the GPUs, is not on PATH"):
        gpus.devices()


def test_a_container_is_given_devices_in_the_words_of_its_engine() -> None:
    assert gpus.only(("--gpus", "all"), ["GPU-a", "GPU-b"]) == ("--gpus", '"device=GPU-a,GPU-b"')
    assert gpus.only(("--device", "nvidia.com/gpu=all"), ["GPU-a", "GPU-b"]) == (
        *("--device", "nvidia.com/gpu=GPU-a"),
        *("--device", "nvidia.com/gpu=GPU-b"),
    )
