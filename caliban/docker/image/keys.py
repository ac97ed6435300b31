"""Keys among the files of an image: found before they get into a layer, where they would stay."""

from __future__ import annotations

import codecs
import fnmatch
import itertools
import re
import shlex
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from caliban.docker.image.context import File
from caliban.docker.image.dockerfile import DEPENDENCIES, OWN_FOLDERS
from caliban.errors import UsageError

# Keys are small. What is larger is data, and not read.
_LARGEST = 256 * 1024

# How much of a long text is searched at a time.
_WINDOW = 4 * 1024 * 1024

# How many are named.
_NAMED = 20

# What stands where a secret belongs: "changeme", "your-token-here", "<password>", "$NAME".
_PLACEHOLDER = (
    rb"(?i)[$<{%*].*|x+|\.+|-+|.*(example|changeme|change[-_]me|replace|placeholder|dummy|redacted"
    rb"|your[-_]).*|(my|a|the)?[-_]?(pass|passwd|password|secret|token|key|api[-_]?key)|none|null"
    rb"|\d+|true|false|[~/.].*/.*"
)

# A repeated letter is no token: "ghp_xxxxxxxx".
_DISTINCT = 8


@dataclass(frozen=True)
class _Rule:
    """What one kind of key looks like.

    Attributes:
      what: it, in words.
      pattern: of the content, a regular expression. If it has groups, the last one is the secret
        itself.
      marks: of which such content has one. Few files have any: so few patterns are compiled, which
        takes longer than to look for the marks in all the code of a project.
      names: patterns of which the names of its files match one; none for all files.
    """

    what: str
    pattern: bytes
    marks: tuple[bytes, ...]
    names: tuple[str, ...] = ()


def _rule(what: str, pattern: bytes, *marks: bytes, names: tuple[str, ...] = ()) -> _Rule:
    return _Rule(what, pattern, marks, names)


# Between the lines of a PEM file, also where it is a string of JSON, YAML or a program.
_BREAK = rb"(?:\\[rn]|[\s\"',+])"

_ENV = (".env", ".env.*", "*.env")

# Where the URL of an index or a repository may stand.
_DECLARING = (
    *("requirements*.txt", "requirements*.in", "constraints*.txt", "pyproject.toml", "setup.*"),
    *("uv.toml", "pip.conf", "pip.ini", "Pipfile*", "*.lock", "environment*.y*ml", ".condarc"),
    *(".git-credentials", "git-credentials", ".env", ".env.*", "*.env"),
)

_TOKENS = (
    rb"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_[A-Za-z0-9_]{60,}|\bglpat-[\w-]{20,}"
    rb"|\bpypi-AgE[\w-]{50,}|\bhf_[A-Za-z0-9]{34}|\bxox[abprs]-[\w-]{24,}|\bsk-ant-[\w-]{40,}"
    rb"|\bsk-proj-[\w-]{40,}|\bAGE-SECRET-KEY-1[A-Z0-9]{50,}"
)

