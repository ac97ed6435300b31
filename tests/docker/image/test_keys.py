"""Files that look like keys are found among those of an image, and little else is."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import random
import re
import time
from pathlib import Path

import pytest

from caliban.docker.image import context, keys
from caliban.errors import UsageError
from caliban.model.image import ImagePlan, Mode
from caliban.model.module import Kind, Module

EVERYTHING = Module(Kind.PYTHON_FILE, "main.py", ".")

RANDOM = random.Random(5)


def noise(length: int) -> str:
    """Letters and digits as keys have them."""
    return "".join(RANDOM.choices("abcdefghijkmnpqrstuvwxyzABCDEFGH23456789", k=length))


def pem(kind: str, header: str = "", lines: int = 6) -> str:
    body = [base64.b64encode(RANDOM.randbytes(48)).decode() for _ in range(lines)]
    return "\n".join([f"-----BEGIN {kind}-----", header + body[0], *body[1:], f"-----END {kind}-----", ""])  # fmt: skip  # noqa: E501


PRIVATE = pem("PRIVATE KEY")
SERVICE = {"type": "service_account", "project_id": "p", "private_key": PRIVATE}
ADC = {"type": "authorized_user", "client_id": "c", "refresh_token": f"1//{noise(80)}"}
KUBERNETES = f"""apiVersion: v1
kind: Config
current-context: here
users:
- name: me
  user:
    client-certificate-data: {noise(400)}
    client-key-data: {noise(400)}
