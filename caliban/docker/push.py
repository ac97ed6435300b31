"""From the engine to a registry: an image is pushed, unless it is there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from caliban import process, terminal
from caliban.docker import registry
from caliban.docker.engine import Engine
from caliban.docker.image import builder, progress
from caliban.docker.registry import RegistryError
from caliban.errors import CalibanError
from caliban.model.image_name import ImageName

# Seconds before each new attempt, after a push that was cut off. What has been sent stays sent.
_WAITS = (1.0, 4.0, 10.0)

_DIGEST = re.compile(r"digest: (sha256:[0-9a-f]{64}) size: \d+")

# What engines and registries say, what it means, and what to do about it.
_CAUSES = (
    (
        r'Permission "?artifactregistry\.',
        "your account may not write there, or the repository does not exist",
        "It needs the role roles/artifactregistry.writer. As whom docker is logged in decides "
        "{login}",
    ),
    (
        r"unauthorized|authentication required|no basic auth credentials|access denied|denied:"
        r"|Unauthenticated|forbidden|error getting credentials",
        "docker is not logged in to {host}, or may not push there",
        "Log in: {login}",
    ),
    (
        r"name unknown|[Rr]epository \S+ not found",
        "the registry has no such repository",
        "Make it there, or look for a mistake in its name.",
    ),
    (
        r"no such host|connection refused|network is unreachable|no route to host|i/o timeout"
        r"|handshake timeout|Client\.Timeout|server misbehaving",
        "the registry {host} can't be reached by the engine",
        "Look after the network, and for a mistake in the registry's name.",
    ),
    (
        r"HTTP response to HTTPS client|x509|certificate",
        "the engine doesn't trust the registry {host}",
        "The engine's settings have a place for its certificate: "
        "https://docs.docker.com/engine/security/certificates/",
    ),
    (
        r"[Tt]oo ?[Mm]any ?[Rr]equests",
        "the registry {host} takes no more for now",
        "Wait a few minutes.",
    ),
)

# After these it may go better another time.
_PASSING = re.compile(
    r"\bEOF$|connection reset|broken pipe|unexpected HTTP status: 5\d\d|request canceled"
    r"|[Tt]oo ?[Mm]any ?[Rr]equests|blob upload (unknown|invalid)|closed network connection",
    re.MULTILINE,
)

# After these only if the registry was there before.
_AWAY = re.compile(r"connection refused|i/o timeout|handshake timeout|Client\.Timeout")

# What docker says of a layer, once the registry has answered.
_LAYER = re.compile(r"^[0-9a-f]{12}: ", re.MULTILINE)


class PushError(CalibanError):
    """An image could not be pushed."""


def ensure(
    engine: Engine,
    image: str,
    target: ImageName,
    prepare: Callable[[], object] = lambda: None,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """Makes sure that a registry has an image.

    Args:
      engine: which has the image.
      image: its id.
      target: what it is called in the registry, with a tag.
      prepare: called before it is pushed, if it has to be.
      sleep: waits before another attempt.

    Returns:
      Its name there for good: "REPOSITORY@sha256:...".

    Raises:
      PushError: it can't be pushed; what docker says of it has been shown.
      EngineError: the engine does not answer.
    """
    with builder.one_at_a_time(f"push-{target}"):
        digest = _there(engine, image, target)
        if digest:
            terminal.note(f"The registry has the image already: {target}")
        else:
            prepare()
            with engine.errors(f"naming the image {target}"):
                engine.client.tag(image, target.repository, target.tag, force=True)
            digest = _push(target, sleep)
    return f"{target.repository}@{digest}"


def _there(engine: Engine, image: str, target: ImageName) -> str:
    """The digest under which a registry has an image; "" if it hasn't, or doesn't say."""
    if registry.is_on_this_machine(target.host) and not engine.is_local:
        return ""  # the engine's machine is another one
    pushed = map(ImageName.parse, (engine.image(image) or {}).get("RepoDigests") or ())
    place = (target.host, target.path)
    try:
        for name in pushed:
            if (name.host, name.path) == place and registry.find(name):
                return name.digest
        found = registry.find(target)
    except RegistryError:
        return ""  # docker, which goes another way, will say what is wrong
    return found.digest if found and image in (found.image_id, found.digest) else ""


def _push(target: ImageName, sleep: Callable[[float], object]) -> str:
    """Has docker push an image; returns its digest."""
    has_begun = False
    for wait in (*_WAITS, None):
        with process.start(["docker", "push", str(target)], merge_stderr=True) as child:
            code, output = progress.show(child, f"Push the image to {target}")
        said = "\n".join(output)
        if code == 0:
            return _digest(target, said)
        has_begun |= bool(_LAYER.search(said))
        may_pass = _PASSING.search(said) or (has_begun and _AWAY.search(said))
        if wait is None or not may_pass:
            break
        terminal.warn(f"the push to {target.host} was cut off; it goes on in {wait:.0f} s")
        sleep(wait)
    raise _error(target, output)


def _digest(target: ImageName, said: str) -> str:
    """The digest of an image that has been pushed: docker says it, and the registry knows it."""
    if match := _DIGEST.search(said):
        return match[1]
    if found := registry.find(target):
        return found.digest
    raise PushError(f"{target} was pushed, but the registry does not have it")


def _error(target: ImageName, output: Sequence[str]) -> PushError:
    """What went wrong with a push, in words."""
    said = next((line.strip() for line in reversed(output) if line.strip()), "docker says nothing")
    words = {"host": target.host, "login": registry.login(target.host)}
    for pattern, meaning, hint in _CAUSES:
        if re.search(pattern, "\n".join(output)):
            return PushError(
                f"the image can't be pushed to {target.repository}: {meaning.format(**words)}: "
                f"{said}",
                hint.format(**words),
            )
    return PushError(f"the image can't be pushed to {target.repository}: {said}")
