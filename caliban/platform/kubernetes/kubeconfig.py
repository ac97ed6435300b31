"""The clusters that a kubeconfig names: which of them is meant, and how it is reached."""

from __future__ import annotations

import contextlib
import logging
import os
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
        namespace or contexts[chosen].get("namespace") or "default",
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
    import yaml
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException, load_kube_config

    file = place.kubeconfig or str(_usual())
    found = Configuration()
    try:
        with _complaints():
            load_kube_config(file, place.cluster, found)  # type: ignore[no-untyped-call]
    except (
        *(ConfigException, OSError, yaml.YAMLError),
        *(ValueError, KeyError, TypeError, AttributeError),
    ) as error:
        hint = f"'kubectl --kubeconfig {file} config get-contexts' lists those that there are."
        said = " ".join(str(error).split()) or type(error).__name__
        problem = f"the context '{place.cluster}' of {file} can't be used: {said}"
        with contextlib.suppress(UsageError):  # it can't even be read
            if place.cluster not in _contexts(_read(_split(file))):
                problem = f"{file} has no context '{place.cluster}' any more"
        raise CalibanError(problem, hint) from None
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
    if said:
        raise ValueError(said[-1])


def _contexts(content: Mapping[str, Any]) -> dict[str, Any]:
    """The contexts of kubeconfigs by their names; of several of one name, the first counts."""
    found: dict[str, Any] = {}
    for each in content["contexts"]:
        found.setdefault(str(each.get("name")), each.get("context") or {})
    return found


def _usual() -> Path:
    return home.expand(_USUAL)


def _files(path: str, environment: Mapping[str, str]) -> list[Path]:
    return _split(path or environment.get("KUBECONFIG") or _USUAL)


def _split(named: str) -> list[Path]:
    return [home.expand(each).absolute() for each in named.split(os.pathsep) if each]


def _read(files: list[Path]) -> dict[str, Any]:
    """The contexts of kubeconfigs, and the current one: of several, the first that says it."""
    import yaml

    found: dict[str, Any] = {"contexts": [], "current-context": ""}
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
            contexts = [{**each} for each in content.get("contexts") or ()]
        except (OSError, ValueError, yaml.YAMLError, AttributeError, TypeError) as error:
            said = str(error).splitlines()[0]
            raise UsageError(f"{file} can't be read as a kubeconfig: {said}") from None
        found["contexts"] += contexts
        found["current-context"] = found["current-context"] or content.get("current-context") or ""
    return found
