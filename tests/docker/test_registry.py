"""Registries: what they have, asked with whose credentials, and what is said if they don't tell."""

from __future__ import annotations

import base64
import json
import os
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from caliban.docker import registry
from caliban.docker.registry import Manifest, RegistryError, find, is_on_this_machine, login
from caliban.model.image_name import ImageName
from tests.docker_registry import PASSWORD, USER
from tests.registry import Registry

DIGEST = "sha256:" + "0a" * 32
SECRET = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.fixture
def simple() -> Iterator[Registry]:
    """A registry without a login, that has one image."""
    found = Registry()
    yield found
    found.close()


class Guarded:
    """A registry that takes tokens only, which it has given to who it knows.

    Attributes:
      asked: who has asked for tokens: a user's name, "" for nobody, and for which scope.
      realm: where it sends those who have none.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.authorizations: list[str] = []
        guarded = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                guarded._serve(self)

            do_HEAD = do_POST = do_GET  # noqa: N815 - the names that the server asks for

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.realm = f"http://{self.host}/token"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        given = request.headers.get("Authorization") or ""
        body = b""
        status = 200
        headers = {}
        address = urllib.parse.urlsplit(request.path)
        if address.path == "/token":
            length = int(request.headers.get("Content-Length") or 0)
            form = dict(urllib.parse.parse_qsl(request.rfile.read(length).decode()))
            query = dict(urllib.parse.parse_qsl(address.query)) or form
            known = given == f"Basic {SECRET}" or form.get("refresh_token") == PASSWORD
            self.asked.append((USER if known else "", query["scope"]))
            body = json.dumps({"token": "for all" if not known else "for tester"}).encode()
        else:
            self.authorizations.append(given)
            if given == "Bearer for tester":
                headers["Docker-Content-Digest"] = DIGEST
            else:
                status = 403 if given else 401
                headers["WWW-Authenticate"] = (
                    f'Bearer realm="{self.realm}",service="tests",scope="repository:a/b:pull"'
                )
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    found = Guarded()
    yield found
    found.close()


def log_in(home: Path, host: str, **settings: object) -> None:
    """Writes docker's settings, with what a login leaves in them unless something else is given."""
    (home / ".docker").mkdir(exist_ok=True)
    content = settings or {"auths": {host: {"auth": SECRET}}}
    (home / ".docker/config.json").write_text(json.dumps(content))


