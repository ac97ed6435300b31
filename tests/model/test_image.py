"""ImagePlan: the record that an image can be built from again."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caliban.model.image import DEFAULT_BASE_IMAGES, ImagePlan, Mode, ProjectDockerfile
from caliban.model.module import Kind, Module

TEXTS = st.text(max_size=12)
LISTS = st.lists(TEXTS, max_size=3).map(tuple)
PLANS = st.builds(
    ImagePlan,
    mode=st.sampled_from(Mode),
    base_image=TEXTS,
    directory=TEXTS,
    module=st.none() | st.builds(Module, st.sampled_from(Kind), TEXTS, TEXTS),
    requirements=LISTS,
    project=st.sampled_from(["", "setup.py", "pyproject.toml"]),
    extras=LISTS,
    apt_packages=LISTS,
    directories=LISTS,
    live=st.booleans(),
    shell=st.sampled_from(["", "zsh"]),
    jupyter=TEXTS,
)

PLAN = ImagePlan(
    mode=Mode.GPU,
    base_image="base:gpu",
    directory="/home/totoro/project",
    module=Module(Kind.PYTHON_FILE, "trainer/train.py", "trainer"),
    requirements=("requirements.txt", "more.txt"),
    project="setup.py",
    extras=("gpu",),
    apt_packages=("git", "libsm6"),
    directories=("data", "models/stored"),
)


@given(PLANS)
def test_a_plan_is_read_back_from_json_as_it_was(plan: ImagePlan) -> None:
    assert ImagePlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_this_is_how_a_plan_is_recorded() -> None:
    # Histories hold such records: what is written here must stay readable.
    assert PLAN.to_json() == {
        "mode": "gpu",
        "base_image": "base:gpu",
        "directory": "/home/totoro/project",
        "module": {"kind": "python file", "name": "trainer/train.py", "copied": "trainer"},
        "requirements": ["requirements.txt", "more.txt"],
        "project": "setup.py",
        "extras": ["gpu"],
        "apt_packages": ["git", "libsm6"],
        "directories": ["data", "models/stored"],
    }


def test_everything_about_a_plan_is_recorded() -> None:
    rare: dict[str, Any] = {
        "live": True,
        "shell": "zsh",
        "jupyter": "notebook",
        "groups": ("dev",),
        "lock_file": "uv.lock",
        "pip": ("six",),
        "conda": ("--channel", "conda-forge", "python=3.12"),
        "python": "3.12",
        "packages": ("-e .",),
        "lock": "six==1.17.0\n",
        "julia": "1.11",
        "dockerfile": ProjectDockerfile("Dockerfile", "base", (("A", "b"),)),
        "secrets": ("token",),
        "platform": "linux/arm64",
    }
    plan = dataclasses.replace(PLAN, **rare)
    assert ImagePlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert set(plan.to_json()) == {field.name for field in dataclasses.fields(ImagePlan)}
    assert {key: plan.to_json()[key] for key in PLAN.to_json()} == PLAN.to_json()


def test_an_interactive_image_has_the_environment_of_the_jobs_and_none_of_the_code() -> None:
    plan = PLAN.interactive(shell="zsh")
    code: dict[str, Any] = {"module": None, "directories": ()}
    assert plan == dataclasses.replace(PLAN, **code, live=True, shell="zsh")
    assert ImagePlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("key", PLAN.to_json())
def test_a_record_of_another_kind_is_not_taken_for_a_plan(key: str) -> None:
    record = PLAN.to_json()
    del record[key]
    with pytest.raises(KeyError, match=key):
        ImagePlan.from_json(record)


def test_plans_can_be_compared_and_told_apart() -> None:
    assert dataclasses.replace(PLAN) == PLAN
    assert len({PLAN, dataclasses.replace(PLAN), dataclasses.replace(PLAN, mode=Mode.CPU)}) == 2


def test_every_mode_has_a_default_base_image_with_a_version() -> None:
    assert set(DEFAULT_BASE_IMAGES) == set(Mode)
    for name in DEFAULT_BASE_IMAGES.values():
        assert ":" in name
        assert not name.endswith(":latest")
