"""The devcontainer.json of a project."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from caliban.docker import devcontainer, identity
from caliban.docker.image import dockerfile
from caliban.errors import CalibanError, UsageError
from caliban.model.image import WORKING_DIRECTORY, ImagePlan, Mode
from tests.conftest import Unprivileged
from tests.docker.conftest import write

IMAGE = "caliban:cpu-0123456789abcdef"
HOME = Path("/home/ada")
PROJECT = HOME / "code/project"
FILE = ".devcontainer/devcontainer.json"


def render(
    project: Path = PROJECT,
    mode: Mode = Mode.CPU,
    uid: int = 1234,
    home: Path = HOME,
    mounts: Iterable[str] = (".caliban/accounts/passwd", ".caliban/accounts/group"),
    gpu_arguments: Sequence[str] = (),
) -> str:
    files = {home / name: f"/etc/{Path(name).name}" for name in mounts}
    return devcontainer.render(IMAGE, mode, project, uid, 5678, home, files, gpu_arguments)


def parse(text: str) -> dict[str, Any]:
    """What an editor reads: JSON, and comments in lines of their own."""
    lines = [line for line in text.splitlines() if not line.startswith("//")]
    return cast(dict[str, Any], json.loads("\n".join(lines)))


def fields(mount: str) -> list[str]:
    """The fields of a mount, as `docker run` reads them."""
    [found] = csv.reader([mount])
    return found


class TestRender:
    def test_the_project_is_live_where_jobs_find_it(self) -> None:
        found = parse(render())
        assert found["image"] == IMAGE
        assert found["workspaceFolder"] == WORKING_DIRECTORY
        assert fields(found["workspaceMount"]) == [
            *("type=bind", "source=${localWorkspaceFolder}", f"target={WORKING_DIRECTORY}"),
        ]

    def test_the_container_is_like_that_of_a_job(self) -> None:
        found = parse(render())
        assert found["init"] is True
        assert found["runArgs"] == ["--ipc", "host", "--user", "1234:5678"]

    def test_no_other_image_is_built_for_the_users_number(self) -> None:
        assert parse(render())["updateRemoteUserUID"] is False

    def test_root_is_the_images_own_user(self) -> None:
        assert parse(render(uid=0, mounts=()))["runArgs"] == ["--ipc", "host"]

    def test_the_users_account_is_mounted_and_cannot_be_written(self, home: Path) -> None:
        files = {file.path: file.target for file in identity.account_files(1234, 5678, "ada")}
        names = [path.relative_to(home) for path in files]
        text = devcontainer.render(IMAGE, Mode.CPU, PROJECT, 1234, 5678, home, files)
        assert [fields(each) for each in parse(text)["mounts"]] == [
            ["type=bind", f"source=${{localEnv:HOME}}/{name}", f"target=/etc/{kind}", "readonly"]
            for name, kind in zip(names, ("passwd", "group"), strict=True)
        ]

    def test_no_path_of_this_machine_is_in_it(self) -> None:
        assert str(HOME) not in render()
        assert PROJECT.name not in render()

    def test_a_path_outside_of_the_home_directory_is_written_out(self) -> None:
        files = {Path("/somewhere/else/passwd"): "/etc/passwd"}
        found = parse(devcontainer.render(IMAGE, Mode.CPU, PROJECT, 1234, 5678, HOME, files))
        assert "source=/somewhere/else/passwd" in found["mounts"][0]
        assert "test -e /somewhere/else/passwd" in found["initializeCommand"]

    @pytest.mark.parametrize("name", ["a,b", 'a"b', 'a", "b'])
    def test_paths_are_what_they_are_whatever_is_in_them(self, name: str) -> None:
        found = parse(render(HOME / name, home=HOME / name))
        assert fields(found["workspaceMount"])[1:] == [f"source={HOME}/{name}", "target=/usr/app"]
        assert fields(found["mounts"][0])[1] == f"source={HOME}/{name}/.caliban/accounts/passwd"

    def test_names_that_no_encoding_knows_are_no_obstacle(self, tmp_path: Path) -> None:
        strange = HOME / os.fsdecode(b"caf\xe9,")
        devcontainer.write(tmp_path, render(strange))
        found = parse((tmp_path / FILE).read_text())
        assert fields(found["workspaceMount"])[1] == f"source={strange}"

    def test_python_is_the_one_that_the_dependencies_are_installed_for(self) -> None:
        found = parse(render())["customizations"]["vscode"]
        python = found["settings"]["python.defaultInterpreterPath"]
        plan = ImagePlan(Mode.CPU, "base", str(PROJECT), requirements=("requirements.txt",))
        assert f"--python {python} " in dockerfile.render(plan)
        assert found["extensions"] == ["ms-python.python"]

    def test_gpus_are_given_as_jobs_get_them(self) -> None:
        found = parse(render(mode=Mode.GPU, gpu_arguments=("--device", "nvidia.com/gpu=all")))
        assert found["runArgs"][-2:] == ["--device", "nvidia.com/gpu=all"]
        assert "hostRequirements" not in found

    def test_without_knowing_how_the_editor_looks_for_gpus(self) -> None:
        found = parse(render(mode=Mode.GPU))
        assert found["hostRequirements"] == {"gpu": "optional"}
        assert "--gpus" not in found["runArgs"]

    def test_in_cpu_mode_there_are_no_gpus(self) -> None:
        assert "gpu" not in render()

    def test_a_person_is_told_who_wrote_it_and_how_to_keep_changes(self) -> None:
        first, second = render().splitlines()[:2]
        assert first.startswith(devcontainer.MARKER)
        assert "Remove the first line to keep your own changes" in second


class TestInitializeCommand:
    """What is run on the machine before an editor makes the container."""

    @pytest.fixture
    def attempt(self, home: Path, tmp_path: Path) -> Callable[..., str]:
        programs = tmp_path / "bin"
        programs.mkdir()
        identity_program = shutil.which("id")
        assert identity_program
        (programs / "id").symlink_to(identity_program)
        write(home, {"accounts/it's passwd": "", "accounts/group": ""})

        def run(images: Sequence[str] | None = (IMAGE,), **changes: Any) -> str:
            """Its error message; empty if all is well. Without images, there is no docker."""
            if images is not None:
                known = " ".join(map(shlex.quote, images))
                script = f'for each in {known}; do [ "$3" = "$each" ] && exit; done; exit 1'
                (programs / "docker").write_text(f"#!/bin/sh\necho '[]'\n{script}\n")
                (programs / "docker").chmod(0o755)
            wanted = {"uid": os.getuid(), "home": home, "mounts": ["accounts/it's passwd"]}
            command = parse(render(**{**wanted, **changes}))["initializeCommand"]
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                env={"HOME": str(home), "PATH": str(programs)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stdout == ""
            assert done.returncode == (1 if done.stderr else 0)
            return done.stderr

        return run

    def test_it_says_nothing_to_the_user_who_has_the_image(
        self, attempt: Callable[..., str]
    ) -> None:
        assert attempt() == ""
        assert attempt(mounts=()) == ""

    def test_without_the_image_it_says_what_to_do(self, attempt: Callable[..., str]) -> None:
        assert attempt(images=["caliban:other"]) == (
            f"The image {IMAGE} is not here, or it was another user who ran "
            "caliban build --devcontainer. Run it.\n"
        )

    def test_so_it_does_to_another_user(self, attempt: Callable[..., str]) -> None:
        assert "another user" in attempt(uid=os.getuid() + 1)

    def test_so_it_does_to_a_namesake_by_number_on_another_machine(
        self, attempt: Callable[..., str]
    ) -> None:
        assert "another user" in attempt(mounts=["accounts/group", "accounts/missing"])

    def test_an_editor_may_use_another_program_than_docker(
        self, attempt: Callable[..., str]
    ) -> None:
        assert attempt(images=None) == ""


class TestWrite:
    def test_the_file_is_made_with_its_folder(self, tmp_path: Path) -> None:
        assert devcontainer.check(tmp_path) == tmp_path / FILE
        assert list(tmp_path.iterdir()) == []
        assert devcontainer.write(tmp_path, render()) == tmp_path / FILE
        assert (tmp_path / FILE).read_text() == render()
        assert [*(tmp_path / ".devcontainer").iterdir()] == [tmp_path / FILE]

    def test_others_may_read_it_like_any_file_of_a_project(self, tmp_path: Path) -> None:
        (tmp_path / "usual").touch()
        devcontainer.write(tmp_path, render())
        assert (tmp_path / FILE).stat().st_mode == (tmp_path / "usual").stat().st_mode

    def test_calibans_own_file_is_replaced(self, tmp_path: Path) -> None:
        devcontainer.write(tmp_path, render())
        (tmp_path / FILE).write_bytes(render(uid=9).replace("\n", "\r\n").encode())
        devcontainer.write(tmp_path, render(uid=10))
        assert (tmp_path / FILE).read_text() == render(uid=10)

    @pytest.mark.parametrize("content", ["", "{}\n", f"// Mine.\n{render()}", "\N{BOM}{}"])
    @pytest.mark.parametrize("name", [FILE, ".devcontainer.json"])
    def test_a_persons_own_file_stays_as_it_is(
        self, tmp_path: Path, name: str, content: str
    ) -> None:
        write(tmp_path, {name: content})
        with pytest.raises(UsageError) as error:
            devcontainer.write(tmp_path, render())
        assert error.value.message == (
            f"there is a {tmp_path / name} already, which caliban did not write"
        )
        assert "Move it away" in error.value.hint
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {path: path.read_text() for path in files} == {tmp_path / name: content}

    def test_a_changed_file_is_a_persons_own_once_its_first_line_is_gone(
        self, tmp_path: Path
    ) -> None:
        devcontainer.write(tmp_path, render())
        kept = render().partition("\n")[2].replace(IMAGE, "mine")
        (tmp_path / FILE).write_text(kept)
        with pytest.raises(UsageError):
            devcontainer.write(tmp_path, render())
        assert (tmp_path / FILE).read_text() == kept

    @pytest.mark.parametrize("name", [FILE, ".devcontainer"])
    @pytest.mark.parametrize("there", [True, False])
    def test_links_are_not_followed(self, tmp_path: Path, name: str, there: bool) -> None:
        project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
        target = elsewhere / name
        if there:
            write(elsewhere, {FILE: render(uid=9)})
        (project / name).parent.mkdir(parents=True)
        (project / name).symlink_to(target)
        with pytest.raises(UsageError) as error:
            devcontainer.write(project, render())
        assert error.value.message.startswith(f"{project / name} is a symbolic link")
        assert target.exists() is there
        assert not there or (elsewhere / FILE).read_text() == render(uid=9)

    def test_nor_is_one_in_the_place_of_the_unfinished_file(self, tmp_path: Path) -> None:
        write(tmp_path, {"precious": "content", ".devcontainer/Dockerfile": ""})
        link = tmp_path / f"{FILE}.{os.getpid()}"
        link.symlink_to(tmp_path / "precious")
        with pytest.raises(CalibanError, match="File exists"):
            devcontainer.write(tmp_path, render())
        assert link.read_text() == "content"

    @pytest.mark.parametrize("name", [".devcontainer", f"{FILE}/folder/file"])
    def test_what_is_in_the_way_is_named(self, tmp_path: Path, name: str) -> None:
        write(tmp_path, {name: ""})
        with pytest.raises(CalibanError) as error:
            devcontainer.write(tmp_path, render())
        assert str(tmp_path / FILE) in error.value.message
        assert type(error.value) is CalibanError

    def test_a_folder_that_cannot_be_written_is_named(self, unprivileged: Unprivileged) -> None:
        text = render()

        def attempt(folder: Path) -> str:
            (folder / ".devcontainer").mkdir(mode=0o555)
            try:
                devcontainer.write(folder, text)
            except CalibanError as error:
                return error.message
            return "it was written"

        message = unprivileged(attempt)
        assert message.startswith("cannot write ")
        assert message.endswith(f"{FILE}: Permission denied")

    def test_a_failure_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        devcontainer.write(tmp_path, render())

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(CalibanError, match=r"devcontainer\.json: No space left on device"):
            devcontainer.write(tmp_path, render(uid=9))
        assert (tmp_path / FILE).read_text() == render()
        assert [*(tmp_path / ".devcontainer").iterdir()] == [tmp_path / FILE]
