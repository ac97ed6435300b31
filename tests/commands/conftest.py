"""A project whose one module does whatever its flags say, so that every test runs one image."""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands.kubernetes import Namespace
from tests.commands.noise import SOURCE
from tests.commands.replays import EXPERIMENTS, Elsewhere
from tests.conftest import Caliban
from tests.kubernetes_cluster import Cluster
from tests.workshop import Workshop

JOB = '''
"""Does what its flags say, in their order."""

import os
import signal
import sys
import time


def terminate(number, frame):
    print("terminated in order", flush=True)
    sys.exit(3)


signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # for --pause, which it ends
arguments = iter(sys.argv[1:])
for flag in arguments:
    if flag == "--say":
        print(next(arguments))
    elif flag == "--complain":
        print(next(arguments), file=sys.stderr)
    elif flag == "--exit":
        sys.exit(int(next(arguments)))
    elif flag == "--sleep":
        time.sleep(float(next(arguments)))
    elif flag == "--pause":
        signal.sigwait([signal.SIGUSR1])
    elif flag == "--die":
        os.kill(os.getpid(), int(next(arguments)))
    elif flag == "--tidy":
        signal.signal(signal.SIGTERM, terminate)
    elif flag == "--eat":
        eaten = bytearray(int(next(arguments)) << 20)
    elif flag == "--keep":
        with open(os.path.join(os.environ["CALIBAN_OUTPUT"], "kept"), "a") as file:
            print(next(arguments), file=file)
    elif flag == "--env":
        print(os.environ.get(next(arguments)))
    elif flag == "--frames":
        for frame in range(int(next(arguments))):
            sys.stderr.write(f"\\rframe {frame}")
            sys.stderr.flush()
            time.sleep(0.2)
    elif flag == "--help":
        print("the help of the job itself")
    else:
        print("argument", flag)
'''


@pytest.fixture
def sweep(project: Path, workshop: Workshop) -> Path:
    """The working directory of a test: a project with the module trainer.job."""
    (project / "trainer" / "train.py").unlink()
    (project / "trainer" / "job.py").write_text(JOB)
    return project


@pytest.fixture
def noise(project: Path, workshop: Workshop) -> Path:
    """The working directory of a test: a project with the module trainer.noise."""
    (project / "trainer" / "train.py").unlink()
    (project / "trainer" / "noise.py").write_text(SOURCE)
    return project


@pytest.fixture
def experiments(sweep: Path) -> Callable[[Any], str]:
    """Writes an experiment file and returns its name."""

    def write(content: Any) -> str:
        (sweep / "experiment.json").write_text(json.dumps(content))
        return "experiment.json"

    return write


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `caliban` without waiting for it; whatever still runs at the end is killed."""
    children: list[subprocess.Popen[str]] = []

    def run(*args: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "caliban", *args]
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, text=True, stdout=pipe, stderr=pipe, **options)
        children.append(child)
        return child

    yield run
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


@pytest.fixture
def own_namespace(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Namespace]:
    """A namespace of the test's own in the cluster, the current context of $KUBECONFIG."""
    found = Namespace(cluster.kubeconfig, tmp_path_factory.mktemp("kube"))
    monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig))
    with contextlib.closing(found):
        yield found


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """Goes to a clean directory with another HOME, where there is no history."""

    def go() -> None:
        for name in ("elsewhere", "other-home"):
            (tmp_path / name).mkdir()
        monkeypatch.setenv("HOME", str(tmp_path / "other-home"))
        monkeypatch.chdir(tmp_path / "elsewhere")

    return go


@pytest.fixture(scope="session")
def replay_folder() -> Iterator[Path]:
    """Where files are that several tests use."""
    with tempfile.TemporaryDirectory(prefix="caliban-tests-") as folder:
        yield Path(folder)


@pytest.fixture
def make_file(
    caliban: Caliban, sweep: Path, workshop: Workshop, replay_folder: Path
) -> Callable[..., Path]:
    """Makes a file with EXPERIMENTS; the flags are those of `caliban export`."""

    def make(name: str, *flags: str) -> Path:
        (sweep / "trainer" / "nothing").mkdir()
        (sweep / "requirements.txt").write_text("# nothing\n")
        (sweep / "sweep.json").write_text(json.dumps(EXPERIMENTS))
        words = ("--nogpu", "--xgroup", "tries", "--experiment_config", "sweep.json")
        job = ("trainer.job", "--", "--say", "first")
        done = caliban("run", "--jobs", "3", *words, *job, timeout=300)
        assert done.returncode == 1, done.stderr
        # With the image, an engine that has much else to do takes more than a minute.
        done = caliban("export", "tries", "-o", str(replay_folder / name), *flags, timeout=300)
        assert done.returncode == 0, done.stderr
        return replay_folder / name

    return lambda name, *flags: workshop.once(f"file {name}", lambda: make(name, *flags))


@pytest.fixture
def tried(make_file: Callable[..., Path]) -> Path:
    """A file with EXPERIMENTS, without the image."""
    return make_file("tried.tar")


@pytest.fixture
def whole(make_file: Callable[..., Path]) -> Path:
    """The same file with the image."""
    return make_file("whole.tar", "--with_image")


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Waits until something holds, and fails if it doesn't in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def kept_output(home: Path) -> dict[str, str]:
    """What jobs have printed so far, by their uids, as it is kept."""
    found = {}
    for log in home.glob(".caliban/logs/*"):
        # A log that has ended meanwhile has another name now.
        with contextlib.suppress(FileNotFoundError):
            is_packed = log.name.endswith(".gz")
            content = gzip.decompress(log.read_bytes()) if is_packed else log.read_bytes()
            found[log.name.partition(".")[0]] = content.decode()
    return found
