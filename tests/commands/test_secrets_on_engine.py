"""Passwords, given in every way that there is, are in nothing that is left or can be seen."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import sqlite3
import subprocess
import tarfile
import threading
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import Caliban
from tests.docker.conftest import Calls, calls, write  # noqa: F401 - a fixture
from tests.docker.image import private_index
from tests.docker.image.private_index import USER, PrivateIndex
from tests.docker.image.test_build_secrets_on_engine import buildkit  # noqa: F401 - a fixture
from tests.provenance.test_git import call
from tests.workshop import Workshop, docker

# A part of each password, by which it is found in whatever it has got into.
MARK = uuid.uuid4().hex[:24]

PASSWORDS = {
    "INDEX_PASSWORD": f"index-{MARK}",
    "WRITTEN_API_KEY": f"written-{MARK}",
    "GLUED_SECRET": f"glued-{MARK}",
    "DATABASE": f"postgresql://me:database-{MARK}@db.example.com/x",
    "NAMED_TOKEN": f"named-{MARK}",
    "IGNORED_TOKEN": f"ignored-{MARK}",
    "MLFLOW_TRACKING_PASSWORD": f"mlflow-{MARK}",
}
CLOUD_KEY = json.dumps({"type": "service_account", "private_key": f"cloud-{MARK}"})
TOKEN = f"ghp_{MARK}{MARK[:12].upper()}"
REMOTE = f"https://me:re@mo/te-{MARK}@example.com/p.git?private_token=query-{MARK}"

# Says by digests what a job finds: its output must not have passwords either.
CODE = """
import hashlib, json, os, sys
import fromindex

def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()

with open(os.environ["GOOGLE_APPLICATION_CREDENTIALS"]) as file:
    found = {"cloud": digest(file.read())}