_RULES = (
    _rule(
        "a private key",
        rb"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----" + _BREAK + rb"{1,99}"
        rb"(?:[A-Za-z-]{1,20}: [^\r\n\\]{0,99}" + _BREAK + rb"{1,9}){0,4}([A-Za-z0-9+/]{32,99})",
        b"PRIVATE KEY",
    ),
    _rule("a private key of PuTTY", rb"\APuTTY-User-Key-File-\d: .*^Private-Lines: \d", b"PuTTY"),
    _rule(
        "a private key",
        rb"\A\x30(?:\x82..|\x81.|[\x20-\x7f])\x02\x01[\0\1]",
        b"\x02\x01",
        names=("*.key", "*.der", "*.pk8"),
    ),
    _rule(
        "a PKCS #12 key store",
        rb"\A\x30[\x80-\x84]",
        *(b"\x30\x80", b"\x30\x81", b"\x30\x82", b"\x30\x83", b"\x30\x84"),
        names=("*.p12", "*.pfx"),
    ),
    _rule(
        "the key of a Google service account",
        rb"\A(?=.*\"type\"\s*:\s*\"service_account\").*\"private_key\"\s*:\s*\"([^\"]{20,})\"",
        b"service_account",
    ),
    _rule(
        "a Google user's credentials",
        rb"\A(?=.*\"type\"\s*:\s*\"authorized_user\").*\"refresh_token\"\s*:\s*\"([^\"]{20,})\"",
        b"authorized_user",
    ),
    _rule(
        "a Google OAuth client's secret",
        rb"\"client_secret\"\s*:\s*\"(GOCSPX-[\w-]{20,})\"",
        b"GOCSPX-",
    ),
    _rule(
        "an AWS secret key",
        rb"(?i)aws_secret_access_key[\"']?\s*[=:]\s*[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
        *(b"aws_secret_access_key", b"AWS_SECRET_ACCESS_KEY"),
    ),
    _rule(
        "a Kubernetes client's key",
        rb"client-key-data: *[\"']?([\w+/=]{40,})",
        b"client-key-data",
    ),
    _rule("a Kubernetes user's token", rb"^[ -]*token: *[\"']?([^\s\"']{20,})", b"current-context"),
    _rule("a registry's password", rb"\"auth\"\s*:\s*\"([\w+/=]{12,})\"", b'"auths"'),
    _rule(
        "an access token",
        rb"(" + _TOKENS + rb")",
        *(b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_", b"glpat-", b"pypi-AgE"),
        *(b"hf_", b"xox", b"sk-ant-", b"sk-proj-", b"AGE-SECRET-KEY-"),
    ),
    _rule(
        "a password in a URL",
        rb"[a-z]://[^\s/:@\"'<>]{0,200}:([^\s/@\"'<>]{1,2000})@",
        b"://",
        names=_DECLARING,
    ),
    _rule(
        "a password or token",
        rb"^[ \t]{0,9}(?:export )?(?:\w{1,60}_)?(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY"
        rb"|(?:ACCESS|PRIVATE|SECRET)_KEY)(?:_\w{1,60})?(?<!_NAME) ?= ?[\"']?([^\s\"'#]{8,})",
        *(b"TOKEN", b"SECRET", b"PASSW", b"KEY"),
        names=_ENV,
    ),
    _rule(
        "a password",
        rb"\bpassword\s+(\S{6,})",
        b"password",
        names=(".netrc", "_netrc", "netrc"),
    ),
    _rule("a password", rb"^[ \t]{0,9}password ?[=:] ?(\S{6,})", b"password", names=(".pypirc",)),
    _rule("a token", rb"_authToken *= *(\S{8,})", b"_authToken", names=(".npmrc",)),
    _rule("Kaggle's API key", rb"\"key\"\s*:\s*\"(\w{32,})\"", b'"key"', names=("kaggle.json",)),
)

# Names of files that show what a real one looks like.
_EXAMPLES = (
    *("*.example", "*.sample", "*.template", "*.tmpl", "*.dist", "*.example.*", "*.sample.*"),
)

_BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class Key:
    """A file that looks like a key.

    Attributes:
      name: its path in the project.
      what: what it seems to hold.
      line: where, the first line being 1.
    """

    name: str
    what: str
    line: int


def check(files: Iterable[File], allowed: Sequence[str] = ()) -> None:
    """Makes sure that no file of an image looks like a key.

    Args:
      files: those of the build context, see context.files.
      allowed: paths in the project that may: of a file, of a folder with all that is in it, or a
        pattern with * and ?.

    Raises:
      UsageError: naming all that look like keys, and not showing what is in them.
    """
    found = list(find(files, allowed))
    if not found:
        return
    lines = [f"  {_shown(key.name)}, line {key.line}: {key.what}" for key in found[:_NAMED]]
    if len(found) > _NAMED:
        lines.append(f"  and {len(found) - _NAMED} more")
    is_one = len(found) == 1
    which = "a file that looks like a key" if is_one else "files that look like keys"
    them, they = ("it", "it") if is_one else ("them", "they")
    raise UsageError(
        "\n".join([f"the image would hold {which}:", *lines]),
        f"Move {them} out of the project, or name {them} in .dockerignore. A job finds secrets in "
        "its environment or in mounted files; a build, by --secret. "
        f"If {they} may be in the image: "
        f'--allow_key {shlex.quote(_shown(found[0].name))}, or "allowed_keys" in '
        ".calibanconfig.json.",
    )


def _shown(name: str) -> str:
    """A file's name in one line, which as a pattern still matches it."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def find(files: Iterable[File], allowed: Sequence[str] = ()) -> Iterator[Key]:
    """The files that look like keys, each once.

    Args:
      files: those of the build context.
      allowed: see `check`.
    """
    seen: set[str] = set()
    for file in files:
        # What a link leads to is judged where it lies, if it is copied at all.
        is_small = stat.S_ISREG(file.info.st_mode) and file.info.st_size <= _LARGEST
        is_own = file.folder in OWN_FOLDERS or file.text is not None
        if not is_small or is_own or file.name in seen:
            continue
        seen.add(file.name)
        if _is_allowed(file.name, allowed) or not (found := _key(file)):
            continue
        yield found


def _is_allowed(name: str, allowed: Sequence[str]) -> bool:
    for each in allowed:
        path = each.removeprefix("./").rstrip("/")
        if name.startswith(f"{path}/") or fnmatch.fnmatchcase(name, path):
            return True
    return False


def _key(file: File) -> Key | None:
    """What a file holds that looks like a key."""
    return find_in(file.name, [file.path.read_bytes()], file.folder == DEPENDENCIES)


def find_in(path: str, pieces: Iterable[bytes], declares_all: bool = True) -> Key | None:
    """What a text holds that looks like a key; None for nothing.

    Args:
      path: of the file that it is, or a part of, in the project.
      pieces: of the text, which may be longer than what there is memory for.
      declares_all: whether it may have the URL of an index or a repository, whatever its name.
    """
    for lines, window in _windows(_as_utf8(pieces)):
        if key := _find_in(path, window, declares_all):
            return replace(key, line=key.line + lines)
    return None


def _as_utf8(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A text that may begin with a byte order mark of UTF-16."""
    rest = iter(pieces)
    first = b""
    while len(first) < 2 and (piece := next(rest, b"")):
        first += piece
    pieces = itertools.chain([first], rest)
    if not (encoding := _BOMS.get(first[:2])):
        yield from pieces
        return
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for piece in pieces:
        yield decoder.decode(piece).encode(errors="replace")


def _windows(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Parts of a text, so that each key of it is in one of them as a whole.

    Yields:
      How many lines lie before the part, and it.
    """
    begun: list[bytes] = []
    size = lines = 0
    for piece in pieces:
        begun.append(piece)
        size += len(piece)
        if size < _WINDOW:
            continue
        window = b"".join(begun)
        yield lines, window
        at = len(window) - _LARGEST
        at = window.find(b"\n", at) + 1 or at  # patterns look for the beginnings of lines
        lines += window.count(b"\n", 0, at)
        begun, size = [window[at:]], len(window) - at
    yield lines, b"".join(begun)


def _find_in(path: str, content: bytes, declares_all: bool) -> Key | None:
    name = PurePosixPath(path).name
    for rule in _RULES:
        if not any(mark in content for mark in rule.marks):
            continue
        if rule.names:
            declares = rule.names is _DECLARING and declares_all
            if _matches(name, _EXAMPLES) or not (declares or _matches(name, rule.names)):
                continue
        for match in re.finditer(rule.pattern, content, re.MULTILINE | re.DOTALL):
            if match.re.groups and not _is_secret(match[match.re.groups]):
                continue
            return Key(path, rule.what, content.count(b"\n", 0, match.start()) + 1)
    return None


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, each) for each in patterns)


def _is_secret(value: bytes) -> bool:
    is_long = len(value) >= 2 * _DISTINCT
    return not re.fullmatch(_PLACEHOLDER, value) and not (is_long and len({*value}) < _DISTINCT)
