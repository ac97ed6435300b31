"""Installs what runs the cells of notebooks: Jupyter's kernel, in the project's own Python.

  install_kernel.py PYTHON INSTALL...

PYTHON is the project's, and INSTALL... the words that install packages. The kernel shares a process
with the project's code, and with that the versions of all packages. So it is installed in versions
that go with those of the project. If there are none, the project's win, and a note says so.

It is run once, while an image is built, by the Python of Jupyter's server.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).resolve().parent

# Where the kernel finds what the project lacks; start_kernel.py puts it on its path.
PACKAGES = HERE / "packages"

# What serve.py tells the user.
NOTES = HERE / "notes.txt"

SHARE = HERE / "share" / "jupyter"


def main(python: str, install: Sequence[str]) -> None:
    """Installs the kernel, tries it, and notes what does not fit."""
    project = versions_of(import_path(python))
    problem = ""
    for constraints in (project, {}):
        if not _install(python, install, constraints):
            continue
        _describe_kernel(python)
        problem = _try()
        if not problem:
            break
    if not PACKAGES.exists():
        sys.exit("error: ipykernel could not be installed")
    notes = clashes(project, PACKAGES)
    if problem:
        notes.append(f"Jupyter's kernel does not start with the project's packages: {problem}")
    NOTES.write_text("".join(f"{note}\n" for note in notes))


def import_path(python: str) -> list[str]:
    """The folders that a Python imports from."""
    code = "import json, sys; print(json.dumps(sys.path))"
    found = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, check=True)
    return [folder for folder in json.loads(found.stdout) if folder]


def versions_of(path: Sequence[str]) -> dict[str, Version]:
    """The packages that lie in folders, the first of each name."""
    found: dict[str, Version] = {}
    for each in distributions(path=list(path)):
        try:
            found.setdefault(canonicalize_name(each.metadata["Name"]), Version(each.version))
        except (AttributeError, InvalidVersion, KeyError, TypeError):
            continue  # of Debian's own, some have versions that are none to Python's installers
    return found


def clashes(project: dict[str, Version], packages: Path) -> list[str]:
    """Tells which of the project's packages are not what the kernel's packages ask for."""
    found: dict[str, list[str]] = {}
    for each in distributions(path=[str(packages)]):
        for text in each.requires or ():
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue
            name = canonicalize_name(wanted.name)
            if name not in project or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
                continue
            if not wanted.specifier.contains(project[name], prereleases=True):
                who = f"{each.metadata['Name']} {each.version} asks for {wanted.specifier}"
                found.setdefault(name, []).append(who)
    return [
        f"Jupyter clashes with the project's {name} {project[name]}, which is kept: "
        f"{', '.join(sorted(who))}"
        for name, who in sorted(found.items())
    ]


def _describe_kernel(python: str) -> None:
    """Makes the kernel known to the server, under the name that notebooks have always had."""
    folder = SHARE / "kernels" / "python3"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PACKAGES / "share" / "jupyter" / "kernels" / "python3", folder)
    spec = {
        "argv": [python, str(HERE / "start_kernel.py"), "-f", "{connection_file}"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "metadata": {"debugger": True},
    }
    (folder / "kernel.json").write_text(json.dumps(spec, indent=1))


def _install(python: str, install: Sequence[str], constraints: dict[str, Version]) -> bool:
    shutil.rmtree(PACKAGES, ignore_errors=True)
    command = [*install, "--python", python, "--target", str(PACKAGES), "ipykernel>=5"]
    with tempfile.TemporaryDirectory() as scratch:
        if constraints:
            file = Path(scratch, "constraints.txt")
            file.write_text("".join(f"{name}=={each}\n" for name, each in constraints.items()))
            command += ["--constraint", str(file)]
        return subprocess.run(command, check=False).returncode == 0


def _try() -> str:
    """Runs a cell; returns why that is impossible, "" if it is not."""
    saved = dict(os.environ)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(JUPYTER_PATH=str(SHARE), PYTHONNOUSERSITE="1")
        for name in ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            os.environ[name] = scratch
        try:
            return _run_cell(Path(scratch))
        finally:
            os.environ.clear()
            os.environ.update(saved)


def _run_cell(scratch: Path) -> str:
    from jupyter_client.manager import start_new_kernel

    errors = scratch / "errors"
    with errors.open("wb") as stream:
        try:
            manager, client = start_new_kernel(
                kernel_name="python3", startup_timeout=120, cwd=str(scratch), stderr=stream
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the user is told
            said = errors.read_text(errors="replace").strip().splitlines()
            return said[-1] if said else f"{type(error).__name__}: {error}"
        try:
            reply = client.execute("1", reply=True, timeout=60)["content"]
        except Exception as error:  # noqa: BLE001
            return f"{type(error).__name__}: {error}"
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    return "" if reply["status"] == "ok" else f"{reply.get('ename')}: {reply.get('evalue')}"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
