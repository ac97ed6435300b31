"""What all tests share: an environment of their own, the command line, and the Docker engine.

No test reaches the user's ~/.caliban, credentials or settings: HOME is a new folder for each test,
the working directory is its tmp_path, and what else caliban reads from the environment is unset.
Tests that need a Docker engine ask for the fixture `engine`; without one they are skipped, or fail
where $CALIBAN_REQUIRE names "docker". The same goes for `own_engine` and "dockerd", `screen` and
"tmux", `browser` and "chromium", `docker_registry` and "docker-registry", `cluster` and
"kubernetes", `mlflow` and "mlflow"; the kubeconfig is named by $CALIBAN_TEST_KUBECONFIG.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import pytest

from caliban.docker.engine import Engine
from caliban.errors import CalibanError
from caliban.main import main
from tests import docker_registry as registries
from tests import dockerd, kubernetes_cluster
from tests.screen import Screen
from tests.workshop import Workshop

if TYPE_CHECKING:
    from tests.browser import Browser

# Projects as other people have them, some with tests of their own.
collect_ignore = ["layouts"]

# The environment that the tests were started in, before any of it is unset.
_OUTSIDE: Mapping[str, str] = dict(os.environ)

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

# The fixtures of real parts: a test with one of them takes seconds, others take milliseconds.
_PARTS = frozenset({"engine", "own_engine", "cluster", "mlflow_program", "screen", "browser"})


def pytest_configure() -> None:
    """Takes ^C back: what `pytest &` in a script runs would ignore it, as under nohup."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first: what is short fills up the ends of all processes."""
    slow = Counter(item.path for item in items if _PARTS & {*getattr(item, "fixturenames", ())})
    items.sort(key=lambda item: -slow[item.path])


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


@pytest.fixture(scope="session")
def _engine_environment() -> dict[str, str]:
    """The variables that lead to the engine and its base image, from outside or from `make engine`.

    Docker's own settings are found by HOME, which the tests change: they are named here instead.
    """
    found: dict[str, str] = {}
    prepared = Path(__file__).parents[1] / ".engine.env"
    if prepared.is_file():
        for word in shlex.split(prepared.read_text()):
            name, equals, value = word.partition("=")
            if equals:
                found[name] = value
    wanted = ("DOCKER_", "CALIBAN_BASE_IMAGE")
    found.update({name: value for name, value in _OUTSIDE.items() if name.startswith(wanted)})
    settings = Path(_OUTSIDE.get("HOME", "~"), ".docker").expanduser()
    if settings.is_dir():
        found.setdefault("DOCKER_CONFIG", str(settings))
    return found


@pytest.fixture(scope="session")
def _no_engine(_isolated_session: None, _engine_environment: dict[str, str]) -> str:
    """Why there is no engine to test with; empty if there is one."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _engine_environment.items():
            patch.setenv(name, value)
        # A client that finds no engine leaves its socket to the garbage collector.
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            try:
                with contextlib.closing(Engine().client) as client:
                    client.info()
                return ""
            except CalibanError as error:
                return f"{error.message}. {error.hint}"
            finally:
                gc.collect()


@pytest.fixture
def engine(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    _engine_environment: dict[str, str],
    _no_engine: str,
) -> Iterator[Engine]:
    """The Docker engine, which `docker` and caliban find in the environment, as the base image."""
    if _no_engine:
        do_without("docker", _no_engine)
    for name, value in _engine_environment.items():
        monkeypatch.setenv(name, value)
    found = Engine()
    with contextlib.closing(found.client):
        yield found


@pytest.fixture(scope="session")
def _own_engine(
    _isolated_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dockerd.Dockerd | str]:
    """The engine, or why there is none."""
    tools = dockerd.gpu_tools(tmp_path_factory.mktemp("tools"), [])
    try:
        found = dockerd.Dockerd(str(tools))
    except dockerd.NoEngineError as error:
        yield str(error)
        return
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def own_engine(
    home: Path, monkeypatch: pytest.MonkeyPatch, _own_engine: dockerd.Dockerd | str
) -> Iterator[dockerd.Dockerd]:
    """An engine that a test may stop, which `docker` and caliban find in the environment.

    It gives containers GPUs as far as they can be told which, see dockerd.gpu_tools.
    """
    if isinstance(_own_engine, str):
        do_without("dockerd", _own_engine)
    for name, value in _own_engine.environment.items():
        monkeypatch.setenv(name, value)
    yield _own_engine
    if not _own_engine.answers():
        _own_engine.start()
    if left := _own_engine.docker("ps", "--all", "--quiet").split():
        _own_engine.docker("rm", "--force", *left)
    for _ in range(9):  # an image goes only after those that were built on it
        if images := {*_own_engine.docker("images", "--all", "--quiet").split()}:
            _own_engine.docker("rmi", "--force", *images, check=False)


@pytest.fixture
def registry_program() -> None:
    """The program that DockerRegistry starts."""
    if shutil.which(registries.PROGRAM) is None:
        do_without(registries.PROGRAM, f"there is no {registries.PROGRAM} on PATH")


@pytest.fixture(scope="session")
def _docker_registry(
    _isolated_session: None,
) -> Iterator[Callable[[], registries.DockerRegistry]]:
    """Starts the registry of the session when it is asked for first."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(
            lambda: stack.enter_context(contextlib.closing(registries.DockerRegistry()))
        )


