"""What has changed since the last image of a project, and what that rebuilds: without an engine."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caliban import home as caliban_home
from caliban.docker.image import context, dockerfile, inputs, provenance
from caliban.docker.image.explain import Change, Explanation, explain, why
from caliban.docker.image.inputs import Inputs
from caliban.model.image import ImagePlan, Mode
from caliban.model.lock import Lock
from caliban.model.module import Kind, Module
from tests.docker.conftest import write

BASE, OTHER_BASE = "sha256:1", "sha256:2"
CODE = "Copy the code"
PACKAGES = "six==1.16.0 \\\n    --hash=sha256:12\nattrs @ https://me:pass@host/attrs.zip#sha256=1\n"
LOCK = str(Lock("3.12", "0123", PACKAGES))
OTHER_LOCK = LOCK.replace("1.16.0", "1.17.0")


@pytest.fixture
def plan(folder: Path) -> ImagePlan:
    """A project with something of every kind."""
    write(
        folder,
        {
            "trainer/train.py": "print(1)\n",
            "trainer/go.sh": "true\n",
            "trainer/notes.log": "",
            "data/numbers": "1\n",
            "requirements.txt": "six\n",
            "pyproject.toml": "[project]\nname = 'x'\nversion = '1'\n",
            ".dockerignore": "**/*.tmp\n",
        },
    )
    return ImagePlan(
        Mode.CPU,
        "base:1",
        str(folder),
        Module(Kind.PYTHON_MODULE, "trainer.train", "trainer"),
        requirements=("requirements.txt",),
        project="pyproject.toml",
        apt_packages=("git",),
        directories=("data",),
        lock=LOCK,
    )


def made_of(plan: ImagePlan, base_id: str = BASE) -> Inputs:
    files = context.files(plan)
    return inputs.of(plan, provenance.of_files(plan, base_id, files), files)


def compare(
    before: Inputs, plan: ImagePlan, base_id: str = BASE, is_resolved: bool = True
) -> Explanation:
    since = time.time() + 1  # whatever lies in the project now was there
    return explain((before, since), made_of(plan, base_id), Path(plan.directory), is_resolved)


def first_rebuilt(found: Explanation) -> str | None:
    return next((title for title, rebuilt in found.layers if rebuilt), None)


def titles(plan: ImagePlan, attribute: str) -> tuple[str, ...]:
    """The layers that an attribute of the plan decides."""
    return tuple(x.title for x in dockerfile.sections(plan) if attribute in x.decided_by)


def test_of_an_unchanged_project_nothing_has_changed(plan: ImagePlan) -> None:
    found = compare(made_of(plan), plan)
    assert list(found.changes) == []
    assert first_rebuilt(found) is None
    assert found.image == found.last
    assert found.reason == ""


def test_the_first_image_is_built_from_the_first_layer_on(plan: ImagePlan) -> None:
    found = explain(None, made_of(plan), Path(plan.directory))
    assert found.last == ""
    assert [rebuilt for _, rebuilt in found.layers] == [True] * len(found.layers)
    assert found.layers[0][0] == "Start from base:1"


@pytest.mark.parametrize(
    ("edit", "name", "what"),
    [
        (lambda f: write(f, {"trainer/train.py": "print(2)\n"}), "trainer/train.py", "edited"),
        (lambda f: write(f, {"trainer/new.py": ""}), "trainer/new.py", "added"),
        (lambda f: (f / "trainer/go.sh").unlink(), "trainer/go.sh", "removed"),
        (lambda f: (f / "trainer/go.sh").chmod(0o755), "trainer/go.sh", "made executable"),
        (lambda f: write(f, {"trainer/a/b/new.py": ""}), "trainer/a/b/new.py", "added"),
        (lambda f: (f / "trainer/empty").mkdir(), "trainer/empty", "added"),
    ],
)
def test_of_the_code_just_the_touched_file_is_named(
    plan: ImagePlan, folder: Path, edit: Callable[[Path], object], name: str, what: str
) -> None:
    before = made_of(plan)
    edit(folder)
    found = explain((before, 0), made_of(plan), folder)
    assert found.changes == [Change(name, what, (CODE,))]
    assert first_rebuilt(found) == CODE
    assert found.reason == f"{name} {what}"


def test_a_file_of_an_extra_directory_is_named(plan: ImagePlan, folder: Path) -> None:
    before = made_of(plan)
    write(folder, {"data/numbers": "2\n"})
    found = compare(before, plan)
    assert found.changes == [Change("data/numbers", "edited", ("Copy data",))]
    assert first_rebuilt(found) == "Copy data"


def test_a_file_of_an_editable_package_of_the_project_is_named(
    plan: ImagePlan, folder: Path
) -> None:
    declared = "[project]\nname = 'near'\nversion = '1'\n"
    write(folder, {"libs/near/pyproject.toml": declared, "libs/near/near/__init__.py": "x = 1\n"})
    write(folder, {"requirements.txt": "-e ./libs/near\n"})
    packages, directories = ("-e ./libs/near",), ("data", "libs/near")
    plan = replace(plan, project="", packages=packages, directories=directories)
    before = made_of(plan)
    write(folder, {"libs/near/near/__init__.py": "x = 2\n"})
    found = compare(before, plan)
    assert found.changes == [Change("libs/near/near/__init__.py", "edited", ("Copy libs/near",))]
    assert first_rebuilt(found) == "Copy libs/near"


def test_what_is_beside_the_code_is_not_named(plan: ImagePlan, folder: Path) -> None:
    before = made_of(plan)
    write(folder, {"README.md": "hello\n", "trainer/__pycache__/x.pyc": ""})
    assert list(compare(before, plan).changes) == []


@pytest.mark.parametrize(
    ("attribute", "value", "name", "what"),
    [
        ("extras", ("plots",), "extras", "+ plots"),
        ("apt_packages", ("curl",), "apt packages", "+ curl, - git"),
        ("python", "3.12", "Python", "none -> 3.12"),
        ("directories", (), "--dir", "- data"),
        ("groups", ("dev",), "dependency groups", "+ dev"),
        ("base_image", "base:2", "base image", "base:1 -> base:2"),
    ],
)
def test_of_the_settings_just_the_touched_one_is_named(
    plan: ImagePlan, attribute: str, value: Any, name: str, what: str
) -> None:
    other = replace(plan, **{attribute: value})
    found = compare(made_of(plan), other)
    assert [(each.input, each.what) for each in found.changes] == [(name, what)]
    # It leads to others of which nothing is known before the dependencies are resolved.
    unresolved = replace(other, lock="")
    found = compare(made_of(plan), unresolved, is_resolved=False)
    assert [(each.input, each.what) for each in found.changes] == [(name, what)]
    expected = {title for each in (plan, other, unresolved) for title in titles(each, attribute)}
    assert set(found.changes[0].layers) <= expected


def test_a_new_directory_is_named_and_not_all_that_is_in_it(plan: ImagePlan, folder: Path) -> None:
    write(folder, {"more/a": "", "more/b/c": ""})
    found = compare(made_of(plan), replace(plan, directories=("data", "more")))
    assert found.changes == [Change("--dir", "+ more", ("Copy more",))]
    found = compare(made_of(replace(plan, directories=("data", "more"))), plan)
    assert found.changes == [Change("--dir", "- more", ("Copy more",))]


def test_another_base_image_of_the_same_name_is_named(plan: ImagePlan) -> None:
    found = compare(made_of(plan), plan, OTHER_BASE)
    [change] = found.changes
    assert (change.input, change.layers) == ("base image base:1", ("Start from base:1",))
    assert all(rebuilt for _, rebuilt in found.layers)
    found = compare(made_of(plan), plan, "")
    [change] = found.changes
    assert change.what == "has to be pulled"
    assert (found.image, found.is_resolved) == ("", True), "its id is part of the name"


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
def test_a_declaration_is_named_and_not_the_versions_that_follow_from_it(
    plan: ImagePlan, folder: Path, name: str
) -> None:
    before = made_of(plan)
    with (folder / name).open("a") as file:
        file.write("# another\n")
    unresolved = compare(before, replace(plan, lock=""), is_resolved=False)
    assert [(each.input, each.what) for each in unresolved.changes] == [(name, "edited")]
    assert first_rebuilt(unresolved) == "Install the dependencies"
    assert unresolved.image == ""
    resolved = compare(before, replace(plan, lock=OTHER_LOCK))
    assert [(each.input, each.what) for each in resolved.changes] == [(name, "edited")]
    # The same versions as before: there is nothing to install.
    assert first_rebuilt(compare(before, plan)) not in titles(plan, "lock")


def test_other_versions_of_the_same_declaration_are_named(plan: ImagePlan) -> None:
    found = compare(made_of(plan), replace(plan, lock=OTHER_LOCK))
    assert [(each.input, each.what) for each in found.changes] == [
        ("the lock", "six 1.16.0 -> 1.17.0")
    ]
    assert first_rebuilt(found) == "Install 2 packages"


def test_what_dockerignore_lets_in_and_leaves_out_is_its_doing(
    plan: ImagePlan, folder: Path
) -> None:
    before = made_of(plan)
    write(folder, {".dockerignore": "**/*.tmp\n**/*.log\n"})
    found = compare(before, plan)
    assert found.changes == [Change(".dockerignore", "edited", (CODE,))]
    less = made_of(plan)
    write(folder, {".dockerignore": "**/*.tmp\n"})
    assert compare(less, plan).changes == [Change(".dockerignore", "edited", (CODE,))]
    (folder / ".dockerignore").unlink()
    assert list(compare(made_of(plan), plan).changes) == []
    assert list(compare(before, plan).changes) == []  # its rule concerned no file


def test_a_file_that_comes_with_another_dockerignore_is_named_besides(
    plan: ImagePlan, folder: Path
) -> None:
    write(folder, {".dockerignore": "**/*.log\n"})
    before, since = made_of(plan), time.time() - 3600
    write(folder, {".dockerignore": "", "trainer/new.py": ""})
    os.utime(folder / "trainer/new.py", (1, 1))  # says nothing: it came just now all the same
    found = explain((before, since), made_of(plan), folder)
    assert "trainer/new.py" in [each.input for each in found.changes]


def test_another_way_to_build_is_named_with_the_versions(
    plan: ImagePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made_of(plan)
    monkeypatch.setattr(dockerfile, "WORKING_DIRECTORY", "/elsewhere")
    found = compare(before, plan)
    [change] = found.changes
    assert (change.input, change.what) == ("caliban's own rules", "have changed")
    assert first_rebuilt(found) == change.layers[0]
    monkeypatch.setattr(inputs, "__version__", "9.9")
    assert compare(before, plan).changes[0].what.endswith(" -> 9.9")


def test_another_file_of_calibans_own_is_named_as_its_rules(
    plan: ImagePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made_of(plan)
    shutil.copytree(context.RESOURCES, tmp_path / "resources")
    monkeypatch.setattr(context, "RESOURCES", tmp_path / "resources")
    with (tmp_path / "resources/dependencies" / dockerfile.COMPILER).open("a") as file:
        file.write("# more\n")
    [change] = compare(before, plan).changes
    assert (change.input, change.layers) == ("caliban's own rules", ("Install 2 packages",))


def test_several_changes_are_summed_up(plan: ImagePlan, folder: Path) -> None:
    before = made_of(plan)
    write(folder, {f"trainer/{name}.py": "" for name in "abc"})
    assert compare(before, plan).reason == "trainer/a.py added, trainer/b.py added and 1 more"


CHANGED: dict[str, Any] = {
    "base_image": "base:2",
    "module": Module(Kind.PYTHON_MODULE, "trainer.other", "trainer"),
    "requirements": (),
    "project": "",
    "extras": ("cpu",),
    "apt_packages": (),
    "directories": (),
    "shell": "zsh",
    "jupyter": "notebook>=7",
    "groups": ("dev",),
    "lock_file": "uv.lock",
    "pip": ("six",),
    "conda": ("numpy",),
    "python": "3.12",
    "packages": ("-e .",),
    "lock": OTHER_LOCK,
    "julia": "1.10",
}


@pytest.mark.parametrize("attribute", CHANGED)
def test_each_layer_knows_the_attributes_that_decide_it(plan: ImagePlan, attribute: str) -> None:
    for start in (plan, replace(plan, requirements=(), project="", lock="")):
        other = replace(start, **{attribute: CHANGED[attribute]})
        old = {each.instructions for each in dockerfile.sections(start)}
        new = {each.instructions for each in dockerfile.sections(other)}
        for each in (*dockerfile.sections(start), *dockerfile.sections(other)):
            if each.instructions not in old & new:
                assert attribute in each.decided_by, each.title


class TestKeeping:
    def test_the_inputs_come_back_as_they_were(self, plan: ImagePlan, home: Path) -> None:
        found = made_of(plan)
        inputs.keep(plan, found)
        kept = inputs.newest(plan)
        assert kept is not None
        assert kept[0] == found
        assert abs(kept[1] - time.time()) < 60
        [file] = (home / ".caliban/images").iterdir()
        assert file.stat().st_mode & 0o777 == 0o600

    def test_only_the_newest_of_a_project_is_kept(self, plan: ImagePlan, folder: Path) -> None:
        first = made_of(plan)
        inputs.keep(plan, first)
        write(folder, {"trainer/train.py": "2"})
        inputs.keep(plan, made_of(plan))
        gpu = replace(plan, mode=Mode.GPU)
        inputs.keep(gpu, made_of(gpu))
        assert not inputs.is_kept(plan, first.image)
        assert inputs.is_kept(plan, made_of(plan).image)
        assert inputs.is_kept(gpu, made_of(gpu).image)
        assert why(plan, first) == ": trainer/train.py edited"

    def test_several_builds_of_a_project_at_a_time_are_not_in_each_others_way(
        self, plan: ImagePlan
    ) -> None:
        found = made_of(plan)

        def build(number: int) -> None:
            for each in range(50):
                inputs.keep(plan, replace(found, image=f"caliban:cpu-{number:08x}{each:08x}"))
                inputs.newest(plan)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(build, range(4)))

    def test_of_two_builds_at_one_moment_neither_removes_what_the_other_keeps(
        self, plan: ImagePlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        both_have_written = threading.Barrier(2)
        write_private = caliban_home.write_private

        def write_and_wait(file: Path, content: bytes) -> None:
            write_private(file, content)
            both_have_written.wait(60)

        monkeypatch.setattr(caliban_home, "write_private", write_and_wait)
        builds = [replace(made_of(plan), image=f"caliban:cpu-{number:016x}") for number in range(2)]
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda build: inputs.keep(plan, build), builds))
        kept = inputs.newest(plan)
        assert kept is not None
        assert kept[0] in builds

    def test_they_go_with_their_image(self, plan: ImagePlan, home: Path) -> None:
        inputs.keep(plan, made_of(plan))
        gpu = replace(plan, mode=Mode.GPU, base_image="base:2")
        inputs.keep(gpu, made_of(gpu))
        inputs.forget(made_of(plan).image)
        assert inputs.newest(plan) is None
        assert inputs.newest(gpu) is not None

    def test_a_damaged_file_is_as_good_as_none(self, plan: ImagePlan, home: Path) -> None:
        inputs.keep(plan, made_of(plan))
        [file] = (home / ".caliban/images").iterdir()
        for content in (b"", b"nonsense", gzip.compress(b"{}"), gzip.compress(b'{"layers": 3}')):
            file.write_bytes(content)
            assert inputs.newest(plan) is None

    def test_nothing_that_may_be_secret_is_kept(self, plan: ImagePlan, home: Path) -> None:
        secret = replace(plan, pip=("x @ https://user:planted@host/x.zip",))
        inputs.keep(secret, made_of(secret))
        [file] = (home / ".caliban/images").iterdir()
        text = gzip.decompress(file.read_bytes()).decode()
        assert json.loads(text)["packages"]["six"] == "1.16.0"
        assert "planted" not in text
        assert "me:pass" not in text

    def test_ten_thousand_files_are_no_burden(self, plan: ImagePlan, folder: Path) -> None:
        places = [folder / "trainer" / f"part-{n}" for n in range(100)]
        for place in places:
            place.mkdir()
            for number in range(100):
                (place / f"module_{number}.py").write_text(f"{number}\n")
        before = made_of(plan)
        began = time.process_time()
        inputs.keep(plan, before)
        kept = inputs.newest(plan)
        (places[0] / "module_0.py").write_text("edited")
        after = made_of(plan)
        assert explain(kept, after, folder).reason == "trainer/part-0/module_0.py edited"
        assert time.process_time() - began < 5
