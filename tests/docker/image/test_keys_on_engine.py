"""A key among the code stops a build, unless it is allowed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.conftest import Caliban
from tests.docker.conftest import inside, write
from tests.docker.wire import Wire
from tests.workshop import Workshop

BODY = base64.b64encode(bytes(range(48))).decode()
KEY = f"-----BEGIN PRIVATE KEY-----\n{BODY}\n{BODY}\n-----END PRIVATE KEY-----\n"
ACCOUNT = json.dumps({"type": "service_account", "private_key": KEY})


@pytest.fixture
def project(folder: Path, workshop: Workshop) -> Path:
    write(folder, {"trainer/train.py": "", "trainer/key.json": ACCOUNT, "data/server.pem": KEY})
    write(folder, {"data/numbers": "1 2 3", "keys/elsewhere.pem": KEY, "requirements.txt": "six\n"})
    return folder


def test_it_is_named_before_anything_is_resolved_or_built(
    project: Path, wire: Wire, caliban: Caliban
) -> None:
    for command in ("build", "run"):
        done = caliban(command, "--nogpu", "-d", "data", "trainer.train")
        assert done.returncode == 2
        assert "files that look like keys:" in done.stderr
        assert "  data/server.pem, line 1: a private key\n" in done.stderr
        assert "  trainer/key.json, line 1: a private key\n" in done.stderr
        assert "elsewhere" not in done.stderr and BODY not in done.stderr
    assert wire.changes == []


def test_it_is_copied_if_it_is_allowed(project: Path, caliban: Caliban) -> None:
    (project / "requirements.txt").unlink()
    write(project, {".calibanconfig.json": '{"allowed_keys": ["data/*.pem"]}'})
    arguments = ("build", "--nogpu", "-d", "data", "trainer.train")
    done = caliban(*arguments)
    assert done.returncode == 2
    assert "data/server.pem" not in done.stderr and "trainer/key.json" in done.stderr
    done = caliban(*arguments[:-1], "--allow_key", "trainer/key.json", arguments[-1], timeout=120)
    assert done.returncode == 0, done.stderr
    found = inside(done.stdout.strip(), "find /usr/app -type f").split()
    assert {"/usr/app/data/server.pem", "/usr/app/trainer/key.json"} <= {*found}
