"""dlvm: names: what they stand for, and what is said of those that are gone."""

from __future__ import annotations

import datetime
import re

import pytest

from caliban.errors import UsageError
from caliban.model import dlvm

GONE = ["pytorch-{}-1.0", "pytorch-{}-1.1", "pytorch-{}-1.2", "pytorch-{}-1.3", "pytorch-{}-1.4"]
GONE += ["tf-{}-1.0", "tf-{}-1.13", "tf-{}-1.14", "tf-{}-1.15"]
GONE += ["tf2-{}-2.0", "tf2-{}-2.1", "tf2-{}-2.2"]

REGISTRY = "us-docker.pkg.dev/deeplearning-platform-release/gcr.io"


@pytest.mark.parametrize("mode", ["cpu", "gpu"])
@pytest.mark.parametrize("library", ["pytorch", "tf", "tf2"])
def test_a_name_without_a_version_stands_for_the_newest(library: str, mode: str) -> None:
    newest = {"pytorch": "2-4", "tf": "2-17", "tf2": "2-17"}[library]
    image = dlvm.resolve(f"dlvm:{library}-{mode}").name
    assert re.fullmatch(rf"{REGISTRY}/\w+-(cpu|cu\d+)\.{newest}\.py310", image)


def test_a_version_is_taken_by_its_number_whatever_tensorflow_is_called() -> None:
    assert dlvm.resolve("dlvm:pytorch-gpu-2.3").name == f"{REGISTRY}/pytorch-cu121.2-3.py310"
    assert dlvm.resolve("dlvm:tf2-gpu-2.17").name == f"{REGISTRY}/tf2-cu123.2-17.py310"
    assert dlvm.resolve("dlvm:tf-cpu-2.17").name == f"{REGISTRY}/tf2-cpu.2-17.py310"


@pytest.mark.parametrize("mode", ["cpu", "gpu"])
@pytest.mark.parametrize("name", GONE)
def test_a_version_that_is_gone_is_answered_with_the_nearest_that_there_is(
    name: str, mode: str
) -> None:
    alias = f"dlvm:{name.format(mode)}"
    with pytest.raises(UsageError, match="is no longer among Google's") as error:
        dlvm.resolve(alias)
    nearest = re.search(r"the nearest one is (dlvm:\S+)", error.value.message)
    assert nearest
    library = "pytorch" if "pytorch" in alias else "tf2"
    oldest = {"pytorch": "1.13", "tf2": "2.12"}[library]
    assert nearest[1] == f"dlvm:{library}-{mode}-{oldest}"
    assert dlvm.resolve(nearest[1])


def test_a_version_that_is_not_there_yet_is_answered_with_the_newest() -> None:
    with pytest.raises(UsageError, match=r"is not among .* dlvm:pytorch-gpu-2\.4$"):
        dlvm.resolve("dlvm:pytorch-gpu-9.9")


@pytest.mark.parametrize(
    ("alias", "near"),
    [
        ("dlvm:pytorh-gpu", "dlvm:pytorch-gpu"),
        ("dlvm:pytorch", "dlvm:pytorch-"),
        ("dlvm:tf3-cpu", "dlvm:tf2-cpu"),
        ("dlvm:tf2-tpu-2.17", "dlvm:tf2-"),
        ("dlvm:pytorch-gpu-nightly", "dlvm:pytorch-gpu"),
        ("dlvm:pytorch-gpu-2.4-", "dlvm:pytorch-gpu-2.4"),
        ("dlvm:", ""),
    ],
)
def test_an_unknown_name_is_answered_with_what_there_is(alias: str, near: str) -> None:
    with pytest.raises(UsageError) as error:
        dlvm.resolve(alias)
    assert error.value.message.startswith(f"{alias} is not a Deep Learning Container")
    if near:
        assert f"did you mean {near}" in error.value.message
    assert "dlvm:pytorch-cpu or -gpu, with -2.4, -2.3" in error.value.hint
    assert "dlvm:tf2-cpu or -gpu, with -2.17, " in error.value.hint


def test_every_name_stands_for_an_image_and_tells_until_when_it_is_kept() -> None:
    known = list(dlvm.aliases())
    assert len(known) == len({*known}) > 20
    for alias in known:
        found = dlvm.resolve(alias)
        assert found.name.startswith(f"{REGISTRY}/")
        assert datetime.date.fromisoformat(found.until)
        again = dlvm.of_image(found.name)
        assert again == found
    assert dlvm.of_image("python:3.12") is None
