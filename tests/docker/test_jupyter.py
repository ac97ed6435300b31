"""What is said to Docker and to Jupyter, and which versions go together."""

from __future__ import annotations

import importlib.util
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

from caliban.docker import jupyter
from caliban.docker.image.context import RESOURCES
from caliban.errors import UsageError


@pytest.mark.parametrize(
    ("lab", "version", "expected"),
    [
        (False, None, "notebook>=7.4,<8"),
        (True, None, "notebook>=7.4,<8"),
        (True, "", "notebook>=7.4,<8"),
        (False, "7", "notebook==7.*"),
        (False, "7.4", "notebook==7.4.*"),
        (False, "7.4.2", "notebook==7.4.2"),
        (False, "7.5.0rc1", "notebook==7.5.0rc1"),
        (True, "4.4", "jupyterlab==4.4.*"),
        (True, "4.5a2", "jupyterlab==4.5a2"),
        (True, "10.0.0.post1", "jupyterlab==10.0.0.post1"),
    ],
)
def test_a_version_becomes_a_requirement(lab: bool, version: str | None, expected: str) -> None:
    assert jupyter.requirement(lab, version) == expected


@pytest.mark.parametrize(
    "version", ["latest", "v7", "7.", "==7.4", "7.4 --pre", "7;x", "7\n", "7.4.*", "\u0667.4"]
)
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(UsageError, match="is not a version"):
        jupyter.requirement(False, version)


def test_versions_that_are_too_old_are_refused() -> None:
    with pytest.raises(UsageError, match="Jupyter Notebook is supported from version 7 on"):
        jupyter.requirement(False, "6.5.7")
    with pytest.raises(UsageError, match="JupyterLab is supported from version 4 on"):
        jupyter.requirement(True, "3.6")
    with pytest.raises(UsageError) as caught:
        jupyter.requirement(False, "4.2.1")  # what older calibans took as JupyterLab's
    assert "--lab" in caught.value.hint


def test_the_server_is_told_everything_but_its_token() -> None:
    command = jupyter.command(True, 8890, "127.0.0.1", ("/bin/bash", "--rcfile", "/x"))
    assert command[:3] == ("/opt/jupyter/venv/bin/python", "/opt/jupyter/serve.py", "lab")
    assert {
        *("--ServerApp.ip=127.0.0.1", "--ServerApp.port=8890", "--ServerApp.port_retries=0"),
        "--ServerApp.terminado_settings=shell_command=/bin/bash --rcfile /x",
    } <= set(command)
    assert "token" not in " ".join(command)
    assert jupyter.command(False, 1, "0.0.0.0", ())[2] == "notebook"


def test_the_address_leads_to_this_machine() -> None:
    assert jupyter.url(False, 8888, "abc") == "http://127.0.0.1:8888/tree?token=abc"
    assert jupyter.url(True, 9000, "abc") == "http://127.0.0.1:9000/lab?token=abc"


@pytest.mark.parametrize(
    ("run_args", "expected"),
    [
        ((), False),
        (("--network", "host"), True),
        (("--net=host", "--env", "A=1"), True),
        (("--env", "--network=host"), True),  # nobody names a variable like that
        (("--network", "bridge"), False),
        (("--network", "host", "--network=mine"), False),
        (("--network",), False),
    ],
)
def test_a_container_without_a_network_of_its_own_is_recognized(
    run_args: tuple[str, ...], expected: bool
) -> None:
    assert jupyter.shares_network(run_args) is expected


def test_a_container_without_any_network_is_refused() -> None:
    with pytest.raises(UsageError, match="network"):
        jupyter.shares_network(("--net", "none"))


def test_a_port_is_taken_while_somebody_listens_and_free_right_after() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as all servers do
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert jupyter.is_taken(port)
        assert not jupyter.answers(8, "")  # where nobody listens
        # A connection that has ended must not hold it.
        with socket.create_connection(("127.0.0.1", port)):
            listener.accept()[0].close()
    assert not jupyter.is_taken(port)


def test_what_is_said_of_a_taken_port_is_understood() -> None:
    driver = "driver failed programming external connectivity on endpoint x (1f): "
    for reason in (
        f"{driver}Bind for 127.0.0.1:8888 failed: port is already allocated",
        f"{driver}Error starting userland proxy: listen tcp4 127.0.0.1:8888: bind: address "
        "already in use",
        "[C ServerApp] ERROR: the Jupyter server could not be started because port 8888 is not "
        "available.",
    ):
        assert jupyter.is_conflict(reason)
    for reason in ("exit code 1", "the runtime nvidia is not available"):
        assert not jupyter.is_conflict(reason)


@pytest.fixture(scope="module")
def install_kernel() -> ModuleType:
    """The program that an image installs its kernel by."""
    path = RESOURCES / "jupyter" / "install_kernel.py"
    spec = importlib.util.spec_from_file_location("install_kernel", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    """Writes what a folder of packages knows of one."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def test_the_packages_of_the_project_are_those_that_its_python_would_find(
    install_kernel: ModuleType, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    distribution(first, "Prompt_Toolkit", "1.0.15")
    distribution(second, "prompt.toolkit", "3.0.0")
    distribution(second, "torch", "2.3.0+cpu")
    distribution(second, "python-debian", "0.1.49ubuntu2~x")  # no version by PEP 440
    found = install_kernel.versions_of([str(first), str(second), "/no/such/folder"])
    assert {name: str(version) for name, version in found.items()} == {
        "prompt-toolkit": "1.0.15",
        "torch": "2.3.0+cpu",
    }
    assert {"pytest", "packaging"} <= set(
        install_kernel.versions_of(install_kernel.import_path(sys.executable))
    )


def test_packages_that_do_not_go_together_are_named(
    install_kernel: ModuleType, tmp_path: Path
) -> None:
    project, packages = tmp_path / "project", tmp_path / "packages"
    distribution(project, "traitlets", "4.0.0")
    distribution(project, "tornado", "6.0.4")
    distribution(project, "comm", "0.2.0rc1")
    distribution(
        *(packages, "ipykernel", "7.4.0", "traitlets>=5.4.0", "tornado>=6", "comm>=0.1.1"),
        *("appnope; sys_platform == 'none'", "nothing>=1", "tornado>99; extra == 'x'", "!!"),
    )
    distribution(packages, "ipython", "9.1", "Traitlets>=5.13; python_version > '3'")
    distribution(packages, "traitlets", "5.16")
    versions = install_kernel.versions_of([str(project)])
    assert install_kernel.clashes(versions, packages) == [
        "Jupyter clashes with the project's traitlets 4.0.0, which is kept: "
        "ipykernel 7.4.0 asks for >=5.4.0, ipython 9.1 asks for >=5.13"
    ]
    assert install_kernel.clashes({}, packages) == []