"""
DER = b"\x30\x82\x04\xbe\x02\x01\x00" + bytes(40)

# By name of the file: what is in it, and what is said of it.
KEYS: dict[str, tuple[str | bytes, str]] = {
    "service.json": (json.dumps(SERVICE, indent=2), "a private key"),
    "one-line.json": (json.dumps(SERVICE), "a private key"),
    "service.txt": (
        json.dumps({**SERVICE, "private_key": noise(90)}),
        "the key of a Google service account",
    ),
    "adc.json": (json.dumps(ADC), "a Google user's credentials"),
    "server.pem": (PRIVATE, "a private key"),
    "old.pem": (pem("RSA PRIVATE KEY"), "a private key"),
    "locked.pem": (
        pem("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0F\n\n"),
        "a private key",
    ),
    "short.pem": (pem("PRIVATE KEY", lines=1), "a private key"),
    "dos.pem": (PRIVATE.replace("\n", "\r\n"), "a private key"),
    "id_ed25519": (pem("OPENSSH PRIVATE KEY"), "a private key"),
    "me.asc": (pem("PGP PRIVATE KEY BLOCK", "Version: GnuPG v2\n\n"), "a private key"),
    "chain.pem": (pem("CERTIFICATE") + pem("EC PRIVATE KEY"), "a private key"),
    "values.yaml": (f"tls: |\n{re.sub('(?m)^', '  ', PRIVATE)}", "a private key"),
    "code.py": (f'KEY = """{PRIVATE}"""\n', "a private key"),
    "lines.py": (
        f"KEY = ({''.join(f'{each!r} ' for each in PRIVATE.splitlines(True))})",
        "a private key",
    ),
    "wide.pem": (PRIVATE.encode("utf-16"), "a private key"),
    "marked.pem": (PRIVATE.encode("utf-8-sig"), "a private key"),
    "server.key": (DER, "a private key"),
    "me.p12": (b"\x30\x82" + bytes(99), "a PKCS #12 key store"),
    "me.ppk": (
        "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nPrivate-Lines: 1\nAAA=\n",
        "a private key of PuTTY",
    ),
    "client_secret.json": (
        f'{{"installed": {{"client_secret": "GOCSPX-{noise(28)}"}}}}',
        "a Google OAuth client's secret",
    ),
    ".aws/credentials": (
        f"[default]\naws_access_key_id = AKIA{noise(16)}\naws_secret_access_key = {noise(40)}\n",
        "an AWS secret key",
    ),
    "run.sh": (f"export AWS_SECRET_ACCESS_KEY={noise(40)}\n", "an AWS secret key"),
    "kube/config": (KUBERNETES, "a Kubernetes client's key"),
    "kube/other": (
        f"current-context: x\nusers:\n- user:\n    token: {noise(40)}\n",
        "a Kubernetes user's token",
    ),
    ".docker/config.json": (
        json.dumps({"auths": {"registry": {"auth": "bWU6aHVudGVyMg=="}}}),
        "a registry's password",
    ),
    "gh/hosts.yml": (f"github.com:\n  oauth_token: gho_{noise(36)}\n", "an access token"),
    "notes.txt": (f"my token is ghp_{noise(36)}", "an access token"),
    "fine.txt": (f"github_pat_{noise(82)}", "an access token"),
    "gitlab.ini": (f"token=glpat-{noise(20)}", "an access token"),
    "token": (f"hf_{noise(34)}", "an access token"),
    ".netrc": ("machine api.wandb.ai\n  login user\n  password d41d8cd98f00b204\n", "a password"),
    ".pypirc": ("[pypi]\nusername = me\npassword = hunter2hunter2\n", "a password"),
    ".npmrc": ("//npm.example/:_authToken=npm_abcdef0123456789\n", "a token"),
    ".kaggle/kaggle.json": (
        '{"username":"me","key":"0123456789abcdef0123456789abcdef"}',
        "Kaggle's API key",
    ),
    ".git-credentials": ("https://me:correct-horse@github.com\n", "a password in a URL"),
    "requirements.txt": (
        "--extra-index-url https://me:correct-horse@host/simple\nsix\n",
        "a password in a URL",
    ),
    "deps/requirements-dev.txt": (
        "six @ git+https://me:correct-horse@github.com/a/b\n",
        "a password in a URL",
    ),
    "pip.conf": ("[global]\nindex-url = https://me:correct-horse@host/s\n", "a password in a URL"),
    ".env": ("DEBUG=1\nWANDB_API_KEY=8a9b0c1d2e3f\n", "a password or token"),
    "deploy/.env.production": ("export DB_PASSWORD='correct-horse'\n", "a password or token"),
}

# What must not stop a build.
HARMLESS: dict[str, str | bytes] = {
    "main.py": "print(1)\n",
    "server.crt": pem("CERTIFICATE", lines=20),
    "ca.pem": pem("CERTIFICATE") + pem("X509 CRL"),
    "id_rsa.pub": f"ssh-rsa {noise(372)} me@host\n",
    "public.pem": pem("PUBLIC KEY"),
    "request.pem": pem("CERTIFICATE REQUEST"),
    "parse.py": 'BEGIN = "-----BEGIN PRIVATE KEY-----"\nEND = "-----END PRIVATE KEY-----"\n',
    "how-to.md": "The file begins with `-----BEGIN PRIVATE KEY-----`, then the key follows.\n",
    "cut.md": "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----\n",
    "google.py": 'assert info["type"] == "service_account", info["private_key"]\n',
    "schema.json": '{"type": "service_account", "private_key": "<your key here, in one line>"}',
    "aws.md": "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n",
    "boto.py": 'aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"]\n',
    "tokens.md": "Put ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx into GITHUB_TOKEN.\n",
    "names.py": "ghp_number = github_pat_ = glpat = hf_hub_download = xox = 1\n",
    ".env.example": "API_KEY=0123456789abcdef\n",
    "sample.env": "DEBUG=1\nTOKENIZER=bert-base-uncased\nMAX_TOKENS=4096\nSECRET_FILE=/run/x/y\n"
    "SECRET_NAME=projects/x/secrets/y\n",
    ".env": "API_KEY=\nDB_PASSWORD=changeme\nHF_TOKEN=${HF_TOKEN}\nSECRET_KEY=your-secret-key\n"
    "TOKEN=<token>\n"
    "GOOGLE_APPLICATION_CREDENTIALS=/home/me/key.json\nKEEP=correct-horse-battery\n",
    "requirements.txt": "--index-url https://me:${PASSWORD}@host/simple\n"
    "a @ git+ssh://git@github.com:22/a/b\nb @ https://$USER:$TOKEN@host/b.whl\n"
    "c @ git+https://oauth2accesstoken@host/c\nd @ file:///usr/app/d\n",
    "pyproject.toml": '[[tool.uv.index]]\nurl = "http://localhost:8080/simple"\n# a@b\n',
    "database.py": 'URL = "postgresql://user:password@localhost/test"\n',
    "netrc.py": "login, account, password = netrc.authenticators(host)\n",
    "config.json": '{"auth": "c29tZXRoaW5nIGVsc2U=", "key": "0123456789abcdef0123456789abcdef"}',
    "numbers.key": b"\x93NUMPY" + bytes(64),
    "values.der": pem("CERTIFICATE"),
    "cert.der": b"\x30\x82\x03\x52\x30\x82\x02\x3a\xa0\x03" + bytes(40),
    "binary.bin": bytes(range(256)) * 64,
    "nothing": "",
    "notebook.ipynb": json.dumps({"cells": [{"source": ["!export TOKEN=$T\n", "key = None"]}]}),
    "weights.txt": noise(2000),
}


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def plan(tmp_path: Path) -> ImagePlan:
    folder = tmp_path / "code"
    write(folder, {"main.py": ""})
    return ImagePlan(Mode.CPU, "base", str(folder), EVERYTHING)


def found(plan: ImagePlan, *allowed: str) -> dict[str, str]:
    return {key.name: key.what for key in keys.find(context.files(plan), allowed)}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_is_found(plan: ImagePlan, name: str) -> None:
    content, what = KEYS[name]
    write(Path(plan.directory), {name: content})
    assert found(plan) == {name: what}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_none_is_not(plan: ImagePlan, name: str) -> None:
    write(Path(plan.directory), {name: HARMLESS[name]})
    assert found(plan) == {}


def test_all_are_named_at_once_with_their_lines_and_nothing_of_what_is_in_them(
    plan: ImagePlan,
) -> None:
    files = {name: content for name, (content, _) in KEYS.items()}
    write(Path(plan.directory), files)
    with pytest.raises(UsageError) as error:
        keys.check(context.files(plan))
    lines = error.value.message.splitlines()
    assert lines[0] == "the image would hold files that look like keys:"
    assert len(lines) == 22 and lines[-1] == f"  and {len(KEYS) - 20} more"
    assert "  .env, line 2: a password or token" in lines
    text = error.value.message + error.value.hint
    assert "8a9b0c1d2e3f" not in text and "correct-horse" not in text
    assert "--allow_key" in error.value.hint and '"allowed_keys"' in error.value.hint


def test_a_file_is_named_in_one_line_and_so_that_the_shell_takes_it(plan: ImagePlan) -> None:
    write(Path(plan.directory), {"sp ace/n\nl.pem": PRIVATE})
    with pytest.raises(UsageError) as error:
        keys.check(context.files(plan))
    assert error.value.message.splitlines()[1:] == ["  sp ace/n?l.pem, line 1: a private key"]
    assert "Move it out" in error.value.hint and "If it may be" in error.value.hint
    assert "--allow_key 'sp ace/n?l.pem'," in error.value.hint
    keys.check(context.files(plan), ["sp ace/n?l.pem"])


@pytest.mark.parametrize(
    "allowed",
    [
        ("tests/data/fake.pem",),
        ("./tests/data/fake.pem",),
        ("tests/data",),
        ("tests/",),
        ("tests/*.pem",),
        ("*.pem",),
        ("other", "tests/data/fake.???"),
    ],
)
def test_those_that_are_allowed_are_none(plan: ImagePlan, allowed: tuple[str, ...]) -> None:
    write(Path(plan.directory), {"tests/data/fake.pem": PRIVATE})
    keys.check(context.files(plan), allowed)


@pytest.mark.parametrize("allowed", ["fake.pem", "tests/dat", "data/fake.pem", "tests/data/fake"])
def test_others_are_not_allowed(plan: ImagePlan, allowed: str) -> None:
    write(Path(plan.directory), {"tests/data/fake.pem": PRIVATE})
    with pytest.raises(UsageError, match=r"tests/data/fake\.pem, line 1: a private key"):
        keys.check(context.files(plan), (allowed,))


def test_extra_directories_are_looked_through_and_what_is_not_copied_is_not(
    plan: ImagePlan,
) -> None:
    write(Path(plan.directory), {"trainer/main.py": "", "data/k.pem": PRIVATE, "k.pem": PRIVATE})
    trainer = Module(Kind.PYTHON_MODULE, "trainer.main", "trainer")
    alone = dataclasses.replace(plan, module=trainer)
    assert found(alone) == {}
    assert found(dataclasses.replace(alone, directories=("data",))) == {
        "data/k.pem": "a private key"
    }
    write(Path(plan.directory), {".dockerignore": "**/*.pem\n"})
    assert found(plan) == {}


def test_a_link_is_no_key_and_what_it_leads_to_is_judged_where_it_lies(plan: ImagePlan) -> None:
    folder = Path(plan.directory)
    outside = folder.parent / "outside.pem"
    outside.write_text(PRIVATE)
    (folder / "link.pem").symlink_to(outside)
    (folder / "nowhere.pem").symlink_to("missing")
    (folder / "loop").symlink_to(".")
    assert found(plan) == {}
    write(folder, {"inside.pem": PRIVATE})
    (folder / "alias.pem").symlink_to("inside.pem")
    assert found(plan) == {"inside.pem": "a private key"}


def test_names_of_all_kinds_are_told(plan: ImagePlan) -> None:
    name = os.fsdecode(b"keys \xff/it's.pem")
    write(Path(plan.directory), {name: PRIVATE})
    assert list(found(plan)) == [name]


def test_no_content_takes_long(plan: ImagePlan) -> None:
    size = 250_000
    hard = {
        "spaces": " " * size,
        "begins": "-----BEGIN PRIVATE KEY-----\n" * (size // 28),
        "headers": "-----BEGIN PRIVATE KEY-----\n" + "A: b\n" * (size // 5),
        "types": '"type": "service_account" "private_key": "' * (size // 42),
        "urls.lock": "https://" * (size // 8),
        "requirements.txt": "a://b:" + "c" * size,
        "x.env": "TOKEN_" * (size // 6),
        ".netrc": "password " * (size // 9),
        "aws": "aws_secret_access_key " * (size // 22),
        "line.json": '{"auths": {"auth": "' + "A" * size,
        "PuTTY": "PuTTY-User-Key-File-3: \n" * (size // 24),
    }
    write(Path(plan.directory), hard)  # type: ignore[arg-type]
    started = time.process_time()
    found(plan)
    assert time.process_time() - started < 2


def test_large_files_are_not_read(plan: ImagePlan) -> None:
    big = Path(plan.directory, "data.pem")
    with big.open("wb") as file:
        file.write(PRIVATE.encode())
        file.truncate(10**9)
    started = time.process_time()
    assert found(plan) == {}
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("size", [700, 1 << 20, 1 << 30])
@pytest.mark.parametrize("before", [0, 4_190_000, 4_194_200, 9_000_000])
def test_a_key_is_found_wherever_it_lies_in_a_long_text_and_however_that_comes(
    before: int, size: int, encoding: str
) -> None:
    lines = before // 50
    text = ("x" * 49 + "\n") * lines + PRIVATE + "and more\n" * 100_000
    content = text.encode(encoding)
    pieces = (content[at : at + size] for at in range(0, len(content), size))
    found = keys.find_in("log", pieces)
    assert found == keys.Key("log", "a private key", lines + 1)
