"""The machines of Vertex AI, on this machine's Docker engine: they run the jobs' own images."""

from __future__ import annotations

import subprocess
import threading
import uuid
from pathlib import Path
from typing import IO

from tests.google_cloud.vertex import Running


class Containers:
    """Runs the container of each job; a Run of vertex.Vertex.

    Attributes:
      buckets: a folder that containers find as /gcs; None for no buckets.
    """

    def __init__(self, buckets: Path | None = None) -> None:
        self.buckets = buckets

    def __call__(self, job: Running) -> int:
        """Runs a job to its end; ends it when it is cancelled. Returns its exit code."""
        name = f"vertex-{uuid.uuid4().hex[:12]}"
        child = subprocess.Popen(
            ["docker", "run", "--rm", "--name", name, *self._words(job)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stdout and child.stderr
        readers = [
            threading.Thread(target=_pass_on, args=(stream, job, is_error), daemon=True)
            for stream, is_error in ((child.stdout, False), (child.stderr, True))
        ]
        for reader in readers:
            reader.start()
        while child.poll() is None:
            if job.cancelled.wait(0.05):
                subprocess.run(["docker", "kill", name], capture_output=True, check=False)
        for reader in readers:
            reader.join()
        return child.returncode

    def _words(self, job: Running) -> list[str]:
        """The arguments of `docker run`."""
        container = job.container
        words = [f"--env={each['name']}={each['value']}" for each in container.get("env", ())]
        if self.buckets:
            words.append(f"--volume={self.buckets}:/gcs")
        command = list(container.get("command", ()))
        if command:
            words.append(f"--entrypoint={command[0]}")
        return [*words, container["imageUri"], *command[1:], *container.get("args", ())]


def _pass_on(stream: IO[str], job: Running, is_error: bool) -> None:
    with stream:
        for line in stream:
            job.write(line.removesuffix("\n"), is_error)
