"""Build secrets: what opens private indexes and repositories, lent to the steps that need it.

A secret has an id, as in `docker build --secret`. Its value comes from a file or a variable of this
machine, and is at /run/secrets/ID while a step runs: no layer, argument, history or log holds it.
"""

from __future__ import annotations

import csv
import functools
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from caliban import home
from caliban.errors import UsageError

FOLDER = "/run/secrets"

# Ids whose files programs have to be told of. An id that is spelled like a variable is exported
# under its name, every other one is a file that a setup.py may read.
NETRC, GIT, PIP, UV = "netrc", "git-credentials", "pip.conf", "uv.toml"
AGENT, KEY, KNOWN_HOSTS = "ssh", "ssh-key", "known_hosts"
_VARIABLE = r"[A-Z_][A-Z0-9_]*"
_ID = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"

# Of pip's settings, those that uv has too, by the variables that it reads.
_PIP_SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
}

# BuildKit takes no more.
_LARGEST = 500 * 1024

_PASSWORDS = r"://[^\s/:@]*:([^\s/@]+)@|\bpassword[\s=:]+[\"']?([^\s\"']+)"

# Whom a URL is opened as, and that with a password that is no variable.
_ACCOUNT = r"://([^\s/@]+)@"
_LITERAL = r"://[^\s/:@]*:(?!\$\{)[^\s/@]+@"

# Shorter ones are found in any text by chance.
_SHORTEST = 6

_SYNTAX = "Docker's own syntax: --secret id=NAME,src=FILE or --secret id=NAME,env=VARIABLE"


@dataclass(frozen=True)
class Secret:
    """One secret, and where its value comes from: a file, a variable, or the value itself.

    Attributes:
      id: its name in a build.
      path: a file of this machine; None for none.
      variable: an environment variable of this machine; "" for none.
      text: the value, where caliban makes it.
    """

    id: str
    path: Path | None = None
    variable: str = ""
    text: str = field(default="", repr=False)

    def read(self) -> bytes:
        """The value.

        Raises:
          UsageError: it cannot be had, or is too long.
        """
        if self.path is None:
            found = self.text or os.environ.get(self.variable, "")
            return found.encode(errors="surrogateescape")
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"--secret id={self.id}: cannot read {self.path}: {error.strerror}", _SYNTAX
            ) from None
        if len(content) > _LARGEST:
            raise UsageError(f"--secret id={self.id}: {self.path} is larger than 500 KiB")
        return content


