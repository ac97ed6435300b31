"""An engine of a test's own, which may be stopped, killed and started again.

It has its own bridge, folders and socket. It takes root, or sudo without a password.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

# What the small image has, besides the libraries that these need.
_PROGRAMS = (
    *("/bin/bash", "/bin/sh", "/bin/cat", "/bin/chmod", "/bin/date", "/bin/mkdir", "/bin/sleep"),
    *("/usr/bin/head", "/usr/bin/yes"),
)


class NoEngineError(Exception):
    """Why there can be no engine of a test's own here."""


class Dockerd:
    """An engine.

    Attributes:
      environment: what leads `docker` and caliban to it.
    """

    def __init__(self, path: str = "") -> None:
        """Starts it.

        Args:
          path: a folder whose programs the engine finds before all others.

        Raises:
          NoEngineError: it cannot be started.
        """
        self._root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        missing = [each for each in ("dockerd", "containerd", "ip") if not _which(each)]
        if missing:
            raise NoEngineError(f"{' and '.join(missing)} is not there")
        if self._root and subprocess.run([*self._root, "true"], check=False).returncode:
            raise NoEngineError("to start a second engine takes root")
        name = uuid.uuid4().hex[:8]
        self._folder = Path(tempfile.mkdtemp(prefix=f"caliban-dockerd-{name}-"))
        self._folder.chmod(0o755)
        self._bridge = f"clbn{name}"
        self._log = (self._folder / "log").open("wb")
        self._path = path
        self.environment = {"DOCKER_HOST": f"unix://{self._folder}/docker.sock"}
        self._command = [
            *self._root,
            "env",
            f"PATH={path}:{os.environ['PATH']}:/usr/sbin:/sbin" if path else "PATH=" + _search(),
            "dockerd",
            *("--host", self.environment["DOCKER_HOST"], "--group", str(os.getgid())),
            *("--data-root", f"{self._folder}/data", "--exec-root", f"{self._folder}/exec"),
            *("--pidfile", f"{self._folder}/pid", "--bridge", self._bridge),
            *("--containerd", f"{self._folder}/containerd.sock"),
            # What it would add to the machine's own, and take away for all others.
            "--iptables=false",
            "--ip6tables=false",
        ]
        self._child: subprocess.Popen[bytes] | None = None
        self._containerd: subprocess.Popen[bytes] | None = None
        try:
            self._call("ip", "link", "add", "name", self._bridge, "type", "bridge")
            self._take_addresses()
            self._call("ip", "link", "set", self._bridge, "up")
            self._start_containerd()
            self.start()
        except (AssertionError, NoEngineError) as error:
            self.close()
            raise NoEngineError(f"a second engine does not start: {error}") from None

    def _take_addresses(self) -> None:
        """Gives the bridge addresses that nothing else here has, another engine, say."""
        for net in random.sample(range(16, 216), 200):
            own = (f"172.31.{net}.1/24", "dev", self._bridge)
            self._call("ip", "address", "add", *own)
            if len(self._call("ip", "-oneline", "address", "show", "to", own[0]).splitlines()) == 1:
                return
            self._call("ip", "address", "delete", *own)  # both do, and each takes others then
        raise NoEngineError("all addresses of 172.31.0.0/16 are taken")

    def _start_containerd(self) -> None:
        # As on most machines, it is a service of its own: an engine that was killed and finds the
        # one that it had started itself takes 15 s to come up again.
        folder = self._folder
        settings = folder / "containerd.toml"
        settings.write_text(
            f'version = 2\nroot = "{folder}/containerd"\nstate = "{folder}/run"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{folder}/containerd.sock"\n'
        )
        self._containerd = subprocess.Popen(
            [*self._root, "env", f"PATH={_search()}", "containerd", "--config", str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def _call(self, *command: str, check: bool = True) -> str:
        environment = {**os.environ, "PATH": _search()}
        done = subprocess.run(
            [*self._root, *command], capture_output=True, check=False, env=environment
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stderr.decode()}"
        return done.stdout.decode()

    def lose(self, image: str) -> Callable[[], object]:
        """Takes away the record of an image that it goes on knowing, as in the midst of a removal.

        Args:
          image: its id.

        Returns:
          What puts the record back.
        """
        record = f"{self._folder}/data/image/overlay2/imagedb/content/{image.replace(':', '/')}"
        self._call("mv", record, f"{record}.lost")
        return lambda: self._call("mv", f"{record}.lost", record)

    def start(self) -> None:
        """Starts the engine, and waits until it answers."""
        deadline = time.monotonic() + 60
        while True:
            began = self._log.tell()
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )
            while self._child.poll() is None:
                if self.answers():
                    return
                assert time.monotonic() < deadline, "the engine does not answer"
                time.sleep(0.05)
            # One that was killed may have left a containerd that ends just now.
            said = (self._folder / "log").read_bytes()[began:].decode(errors="replace")
            if time.monotonic() > deadline - 40:
                raise NoEngineError(said.strip().rpartition("\n")[2])
            time.sleep(0.3)

    def answers(self) -> bool:
        """Whether it does."""
        done = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            env={**os.environ, **self.environment},
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    @property
    def pid(self) -> int:
        """Of the running engine."""
        return int((self._folder / "pid").read_text())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends the engine by a signal, and waits for that."""
        assert self._child is not None
        with contextlib.suppress(FileNotFoundError):
            self._call("kill", f"-{int(number)}", str(self.pid), check=False)
        self._child.wait(60)

    def docker(self, *args: str, stdin: bytes = b"", check: bool = True) -> str:
        """Runs `docker` and returns what it prints on stdout."""
        done = subprocess.run(
            ["docker", *args],
            input=stdin,
            env={**os.environ, **self.environment},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0 or not check, f"docker {args}: {done.stderr.decode()}"
        return done.stdout.decode()

    def image(self, name: str, files: Mapping[str, str]) -> str:
        """A small image with a shell, made of this machine's own programs.

        Args:
          name: of the image.
          files: the content of further files, by path.

        Returns:
          Its id.
        """
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", dereference=True) as tar:
            for program in _PROGRAMS:
                ldd = ["ldd", program]
                listed = subprocess.run(ldd, capture_output=True, text=True, check=True).stdout
                for path in (program, *re.findall(r"(/\S+) \(0x", listed)):
                    if path.lstrip("/") not in tar.getnames():
                        tar.add(path)
            accounts = {"etc/passwd": "root:x:0:0::/:/bin/sh\n", "etc/group": "root:x:0:\n"}
            for path, content in {**accounts, **files}.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content.encode()), 0o755
                tar.addfile(entry, io.BytesIO(content.encode()))
        change = ("--change", "WORKDIR /usr/app", "--change", "ENV PATH=/usr/bin:/bin")
        return self.docker("import", *change, "-", name, stdin=packed.getvalue()).strip()

    def close(self) -> None:
        """Removes the engine and all that it has."""
        if self._child is not None and self._child.poll() is None:
            found = self.docker("ps", "--all", "--quiet", check=False).split()
            if found:
                self.docker("rm", "--force", *found, check=False)
            self.stop()
        if self._containerd is not None:
            self._call("kill", str(self._containerd.pid), check=False)  # sudo passes it on
            self._containerd.wait(30)
        self._log.close()
        self._call("ip", "link", "delete", self._bridge, check=False)
        mounts = Path("/proc/mounts").read_text().splitlines()
        for mount in sorted((line.split()[1] for line in mounts), reverse=True):
            if mount.startswith(f"{self._folder}/"):
                self._call("umount", "--lazy", mount, check=False)
        self._call("rm", "--recursive", "--force", "--one-file-system", str(self._folder))


def gpu_tools(folder: Path, devices: Sequence[str]) -> Path:
    """What an engine and caliban need to believe in GPUs.

    With a hook that does nothing, `--gpus` only tells a container which devices it has been given,
    in NVIDIA_VISIBLE_DEVICES.

    Args:
      folder: where the programs go; it belongs on PATH.
      devices: lines of `nvidia-smi -L`.
    """
    listed = "\n".join(devices)
    programs = {
        "nvidia-container-runtime-hook": "exit 0",
        "nvidia-smi": f"cat <<'END'\n{listed}\nEND",
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def _search() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _which(program: str) -> str | None:
    return shutil.which(program, path=_search())


@contextlib.contextmanager
def running(path: str = "") -> Iterator[Dockerd]:
    """An engine for the length of a block.

    Raises:
      NoEngineError: it cannot be started.
    """
    engine = Dockerd(path)
    try:
        yield engine
    finally:
        engine.close()
