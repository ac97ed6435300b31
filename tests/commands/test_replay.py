"""`caliban replay`, as far as it needs no engine: what a build of a stranger's code may read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from caliban.bundle import recorded
from caliban.bundle.archive import Archive
from caliban.commands.replay_images import Workshop
from caliban.errors import UsageError
from caliban.model.image import ImagePlan, Mode
from tests.bundle import forgery
from tests.bundle.forgery import Manifest
from tests.conftest import Inline


class Untouched:
    """Stands for what must not be asked anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"it was asked for {name}")


@pytest.mark.parametrize(
    ("files", "plan"),
    [
        ({"requirements.txt": "-r {secret}\n"}, {}),
        ({"requirements.txt": "-r ../secret/requirements.txt\n"}, {}),
        ({"requirements.txt": "-r /dev/zero\n"}, {}),
        ({"requirements.txt": "--find-links ../secret\n"}, {}),
        ({"requirements.txt": "--find-links /\n"}, {}),
        ({"requirements.txt": "-e ../secret\n"}, {}),
        *(
            (
                {
                    "pyproject.toml": '[project]\nname = "x"\nversion = "1"\n',
                    "uv.lock": 'version = 1\n[[package]]\nname = "y"\nsource = '
                    f'{{{{ editable = "{path}" }}}}\n',
                },
                {"requirements": [], "project": "pyproject.toml", "lock_file": "uv.lock"},
            )
            for path in ("../secret", "/", "{secret}", "a/../../secret")
        ),
    ],
)
def test_a_build_reads_nothing_beside_the_code(
    files: dict[str, str], plan: dict[str, Any], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    for name in ("setup.py", "requirements.txt"):
        (secret / name).write_text("absl-py\n")

    def change(manifest: Manifest, parts: dict[str, bytes]) -> None:
        launch = manifest["launches"][0]
        launch["plan"].update(plan)
        launch["code"] = [each for each in launch["code"] if each["path"] not in files]
        for name, text in files.items():
            content = text.format(secret=secret).encode()
            part = forgery.part_of(content)
            parts[part] = content
            launch["code"].append({"path": name, "kind": "file", "part": part})

    forgery.write(tmp_path / "evil.tar", change)
    with Archive(tmp_path / "evil.tar") as archive, pytest.raises(UsageError):
        launch = recorded.read(archive).launches[0]
        nobody: Any = Untouched()
        args = argparse.Namespace(secret=[], allow_key=[])
        workshop = Workshop(archive, {}, nobody, nobody, args)
        workshop.prepare(launch, workshop.plan(launch, tmp_path / "code"))


def test_what_would_be_run_is_listed(tmp_path: Path, home: Path, inline: Inline) -> None:
    forgery.write(tmp_path / "tries.tar")
    done = inline("replay", str(tmp_path / "tries.tar"), "--dry_run")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1: trainer.train --rate 0.1\n2: trainer.train --rate 0.2\n"
    assert "The image caliban:cpu-0 would be built" in done.stderr
    done = inline("replay", str(tmp_path / "tries.tar"), "--dry_run", "--where", "rate=0.2")
    assert done.stdout == "2: trainer.train --rate 0.2\n"
    done = inline("replay", str(tmp_path / "tries.tar"), "--dry_run", "--where", "rat=0.2")
    assert done.returncode == 2
    assert "Did you mean rate?" in done.stderr


def test_whole_numbers_may_be_written_with_a_point(
    tmp_path: Path, home: Path, inline: Inline
) -> None:
    def change(manifest: Manifest, parts: dict[str, bytes]) -> None:
        manifest["jobs"][0].update(launch=0.0, job=1.0, exit_code=0.0)

    forgery.write(tmp_path / "tries.tar", change)
    done = inline("replay", str(tmp_path / "tries.tar"), "--dry_run", "--only", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1: trainer.train --rate 0.1\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--only", "2-4"), "--only 4: the file has 2 experiments"),
        (("--only", "3-2"), "expected numbers like 1,4,7-9, found '3-2'"),
        (("--tolerance", "loss"), "expected a number from 0 on"),
        (("--extract", "tries", "--dry_run"), "--extract and --dry_run don't go together"),
        (("--only", "1", "--extract", "tries", "--json"), "--extract and --only --json don't go"),
        (("--dry_run", "--json"), "--dry_run and --json don't go together"),
        (("--extract", "x", "--docker_run_args", "'"), "--extract and --docker_run_args don't go"),
    ],
)
def test_flags_that_cannot_be_are_told(
    flags: tuple[str, ...],
    message: str,
    tmp_path: Path,
    inline: Inline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    forgery.write(tmp_path / "tries.tar")
    done = inline("replay", str(tmp_path / "tries.tar"), *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["tries.tar"]


def test_a_plan_comes_back_whole(tmp_path: Path) -> None:
    wanted = ImagePlan(
        Mode.GPU,
        "registry.example.com/base:1",
        "/x",
        None,
        apt_packages=("git",),
        conda=("-c", "conda-forge", "numpy"),
        directories=("data",),
        extras=("gpu",),
        packages=("-e .", "./libs/metrics[fast]"),
        julia="1.11",
        secrets=("netrc",),
        platform="linux/arm64",
    )
    forgery.write(
        tmp_path / "x.tar",
        lambda manifest, _: manifest["launches"][0].update(plan=wanted.to_json()),
    )
    with Archive(tmp_path / "x.tar") as archive:
        found = recorded.read(archive).launches[0].plan
    assert found.to_json() == {**wanted.to_json(), "directory": ""}


@pytest.mark.parametrize(("branch", "is_kept"), [("main", True), ("\x1b]0;owned\x07", False)])
def test_where_the_code_was_kept_is_taken_over_unless_it_moves_a_terminal_s_cursor(
    branch: str, is_kept: bool, tmp_path: Path
) -> None:
    repository = {
        **dict.fromkeys(("commit", "remote", "folder", "note"), ""),
        "branch": branch,
        "changed": {},
        "submodules": {},
    }
    forgery.write(
        tmp_path / "x.tar",
        lambda manifest, _: manifest["launches"][0]["source"].update(repository=repository),
    )
    with Archive(tmp_path / "x.tar") as archive:
        source = recorded.read(archive).launches[0].source
    assert (source.repository is not None) is is_kept
    assert source.files["trainer/data"] == "folder"
    assert source.files["trainer/run.sh"].startswith("777 ")