found.update((name, digest(os.environ[name])) for name in sys.argv[1:] if name in os.environ)
print(json.dumps(found))
print("caliban:", json.dumps({"found": len(found)}))
"""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _needles() -> list[bytes]:
    """The mark as it is, in hexadecimal digits, and within text in base64."""
    mark = MARK.encode()
    found = [mark, mark.hex().encode()]
    for before in range(3):
        text = base64.b64encode(b"\0" * before + mark)
        found.append(text[4 * bool(before) : (before + len(mark)) // 3 * 4])
    return found


NEEDLES = _needles()


def unpacked(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """What is in a file: what is compressed, members of archives, cells of tables; or itself."""
    if content[:2] == b"\x1f\x8b":
        yield from unpacked(f"{name}/gunzip", gzip.decompress(content))
    elif content[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(content)) as opened:
            for member in opened:
                stream = opened.extractfile(member) if member.isreg() else None
                yield from unpacked(f"{name}/{member.name}", stream.read() if stream else b"")
        return
    else:
        yield name, content
    if content.startswith(b"SQLite format 3\0"):
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            # A database in memory has no log beside it, as that which the file speaks of.
            database.deserialize(content[:18] + b"\1\1" + content[20:])
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
                for row in database.execute(f'SELECT * FROM "{table}"').fetchall():
                    for cell in row:
                        as_bytes = cell if isinstance(cell, bytes) else str(cell).encode()
                        yield from unpacked(f"{name}/{table}", as_bytes)


@dataclass
class Search:
    """What was looked through.

    Attributes:
      leaks: the names of what has a password.
      seen: what was looked for besides, to show that the search sees such things.
    """

    leaks: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)


def search(things: Iterable[tuple[str, bytes]], *controls: str) -> Search:
    found = Search()
    for place, thing in things:
        for name, content in unpacked(place, thing):
            if any(needle in content or needle in name.encode() for needle in NEEDLES):
                found.leaks.append(name)
            found.seen |= {
                each for each in controls if each.encode() in content or name.endswith(each)
            }
    return found


def files(*folders: Path) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                yield str(path), path.read_bytes()


class ProcessList:
    """What anybody sees of the processes of this machine, from `with` on.

    Attributes:
      lines: their command lines.
      of_others: what `ps` shows a user without any rights, environments included if they can be.
    """

    def __init__(self) -> None:
        self.lines: set[bytes] = set()
        self.of_others: set[bytes] = set()
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=each, daemon=True) for each in (self._read, self._ask)
        ]

    def __enter__(self) -> ProcessList:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        while not self._is_over.wait(0.02):
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.lines.add(place.read_bytes())

    def _ask(self) -> None:
        environment = {"PATH": os.environ["PATH"]}  # for `ps` shows its own
        nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
        while not self._is_over.wait(0.3):
            command = ["ps", "axeww", "-o", "args"]
            done = subprocess.run(  # type: ignore[call-overload]
                command, env=environment, capture_output=True, check=True, **nobody
            )
            self.of_others.update(done.stdout.splitlines())


@pytest.fixture
def tracker() -> Iterator[tuple[str, list[str]]]:
    """A tracking server in trouble: its address, and whom it was asked as."""
    accounts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            accounts.append(self.headers.get("Authorization", ""))
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT = do_GET  # noqa: N815 - names that the server asks for

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", accounts
        server.shutdown()
        thread.join()


@pytest.fixture
def index(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateIndex]:
    """An index that asks for a password, with the package `fromindex`."""
    folder = tmp_path_factory.mktemp("repository")
    password = PASSWORDS["INDEX_PASSWORD"]
    with private_index.serving(workshop.base("plain"), password, folder) as found:
        yield found


@pytest.fixture
def repository(project: Path, tracker: tuple[str, list[str]]) -> Path:
    """A project with a key in its history, in what is not committed, and in an ignored file."""
    (project / "trainer" / "train.py").unlink()
    write(
        project,
        {
            ".calibanconfig.json": json.dumps({"mlflow_config": {"tracking_uri": tracker[0]}}),
            ".dockerignore": ".env\n",
            ".gitignore": ".env\n",
            "trainer/job.py": CODE,
            "trainer/settings.py": f"TOKEN = '{TOKEN}'\n",
            "notes.txt": "notes\n",
        },
    )
    call(project, "init", "-q")
    call(project, "add", ".")
    call(project, "commit", "-q", "-m", "first")
    call(project, "remote", "add", "origin", REMOTE)
    write(
        project,
        {
            ".env": f"IGNORED_TOKEN={PASSWORDS['IGNORED_TOKEN']}\n",
            "trainer/settings.py": "TOKEN = None\n",
            "trainer/new.py": "harmless = True\n",
            "notes.txt": f"notes\nthe key is {TOKEN}\n",
        },
    )
    return project


def test_no_password_is_found_in_image_history_logs_export_or_process_list(
    caliban: Caliban,
    repository: Path,
    tracker: tuple[str, list[str]],
    index: PrivateIndex,
    buildkit: None,  # noqa: F811
    calls: Calls,  # noqa: F811
    home: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo("config.json")
        content = base64.b64encode(f"me:{PASSWORDS['NAMED_TOKEN']}".encode())
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    assert search([("x", gzip.compress(packed.getvalue()))]).leaks[-1] == "x/gunzip/config.json"

    own = tmp_path_factory.mktemp("own")  # what the user has, and where passwords belong
    run_args = (
        f"-e WRITTEN_API_KEY={PASSWORDS['WRITTEN_API_KEY']} "
        f"-eGLUED_SECRET={PASSWORDS['GLUED_SECRET']} --env=DATABASE={PASSWORDS['DATABASE']} "
        f"-e NAMED_TOKEN --env-file {repository}/.env"
    )
    write(own, {"key.json": CLOUD_KEY, "flags": f"--docker_run_args={run_args}\n"})
    for name in ("NAMED_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, PASSWORDS[name])
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("SECRET_OF_MINE", PASSWORDS["INDEX_PASSWORD"])
    given = (
        *("--cloud_key", str(own / "key.json"), "--flagfile", str(own / "flags")),
        *("--secret", "id=INDEX_PASSWORD,env=SECRET_OF_MINE"),
    )
    exported, bare, page = (tmp_path / name for name in ("tries.tar", "bare.tar", "page.html"))
    said: list[tuple[str, bytes]] = []

    def done(*words: str) -> str:
        ended = caliban(*words, timeout=300)
        said.append((f"stdout of {words[0]}", ended.stdout.encode()))
        said.append((f"stderr of {words[0]}", ended.stderr.encode()))
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    place = f"http://{USER}:${{INDEX_PASSWORD}}@{index.place}/simple"
    write(repository, {"requirements.txt": f"--extra-index-url {place}\nfromindex\n"})
    with ProcessList() as processes:
        ran = done("run", "--nogpu", "--xgroup", "tries", *given, "trainer.job", "--", *PASSWORDS)
        done("export", "tries", "-o", str(bare))
        done("export", "tries", "--with_image", "-o", str(exported))
        for command in (("show", "1"), ("show", "--json", "1"), ("show", "--diff", "1")):
            done(*command)
        done("report", "tries", "--md")
        done("report", "tries", "-o", str(page))
        (job,) = json.loads(done("status", "--json"))
        assert job["status"] == "SUCCEEDED"
        image = docker("image", "inspect", job["image"]) + docker(
            "history", "--no-trunc", job["image"]
        )
        docker("rmi", "--force", job["image"])
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
        monkeypatch.setenv("HOME", str(home / "another"))
        (home / "another").mkdir()
        monkeypatch.chdir(home / "another")
        done("replay", str(bare), *given, "--tolerance", "found=inf")

    assert list(temporary.iterdir()) == []
    # The job found them all, and so did those who ask for one.
    found = json.loads(ran.splitlines()[0])
    wanted = {name: digest(text) for name, text in PASSWORDS.items() if name != "INDEX_PASSWORD"}
    assert found == {**wanted, "cloud": digest(CLOUD_KEY)}
    account = f"me:{PASSWORDS['MLFLOW_TRACKING_PASSWORD']}"
    assert f"Basic {base64.b64encode(account.encode()).decode()}" in tracker[1]

    known, container = found["NAMED_TOKEN"], f"caliban-{job['uid']}"
    controls = {
        "image": ([("inspect and history", image.encode())], {"/run/secrets/INDEX_PASSWORD"}),
        "records": (
            files(home),
            {"${INDEX_PASSWORD}", "+harmless", known, "found", "/caliban.db/jobs", "NAMED_TOKEN"},
        ),
        "output": ([*said], {"+harmless", "https://example.com/p.git", known, "GLUED_SECRET"}),
        "report": ([("html", page.read_bytes())], {"harmless = True", "https://example.com/p.git"}),
        "export": (
            ((path.name, path.read_bytes()) for path in (bare, exported)),
            # The layers of the image are among it, as of `docker save`.
            {"/site-packages/fromindex.py", "+harmless", known, "https://example.com/p.git"},
        ),
        "calls of docker": ([("calls", calls.log.read_bytes())], {"GLUED_SECRET"}),
        "processes": ([("", each) for each in processes.lines], {"SECRET_OF_MINE", container}),
        "of others": ([("", each) for each in processes.of_others], {"SECRET_OF_MINE", container}),
    }
    results = {name: search(things, *seen) for name, (things, seen) in controls.items()}
    assert {name: each.leaks for name, each in results.items() if each.leaks} == {}
    missing = {name: seen - results[name].seen for name, (_, seen) in controls.items()}
    assert {name: each for name, each in missing.items() if each} == {}