@dataclass(frozen=True)
class BuildSecrets:
    """The secrets that builds of a project get.

    Attributes:
      given: those of the command line, and what follows from them.
      google: gives an access token that opens Google's repositories; None for no such thing.
    """

    given: tuple[Secret, ...] = ()
    google: Callable[[], str] | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all, sorted: what an ImagePlan records."""
        made = (GIT, NETRC) if self.google else ()
        return tuple(sorted({*(each.id for each in self.given), *made}))

    @property
    def files(self) -> list[Path]:
        """Files of this machine that hold secrets: neither an image nor a container shows them."""
        return [each.path for each in self.given if each.path and each.id != KNOWN_HOSTS]

    def open(self, needed: Sequence[str], declarations: Iterable[Path] = ()) -> Opened:
        """Reads the values, and has the token made.

        Args:
          needed: ids of the secrets that a plan asks for.
          declarations: files that may name indexes of the Artifact Registry.

        Raises:
          UsageError: one is needed that was not given, or cannot be had.
        """
        if missing := [each for each in needed if each not in self.ids]:
            raise UsageError(
                f"the image needs build secrets that were not given: {', '.join(missing)}", _SYNTAX
            )
        found = {each.id: each for each in self.given if each.id in needed}
        if self.google and {GIT, NETRC} & {*needed}:
            from caliban.docker.image import google

            token = self.google()
            hosts = google.index_hosts(path.read_bytes() for path in declarations if path.is_file())
            lines = {
                GIT: [f"https://{google.USER}:{token}@{google.REPOSITORIES}"],
                NETRC: [f"machine {each} login {google.USER} password {token}" for each in hosts],
            }
            for id_, made in lines.items():
                before = found[id_].read().decode(errors="surrogateescape") if id_ in found else ""
                text = "\n".join([*before.splitlines(), *made, ""])
                found[id_] = Secret(id_, text=text)
        return Opened(dict(sorted(found.items())))


NONE = BuildSecrets()


@dataclass(frozen=True)
class Opened:
    """Secrets whose values are known, for the length of a build.

    Attributes:
      secrets: by id.
    """

    secrets: Mapping[str, Secret] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """The arguments of `docker build`. They name files and variables, and hold no value."""
        words: list[str] = []
        for number, (id_, secret) in enumerate(self.secrets.items()):
            if id_ == AGENT:
                words += ["--ssh", "default"]
                continue
            source = ("src", str(secret.path)) if secret.path else ("env", _lent(number, secret))
            line = io.StringIO()
            csv.writer(line, lineterminator="").writerow([f"id={id_}", "=".join(source)])
            words += ["--secret", line.getvalue()]
        return words

    def environment(self) -> dict[str, str]:
        """The variables that `arguments` speaks of and that this process does not have."""
        found = enumerate(self.secrets.values())
        return {_lent(number, each): each.text for number, each in found if each.text}

    def contents(self) -> dict[str, bytes]:
        """The values, by id, without the agent, which has none."""
        return {id_: each.read() for id_, each in self.secrets.items() if id_ != AGENT}

    def conceal(self, lock: str) -> str:
        """A lock without the values that the resolver has written into it.

        uv writes out the indexes that it was told of by a variable or its settings, which tell the
        step that installs as well; and in the URLs of git, what a variable stands for.

        Args:
          lock: a requirements file.

        Raises:
          UsageError: it holds a password that is not one of these secrets.
        """
        names: dict[str, str] = {}
        for id_, value in self.contents().items():
            if re.fullmatch(_VARIABLE, id_):
                text = value.decode(errors="replace").strip()
                # uv may write a character in another way than the value has it: %27 or '.
                names.update({text: id_, unquote(text): id_})

        def account(match: re.Match[str]) -> str:
            parts = match[1].split(":")
            return f"://{':'.join(_reference(part, names) for part in parts)}@"

        kept: list[str] = []
        for line in lock.splitlines(keepends=True):
            text = re.sub(_ACCOUNT, account, line)
            if not re.search(_LITERAL, text):
                kept.append(text)
            elif not line.startswith("--"):
                raise UsageError(
                    "a requirement has a password in its URL, which would stay in the image and "
                    f"in its record: {re.sub(_ACCOUNT, '://****@', text).strip()}",
                    "Write ${NAME} in its place, and add --secret id=NAME,env=VARIABLE.",
                )
        return "".join(kept)

    def mask(self, text: str) -> str:
        """A text that is shown, with **** for all that is secret."""
        for value in self._hidden:
            text = text.replace(value, "****")
        return text

    @functools.cached_property
    def _hidden(self) -> list[str]:
        """What nobody may see, the longest first."""
        found: set[str] = set()
        for id_, content in self.contents().items():
            text = content.decode(errors="replace").strip()
            if id_ == KNOWN_HOSTS:
                continue
            for pair in re.findall(_PASSWORDS, text):
                found |= {each for part in pair for each in (part, unquote(part))}
            if re.fullmatch(_VARIABLE, id_):
                found.add(text)
        return sorted((each for each in found if len(each) >= _SHORTEST), key=len, reverse=True)


def _reference(part: str, names: Mapping[str, str]) -> str:
    """A part of a URL, or the variable that it is the value of: ${NAME}."""
    name = names.get(part) or names.get(unquote(part))
    return f"${{{name}}}" if name else part


def _lent(number: int, secret: Secret) -> str:
    """The variable in which `docker build` finds a value."""
    return f"CALIBAN_BUILD_SECRET_{number}" if secret.text else secret.variable


def parse(
    words: Sequence[str],
    environment: Mapping[str, str],
    google: Callable[[], str] | None = None,
) -> BuildSecrets:
    """Reads the values of --secret.

    Args:
      words: "id=NAME", "id=NAME,src=FILE" or "id=NAME,env=VARIABLE". Without a source, it is the
        variable of the id's name or, failing that, the file.
      environment: variables.
      google: see BuildSecrets.

    Raises:
      UsageError: one is malformed, is given twice, or has no value.
    """
    found: dict[str, Secret] = {}
    for word in words:
        secret = _parse(word, environment)
        if secret.id in found:
            raise UsageError(f"--secret: the id {secret.id} is given twice")
        found[secret.id] = secret
    if PIP in found:
        found = {**_uv_settings(found[PIP]), **found}
    if {AGENT, KEY} & {*found} and KNOWN_HOSTS not in found:
        found[KNOWN_HOSTS] = _known_hosts()
    return BuildSecrets(tuple(found.values()), google)


def _parse(word: str, environment: Mapping[str, str]) -> Secret:
    keys = {"id": "id", "src": "src", "source": "src", "env": "env", "type": "type"}
    values: dict[str, str] = {}
    try:
        parts = next(csv.reader([word]), [])
    except csv.Error:  # a line end, for one
        parts = [""]
    for part in parts:
        key, equals, value = part.partition("=")
        name = keys.get(key.strip().lower())
        if not equals or name is None:
            # Not the part: somebody may have written the secret itself here.
            raise UsageError("--secret: expected id=..., src=..., env=... or type=...", _SYNTAX)
        values[name] = value
    id_, source, variable = (values.get(name, "") for name in ("id", "src", "env"))
    if not re.fullmatch(_ID, id_):
        raise UsageError(
            "--secret: an id of letters, digits, dots, dashes and underscores is needed", _SYNTAX
        )
    kind = values.get("type", "")
    if kind not in ("", "file", "env"):
        raise UsageError(f"--secret id={id_}: the type is neither 'file' nor 'env'", _SYNTAX)
    if kind == "env":
        source, variable = "", variable or source
    if id_ == AGENT:
        return _agent(source or variable, environment)
    if not source and not variable:
        source, variable = ("", id_) if environment.get(id_) else (id_, "")
    if variable:
        if not environment.get(variable):
            raise UsageError(
                f"--secret id={id_}: the environment variable {variable} is not set", _SYNTAX
            )
        return Secret(id_, variable=variable)
    secret = Secret(id_, path=home.expand(source).absolute())
    secret.read()
    return secret


def _agent(source: str, environment: Mapping[str, str]) -> Secret:
    if source:
        raise UsageError(
            f"--secret id={AGENT} is your SSH agent, which has no other source",
            f"A key file without a passphrase: --secret id={KEY},src=FILE",
        )
    if not environment.get("SSH_AUTH_SOCK"):
        raise UsageError(
            f"--secret id={AGENT}: no SSH agent runs here (SSH_AUTH_SOCK is not set)",
            "Start one and give it your key: eval $(ssh-agent); ssh-add",
        )
    return Secret(AGENT, variable="SSH_AUTH_SOCK")


def _known_hosts() -> Secret:
    file = home.expand("~/.ssh/known_hosts")
    if not file.is_file():
        raise UsageError(
            f"there is no {file}, by which a build can tell the right SSH host from a wrong one",
            "Connect to the host once, or name another file: "
            f"--secret id={KNOWN_HOSTS},src=FILE ('ssh-keyscan HOST' prints its lines).",
        )
    return Secret(KNOWN_HOSTS, path=file)


def _uv_settings(pip: Secret) -> dict[str, Secret]:
    """What uv has to be told of pip's settings, which it doesn't read."""
    from configparser import Error, RawConfigParser

    parser = RawConfigParser(strict=False)
    try:
        parser.read_string(pip.read().decode(errors="surrogateescape"))
    except Error:
        # Without the cause, which quotes a line.
        raise UsageError(f"--secret id={PIP} is not a configuration file of pip") from None
    found: dict[str, Secret] = {}
    for section in ("global", "install"):
        for setting, variable in _PIP_SETTINGS.items():
            if value := parser.get(section, setting, fallback="").split():
                found[variable] = Secret(variable, text=" ".join(value))
    return found


def mounts(ids: Sequence[str]) -> Iterator[str]:
    """What a RUN instruction says to have secrets: the options of BuildKit."""
    for id_ in ids:
        agent = id_ == AGENT
        yield (
            f"--mount=type=ssh,target={FOLDER}/{id_}" if agent else f"--mount=type=secret,id={id_}"
        )


def exports(ids: Sequence[str]) -> Iterator[str]:
    """The shell commands after which programs find the secrets in the folder of secrets."""
    files = {
        NETRC: ("NETRC",),
        PIP: ("PIP_CONFIG_FILE",),
        UV: ("UV_CONFIG_FILE",),
        AGENT: ("SSH_AUTH_SOCK",),
    }
    for id_ in ids:
        if re.fullmatch(_VARIABLE, id_):
            yield f'export {id_}="$(cat {FOLDER}/{id_})"'
        for variable in files.get(id_, ()):
            yield f"export {variable}={FOLDER}/{id_}"
    if GIT in ids:
        yield (
            "export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=credential.helper "
            f"GIT_CONFIG_VALUE_0='store --file {FOLDER}/{GIT}'"
        )
    if KNOWN_HOSTS in ids:
        command = f"ssh -o UserKnownHostsFile={FOLDER}/{KNOWN_HOSTS}"
        if KEY in ids:
            command += f" -i {FOLDER}/{KEY} -o IdentitiesOnly=yes"
        yield f"export GIT_SSH_COMMAND='{command}'"
