"""Credentials are there for a running job, and nowhere else: no image, log or record holds them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Caliban
from tests.docker.conftest import Calls, saved, write
from tests.docker.wire import Wire
from tests.workshop import Workshop, docker

KEY, DISPLACED, ADC, TOKEN = (
    hashlib.sha256(word).hexdigest() for word in (b"key", b"displaced", b"adc", b"token")
)

# Tells what a job finds, by digests: its output must not hold the secrets either.
CODE = """
import hashlib
import json
import os
from pathlib import Path


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def attempt(action, path):
    try:
        action(Path(path))
    except OSError as error:
        return type(error).__name__
    return "done"


key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
adc = Path.home() / ".config/gcloud/application_default_credentials.json"
print(json.dumps({
    "key": [key, digest(key)],
    "adc": digest(adc),
    "write": [attempt(lambda path: path.write_text(""), path) for path in (key, adc)],
    "remove": [attempt(Path.unlink, path) for path in (key, adc)],
    "beside": attempt(lambda path: path.write_text(""), adc.parent / "active_config"),
    "token": "MY_TOKEN" in os.environ,
    "files": sorted(path.name for path in Path(".").iterdir()),
}))
"""


def account(marker: str) -> str:
    return json.dumps({"type": "service_account", "private_key": marker})


@dataclass(frozen=True)
class Ran:
    """What the job printed, the image that it ran in, and what was left on this machine."""

    output: str
    image: str
    remains: list[bytes]


@pytest.fixture
def ran(
    workshop: Workshop,
    caliban: Caliban,
    calls: Calls,
    wire: Wire,
    folder: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Ran:
    """A job of a user who has credentials of every kind, some of them within the project."""

    def make() -> Ran:
        write(folder, {"job.py": CODE, "keys/mine.json": account(KEY), "numbers.json": "{}"})
        write(folder, {"other.json": account(DISPLACED)})
        adc = home / ".config/gcloud/application_default_credentials.json"
        write(home, {str(adc.relative_to(home)): account(ADC)})
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(folder / "other.json"))
        monkeypatch.setenv("MY_TOKEN", TOKEN)
        done = caliban("run", "--nogpu", "--cloud_key", "keys/mine.json", "job.py")
        assert done.returncode == 0, done.stderr
        image = json.loads(caliban("status", "--json").stdout)[0]["image"]
        remains = [path.read_bytes() for path in home.rglob("*") if path.is_file() and path != adc]
        remains += [done.stderr.encode(), calls.log.read_bytes(), wire.sent]
        return Ran(done.stdout, image, remains)

    return workshop.once("ran with credentials", make)


def test_a_job_finds_its_credentials_where_google_looks_for_them(ran: Ran) -> None:
    found = json.loads(ran.output)
    path, digest = found["key"]
    assert path == "/.creds/credentials.json"
    assert digest == hashlib.sha256(account(KEY).encode()).hexdigest(), "--cloud_key did not win"
    assert found["adc"] == hashlib.sha256(account(ADC).encode()).hexdigest()
    assert not found["token"]


def test_a_job_cannot_change_them(ran: Ran) -> None:
    found = json.loads(ran.output)
    assert "done" not in found["write"] + found["remove"]
    assert found["beside"] == "done"


def test_those_that_lie_in_the_project_are_not_copied(ran: Ran) -> None:
    assert json.loads(ran.output)["files"] == ["job.py", "keys", "numbers.json"]


def test_no_image_holds_any_of_them(ran: Ran) -> None:
    history = docker("history", "--no-trunc", ran.image)
    found = docker("image", "inspect", ran.image)
    secrets = (KEY, DISPLACED, ADC, TOKEN)
    assert not [each for each in secrets if each in history + found]
    seen = 0
    for name, content in saved(ran.image):
        seen += name.endswith("/job.py")
        assert not [each for each in secrets if each.encode() in content], name
    assert seen == 1, "the search did not see the code"


def test_no_record_log_or_command_line_holds_any_of_them(ran: Ran) -> None:
    everything = b"\n".join(ran.remains)
    assert b"/.creds/credentials.json" in everything, "the search did not see the command lines"
    assert b"def attempt(action, path)" in everything, "the search did not see the context"
    assert not [each for each in (KEY, DISPLACED, ADC, TOKEN) if each.encode() in everything]
