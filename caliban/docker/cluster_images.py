"""Clusters on this machine: which get an image without a registry, and how."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caliban import process, terminal
from caliban.docker.engine import Engine
from caliban.docker.image import progress
from caliban.errors import CalibanError

_KIND = re.compile(r"kind://[^/]+/(?P<cluster>[^/]+)/")
_K3D = re.compile(r"k3d-(?P<cluster>.+)-(?:server|agent)-\d+")
_MINIKUBE = "minikube.k8s.io/name"

# What tells this machine, and this start of it, from all others. A cluster's node knows them too.
_MACHINE = Path("/etc/machine-id")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Cluster:
    """What is known of a cluster.

    Attributes:
      context: its name in the kubeconfig; "" for none.
      nodes: as the cluster's API has them; empty if it doesn't show them to everybody.
    """

    context: str
    nodes: Sequence[Mapping[str, Any]] = ()

    @property
    def names(self) -> list[str]:
        """The names of its nodes."""
        return [str(_at(node, "metadata", "name")) for node in self.nodes]

    @property
    def platforms(self) -> set[str]:
        """What its nodes can run, like "linux/amd64"; empty if that is not known."""
        infos = [_at(node, "status", "nodeInfo") for node in self.nodes]
        found = {f"{_at(i, 'operatingSystem')}/{_at(i, 'architecture')}" for i in infos}
        return {each for each in found if not each.startswith("/") and not each.endswith("/")}


@dataclass(frozen=True)
class Local:
    """A cluster whose pods get images without a registry.

    Attributes:
      tool: the program that it was made with, which loads images into it: "kind"; "" if it runs
        from this very engine, and has all its images.
      name: what that program calls it.
    """

    tool: str = ""
    name: str = ""

    def __str__(self) -> str:
        """What it is, for people."""
        return f"the {self.tool} cluster '{self.name}'" if self.tool else "a cluster of this engine"


def recognise(cluster: Cluster, engine: Engine) -> Local | None:
    """Finds out how a cluster gets images of an engine.

    Its nodes tell, or its context where they are not shown.

    Args:
      cluster: the cluster.
      engine: which has the images.

    Returns:
      What it is; None for any other cluster, which pulls its images from a registry.

    Raises:
      EngineError: the engine does not answer.
    """
    if cluster.nodes:
        if len(cluster.nodes) == 1 and _runs_from(cluster.nodes[0], engine):
            return Local()
        return next(_of_nodes(cluster), None)
    for tool in ("kind", "k3d"):
        if cluster.context.startswith(f"{tool}-"):
            return Local(tool, cluster.context.removeprefix(f"{tool}-"))
    if cluster.context == "minikube":
        return Local("minikube", cluster.context)
    is_desktop = cluster.context == "docker-desktop" == engine.info().get("Name")
    return Local() if is_desktop else None


def _of_nodes(cluster: Cluster) -> Iterator[Local]:
    for node in cluster.nodes:
        if match := _KIND.match(str(_at(node, "spec", "providerID"))):
            yield Local("kind", match["cluster"])
        if profile := _at(node, "metadata", "labels", _MINIKUBE):
            yield Local("minikube", str(profile))
    for name in cluster.names:
        if match := _K3D.fullmatch(name):
            yield Local("k3d", match["cluster"])


def _runs_from(node: Mapping[str, Any], engine: Engine) -> bool:
    """Whether the containers of a node are those of an engine."""

    def says(name: str) -> str:
        return str(_at(node, "status", "nodeInfo", name))

    runtime, _, version = says("containerRuntimeVersion").partition("://")
    if runtime != "docker":
        return False
    known = engine.info()
    if version != known.get("ServerVersion") or says("kernelVersion") != known.get("KernelVersion"):
        return False
    if _at(node, "metadata", "name") == known.get("Name"):
        return True
    # minikube's node in a container has the machine's boot id, but a machine id of its own.
    here = (_content(_MACHINE), _content(_BOOT))
    return engine.is_local and bool(here[1]) and here == (says("machineID"), says("bootID"))


def load(local: Local, engine: Engine, image: str) -> None:
    """Makes an image of an engine available to a cluster, unless it is.

    Args:
      local: the cluster, see `recognise`.
      engine: which has the image.
      image: its name.

    Raises:
      CalibanError: the cluster's program is not there, or fails; what it says has been shown.
      EngineError: the engine does not answer.
    """
    if not local.tool:
        return
    if process.find(local.tool) is None:
        raise CalibanError(
            f"an image gets into {local} by the program '{local.tool}', which is not on PATH",
            "Install it, or name a registry that the cluster pulls from: --image_registry.",
        )
    if local.tool == "minikube" and _is_in_minikube(local.name, engine, image):
        terminal.note(f"{local} has the image already: {image}")
        return
    commands = {
        # kind itself looks whether the nodes have the image.
        "kind": ["kind", "load", "docker-image", image, "--name", local.name],
        "minikube": ["minikube", "image", "load", image, "--daemon=true", "--profile", local.name],
        "k3d": ["k3d", "image", "import", image, "--cluster", local.name],
    }
    with process.start(commands[local.tool], merge_stderr=True) as child:
        code, output = progress.show(child, f"Load the image into {local}")
    if code:
        raise CalibanError(
            f"the image {image} could not be loaded into {local}: {progress.reason(output)}",
            "Is the cluster up? A registry that it pulls from is named by --image_registry.",
        )


def _is_in_minikube(profile: str, engine: Engine, image: str) -> bool:
    """Whether a cluster of minikube's has this very image under its name."""
    command = ["minikube", "image", "ls", "--profile", profile, "--format", "json"]
    ended = process.run(command)
    wanted = str(engine.image_id(image)).removeprefix("sha256:")
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        for each in json.loads(ended.stdout):
            names = [str(name).removeprefix("docker.io/library/") for name in each["repoTags"]]
            if image in names and str(each["id"]).removeprefix("sha256:") == wanted:
                return True
    return False


def _at(value: Any, *path: str) -> Any:
    """What is at a path of JSON; "" if there is nothing."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value or ""


def _content(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
