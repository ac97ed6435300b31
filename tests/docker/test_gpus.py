"""Which part is missing where a container can't get a GPU; found out before anything is built.

No machine of the tests has a GPU: what an engine answers, and which programs there are, is made up.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from caliban.commands import container_choice
from caliban.docker import engine as engine_module
from caliban.docker.engine import Engine
from caliban.errors import EngineError
from caliban.model.image import Mode

RUNTIME: dict[str, Any] = {"Runtimes": {"runc": {}, "nvidia": {}}}
CDI = {"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}
PLAIN: dict[str, Any] = {"Runtimes": {"runc": {}}}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes an engine that answers this on a machine with just these programs."""

    def make(info: dict[str, Any], *programs: str, host: str = "unix:///nowhere") -> Engine:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in programs:
            (folder / name).touch(mode=0o755)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setenv("DOCKER_HOST", host)
        monkeypatch.setattr(engine_module, "_DRIVER", ())
        monkeypatch.setattr(Engine, "info", lambda _: info)
        return Engine()

    return make


@pytest.mark.parametrize(
    ("info", "programs", "expected"),
    [
        (RUNTIME, ["nvidia-smi"], ("--gpus", "all")),
        (PLAIN, ["nvidia-smi", "nvidia-container-runtime-hook"], ("--gpus", "all")),
        (CDI, ["nvidia-smi"], ("--device", "nvidia.com/gpu=all")),
        (CDI | RUNTIME, ["nvidia-smi"], ("--gpus", "all")),
    ],
    ids=["the toolkit's runtime", "its hook only", "CDI only", "both"],
)
def test_an_engine_gives_gpus_by_what_it_has(
    machine: Any, info: dict[str, Any], programs: list[str], expected: tuple[str, ...]
) -> None:
    assert machine(info, *programs).gpu_arguments() == expected


def test_an_engine_elsewhere_is_asked_about_itself_only(machine: Any) -> None:
    assert machine(RUNTIME, host="tcp://elsewhere:2375").gpu_arguments() == ("--gpus", "all")


@pytest.mark.parametrize(
    ("info", "programs", "message", "mend"),
    [
        (PLAIN, [], "driver is missing", "--nogpu"),
        (RUNTIME, [], "driver is missing", "--nogpu"),
        (PLAIN, ["nvidia-smi"], "NVIDIA Container Toolkit is missing", "docs.nvidia.com"),
        (PLAIN, ["nvidia-smi", "nvidia-ctk"], "is not set up", "nvidia-ctk runtime configure"),
    ],
    ids=["nothing", "no driver", "no toolkit", "a toolkit that the engine does not know"],
)
def test_the_missing_part_is_named(
    machine: Any, info: dict[str, Any], programs: list[str], message: str, mend: str
) -> None:
    with pytest.raises(EngineError) as caught:
        machine(info, *programs).gpu_arguments()
    assert message in caught.value.message
    assert mend in caught.value.hint
    assert '"default_mode": "cpu"' in caught.value.hint


@pytest.mark.parametrize("command", ["run", "shell", "notebook"])
def test_on_a_mac_the_documented_message_comes(
    machine: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    engine = machine(PLAIN)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(EngineError) as caught:
        container_choice.gpus(engine, Mode.GPU, command)
    assert caught.value.message == (
        f"'caliban {command}' doesn't support GPU usage on Macs! Please pass --nogpu to use this "
        "command."
    )


def test_without_gpus_the_engine_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Engine, "info")
    assert container_choice.gpus(Engine(), Mode.CPU, "run") == ()
