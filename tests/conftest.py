"""What all tests share: an environment of their own, and the command line.

No test reaches the user's ~/.caliban, credentials or settings: HOME is a new folder for each test,
the working directory is its tmp_path, and what else caliban reads from the environment is unset.
Engines and other real parts are in tests/parts.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from caliban.main import main

pytest_plugins = ["tests.parts"]

# Projects as other people have them, some with tests of their own.
collect_ignore = ["layouts"]

_UNSET_PREFIXES = ("BUILDKIT_", "BUILDX_", "CALIBAN_", "CLOUDSDK_", "DOCKER_", "GOOGLE_")
_UNSET = (
    "COLUMNS",
    "FORCE_COLOR",
    "KUBECONFIG",
    "LINES",
    "LNAME",
    "NO_COLOR",
    "PROJECT_ID",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONUNBUFFERED",
    "PYTHON_COLORS",
    "REGION",
    "USERNAME",
)

# An account without any powers.
_NOBODY = 65534

# Who the tests' jobs belong to, whoever runs them.
USER = "tester"

# The fixtures of real parts, and the seconds that a test with one of them takes on the average.
_PARTS = {
    "browser": 4,
    "cluster": 4,
    "docker_registry": 4,
    "engine": 4,
    "mlflow_program": 10,
    "own_engine": 6,
    "screen": 6,
}


def pytest_configure() -> None:
    """Sees to it that the programs that tests start heed ^C, and the end of a terminal.

    They would inherit that these are ignored: ^C by what a script runs as `pytest &`, SIGHUP by
    what runs under nohup. A function is not inherited; the tests themselves go on after SIGHUP.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first: what is short fills up the ends of all processes."""
    seconds: Counter[Path] = Counter()
    for item in items:
        seconds[item.path] += _seconds(item)
    items.sort(key=lambda item: -seconds[item.path])


def _seconds(item: pytest.Item) -> int:
    """How long a test will take, roughly; those without real parts take milliseconds."""
    if marker := item.get_closest_marker("takes"):
        return int(marker.args[0])
    parts = {*getattr(item, "fixturenames", ())}
    return max((seconds for part, seconds in _PARTS.items() if part in parts), default=0)


class Inline(Protocol):
    """Runs a caliban command within the test's own process, which is quick."""

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]: ...


class Caliban(Protocol):
    """Runs `python -m caliban` with these arguments to its end, in a process of its own.

    Working directory and environment are the test's own, unless `cwd` and `env` say otherwise.
    """

    def __call__(
        self,
        *args: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]: ...


class Unprivileged(Protocol):
    """Runs a function as a user who is not root, in an empty folder that is theirs.

    The function may not import anything, and its answer must be short.
    """

    def __call__(self, action: Callable[[Path], str]) -> str: ...


def _isolate(patch: pytest.MonkeyPatch, home: Path) -> None:
    for name in list(os.environ):
        if name in _UNSET or name.startswith(_UNSET_PREFIXES):
            patch.delenv(name)
    patch.setenv("HOME", str(home))
    patch.setenv("TERM", "xterm-256color")
    patch.setenv("LOGNAME", USER)
    patch.setenv("USER", USER)


@pytest.fixture(autouse=True, scope="session")
def _isolated_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Isolates fixtures that are made once for several tests."""
    with pytest.MonkeyPatch.context() as patch:
        _isolate(patch, tmp_path_factory.mktemp("home"))
        yield


@pytest.fixture(autouse=True)
def home(
    _isolated_session: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The test's own, empty home directory; the working directory is tmp_path."""
    folder = tmp_path_factory.mktemp("home")
    _isolate(monkeypatch, folder)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def caliban() -> Caliban:
    """The command line, in a process of its own."""

    def run(
        *args: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "caliban", *args],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def inline(capsys: pytest.CaptureFixture[str]) -> Inline:
    """The command line, without a process of its own."""

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        try:
            code = main(args)
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            code = ended.code
        return subprocess.CompletedProcess(args, code, *capsys.readouterr())

    return run


@pytest.fixture
def unprivileged() -> Unprivileged:
    """Runs a function without root's powers, for which permissions count."""

    def run(action: Callable[[Path], str]) -> str:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if os.getuid() != 0:
                return action(folder)
            os.chown(folder, _NOBODY, _NOBODY)
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.setgroups([])
                    os.setgid(_NOBODY)
                    os.setuid(_NOBODY)
                    answer = action(folder)
                except BaseException as error:  # noqa: BLE001 - the child must not come back
                    answer = f"raised {error!r}"
                os.write(writer, answer.encode())
                os._exit(0)
            os.close(writer)
            with open(reader) as pipe:
                answer = pipe.read()
            os.waitpid(child, 0)
            return answer

    return run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project, the working directory: a package `trainer` with a module `train`."""
    folder = tmp_path / "project"
    (folder / "trainer").mkdir(parents=True)
    (folder / "trainer" / "__init__.py").touch()
    (folder / "trainer" / "train.py").write_text("import sys\nprint(sys.argv[1:])\n")
    monkeypatch.chdir(folder)
    return folder
