"""`caliban notebook` with a real engine and a real browser."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caliban.docker import jupyter
from tests.browser import Browser
from tests.commands.conftest import Start, wait_for
from tests.conftest import Inline
from tests.parts import OpenScreen
from tests.workshop import Workshop, docker

pytestmark = pytest.mark.takes(10)

NOTEBOOK = ("notebook", "--nogpu")

CELL = """\
import six, sys
with open("written.txt", "w") as file:
    file.write(six.__version__)
print(six.__version__, sys.executable)
!command -v python
"""

# Whatever may stand in somebody's Jupyter settings, and would leave the printed address dead.
HOSTILE = """
for section in (c.ServerApp, c.NotebookApp):
    section.port = 9999
    section.base_url = "/elsewhere/"
    section.token = ""
    section.certfile = "/no/such/file"
    section.root_dir = "/no/such/folder"
c.IdentityProvider.token = ""
c.PasswordIdentityProvider.token = ""
c.ServerApp.ip = "203.0.113.1"
c.MultiKernelManager.default_kernel_name = "theirs"
c.ContentsManager.untitled_notebook = "Mine"
"""


@pytest.fixture
def folder(project: Path, workshop: Workshop) -> Path:
    """A project with a requirement, the working directory."""
    (project / "requirements.txt").write_text("six==1.16.0\n")
    return project


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; none may be left when a test ends."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def address(child: subprocess.Popen[str]) -> str:
    """The one line on stdout, once it is there."""
    assert child.stdout is not None and child.stderr is not None
    line = child.stdout.readline()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/(tree|lab)\?token=\w{48}\n", line), (
        child.stderr.read()
    )
    return line.strip()


def port_of(url: str) -> int:
    found = urllib.parse.urlsplit(url).port
    assert found
    return found


def ask(url: str, path: str, data: dict[str, Any] | None = None, token: bool = True) -> Any:
    """An answer of the server's API; the status alone if it is an error."""
    request = urllib.request.Request(
        urllib.parse.urljoin(url, path), None if data is None else json.dumps(data).encode()
    )
    if token:
        request.add_header("Authorization", f"token {url.partition('token=')[2]}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as reply:
            return json.loads(reply.read() or "null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def containers(workshop: Workshop) -> list[str]:
    return workshop.containers("--all", "--filter", "name=caliban-notebook-")


def listeners(port: int) -> set[str]:
    """The addresses of this machine that somebody listens on at a port."""
    found = set()
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            digits, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                words = [bytes.fromhex(digits[i : i + 8])[::-1] for i in range(0, len(digits), 8)]
                found.add(socket.inet_ntop(family, b"".join(words)))
    return found


def command_lines() -> str:
    """Those of all processes."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_text(errors="replace"))
        except OSError:
            continue  # it has just ended
    return "\n".join(found)


def test_a_cell_finds_the_requirements_and_what_it_writes_is_the_users(
    start: Start, folder: Path, workshop: Workshop, browser: Browser
) -> None:
    child = start(*NOTEBOOK)
    url = address(child)
    assert "/tree?" in url
    # Files that are called like modules of Python's own must not get in the way of the kernel.
    for name in ("random.py", "queue.py", "types.py", "zmq.py"):
        (folder / name).write_text("raise RuntimeError\n")
    assert browser.run_cell(url, CELL).split() == [
        *("1.16.0", "/opt/venv/bin/python", "/opt/venv/bin/python"),
    ]
    wait_for(lambda: "six.__version__" in (folder / "Untitled.ipynb").read_text())
    assert (folder / "written.txt").read_text() == "1.16.0"
    assert {path.stat().st_uid for path in folder.rglob("*")} == {os.getuid()}

    # Nobody gets in without the token, or from elsewhere, and nobody sees it.
    assert ask(url, "/api/contents", token=False) == 403
    assert ask(url, "/api/kernels", {}, token=False) == 403
    assert listeners(port_of(url)) == {"127.0.0.1"}
    assert url.partition("token=")[2] not in command_lines()
    connection = http.client.HTTPConnection("127.0.0.1", port_of(url))
    for path, host, status in (("/tree", "", 302), ("/tree", "evil.example", 403)):
        connection.request("GET", path, headers={"Host": host or "localhost"})
        reply = connection.getresponse()
        assert (reply.status, reply.read()[:0]) == (status, b"")
        if status == 302:
            assert reply.headers["Location"].startswith("/login?")
    connection.close()

    assert len(containers(workshop)) == 1
    child.send_signal(signal.SIGTERM)
    stdout, stderr = child.communicate(timeout=30)
    assert (child.returncode, stdout) == (130, "")
    assert stderr.endswith("Stopping Jupyter; ^C again kills it.\n")
    assert url.partition("token=")[2] not in stderr
    assert containers(workshop) == []


@pytest.mark.parametrize("ending", ["^C", "a closed terminal"])
def test_nothing_is_left_when_a_terminal_ends_it(
    screen: OpenScreen, folder: Path, workshop: Workshop, home: Path, scratch: Path, ending: str
) -> None:
    terminal = screen()
    terminal.line(f"{sys.executable} -m caliban {' '.join(NOTEBOOK)}; echo code $?")
    url = terminal.shows(r"^http://\S+token=\w{48}$", seconds=120)[0]
    kernel = ask(url, "/api/kernels", {})
    assert kernel["name"] == "python3"
    if ending == "^C":
        terminal.keys("C-c")
        terminal.shows("Stopping Jupyter")
        terminal.shows("^code 130$")
    else:
        terminal.close()
    wait_for(lambda: containers(workshop) == [])
    wait_for(lambda: listeners(port_of(url)) == set())
    assert list((home / ".caliban" / "locks").iterdir()) == []


def test_jupyter_can_be_shut_down_in_the_browser_and_takes_the_first_free_port(
    start: Start, folder: Path, workshop: Workshop
) -> None:
    with socket.socket() as taken:
        first = next(jupyter.free_ports())
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", first))
        taken.listen()
        child = start(*NOTEBOOK, "--bare", "--lab")
        url = address(child)
        assert port_of(url) > first
    assert ask(url, "/api/shutdown", {}) is None
    _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr.splitlines()[-1]) == (0, "Jupyter was shut down.")
    assert containers(workshop) == []


@pytest.mark.parametrize("run_args", ["", "--network host"], ids=["of its own", "the host's"])
def test_a_port_that_is_taken_meanwhile_is_passed_over(
    inline: Inline,
    folder: Path,
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    run_args: str,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first: int = taken.getsockname()[1]
        monkeypatch.setattr(jupyter, "FIRST_PORT", first)
        monkeypatch.setattr(jupyter, "is_taken", lambda port: False)
        printed: Any = sys.stdout

        def stop() -> None:
            wait_for(lambda: "token=" in printed.getvalue(), 120)
            docker("stop", *containers(workshop))

        stopping = threading.Thread(target=stop)
        stopping.start()
        done = inline(*NOTEBOOK, "--docker_run_args", run_args)
        stopping.join()
    assert done.returncode == 0, done.stderr
    # The next one, unless that has been taken as well.
    assert first < port_of(done.stdout) < first + 9
    assert "already" not in done.stderr
    assert containers(workshop) == []


def test_settings_in_the_home_directory_cannot_open_the_server_or_hide_it(
    start: Start, folder: Path, workshop: Workshop, home: Path
) -> None:
    settings = home / ".jupyter"
    settings.mkdir()
    for name in ("server", "notebook"):
        (settings / f"jupyter_{name}_config.py").write_text(HOSTILE)
    for name in ("python3", "theirs"):
        kernel = home / ".local/share/jupyter/kernels" / name
        kernel.mkdir(parents=True)
        spec = {"argv": ["/no/such/python"], "display_name": "x", "language": "python"}
        (kernel / "kernel.json").write_text(json.dumps(spec))
    # Without a network of its own, it must not listen on the machine's other addresses.
    child = start(*NOTEBOOK, "--docker_run_args", "--network host")
    url = address(child)
    assert listeners(port_of(url)) == {"127.0.0.1"}
    assert ask(url, "/api/contents", token=False) == 403
    specs = ask(url, "/api/kernelspecs")
    assert (specs["default"], list(specs["kernelspecs"])) == ("python3", ["python3"])
    assert specs["kernelspecs"]["python3"]["spec"]["argv"][0] == "/opt/venv/bin/python"
    made = ask(url, "/api/contents", {"type": "notebook"})
    assert (made["path"], (folder / "Mine.ipynb").exists()) == ("Mine.ipynb", True)
    child.send_signal(signal.SIGHUP)
    child.communicate(timeout=30)
    assert (child.returncode, containers(workshop)) == (130, [])


def test_why_it_did_not_start_is_told(
    start: Start, folder: Path, workshop: Workshop, home: Path
) -> None:
    (home / ".jupyter").mkdir()
    (home / ".jupyter/jupyter_server_config.py").write_text(
        "c.ServerApp.contents_manager_class = 'missing.Manager'\n"
    )
    child = start(*NOTEBOOK)
    stdout, stderr = child.communicate(timeout=120)
    assert (child.returncode, stdout) == (1, "")
    *_, message, hint = stderr.splitlines()
    assert message.startswith("caliban: error: Jupyter did not start: ")
    assert "missing" in message
    assert hint == "If that comes of settings in your home directory: --bare leaves them out."
    child = start(*NOTEBOOK, "--docker_run_args", "--memory 1k")
    stdout, stderr = child.communicate(timeout=120)
    assert (child.returncode, stdout) == (1, "")
    message = stderr.splitlines()[-1]
    assert message.startswith("caliban: error: Jupyter could not be started: Minimum memory limit")
    assert containers(workshop) == []
