"""The clusters that a kubeconfig names: which of them is meant, and how it is reached."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from caliban import home
from caliban.errors import CalibanError, UsageError
from caliban.platform.kubernetes.place import Place

if TYPE_CHECKING:
    from kubernetes.client import Configuration

_USUAL = "~/.kube/config"

# How the client names a part of the file: by all that is in it, a password for one.
_CONTENT = re.compile(r"\{.*\}")

# What it says of a program that has failed, and has said why on the terminal.
_TOLD_THERE = "'NoneType' object has no attribute 'strip'"

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def place(context: str, path: str, namespace: str, environment: Mapping[str, str]) -> Place:
    """The place that a user means, without asking the cluster.

    Args:
      context: name of a context; "" for the current one.
      path: of a kubeconfig; "" for those of $KUBECONFIG, or else ~/.kube/config.
      namespace: where in the cluster; "" for the one that the context has, or else "default".
      environment: variables.

    Raises:
      UsageError: there is no such kubeconfig or context.
    """
    files = _files(path, environment)
    found = _read(files)
    contexts = _contexts(found)
    names = ", ".join(contexts) or "none"
    where = os.pathsep.join(map(str, files))
    chosen = context or found["current-context"]
    if not chosen:
        raise UsageError(
            f"{where} has no current context", f"Name one with --context. There are: {names}."
        )
    if chosen not in contexts:
        raise UsageError(f"{where} has no context '{chosen}'", f"There are: {names}.")
    is_usual = files == [_usual()]
    return Place(
        chosen,
        namespace or str(contexts[chosen].get("namespace") or "default"),
        "" if is_usual else where,
    )


def is_there(path: str, environment: Mapping[str, str]) -> bool:
    """Whether there is a kubeconfig, see `place`."""
    return any(file.is_file() for file in _files(path, environment))


def configuration(place: Place) -> Configuration:
    """What the Kubernetes client needs to know to reach a place.

    Raises:
      CalibanError: the kubeconfig, or what it needs, isn't there or can't be used.
    """
    from kubernetes.client import Configuration
    from kubernetes.config import load_kube_config

    file = place.kubeconfig or str(_usual())
    found = Configuration()
    try:
        with _complaints():
            load_kube_config(file, place.cluster, found)  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - each way to log in has errors of its own
        hint = f"'{place.kubectl} version' shows whether others can use it."
        said = _CONTENT.sub("{...}", " ".join(str(error).split())) or type(error).__name__
        problem = f"the context '{place.cluster}' of {file} can't be used: {said}"
        with contextlib.suppress(UsageError):  # it can't even be read
            if place.cluster not in (there := _contexts(_read(_split(file)))):
                problem = f"{file} has no context '{place.cluster}' any more"
                hint = f"There are: {', '.join(there) or 'none'}."
        raise CalibanError(problem, hint) from None
    if as_whom := _impersonated(place.cluster, _read(_split(file))):
        raise CalibanError(
            f"the context '{place.cluster}' of {file} acts as {as_whom}, which caliban can't: jobs "
            "would be those of somebody else",
            "Name a context whose user has credentials of its own, without 'as' and 'as-groups'.",
        )
    url = urlsplit(found.host)
    if url.scheme != "https" and url.hostname not in _LOOPBACK:
        raise CalibanError(
            f"the cluster '{place.cluster}' is at {found.host}, where credentials would be sent "
            "without encryption",
            "Use an address that begins with https://.",
        )
    if not found.verify_ssl:
        raise CalibanError(
            f"{file} says that the certificate of '{place.cluster}' is not to be verified: "
            "anybody could pretend to be that cluster",
            "Put the cluster's certificate-authority there, instead of insecure-skip-tls-verify.",
        )
    return found


def credentials(configuration: Configuration) -> dict[str, str]:
    """The headers that say who asks, with a new token where the last one has expired.

    Args:
      configuration: what `configuration` returned, or one like it.

    Raises:
      ValueError: there is no new token, or none that can be sent; the text doesn't show it.
    """
    found = {}
    with _complaints():
        settings: Any = configuration.auth_settings()
    for each in settings.values():
        # A file with a token ends with a newline, which is none of the token's.
        value = str(each["value"]).strip()
        if not (value.isascii() and value.isprintable()):
            raise ValueError("the token has characters that no token may have")
        found[each["key"]] = value
    return found


@contextlib.contextmanager
def _complaints() -> Iterator[None]:
    """Makes errors of what the client only logs, to go on without credentials.

    Raises:
      ValueError: the program that makes credentials can't be run, for one.
    """
    said: list[str] = []
    thread = threading.get_ident()

    class Complaints(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                said.append(record.getMessage())

    handler = Complaints(logging.ERROR)
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
    if said and said[-1] == _TOLD_THERE:
        raise ValueError("the program that makes its credentials has failed")
    if said:
        raise ValueError(said[-1])


def _contexts(content: Mapping[str, Any]) -> dict[str, Any]:
    """The contexts of kubeconfigs by their names; of several of one name, the first counts."""
    found: dict[str, Any] = {}
    for each in content["contexts"]:
        found.setdefault(str(each.get("name")), each["context"])
    return found


def _impersonated(context: str, content: Mapping[str, Any]) -> str:
    """As whom the user of a context acts; "" for itself. The client passes over this."""
    user = content["users"].get(str(_contexts(content).get(context, {}).get("user")), {})
    said = {key: value for key, value in user.items() if re.match(r"as(-|$)", str(key))}
    return str(said.get("as", "")) or ", ".join(map(str, said))


def _usual() -> Path:
    return home.expand(_USUAL)


def _files(path: str, environment: Mapping[str, str]) -> list[Path]:
    return _split(path or environment.get("KUBECONFIG") or _USUAL)


def _split(named: str) -> list[Path]:
    return [home.expand(each).absolute() for each in named.split(os.pathsep) if each]


def _read(files: list[Path]) -> dict[str, Any]:
    """The contexts and users of kubeconfigs, and the current context.

    Of several files, the first that says something of one counts.
    """
    import yaml

    found: dict[str, Any] = {"contexts": [], "current-context": "", "users": {}}
    there = [file for file in files if file.exists()]
    if not there:
        raise UsageError(
            f"there is no kubeconfig {' or '.join(map(str, files))}",
            "It comes with a cluster: 'kind create cluster' and 'minikube start' write one. Name "
            "one with --kubeconfig or $KUBECONFIG.",
        )
    for file in there:
        try:
            content = yaml.safe_load(file.read_text())
            contexts = [
                {**each, "context": {**(each.get("context") or {})}}
                for each in content.get("contexts") or ()
            ]
            users = {
                str(each.get("name")): {**(each.get("user") or {})}
                for each in content.get("users") or ()
            }
        except (OSError, ValueError, yaml.YAMLError) as error:
            said = str(error).splitlines()[0]
            raise UsageError(f"{file} can't be read as a kubeconfig: {said}") from None
        except (AttributeError, TypeError):
            raise UsageError(f"{file} is no kubeconfig, or not all of one") from None
        found["contexts"] += contexts
        found["users"] = {**users, **found["users"]}
        current = str(content.get("current-context") or "")
        found["current-context"] = found["current-context"] or current
    return found
