"""Tells what is in an image; runs in a container of it, with the Python that jobs have there."""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib import metadata, util
from pathlib import Path
from typing import Any

VENV = Path("/opt/venv")
PROJECT = Path("/usr/app")

# Where the installer lies while it is needed, and where the tests' base image may have one itself.
INSTALLER = Path("/opt/uv")
OF_THE_BASE = "/srv/uv/bin"


def installed() -> dict[str, Any]:
    """The packages of the virtual environment, where some came from, and what is not compiled."""
    packages, origins, uncompiled = {}, {}, []
    places = [str(path) for path in VENV.glob("lib/python3*/site-packages")]
    for distribution in metadata.distributions(path=places):
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        packages[name] = distribution.version
        origin = distribution.read_text("direct_url.json")
        if origin:
            origins[name] = json.loads(origin)
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            is_module = path.suffix == ".py" and path.resolve().is_relative_to(VENV)
            if is_module and not Path(util.cache_from_source(str(path))).exists():
                uncompiled.append(str(path))
    return {"packages": packages, "origins": origins, "uncompiled": uncompiled}


def copied() -> dict[str, Any]:
    """The files and the links of the working directory."""
    files, links = [], {}
    for place, folders, names in os.walk(PROJECT):
        for path in (Path(place, name) for name in folders + names):
            name = str(path.relative_to(PROJECT))
            if path.is_symlink():
                links[name] = str(path.readlink())
            elif not path.is_dir():
                files.append(name)
    return {"files": files, "links": links}


left = [str(INSTALLER)] if INSTALLER.exists() and any(INSTALLER.iterdir()) else []
search = [each for each in os.environ["PATH"].split(os.pathsep) if each != OF_THE_BASE]
left += filter(None, [shutil.which("uv", path=os.pathsep.join(search))])
print(json.dumps({**installed(), **copied(), "left": left}))