def install_helper(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Installs the credential helper "tests", and returns the file of what it was called with."""
    program = folder / "bin/docker-credential-tests"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho \"$@\" >> '{folder}/calls'\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return folder / "calls"


def test_an_image_is_found_by_tag_and_by_digest(simple: Registry) -> None:
    digest = simple.put("team/base:1", {"a": "b"}, {})
    name = ImageName.parse(f"{simple.host}/team/base:1")
    found = find(name)
    assert found is not None and found.digest == digest
    assert found.image_id.startswith("sha256:") and found.image_id != digest
    assert find(ImageName(name.repository, "", digest)) == Manifest(digest)


def test_what_is_not_there_is_not_found(simple: Registry) -> None:
    assert find(ImageName.parse(f"{simple.host}/team/other:1")) is None
    assert find(ImageName.parse(f"{simple.host}/team/other@{DIGEST}")) is None


def test_a_token_is_asked_for_with_dockers_credentials(guarded: Guarded, home: Path) -> None:
    log_in(home, guarded.host)
    assert find(ImageName.parse(f"{guarded.host}/a/b@{DIGEST}")) == Manifest(DIGEST)
    assert guarded.asked == [(USER, "repository:a/b:pull")]
    assert guarded.authorizations == ["", "Bearer for tester"]


def test_without_credentials_the_token_is_everybodys(guarded: Guarded) -> None:
    with pytest.raises(RegistryError) as error:
        find(ImageName.parse(f"{guarded.host}/a/b:1"))
    assert error.value.hint == f"Log in: docker login {guarded.host}"
    assert guarded.authorizations == ["", "Bearer for all"]


def test_a_token_is_not_asked_for_in_clear_text_elsewhere(guarded: Guarded, home: Path) -> None:
    log_in(home, guarded.host)
    guarded.realm = "http://registry.example.com/token"
    with pytest.raises(RegistryError, match="does not show"):
        find(ImageName.parse(f"{guarded.host}/a/b:1"))
    assert guarded.authorizations == [""]


def test_a_credential_helper_is_asked(
    guarded: Guarded, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(home, "", credHelpers={guarded.host: "tests"})
    answer = json.dumps({"ServerURL": guarded.host, "Username": USER, "Secret": PASSWORD})
    calls = install_helper(tmp_path, monkeypatch, f"cat > /dev/null; echo '{answer}'")
    assert find(ImageName.parse(f"{guarded.host}/a/b@{DIGEST}")) == Manifest(DIGEST)
    assert calls.read_text() == "get\n"


def test_a_helpers_identity_token_is_exchanged(
    guarded: Guarded, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(home, "", credsStore="tests")
    answer = json.dumps({"ServerURL": guarded.host, "Username": "<token>", "Secret": PASSWORD})
    install_helper(tmp_path, monkeypatch, f"cat > /dev/null; echo '{answer}'")
    assert find(ImageName.parse(f"{guarded.host}/a/b@{DIGEST}")) == Manifest(DIGEST)


def test_a_helper_that_fails_is_told(
    guarded: Guarded, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(home, "", credHelpers={guarded.host: "tests"})
    install_helper(tmp_path, monkeypatch, "echo no such keychain; exit 1")
    with pytest.raises(RegistryError, match=r"credentials .* can't be had: .*no such keychain"):
        find(ImageName.parse(f"{guarded.host}/a/b:1"))


def test_a_helper_that_is_not_installed_is_told(guarded: Guarded, home: Path) -> None:
    log_in(home, "", credHelpers={guarded.host: "tests"})
    with pytest.raises(RegistryError, match="docker-credential-tests"):
        find(ImageName.parse(f"{guarded.host}/a/b:1"))


def test_netrc_is_not_for_registries(guarded: Guarded, home: Path) -> None:
    (home / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    (home / ".netrc").chmod(0o600)
    with pytest.raises(RegistryError):
        find(ImageName.parse(f"{guarded.host}/a/b:1"))
    assert guarded.asked == [("", "repository:a/b:pull")]


def test_a_registry_that_is_away_or_out_of_order_says_nothing(simple: Registry) -> None:
    name = ImageName.parse(f"{simple.host}/team/base:1")
    simple.answer = (503, "UNAVAILABLE")
    with pytest.raises(RegistryError, match=f"{simple.host} answers 503 Service Unavailable"):
        find(name)
    simple.close()
    with pytest.raises(RegistryError, match=r"can't be reached: .*[Cc]onnection refused"):
        find(name)


def test_only_this_machine_is_asked_without_encryption() -> None:
    assert registry._addresses("localhost:5000")[-1] == "http://localhost:5000"
    assert registry._addresses("10.0.0.1:5000") == ["https://10.0.0.1:5000"]
    assert registry._addresses("docker.io") == ["https://registry-1.docker.io"]
    assert is_on_this_machine("127.1.2.3:5000") and is_on_this_machine("[::1]:5000")
    assert not is_on_this_machine("localhost.example.com")


@pytest.mark.parametrize(
    ("host", "command"),
    [
        (
            "us-central1-docker.pkg.dev",
            "gcloud auth configure-docker us-central1-docker.pkg.dev",
        ),
        ("eu.gcr.io", "gcloud auth configure-docker eu.gcr.io"),
        ("docker.io", "docker login"),
        ("registry.example.com:5000", "docker login registry.example.com:5000"),
        ("notpkg.dev.example.com", "docker login notpkg.dev.example.com"),
    ],
)
def test_one_command_logs_in(host: str, command: str) -> None:
    assert login(host) == command
