"""What a project declares is resolved once, and stays that, whatever an index has by then."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from caliban import launch
from caliban.flags import user_name
from caliban.model.lock import Lock
from tests.conftest import Inline
from tests.history.recent import recent_jobs
from tests.tarball import packed
from tests.workshop import Workshop, docker

pytestmark = pytest.mark.takes(10)

_FREEZE = """
import importlib.metadata, sys
path = [each for each in sys.path if each.startswith("/opt/venv")]
found = importlib.metadata.distributions(path=path)
print(*sorted(f"{each.name}=={each.version}" for each in found))
"""


@dataclass
class Index:
    """An index of packages, which a container serves to other containers.

    Attributes:
      container: the container.
      url: of its simple interface.
    """

    container: str
    url: str
    name: str

    def publish(self, package: str, *versions: str) -> None:
        """Makes these the versions of a package that there are."""
        files: dict[str, bytes] = {}
        links = []
        for version in versions:
            name, content = f"{package}-{version}-py3-none-any.whl", _wheel(package, version)
            digest = hashlib.sha256(content).hexdigest()
            files[f"{self.name}/{name}"] = content
            links.append(f'<a href="../../{name}#sha256={digest}">{name}</a>')
        page = "\n".join(links).encode()
        files[f"{self.name}/simple/{package}/index.html"] = page
        subprocess.run(
            ["docker", "cp", "-", f"{self.container}:/srv"], input=packed(files), check=True
        )


def _wheel(package: str, version: str) -> bytes:
    stream, info = io.BytesIO(), f"{package}-{version}.dist-info"
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"{package}.py", f"VERSION = '{version}'\n")
        head = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        archive.writestr(f"{info}/METADATA", head)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return stream.getvalue()


@pytest.fixture
def index(workshop: Workshop) -> Iterator[Index]:
    """An index without packages."""
    # Addresses are given to other containers later: a name of its own keeps caches apart.
    name = uuid.uuid4().hex
    serve = ("-m", "http.server", "--directory", "/srv", "8000")
    container = docker("run", "--detach", workshop.base("plain"), "python3", *serve).strip()
    address = docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", container).strip()
    yield Index(container, f"http://{address}:8000/{name}/simple", name)
    docker("rm", "--force", container)


@pytest.fixture
def dependent(project: Path, index: Index) -> Path:
    """A project that needs a package of the index."""
    (project / "trainer/train.py").write_text("import metrics\nprint(metrics.VERSION)\n")
    require(project, index, "metrics")
    index.publish("metrics", "1.0")
    return project


def require(project: Path, index: Index, *lines: str) -> None:
    text = "\n".join([f"--index-url {index.url}", *lines])
    (project / "requirements.txt").write_text(f"{text}\n")


def built(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def freeze(image: str) -> str:
    return docker("run", "--rm", "--entrypoint", "python", image, "-c", _FREEZE).strip()


def test_a_rebuild_installs_what_was_resolved_at_first(
    dependent: Path, index: Index, inline: Inline
) -> None:
    first = built(inline("build", "--nogpu", "trainer.train"))
    assert freeze(first) == "metrics==1.0"
    index.publish("metrics", "1.0", "2.0")
    docker("rmi", "--force", first)
    again = inline("build", "--nogpu", "trainer.train")
    assert freeze(built(again)) == "metrics==1.0"
    assert "Resolving" not in again.stderr
    # The files may say the same in other words; what they say has not changed for that.
    require(dependent, index, "# What we need:", "metrics")
    assert built(inline("build", "--nogpu", "trainer.train")) == built(again)


def test_what_is_upgraded_is_told(dependent: Path, index: Index, inline: Inline) -> None:
    built(inline("build", "--nogpu", "trainer.train"))
    index.publish("metrics", "1.0", "2.0")
    upgraded = inline("build", "--nogpu", "--upgrade_deps", "trainer.train")
    assert freeze(built(upgraded)) == "metrics==2.0"
    assert "metrics 1.0 -> 2.0" in upgraded.stderr
    assert built(inline("build", "--nogpu", "trainer.train")) == built(upgraded)
    nothing = inline("build", "--nogpu", "--upgrade_deps", "trainer.train")
    assert built(nothing) == built(upgraded)
    assert "newest versions" in nothing.stderr


def test_a_changed_declaration_is_resolved_anew(
    dependent: Path, index: Index, inline: Inline
) -> None:
    built(inline("build", "--nogpu", "trainer.train"))
    index.publish("metrics", "1.0", "2.0")
    index.publish("tools", "3.1")
    # Of what was there before, the versions stay what they were, as long as they will do.
    require(dependent, index, "metrics", "tools")
    assert freeze(built(inline("build", "--nogpu", "trainer.train"))) == "metrics==1.0 tools==3.1"
    require(dependent, index, "metrics>=2")
    assert freeze(built(inline("build", "--nogpu", "trainer.train"))) == "metrics==2.0"


def test_a_package_that_is_not_what_was_resolved_is_not_installed(
    dependent: Path, inline: Inline
) -> None:
    ran = inline("run", "--nogpu", "trainer.train")
    assert (ran.returncode, ran.stdout) == (0, "1.0\n"), ran.stderr
    with launch.open_history() as store:
        [job] = recent_jobs(store, user_name(), 1)
        lock = Lock.parse(job.container_spec["lock"])
        assert "metrics==1.0 \\\n    --hash=sha256:" in lock.packages
        false = re.sub("sha256:[0-9a-f]+", f"sha256:{'0' * 64}", str(lock))
        store.locks.keep("", lock.declaration, false, replaces=str(lock))
    done = inline("build", "--nogpu", "trainer.train")
    assert done.returncode == 1
    assert "hash" in done.stderr.lower()


def test_a_job_is_resubmitted_with_the_versions_that_it_had(
    dependent: Path, index: Index, inline: Inline
) -> None:
    (dependent / "trainer/train.py").write_text(
        "import sys, metrics\nprint(metrics.VERSION)\nsys.exit(1)\n"
    )
    assert inline("run", "--nogpu", "--xgroup", "sweep", "trainer.train").returncode == 1
    index.publish("metrics", "1.0", "2.0")
    # Somebody has upgraded since: the record of the job still says what it ran with.
    built(inline("build", "--nogpu", "--upgrade_deps", "trainer.train"))
    (dependent / "trainer/train.py").write_text("import metrics\nprint(metrics.VERSION)\n")
    again = inline("resubmit", "--xgroup", "sweep", "--yes")
    assert (again.returncode, again.stdout) == (0, "1.0\n"), again.stderr


def test_a_dry_run_resolves_nothing(dependent: Path, inline: Inline) -> None:
    planned = inline("run", "--nogpu", "--dry_run", "trainer.train")
    assert planned.returncode == 0
    assert "Resolving" not in planned.stderr
    jobs = inline("status", "--json")
    assert json.loads(jobs.stdout) == []


def test_what_cannot_be_resolved_is_told(dependent: Path, index: Index, inline: Inline) -> None:
    require(dependent, index, "metrics>=7")
    done = inline("build", "--nogpu", "trainer.train")
    assert done.returncode == 1
    [message] = [line for line in done.stderr.splitlines() if line.startswith("caliban: error")]
    assert "could not be resolved" in message


def test_another_python_in_the_base_image_resolves_anew(
    dependent: Path,
    index: Index,
    inline: Inline,
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = workshop.base("changing")
    monkeypatch.setenv("CALIBAN_BASE_IMAGE", base)
    built(inline("build", "--nogpu", "trainer.train"))
    # A Python that says that it is another one is as good as another one, and is there at once.
    says = "import sys; sys.version_info = (3, 99, 0, 'final', 0)"
    where = "$(python3 -c 'import site; print(site.getsitepackages()[0])')"
    other = workshop.base("changed", f'RUN mkdir -p {where} && echo "{says}" > {where}/x.pth\n')
    docker("tag", other, base)
    done = inline("build", "--nogpu", "trainer.train")
    assert "another Python" in done.stderr
    assert "Python 3.11 -> 3.99" in done.stderr
