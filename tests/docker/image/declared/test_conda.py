"""An environment.yml, and the steps of a Dockerfile that come of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from caliban.docker.image import dockerfile
from caliban.docker.image.declared import conda
from caliban.errors import UsageError
from caliban.model.image import ImagePlan, Mode
from tests.docker.image.test_project import write


@pytest.mark.parametrize(
    ("content", "arguments", "has_python"),
    [
        ("dependencies: [numpy=2]", ("--channel", "conda-forge", "numpy=2"), False),
        (
            "channels: [a, nodefaults, b]\ndependencies: ['python >=3.11', b::x]",
            ("--channel", "a", "--channel", "b", "python >=3.11", "b::x"),
            True,
        ),
        ("dependencies: [python-dateutil]", ("--channel", "conda-forge", "python-dateutil"), False),
        ("dependencies: [conda-forge::python=3.12.*]", (..., "conda-forge::python=3.12.*"), True),
        ("dependencies: [python]", (..., "python"), True),
        ("name: x\ndependencies:\n", ("--channel", "conda-forge"), False),
    ],
)
def test_channels_and_packages_are_given_as_arguments(
    tmp_path: Path, content: str, arguments: tuple[object, ...], has_python: bool
) -> None:
    write(tmp_path, {"environment.yml": content})
    found = conda.read(tmp_path / "environment.yml")
    expected = ("--channel", "conda-forge", *arguments[1:]) if ... in arguments else arguments
    assert tuple(found.arguments) == expected
    assert found.has_python is has_python


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[a, b]", "found ['a', 'b'], expected 'channels' and 'dependencies'"),
        ("dependencies: numpy", "'dependencies' must be a list, found 'numpy'"),
        ("dependencies: [{npm: [x]}]", "'dependencies' holds {'npm': ['x']}, expected packages"),
        ("dependencies: [3]", "'dependencies' holds 3, expected packages"),
        ("channels: [{a: b}]\ndependencies: []", "'channels' holds {'a': 'b'}"),
        ("dependencies: [{pip: six}]", "'pip' must be a list, found 'six'"),
        ("dependencies: [{pip: [[]]}]", "'pip' holds [], expected a requirement"),
        ("dependencies: [", ":1:"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, content: str, problem: str) -> None:
    write(tmp_path, {"environment.yml": content})
    with pytest.raises(UsageError) as error:
        conda.read(tmp_path / "environment.yml")
    assert f"{tmp_path}/environment.yml" in error.value.message
    assert problem in error.value.message


def plan(base: str) -> ImagePlan:
    return ImagePlan(
        *(Mode.CPU, base, "/project"),
        conda=("--channel", "conda-forge", "python=3.11", "numpy>=2 # $x"),
    )


def test_the_environment_is_made_before_the_python_steps_which_use_its_python() -> None:
    lines = dockerfile.render(plan("base")).splitlines()
    [copied] = [line for line in lines if line.startswith("COPY --from=")]
    assert copied == f"COPY --from={conda.MICROMAMBA} /bin/micromamba /usr/local/bin/micromamba"
    [made] = [line for line in lines if "--override-channels" in line]
    assert "--channel conda-forge python=3.11 'numpy>=2 # $x'" in made
    assert lines[lines.index(made) + 1].startswith(
        "ENV CONDA_PREFIX=/opt/environment PATH=/opt/environment/bin:${PATH:-"
    )
    [venv] = [line for line in lines if "-m venv" in line]
    assert lines.index(copied) < lines.index(made) < lines.index(venv)


@pytest.mark.parametrize("base", ["mambaorg/micromamba:2", "condaforge/miniforge3", "x/my-conda:1"])
def test_a_base_image_that_brings_conda_needs_no_other(base: str) -> None:
    text = dockerfile.render(plan(base))
    assert "--from=" not in text
    assert '"$(command -v micromamba || command -v mamba || command -v conda ||' in text
