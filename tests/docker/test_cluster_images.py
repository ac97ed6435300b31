"""Clusters on this machine: how they are recognised, and how an image gets into them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from caliban.docker import cluster_images
from caliban.docker.cluster_images import Cluster, Local, load, recognise
from caliban.docker.engine import Engine
from caliban.errors import CalibanError

ID = "sha256:" + "0a" * 32
IMAGE = "caliban:cpu-0123456789abcdef"
VERSION, KERNEL = "27.3.1", "6.1.0"

Node = Mapping[str, Any]
Install = Callable[[str, str], Path]


class FakeEngine:
    """An engine as far as a cluster is compared with it."""

    def __init__(self, name: str = "laptop", is_local: bool = True) -> None:
        self.name = name
        self.is_local = is_local

    def info(self) -> dict[str, str]:
        return {"Name": self.name, "ServerVersion": VERSION, "KernelVersion": KERNEL}

    def image_id(self, _: str) -> str:
        return ID


def engine_named(name: str, is_local: bool = True) -> Engine:
    return cast(Engine, FakeEngine(name, is_local))


HERE = engine_named("laptop")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's ids are M and B."""
    for name, value in (("_MACHINE", "M\n"), ("_BOOT", "B\n")):
        (tmp_path / name).write_text(value)
        monkeypatch.setattr(cluster_images, name, tmp_path / name)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a program that writes its arguments down; returns the file of those."""

    def write(name: str, script: str) -> Path:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\necho \"$*\" >> '{tmp_path}/calls'\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        return tmp_path / "calls"

    return write


def node(
    name: str,
    runtime: str = f"docker://{VERSION}",
    machine: str = "M",
    boot: str = "B",
    kernel: str = KERNEL,
    provider: str = "",
    labels: Mapping[str, str] | None = None,
) -> Node:
    return {
        "metadata": {"name": name, "labels": dict(labels or {})},
        "spec": {"providerID": provider} if provider else {},
        "status": {
            "nodeInfo": {
                "containerRuntimeVersion": runtime,
                "machineID": machine,
                "bootID": boot,
                "kernelVersion": kernel,
            }
        },
    }


KIND = node("dev-control-plane", "containerd://2.1", provider="kind://docker/dev/dev-control-plane")
K3D = node("k3d-my-dev-server-0", "containerd://2.1", provider="k3s://k3d-my-dev-server-0")
MINIKUBE = node("minikube", machine="another", labels={"minikube.k8s.io/name": "minikube"})
GKE = node("gke-c-pool-1", "containerd://2.1", "another", "another", provider="gce://p/z/gke-c")


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([KIND], Local("kind", "dev")),
        ([KIND, KIND], Local("kind", "dev")),
        ([K3D], Local("k3d", "my-dev")),
        ([MINIKUBE], Local("minikube", "minikube")),
        ([node("127.0.0.1")], Local()),
        ([node("laptop", machine="", boot="")], Local()),
        ([node("127.0.0.1", runtime="docker://27.3.0")], None),
        ([node("127.0.0.1", runtime=f"containerd://{VERSION}")], None),
        ([node("127.0.0.1", boot="before")], None),
        ([node("127.0.0.1", kernel="6.1.1")], None),
        ([node("a"), node("b")], None),
        ([GKE], None),
        ([{"metadata": {"name": "odd"}}], None),
    ],
)
def test_its_nodes_tell_what_a_cluster_is(nodes: list[Node], found: Local | None) -> None:
    assert recognise(Cluster("kind-misleading", nodes), HERE) == found


@pytest.mark.parametrize(
    ("context", "found"),
    [
        ("kind-dev", Local("kind", "dev")),
        ("k3d-my-dev", Local("k3d", "my-dev")),
        ("minikube", Local("minikube", "minikube")),
        ("docker-desktop", None),
        ("gke_p_us-central1_kind-dev", None),
        ("", None),
    ],
)
def test_its_context_tells_where_nodes_are_not_shown(context: str, found: Local | None) -> None:
    assert recognise(Cluster(context), HERE) == found


def test_docker_desktop_has_the_engines_images() -> None:
    desktop = engine_named("docker-desktop")
    assert recognise(Cluster("docker-desktop"), desktop) == Local()
    inside = node("docker-desktop", machine="its own", boot="its own")
    assert recognise(Cluster("docker-desktop", [inside]), desktop) == Local()


def test_minikube_has_its_engines_images_where_docker_talks_to_that() -> None:
    inside = engine_named("minikube", is_local=False)
    assert recognise(Cluster("minikube", [MINIKUBE]), inside) == Local()


def test_an_engine_elsewhere_is_not_that_of_this_machines_cluster() -> None:
    elsewhere = engine_named("server", is_local=False)
    assert recognise(Cluster("local", [node("127.0.0.1")]), elsewhere) is None


def test_a_cluster_of_the_engine_needs_nothing() -> None:
    load(Local(), HERE, IMAGE)


@pytest.mark.parametrize(
    ("local", "command"),
    [
        (Local("kind", "dev"), f"load docker-image {IMAGE} --name dev"),
        (Local("k3d", "my-dev"), f"image import {IMAGE} --cluster my-dev"),
    ],
)
def test_an_image_is_loaded_with_the_clusters_own_program(
    local: Local, command: str, install: Install
) -> None:
    calls = install(local.tool, "echo loading")
    load(local, HERE, IMAGE)
    assert calls.read_text().splitlines() == [command]


LISTED = "image ls --profile work --format json"
LOADED = f"image load {IMAGE} --daemon=true --profile work"


@pytest.mark.parametrize(
    ("there", "commands"),
    [
        ([], [LISTED, LOADED]),
        ([{"id": ID[7:], "repoTags": [f"docker.io/library/{IMAGE}"]}], [LISTED]),
        ([{"id": "older", "repoTags": [f"docker.io/library/{IMAGE}"]}], [LISTED, LOADED]),
        ([{"id": ID[7:], "repoTags": None}], [LISTED, LOADED]),
        ({"odd": 1}, [LISTED, LOADED]),
    ],
)
def test_what_minikube_has_is_not_loaded_again(
    there: object, commands: list[str], install: Install
) -> None:
    calls = install("minikube", f"[ $2 = ls ] && echo '{json.dumps(there)}' || :")
    load(Local("minikube", "work"), HERE, IMAGE)
    assert calls.read_text().splitlines() == commands


def test_a_program_that_fails_is_told(install: Install, capfd: pytest.CaptureFixture[str]) -> None:
    install("kind", "echo 'ERROR: no nodes found for cluster' >&2; exit 1")
    with pytest.raises(CalibanError) as error:
        load(Local("kind", "dev"), HERE, IMAGE)
    assert "into the kind cluster 'dev'" in error.value.message
    assert "no nodes found" in error.value.message
    assert "no nodes found" in capfd.readouterr().err


def test_a_program_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CalibanError, match="the program 'kind', which is not on PATH") as error:
        load(Local("kind", "dev"), HERE, IMAGE)
    assert "--image_registry" in error.value.hint
