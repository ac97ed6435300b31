"""The image that another one is built on: it is there, is pulled, or is made by a Dockerfile."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from caliban import process
from caliban.docker.engine import Engine
from caliban.docker.image import builder, own_dockerfile
from caliban.docker.image.build_secrets import NONE, BuildSecrets
from caliban.errors import UsageError
from caliban.model.image import ImagePlan
from caliban.model.image_name import ImageName

_OTHER = (
    'Name an image that can be had as "base_image" in .calibanconfig.json, or in '
    "$CALIBAN_BASE_IMAGE; an image that the engine already has is used without a registry."
)

# What engines and registries say, what it means, and what to do about it.
_CAUSES = (
    (
        r"manifest unknown|name unknown|manifest for \S+ not found",
        "the registry has no such image",
        "Look for a mistake in its name and tag; a registry may also have removed an old tag.",
    ),
    (
        r"no matching manifest for",
        "the registry has it for other platforms only",
        f"--platform names one. {_OTHER}",
    ),
    (
        r"unauthorized|authentication required|no basic auth credentials|access denied|denied:"
        r"|Unauthenticated|forbidden",
        "the registry asks for a login, or has no such image",
        "Log in: {login}",
    ),
    (
        r"toomanyrequests|too many requests",
        "the registry answers no more requests for now",
        "Log in, which raises the limit ({login}), or wait.",
    ),
    (
        r"no such host|i/o timeout|connection refused|network is unreachable|no route to host"
        r"|handshake timeout|Client\.Timeout|request canceled|server misbehaving|: EOF$",
        "the registry cannot be reached",
        _OTHER,
    ),
    (
        r"x509|certificate|HTTP response to HTTPS client",
        "the engine doesn't trust the registry's certificate",
        "The engine's settings have a place for it: "
        "https://docs.docker.com/engine/security/certificates/",
    ),
    (
        r"no space left on device",
        "the engine's disk is full",
        "'caliban prune' removes images that nobody needs any more.",
    ),
    (
        r"invalid reference format|invalid repository name|invalid tag format",
        "that is not how an image can be called",
        "A name is like python:3.12-slim, or registry.example.com/team/image:tag.",
    ),
)


def ensure(
    plan: ImagePlan,
    engine: Engine,
    excluded: Iterable[Path] = (),
    pull: bool = False,
    no_cache: bool = False,
    secrets: BuildSecrets = NONE,
    allowed_keys: Sequence[str] = (),
) -> str:
    """Makes sure that the engine has the image that a plan builds on.

    Args:
      plan: the image; if a Dockerfile makes its base, see own_dockerfile.current.
      engine: where it is built.
      excluded: files that are never copied.
      pull: whether to look for a newer one in its registry, even if the engine has one.
      no_cache: whether to build the project's own Dockerfile anew.
      secrets: those that a build of it gets.
      allowed_keys: files that it may copy although they look like keys, see keys.check.

    Returns:
      The id of the base image, "sha256:...".

    Raises:
      UsageError: it cannot be had; the message says why.
      BuildError: a step of the project's Dockerfile failed; its output has been shown.
      EngineError: the engine does not answer.
    """
    name = plan.base_image
    is_wanted_anew = pull or (no_cache and plan.dockerfile is not None)
    image = None if is_wanted_anew else _fitting(plan, engine)
    if image is None:
        with builder.one_at_a_time(name):
            if _fitting(plan, engine) is not None and not is_wanted_anew:
                pass  # another process has seen to it
            elif plan.dockerfile:
                own_dockerfile.build(plan, engine, excluded, pull, no_cache, secrets, allowed_keys)
            else:
                _pull(name, plan.platform, engine.platform(name))
        image = _fitting(plan, engine)
    if image is None:
        raise UsageError(
            f"the base image {name} was made, but the engine lacks it"
            + (f" for {plan.platform}" if plan.platform else ""),
            _OTHER,
        )
    if triggers := own_dockerfile.triggers(image):
        raise UsageError(
            f"nothing can be built on {name}: its ONBUILD instructions need what caliban doesn't "
            f"send, like '{triggers[0]}'",
            "Take the image that it is made from, or begin a Dockerfile of the project with it "
            '("dockerfile" in .calibanconfig.json).',
        )
    return str(image["Id"])


def _fitting(plan: ImagePlan, engine: Engine) -> Mapping[str, Any] | None:
    """The base image, if the engine has it, and for the platform that is wanted."""
    image = engine.image(plan.base_image)
    if image is None or not plan.platform:
        return image
    # A variant that isn't asked for may be any: "linux/arm64" is also "linux/arm64/v8".
    found = engine.platform(plan.base_image)
    return image if f"{found}/".startswith(f"{plan.platform}/") else None


def _pull(name: str, platform: str, there: str) -> None:
    """Has the engine pull an image.

    Args:
      name: of the image.
      platform: that it is wanted for; "" for the engine's own.
      there: what the image of that name is for which the engine has; "" if it has none.

    Raises:
      UsageError: it can't be had.
    """
    from caliban.docker.image import progress

    options = ["--platform", platform] if platform else []
    with process.start(["docker", "pull", *options, name], merge_stderr=True) as child:
        title = f"Pull the base image {name}" + (f" for {platform}" if platform else "")
        code, output = progress.show(child, title)
    if code == 0:
        return
    from caliban.model import dlvm

    said = progress.reason(output).removeprefix("Error response from daemon: ")
    meaning, hint = _cause(name, output)
    if there and platform:
        hint += f"\nThe engine has an image of that name for {there}."
    elif there:
        hint += "\nThe engine has an image of that name: without --pull, it is used."
    if container := dlvm.of_image(name):
        hint = (
            f"Google said that it may be gone after {container.until}. It lists what there is: "
            f"{dlvm.SOURCE}\n{hint}"
        )
    raise UsageError(f"the base image {name} cannot be pulled: {meaning}{said}", hint)


def _cause(name: str, output: Sequence[str]) -> tuple[str, str]:
    """What has gone wrong with a pull, and what to do about it."""
    from caliban.docker import registry

    text = "\n".join(output)
    for pattern, meaning, hint in _CAUSES:
        if re.search(pattern, text, re.MULTILINE):
            if "{login}" in hint:  # a registry was asked, so that the name is one
                hint = hint.format(login=registry.login(ImageName.parse(name).host))
            return f"{meaning}: ", hint
    return "", _OTHER
