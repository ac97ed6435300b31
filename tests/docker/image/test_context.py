"""What of a project goes into an image, what names it, and the archive that carries it."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from caliban.docker.image import context
from caliban.docker.image.archive import write as write_archive
from caliban.docker.image.dockerfile import CODE, DEPENDENCIES, directory_folder
from caliban.errors import UsageError
from caliban.model.image import OUTPUTS_MARK, ImagePlan, Mode
from caliban.model.lock import Lock
from caliban.model.module import Kind, Module
from tests.conftest import Unprivileged

BASE = "sha256:0123"
EVERYTHING = Module(Kind.PYTHON_FILE, "main.py", ".")
LOCKED = Lock("3.11", "0123", "tqdm==4.70\n")
TRAINER = Module(Kind.PYTHON_MODULE, "trainer.train", "trainer")


def write(path: Path, text: str = "", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def plan(tmp_path: Path) -> ImagePlan:
    """A plan that takes everything of a project with some of each."""
    folder = tmp_path / "code"
    write(folder / "main.py", "print(1)\n")
    write(folder / "run.sh", "echo\n", 0o755)
    write(folder / "trainer/train.py", "print(2)\n")
    write(folder / "data/numbers", "1 2 3")
    write(folder / "requirements.txt", "tqdm\n")
    (folder / "link").symlink_to("main.py")
    (folder / "empty").mkdir()
    return ImagePlan(Mode.CPU, "base", str(folder), EVERYTHING, requirements=("requirements.txt",))


def names(plan: ImagePlan, excluded: tuple[Path, ...] = (), folder: str = CODE) -> set[str]:
    """The files and links that go into a folder of the context; of directories, empty ones."""
    listed = context.declared(plan) if folder == DEPENDENCIES else context.files(plan, excluded)
    found = [file.name for file in listed if file.folder == folder]
    return {each for each in found if not any(other.startswith(f"{each}/") for other in found)} - {
        "."
    }


def fingerprint(plan: ImagePlan, base: str = BASE) -> str:
    return context.fingerprint(plan, base, context.files(plan))


def archive(plan: ImagePlan, dockerfile: str = "FROM base\n") -> dict[str, tarfile.TarInfo]:
    stream = io.BytesIO()
    write_archive(dockerfile, context.files(plan), stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as opened:
        return {member.name: member for member in opened.getmembers()}


class TestFiles:
    def test_of_a_script_beside_everything_are_all_files(self, plan: ImagePlan) -> None:
        assert names(plan) == {
            *("main.py", "run.sh", "trainer/train.py", "data/numbers", "requirements.txt"),
            *("link", "empty"),
        }
        assert names(plan, folder=DEPENDENCIES) == {"requirements.txt"}

    def test_of_a_script_in_a_folder_are_those_of_the_folder(self, plan: ImagePlan) -> None:
        write(Path(plan.directory, "trainer/deep/more.py"))
        assert names(dataclasses.replace(plan, module=TRAINER)) == {
            *("trainer/train.py", "trainer/deep/more.py"),
        }

    def test_of_other_directories_are_taken_in_their_own_places(self, plan: ImagePlan) -> None:
        write(Path(plan.directory, "models/stored/weights"))
        plan = dataclasses.replace(plan, module=TRAINER, directories=("data", "models/stored"))
        assert names(plan, folder=directory_folder(0)) == {"data/numbers"}
        assert names(plan, folder=directory_folder(1)) == {"models/stored/weights"}
        assert names(plan) == {"trainer/train.py"}

    def test_are_taken_once_with_the_first_directory_that_has_them(self, plan: ImagePlan) -> None:
        plan = dataclasses.replace(plan, directories=("data", "data", "."))
        assert names(plan, folder=directory_folder(0)) == {"data/numbers"}
        everywhere = [file.name for file in context.files(plan) if file.path.is_file()]
        assert everywhere.count("data/numbers") == 1

    @pytest.mark.parametrize(
        "name", ["__pycache__/x.pyc", "trainer/__pycache__/x.pyc", ".git/HEAD", "trainer/.git/HEAD"]
    )
    def test_that_python_and_git_write_are_left_out(self, plan: ImagePlan, name: str) -> None:
        write(Path(plan.directory, name))
        assert name not in names(plan)

    def test_with_settings_of_caliban_are_left_out(self, plan: ImagePlan) -> None:
        write(Path(plan.directory, ".calibanconfig.json"))
        assert ".calibanconfig.json" not in names(plan)

    def test_of_virtual_environments_are_left_out(self, plan: ImagePlan) -> None:
        write(Path(plan.directory, "env/pyvenv.cfg"))
        write(Path(plan.directory, "env/lib/module.py"))
        assert not {name for name in names(plan) if name.startswith("env")}

    def test_that_jobs_have_written_are_left_out_unless_they_are_named(
        self, plan: ImagePlan
    ) -> None:
        write(Path(plan.directory, "results", OUTPUTS_MARK))
        write(Path(plan.directory, "results/night/7/model.ckpt"))
        assert not {name for name in names(plan) if name.startswith("results")}
        for named in ("results", "results/night/7"):
            plan = dataclasses.replace(plan, module=TRAINER, directories=(named,))
            assert "results/night/7/model.ckpt" in names(plan, folder=directory_folder(0))

    def test_of_a_live_image_is_the_lock_alone(self, plan: ImagePlan) -> None:
        live = dataclasses.replace(plan, directories=("data",), live=True, lock=str(LOCKED))
        assert [(file.folder, file.name) for file in context.files(live)] == [
            ("lock", "."),
            ("lock", "compile.py"),
            ("lock", "requirements.lock"),
        ]

    def test_that_declare_dependencies_are_there_for_packages_that_lie_in_the_project(
        self, plan: ImagePlan
    ) -> None:
        write(Path(plan.directory, "setup.py"))
        plan = dataclasses.replace(plan, project="setup.py", packages=("-e .",), live=True)
        found = {file.name for file in context.files(plan) if file.folder == DEPENDENCIES}
        assert {"requirements.txt", "setup.py"} <= found

    def test_that_are_credentials_are_left_out_wherever_they_lie(self, plan: ImagePlan) -> None:
        folder = Path(plan.directory)
        key = write(folder / "data/key.json")
        other = write(folder / "adc.json")
        (folder / "alias.json").symlink_to(key)
        plan = dataclasses.replace(plan, directories=("data",))
        assert {"adc.json", "alias.json"} <= names(plan)
        assert "data/key.json" in names(plan, folder=directory_folder(0))
        spelled_otherwise = folder / "trainer" / ".." / "data" / "key.json"
        everything = {file.name for file in context.files(plan, (spelled_otherwise, other))}
        assert not everything & {"adc.json", "alias.json", "data/key.json"}
        assert "data/numbers" in everything

    def test_that_are_neither_file_nor_folder_nor_link_are_left_out(self, plan: ImagePlan) -> None:
        folder = Path(plan.directory)
        os.mkfifo(folder / "pipe")
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            os.chdir(folder)  # the path of a socket must be short
            listener.bind("socket")
            os.chdir(here)
        assert not {"pipe", "socket"} & names(plan)
        assert "main.py" in names(plan)

    def test_of_the_whole_home_directory_are_never_taken(
        self, plan: ImagePlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", plan.directory)
        with pytest.raises(UsageError, match="includes your home directory"):
            context.files(plan)
        assert context.files(dataclasses.replace(plan, module=TRAINER))


class TestDockerignore:
    @pytest.mark.parametrize(
        ("lines", "left_out"),
        [
            ("data\n", {"data/numbers"}),
            ("data/\n", {"data/numbers"}),
            ("/data\n", {"data/numbers"}),
            ("# data\n\n", set()),
            ("*.py\n", {"main.py"}),
            ("**/*.py\n", {"main.py", "trainer/train.py"}),
            ("*\n!main.py\n", {"run.sh", "trainer/train.py", "data/numbers", "link", "empty"}),
            ("data\n!data/numbers\n", set()),
            ("  link  \n", {"link"}),
        ],
    )
    def test_says_what_is_left_out(self, plan: ImagePlan, lines: str, left_out: set[str]) -> None:
        plan = dataclasses.replace(plan, module=None, directories=(".",))
        every = names(plan, folder=directory_folder(0))
        write(Path(plan.directory, ".dockerignore"), lines)
        own = {".dockerignore", "requirements.txt"}
        assert every - names(plan, folder=directory_folder(0)) - own == left_out

    def test_does_not_hide_what_declares_the_dependencies(self, plan: ImagePlan) -> None:
        write(Path(plan.directory, ".dockerignore"), "*\n!main.py\n")
        assert names(plan, folder=DEPENDENCIES) == {"requirements.txt"}

    def test_may_not_leave_out_the_code(self, plan: ImagePlan) -> None:
        write(Path(plan.directory, ".dockerignore"), "trainer\n")
        with pytest.raises(UsageError) as error:
            context.files(dataclasses.replace(plan, module=TRAINER))
        assert error.value.message == ".dockerignore leaves out trainer, which holds the code"

    @pytest.mark.parametrize(
        ("lines", "module", "file"),
        [
            ("trainer/train.py\n", TRAINER, "trainer/train.py"),
            ("**/t*.py\n", TRAINER, "trainer/train.py"),
            ("main.py\n", EVERYTHING, "main.py"),
            ("*.sh\n", Module(Kind.SHELL_SCRIPT, "run.sh", "."), "run.sh"),
            ("**/__main__.py", Module(Kind.PYTHON_MODULE, "pkg", "pkg"), "pkg/__main__.py"),
            ("src/a/*", Module(Kind.PYTHON_MODULE, "a.b", "src"), "src/a/b.py"),
        ],
    )
    def test_what_is_to_run_is_not_left_out_silently(
        self, plan: ImagePlan, lines: str, module: Module, file: str
    ) -> None:
        for name in ("pkg/__main__.py", "pkg/x.py", "trainer/other.py", "src/a/b.py", "src/c.py"):
            write(Path(plan.directory, name))
        plan = dataclasses.replace(plan, module=module)
        write(Path(plan.directory, ".dockerignore"), lines)
        with pytest.raises(UsageError) as error:
            context.files(plan)
        assert error.value.message == f".dockerignore leaves out {file}, which is the code to run"
        assert error.value.hint == f"A line !{file} at its end takes it back."
        write(Path(plan.directory, ".dockerignore"), f"{lines}\n!{file}\n")
        assert file in names(plan)

    def test_code_behind_a_link_is_not_left_out(self, plan: ImagePlan) -> None:
        (Path(plan.directory) / "linked").symlink_to("trainer")
        write(Path(plan.directory, ".dockerignore"), "data\n")
        module = Module(Kind.PYTHON_MODULE, "linked.train", "linked")
        found = names(dataclasses.replace(plan, module=module))
        assert any(name.startswith("linked") for name in found)

    def test_keeps_the_folder_of_what_it_keeps(self, plan: ImagePlan) -> None:
        # Otherwise the engine would make it, for root alone.
        write(Path(plan.directory, ".dockerignore"), "data\n!data/numbers\n")
        assert archive(plan)[f"{CODE}/data"].mode == 0o777


# What is done to the project, by a shell within it.
OTHER_IMAGE = {
    "content": "echo 3 > main.py",
    "mode": "chmod +x main.py",
    "name": "mv data/numbers data/digits",
    "place": "mv data/numbers trainer/numbers",
    "another file": "touch data/more",
    "another folder": "mkdir data/more",
    "a file less": "rm data/numbers",
    "a link's target": "ln -sf run.sh link",
    "a file for a link": "rm link; printf main.py > link; chmod 777 link",
    "two files swapped": "mv main.py x; mv trainer/train.py main.py; mv x trainer/train.py",
    "requirements": "echo 'tqdm<5' > requirements.txt",
}
SAME_IMAGE = {
    "times": "find . -exec touch --no-dereference --date=@1 {} +",
    "compiled code": "mkdir {.,trainer}/__pycache__; touch {.,trainer}/__pycache__/x.pyc",
    "a commit": "mkdir .git; touch .git/HEAD",
    "permissions of others": "chmod 600 main.py; chmod 700 run.sh; chmod 700 data",
    "owner": "[ $(id -u) != 0 ] || chown -hR 1234:567 .",
    "copies": "for f in *.py; do cp -p $f x; rm $f; mv x $f; done",
}


def do(plan: ImagePlan, commands: str) -> None:
    subprocess.run(["bash", "-euc", commands], cwd=plan.directory, check=True)


class TestFingerprint:
    @pytest.mark.parametrize("change", OTHER_IMAGE.values(), ids=OTHER_IMAGE)
    def test_changes_with_the_files(self, plan: ImagePlan, change: str) -> None:
        before = fingerprint(plan)
        do(plan, change)
        assert fingerprint(plan) != before

    @pytest.mark.parametrize("change", SAME_IMAGE.values(), ids=SAME_IMAGE)
    def test_does_not_change_with_what_is_not_in_the_image(
        self, plan: ImagePlan, change: str
    ) -> None:
        before = fingerprint(plan)
        do(plan, change)
        assert fingerprint(plan) == before

    def test_changes_with_the_base_image_and_the_plan(self, plan: ImagePlan) -> None:
        others = [
            fingerprint(plan),
            fingerprint(plan, "sha256:4567"),
            fingerprint(dataclasses.replace(plan, base_image="other")),
            fingerprint(dataclasses.replace(plan, apt_packages=("git",))),
            fingerprint(dataclasses.replace(plan, directories=("data",))),
            fingerprint(dataclasses.replace(plan, module=TRAINER)),
            fingerprint(dataclasses.replace(plan, requirements=())),
        ]
        assert len(set(others)) == len(others)

    def test_is_the_same_wherever_the_project_lies(self, plan: ImagePlan, tmp_path: Path) -> None:
        before = fingerprint(plan)
        elsewhere = tmp_path / "elsewhere" / "deeper"
        shutil.copytree(plan.directory, elsewhere, symlinks=True)
        assert fingerprint(dataclasses.replace(plan, directory=str(elsewhere))) == before

    def test_can_be_part_of_a_name(self, plan: ImagePlan) -> None:
        assert len(fingerprint(plan)) == 16
        assert set(fingerprint(plan)) <= set("0123456789abcdef")


def code(plan: ImagePlan) -> str:
    return context.code_digest(dataclasses.replace(plan, live=True))


class TestCodeDigest:
    @pytest.mark.parametrize("change", OTHER_IMAGE.values(), ids=OTHER_IMAGE)
    def test_changes_with_the_files(self, plan: ImagePlan, change: str) -> None:
        before = code(plan)
        do(plan, change)
        assert code(plan) != before

    @pytest.mark.parametrize("change", SAME_IMAGE.values(), ids=SAME_IMAGE)
    def test_does_not_change_with_what_no_image_would_hold(
        self, plan: ImagePlan, change: str
    ) -> None:
        before = code(plan)
        do(plan, change)
        assert code(plan) == before

    def test_does_not_depend_on_the_environment_of_the_code(self, plan: ImagePlan) -> None:
        other = dataclasses.replace(plan, base_image="other", apt_packages=("git",))
        assert code(plan) == code(other) == context.code_digest(plan)
        assert code(plan).startswith("sha256:")
        assert len(code(plan)) == len("sha256:") + 64

    def test_covers_the_directories_to_copy_and_not_what_is_excluded(self, plan: ImagePlan) -> None:
        plan = dataclasses.replace(plan, module=TRAINER)
        with_data = dataclasses.replace(plan, directories=("data",))
        assert code(plan) != code(with_data)
        key = Path(plan.directory, "data/numbers")
        without = context.code_digest(with_data, (key,))
        write(key, "changed")
        assert context.code_digest(with_data, (key,)) == without

    def test_passes_over_what_goes_while_it_is_read(
        self, plan: ImagePlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = Path(plan.directory)
        before = code(plan)
        for name in ("swap", "temporary/file"):
            write(folder / name)
        listed = context.files(plan)
        shutil.rmtree(folder / "temporary")
        (folder / "swap").unlink()
        folders = [file for file in listed if file.name == "temporary"]
        monkeypatch.setattr(context, "files", lambda *_: [f for f in listed if f not in folders])
        assert code(plan) == before

    @pytest.mark.parametrize("gone", ["requirements.txt", "trainer"])
    def test_says_what_it_lacks(self, plan: ImagePlan, gone: str) -> None:
        plan = dataclasses.replace(plan, module=TRAINER)
        do(plan, f"rm -r {gone}")
        with pytest.raises(UsageError, match="No such file or directory") as error:
            code(plan)
        assert error.value.message.startswith(f"cannot read {plan.directory}/{gone}")


class TestArchive:
    def test_holds_the_dockerfile_and_every_file(self, plan: ImagePlan) -> None:
        stream = io.BytesIO()
        plan = dataclasses.replace(plan, lock=str(LOCKED))
        write_archive("FROM ünï\n", context.files(plan), stream)
        stream.seek(0)
        with tarfile.open(fileobj=stream) as opened:
            contents = {
                member.name: content.read()
                for member in opened.getmembers()
                if (content := opened.extractfile(member)) and member.isreg()
            }
        assert contents == {
            "Dockerfile": "FROM ünï\n".encode(),
            "lock/compile.py": (context.RESOURCES / "dependencies/compile.py").read_bytes(),
            "lock/requirements.lock": b"# Python 3.11\ntqdm==4.70\n",
            f"{CODE}/requirements.txt": b"tqdm\n",
            f"{CODE}/main.py": b"print(1)\n",
            f"{CODE}/run.sh": b"echo\n",
            f"{CODE}/trainer/train.py": b"print(2)\n",
            f"{CODE}/data/numbers": b"1 2 3",
        }

    def test_lets_everybody_read_write_and_enter(self, plan: ImagePlan) -> None:
        do(plan, SAME_IMAGE["permissions of others"])
        members = archive(plan)
        modes = {name: member.mode for name, member in members.items() if name != "Dockerfile"}
        plain = {each for each, mode in modes.items() if mode == 0o666}
        assert set(modes.values()) == {0o666, 0o777}
        assert plain == {
            name for name, member in members.items() if member.isreg() and name != "Dockerfile"
        } - {f"{CODE}/run.sh"}
        assert members[f"{CODE}/empty"].isdir()
        assert members[CODE].isdir()

    def test_says_nothing_about_owners_and_times(self, plan: ImagePlan) -> None:
        members = archive(plan).values()
        owners = {(each.uid, each.gid, each.uname, each.gname) for each in members}
        assert owners == {(0, 0, "", "")}
        assert len({each.mtime for each in members if each.name != "Dockerfile"}) == 1

    def test_has_a_folder_before_what_is_in_it(self, plan: ImagePlan) -> None:
        seen: set[str] = set()
        for name in archive(plan):
            parent = name.rpartition("/")[0]
            assert not parent or parent in seen
            seen.add(name)

    def test_keeps_links_as_links(self, plan: ImagePlan) -> None:
        folder = Path(plan.directory)
        (folder / "broken").symlink_to("nowhere")
        (folder / "outside").symlink_to("/etc/passwd")
        members = archive(plan)
        for name, target in (
            ("link", "main.py"),
            ("broken", "nowhere"),
            ("outside", "/etc/passwd"),
        ):
            assert members[f"{CODE}/{name}"].issym()
            assert members[f"{CODE}/{name}"].linkname == target

    @pytest.mark.parametrize(
        "name",
        ["with space", "it's", 'say "hi"', "a[0]*?", "$HOME", "ünï/日本", "new\nline", "x" * 200],
    )
    def test_carries_any_name(self, plan: ImagePlan, name: str) -> None:
        write(Path(plan.directory, name), "content")
        assert f"{CODE}/{name}" in archive(plan)
        write(Path(plan.directory, name), "other")
        assert fingerprint(plan) != fingerprint(dataclasses.replace(plan, module=TRAINER))

    def test_carries_names_that_are_no_text(self, plan: ImagePlan) -> None:
        path = os.fsencode(plan.directory) + b"/\xff"
        Path(os.fsdecode(path)).write_text("content")
        assert f"{CODE}/\udcff" in archive(plan)
        assert fingerprint(plan)

    def test_is_the_same_each_time(self, plan: ImagePlan) -> None:
        first, second = io.BytesIO(), io.BytesIO()
        write_archive("", context.files(plan), first)
        do(plan, f"{SAME_IMAGE['copies']}; {SAME_IMAGE['times']}")
        write_archive("", context.files(plan), second)
        assert first.getvalue() == second.getvalue()


def test_nothing_is_written_to_the_project(plan: ImagePlan) -> None:
    def state() -> Iterator[tuple[Path, int, int]]:
        folder = Path(plan.directory)
        for path in sorted([folder, *folder.rglob("*")]):
            yield path, path.lstat().st_mtime_ns, path.lstat().st_ctime_ns

    before = list(state())
    fingerprint(plan)
    archive(plan)
    assert list(state()) == before


@pytest.mark.parametrize("secret", ["secret", "folder/secret"])
def test_what_cannot_be_read_is_named(unprivileged: Unprivileged, secret: str) -> None:
    def attempt(folder: Path) -> str:
        write(folder / "main.py")
        write(folder / "folder/other")
        write(folder / secret, mode=0)
        if secret == "folder/secret":
            (folder / "folder").chmod(0)
        plan = ImagePlan(Mode.CPU, "base", str(folder), EVERYTHING)
        try:
            fingerprint(plan)
        except UsageError as error:
            return f"{error.message}\n{error.hint}"
        finally:
            (folder / "folder").chmod(0o700)
        return "it was read"

    message, _, hint = unprivileged(attempt).partition("\n")
    named = secret.partition("/")[0]
    assert message.startswith("cannot read /")
    assert message.endswith(f"/{named}, which belongs to the code: Permission denied")
    assert ".dockerignore" in hint
