"""This machine's own uv, lent to a build by an image that holds nothing else."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from caliban import home, process
from caliban.docker.engine import Engine
from caliban.docker.image import builder, uv
from caliban.docker.image.dockerfile import LABEL
from caliban.errors import CalibanError, EngineError

# How uv says what it is: "uv 0.13.8 (x86_64-unknown-linux-gnu)".
_SAID = re.compile(r"uv (?P<version>\S+) .*\((?P<processor>\w+)-[\w-]+-linux-\w+\)")
_PROCESSORS = {"x86_64": "amd64", "aarch64": "arm64"}


def image(engine: Engine, platform: str) -> str:
    """Makes sure that an engine on this machine has an image with uv in it, if that can be had.

    It stays in the engine: to send uv with each build would take longer.

    Args:
      engine: where it is used.
      platform: what uv has to run on, "linux/amd64".

    Returns:
      The image's name; "" if the engine is elsewhere, or if the uv that is installed here is
      another version or runs on something else.
    """
    if not engine.has_socket or engine.is_podman():
        return ""
    wanted = "/".join(platform.split("/")[:2])  # without the variant
    name = f"{LABEL}:uv-{wanted.replace('/', '-')}-{uv.VERSION}"
    with contextlib.suppress(EngineError):  # it does without
        if not engine.platform(name) and (binary := _installed(wanted)):
            with builder.one_at_a_time(name):
                if not engine.platform(name):
                    _make(name, binary, engine)
        # An engine may be of another kind than the machine that its socket is on.
        return name if engine.platform(name) == wanted else ""
    return ""


def _installed(platform: str) -> Path | None:
    """The program that is installed with caliban, if it is the one that images are made with."""
    try:
        from uv import find_uv_bin

        path = find_uv_bin()
        said = _SAID.match(process.run([path, "--version"]).stdout)
    except (ImportError, FileNotFoundError, CalibanError):
        return None
    if said is None or said["version"] != uv.VERSION:
        return None
    return Path(path) if platform == f"linux/{_PROCESSORS.get(said['processor'])}" else None


def _make(name: str, binary: Path, engine: Engine) -> None:
    import tarfile

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as files, binary.open("rb") as content:
        header = tarfile.TarInfo("uv")
        header.size, header.mode = binary.stat().st_size, 0o755
        files.addfile(header, content)
    repository, _, tag = name.partition(":")
    # By these, `caliban prune` knows whose it is.
    labels = {LABEL: "", f"{LABEL}.fingerprint": uv.VERSION, builder.HISTORY: home.history_mark()}
    changes = [f'LABEL {key}="{value}"' for key, value in labels.items()]
    with engine.errors("lending uv to a build"):
        engine.client.import_image_from_data(archive.getvalue(), repository, tag, changes)