@pytest.fixture
def docker_registry(
    engine: Engine,
    registry_program: None,
    _docker_registry: Callable[[], registries.DockerRegistry],
) -> Iterator[registries.DockerRegistry]:
    """A registry that the engine pushes to, and that all tests of the session use.

    What a test has pushed stays in it, so that large layers are sent once; the engine forgets it.
    """
    if not engine.is_local:
        pytest.skip("the engine is on another machine, which doesn't see this one's loopback")
    found = _docker_registry()
    yield found
    registries.forget(found.host)


@pytest.fixture(scope="session")
def cluster(
    _isolated_session: None, _engine_environment: dict[str, str]
) -> Iterator[kubernetes_cluster.Cluster]:
    """A Kubernetes cluster, with a namespace of the session's own."""
    try:
        found = kubernetes_cluster.Cluster(
            _OUTSIDE.get(kubernetes_cluster.VARIABLE), _engine_environment.get("CALIBAN_BASE_IMAGE")
        )
    except kubernetes_cluster.NoClusterError as error:
        do_without("kubernetes", str(error))
    with contextlib.closing(found):
        yield found


@pytest.fixture
def kubeconfig(cluster: kubernetes_cluster.Cluster) -> Path:
    """The kubeconfig of the cluster."""
    return cluster.kubeconfig


@pytest.fixture
def namespace(cluster: kubernetes_cluster.Cluster) -> str:
    """The namespace of the session's own in the cluster."""
    return cluster.namespace


def do_without(name: str, why: str) -> NoReturn:
    """Skips a test, unless $CALIBAN_REQUIRE names what it lacks."""
    if name in _OUTSIDE.get("CALIBAN_REQUIRE", "").split(","):
        pytest.fail(f"CALIBAN_REQUIRE asks for {name}, but {why}")
    pytest.skip(why)


class OpenScreen(Protocol):
    """Opens a terminal; `account` are options of subprocess.run that make it another user's."""

    def __call__(
        self, cwd: Path | None = None, env: Mapping[str, str] | None = None, **account: Any
    ) -> Screen: ...


@pytest.fixture
def screen() -> Iterator[OpenScreen]:
    """Opens terminals, in which a shell has the test's own directory and environment."""
    if shutil.which("tmux") is None:
        do_without("tmux", "there is no tmux, which is the terminal of these tests")
    screens: list[Screen] = []

    def start(
        cwd: Path | None = None, env: Mapping[str, str] | None = None, **account: Any
    ) -> Screen:
        variables = dict(os.environ) if env is None else env
        screens.append(Screen(cwd or Path.cwd(), variables, **account))
        return screens[-1]

    yield start
    for each in screens:
        each.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    from tests.browser import Browser, program

    executable = program()
    if executable is None:
        do_without("chromium", "there is no Chromium on PATH")
    with Browser(executable) as found:
        yield found


@pytest.fixture(scope="session")
def _workshop(_isolated_session: None) -> Iterator[Workshop]:
    shop = Workshop()
    yield shop
    shop.clear()


@pytest.fixture
def workshop(engine: Engine, _workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """The session's images; caliban builds on the session's base image."""
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", _workshop.base("plain"))
    return _workshop
