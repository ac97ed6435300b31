"""The real parts that tests use: engines, a registry, a cluster, a terminal, a browser.

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
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import pytest

from caliban.docker.engine import Engine
from caliban.errors import CalibanError
from tests import docker_registry as registries
from tests import dockerd, kubernetes_cluster
from tests.screen import Screen
from tests.workshop import Workshop

if TYPE_CHECKING:
    from tests.browser import Browser, Chromium

# The environment that the tests were started in, before any of it is unset.
_OUTSIDE: Mapping[str, str] = dict(os.environ)


def do_without(name: str, why: str) -> NoReturn:
    """Skips a test, unless $CALIBAN_REQUIRE names what it lacks."""
    if name in _OUTSIDE.get("CALIBAN_REQUIRE", "").split(","):
        pytest.fail(f"CALIBAN_REQUIRE asks for {name}, but {why}")
    pytest.skip(why)


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


@pytest.fixture(scope="module")
def _chromium() -> Iterator[Chromium]:
    """Chromium, which takes seconds to start."""
    from tests.browser import Chromium, program

    executable = program()
    if executable is None:
        do_without("chromium", "there is no Chromium on PATH")
    with contextlib.closing(Chromium(executable)) as found:
        yield found


@pytest.fixture
def browser(_chromium: Chromium) -> Iterator[Browser]:
    """A browser that has never been anywhere."""
    with contextlib.closing(_chromium.browser()) as found:
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
