"""Names for Google's Deep Learning Containers: dlvm:pytorch-gpu-2.4 stands for an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from caliban.errors import UsageError
from caliban.model import suggestion

PREFIX = "dlvm:"

_REGISTRY = "us-docker.pkg.dev/deeplearning-platform-release/gcr.io"

# The page that the table below is taken from, and when that page was last changed.
SOURCE = "https://docs.cloud.google.com/deep-learning-containers/docs/choosing-container"
AS_OF = "2026-04-10"

# By library and version: the images for CPU and for GPU, and until when Google keeps them for
# download. There is no image of PyTorch for CPU; the one for GPU runs without one as well.
_IMAGES: dict[str, dict[str, tuple[str, str, str]]] = {
    "pytorch": {
        "2.4": ("pytorch-cu124.2-4.py310", "pytorch-cu124.2-4.py310", "2026-07-24"),
        "2.3": ("pytorch-cu121.2-3.py310", "pytorch-cu121.2-3.py310", "2026-04-24"),
        "2.2": ("pytorch-cu121.2-2.py310", "pytorch-cu121.2-2.py310", "2026-01-30"),
        "2.1": ("pytorch-cu121.2-1.py310", "pytorch-cu121.2-1.py310", "2025-10-04"),
        "2.0": ("pytorch-cu118.2-0.py310", "pytorch-cu118.2-0.py310", "2025-03-15"),
        "1.13": ("pytorch-cu118.1-13.py310", "pytorch-cu118.1-13.py310", "2024-12-08"),
    },
    "tf2": {
        "2.17": ("tf2-cpu.2-17.py310", "tf2-cu123.2-17.py310", "2026-07-11"),
        "2.16": ("tf2-cpu.2-16.py310", "tf2-cu123.2-16.py310", "2026-06-28"),
        "2.15": ("tf2-cpu.2-15.py310", "tf2-cu121.2-15.py310", "2025-11-14"),
        "2.14": ("tf2-cpu.2-14.py310", "tf2-cu118.2-14.py310", "2025-09-26"),
        "2.13": ("tf2-cpu.2-13.py310", "tf2-cu118.2-13.py310", "2025-07-05"),
        "2.12": ("tf2-cpu.2-12.py310", "tf2-cu118.2-12.py310", "2025-06-30"),
    },
}

# TensorFlow 1 had the name "tf". Google gives that name to its newest TensorFlow by now.
_SYNONYMS = {"tf": "tf2"}


@dataclass(frozen=True)
class Container:
    """A Deep Learning Container.

    Attributes:
      name: of the image.
      until: the day after which Google may take it away, "2026-07-24".
    """

    name: str
    until: str


def resolve(alias: str) -> Container:
    """The image that a name like "dlvm:pytorch-gpu-2.4" or "dlvm:tf2-cpu" stands for.

    Without a version it is the newest one.

    Raises:
      UsageError: there is no such image; the message says which is nearest, or which there are.
    """
    library, _, rest = alias.removeprefix(PREFIX).partition("-")
    mode, _, version = rest.partition("-")
    versions = _IMAGES.get(_SYNONYMS.get(library, library))
    if versions is None or mode not in ("cpu", "gpu"):
        raise _unknown(alias)
    version = version or next(iter(versions))
    if version not in versions:
        raise _retired(alias, library, mode, version)
    cpu, gpu, until = versions[version]
    return Container(f"{_REGISTRY}/{gpu if mode == 'gpu' else cpu}", until)


def of_image(name: str) -> Container | None:
    """What is known of an image that such a name stands for; None for any other image."""
    found = (resolve(alias) for alias in aliases())
    return next((each for each in found if each.name == name), None)


def aliases() -> Iterator[str]:
    """All names that there are, with their versions."""
    for library, versions in _IMAGES.items():
        for mode in ("cpu", "gpu"):
            yield from (f"{PREFIX}{library}-{mode}-{version}" for version in versions)


def _retired(alias: str, library: str, mode: str, version: str) -> UsageError:
    """A version that Google has no image of, or no longer."""
    own = _SYNONYMS.get(library, library)
    versions = _IMAGES[own]
    wanted = _numbers(version)
    if not wanted:
        return _unknown(alias)
    oldest = min(versions, key=_numbers)
    # The oldest that is not older: what was written for 1.4 breaks least with it.
    later = [each for each in versions if _numbers(each) >= wanted]
    nearest = min(later, key=_numbers) if later else next(iter(versions))
    state = "no longer" if wanted < _numbers(oldest) else "not"
    return UsageError(
        f"{alias}: version {version} is {state} among Google's Deep Learning Containers; "
        f"the nearest one is {PREFIX}{own}-{mode}-{nearest}",
        f"There are {own} {', '.join(versions)} (as of {AS_OF}). An older one needs an image of "
        "your own.",
    )


def _unknown(alias: str) -> UsageError:
    known = [*(f"{PREFIX}{each}-{mode}" for each in _IMAGES for mode in ("cpu", "gpu")), *aliases()]
    near = suggestion.near(alias, known)
    meant = f"; did you mean {near[0]}?" if near else ""
    listed = "; ".join(
        f"{PREFIX}{library}-cpu or -gpu, with -{', -'.join(versions)} for a version"
        for library, versions in _IMAGES.items()
    )
    return UsageError(f"{alias} is not a Deep Learning Container that is known{meant}", listed)


def _numbers(version: str) -> tuple[int, ...]:
    """A version as numbers; () if it isn't one."""
    parts = version.split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()
