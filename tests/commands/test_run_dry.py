"""`caliban run --dry_run`: what it prints is what would be run, and it touches nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from caliban.config import FILE_NAME
from tests.conftest import USER, Caliban, Inline

CPU = ("run", "--nogpu", "--dry_run")
NOTHING = "nothing was built, run or recorded.\n"
KEY_TARGET = "/.creds/credentials.json"


def jobs(stdout: str) -> list[list[str]]:
    """The words of every `docker run` that was printed, as a shell reads them."""
    shell = "docker() { printf '%s\\0' $# \"$@\"; }\n"
    read = subprocess.run(
        ["bash", "-c", shell + stdout], capture_output=True, text=True, check=True
    )
    assert read.stderr == ""
    words = iter(read.stdout.split("\0")[:-1])
    return [["docker", *(next(words) for _ in range(int(count)))] for count in words]


def expected(uid: str, *, gpus: bool = False, group: str = "NEW-GROUP") -> list[str]:
    """All of a `docker run` up to the image."""
    user, gid = os.getuid(), os.getgid()
    accounts = Path(os.environ["HOME"], ".caliban/accounts")
    return [
        *("docker", "run", "--name", f"caliban-{uid}"),
        *("--label", f"caliban.uid={uid}", "--label", f"caliban.xgroup={group}"),
        *("--init", "--ipc", "host"),
        *("--user", f"{user}:{gid}"),
        *(["--gpus", "all"] if gpus else []),
        *("--env", "PYTHONUNBUFFERED=1", "--env", "COLUMNS", "--env", "LINES"),
        *(
            word
            for kind in ("passwd", "group")
            if user  # root needs no entry of its own
            for word in (
                "--mount",
                f"type=bind,source={accounts}/{kind}-{user}-{gid}-{USER},target=/etc/{kind},readonly",
            )
        ),
    ]


def uid_of(job: list[str]) -> str:
    match = re.fullmatch("caliban-([0-9a-f]{16})", job[job.index("--name") + 1])
    assert match
    return match[1]


def arguments(job: list[str], image: str = "caliban:not-built-yet") -> list[str]:
    """What the user's code gets."""
    return job[job.index(image) + 1 :]


def experiments(folder: Path, content: Any, name: str = "experiment.json") -> str:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return name


def test_each_job_is_one_line_whatever_its_flags_hold(project: Path, inline: Inline) -> None:
    name = experiments(project, {"prompt": ["one\ntwo", "it's \t=three"]})
    stdout = inline(*CPU, "--experiment_config", name, "trainer.train").stdout
    assert len(stdout.splitlines()) == 2
    assert [arguments(job) for job in jobs(stdout)] == [
        ["--prompt", "one\ntwo"],
        ["--prompt", "it's \t=three"],
    ]


def test_one_job_is_printed_as_it_would_be_run(project: Path, inline: Inline) -> None:
    ended = inline(*CPU, "trainer.train")
    assert (ended.returncode, ended.stderr) == (0, f"1 job; {NOTHING}")
    [job] = jobs(ended.stdout)
    assert job == [*expected(uid_of(job)), "caliban:not-built-yet"]


def test_gpus_are_asked_for_by_default_and_not_looked_for(project: Path, inline: Inline) -> None:
    [job] = jobs(inline("run", "--dry_run", "trainer.train").stdout)
    assert job == [*expected(uid_of(job), gpus=True), "caliban:not-built-yet"]


def test_a_sweep_has_a_job_for_each_combination_the_last_key_fastest(
    project: Path, inline: Inline
) -> None:
    content = {"z": ["x", "y"], "a": [1, 2.5], "flag": True, "off": False, "[m,n]": [["p q", 1]]}
    ended = inline(
        *CPU,
        "--experiment_config",
        experiments(project, content),
        "trainer.train",
        "--",
        "--b",
        "0",
    )
    assert (ended.returncode, ended.stderr) == (0, f"4 jobs; {NOTHING}")
    printed = jobs(ended.stdout)
    rest = ["--flag", "--m", "p q", "--n", "1"]
    assert [arguments(job) for job in printed] == [
        ["--b", "0", "--z", "x", "--a", "1", *rest],
        ["--b", "0", "--z", "x", "--a", "2.5", *rest],
        ["--b", "0", "--z", "y", "--a", "1", *rest],
        ["--b", "0", "--z", "y", "--a", "2.5", *rest],
    ]
    assert len({uid_of(job) for job in printed}) == 4
    assert [job[: job.index("caliban:not-built-yet")] for job in printed] == [
        expected(uid_of(job)) for job in printed
    ]


def test_any_argument_survives_the_shell(project: Path, inline: Inline) -> None:
    values = [
        "",
        " ",
        "a b",
        "it's",
        '"',
        "$HOME",
        "`ls`",
        "a\nb",
        "\\",
        "*",
        "!",
        "ünï",
        "-x",
        ";",
    ]
    name = experiments(project, {"value": values})
    ended = inline(*CPU, "--experiment_config", name, "trainer.train", "--", *values)
    assert ended.returncode == 0
    assert [arguments(job) for job in jobs(ended.stdout)] == [
        [*values, "--value", value] for value in values
    ]


@pytest.mark.parametrize("argument", [b"\xff", "日本".encode()])
@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1", "ascii"])
def test_an_argument_that_the_terminal_cannot_show_is_no_bug(
    project: Path, argument: bytes, encoding: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "caliban", *CPU, "trainer.train", "--", argument],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert b"this is a bug" not in ended.stderr
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("e.json", '# a comment\n{"a": [1, 2], // another\n}'),
        ("e.yaml", "a: [1, 2]\n"),
        ("e.yml", "- a: 1\n- a: 2\n"),
    ],
)
def test_experiments_are_read_from_json_and_yaml(
    project: Path, inline: Inline, name: str, content: str
) -> None:
    experiments(project, content, name)
    ended = inline(*CPU, "--experiment_config", name, "trainer.train")
    assert [arguments(job) for job in jobs(ended.stdout)] == [["--a", "1"], ["--a", "2"]]


def test_experiments_are_read_from_stdin(project: Path, caliban: Caliban) -> None:
    ended = caliban(*CPU, "--experiment_config", "stdin", "trainer.train", stdin='{"a": [1, 2]}')
    assert (ended.returncode, ended.stderr) == (0, f"2 jobs; {NOTHING}")
    assert [arguments(job) for job in jobs(ended.stdout)] == [["--a", "1"], ["--a", "2"]]


def test_the_group_and_the_arguments_of_the_user_are_in_it(project: Path, inline: Inline) -> None:
    run_args = "-v '/a b:/data' --shm-size=1g"
    [job] = jobs(
        inline(*CPU, "--xgroup", "my group", "--docker_run_args", run_args, "trainer.train").stdout
    )
    assert job == [
        *expected(uid_of(job), group="my group"),
        *("-v", "/a b:/data", "--shm-size=1g"),
        "caliban:not-built-yet",
    ]


def test_a_given_image_is_told_what_to_execute(project: Path, inline: Inline) -> None:
    ended = inline(*CPU, "--image_id", "my/image:1", "trainer.train", "--", "--a")
    [job] = jobs(ended.stdout)
    assert job == [
        *expected(uid_of(job)),
        *("--entrypoint", "python", "my/image:1", "-m", "trainer.train", "--a"),
    ]


def test_values_that_look_secret_are_not_printed(project: Path, inline: Inline) -> None:
    ended = inline(*CPU, "--docker_run_args", "-e API_KEY=hunter2 -e LEVEL=3", "trainer.train")
    [job] = jobs(ended.stdout)
    assert job[-5:-1] == ["-e", "API_KEY", "-e", "LEVEL=3"]
    assert "hunter2" not in ended.stdout + ended.stderr


class TestCredentials:
    @pytest.fixture
    def keys(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder with three keys, of which the environment and the file name one each."""
        for name in ("flag", "variable", "file"):
            (project / f"{name}.json").write_text("{}")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(project / "variable.json"))
        (project / FILE_NAME).write_text('{"gcloud": {"cloud_key": "file.json"}}')
        return project

    @pytest.mark.parametrize("winner", ["flag", "variable", "file"])
    def test_flag_then_environment_then_file_name_the_key(
        self, keys: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch, winner: str
    ) -> None:
        flags = ["--cloud_key", "flag.json"] if winner == "flag" else []
        if winner == "file":
            monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
        [job] = jobs(inline(*CPU, *flags, "trainer.train").stdout)
        mount = f"type=bind,source={keys}/{winner}.json,target={KEY_TARGET},readonly"
        assert job.count(mount) == 1
        assert sum(KEY_TARGET in word for word in job) == 2
        assert f"GOOGLE_APPLICATION_CREDENTIALS={KEY_TARGET}" in job

    def test_those_of_the_user_are_mounted(self, project: Path, home: Path, inline: Inline) -> None:
        own = home / ".config/gcloud/application_default_credentials.json"
        own.parent.mkdir(parents=True)
        own.write_text("{}")
        [job] = jobs(inline(*CPU, "trainer.train").stdout)
        target = "/home/caliban/.config/gcloud/application_default_credentials.json"
        assert f"type=bind,source={own},target={target},readonly" in job
        assert "GOOGLE_APPLICATION_CREDENTIALS" not in " ".join(job)

    def test_a_remote_engine_gets_none_because_it_has_other_files(
        self, keys: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2376")
        ended = inline(*CPU, "trainer.train")
        [job] = jobs(ended.stdout)
        assert "--mount" not in job
        assert "credentials" not in ended.stdout
        assert ended.stderr.startswith(
            "warning: the engine at tcp://elsewhere:2376 is remote: its jobs get no credentials\n"
        )

    @pytest.mark.parametrize(("host", "mounted"), [("", True), ("tcp://elsewhere:2376", False)])
    def test_the_user_is_made_known_where_the_engine_sees_this_machines_files(
        self,
        project: Path,
        home: Path,
        inline: Inline,
        monkeypatch: pytest.MonkeyPatch,
        host: str,
        mounted: bool,
    ) -> None:
        monkeypatch.setattr(os, "getuid", lambda: 1234)
        monkeypatch.setattr(os, "getgid", lambda: 567)
        monkeypatch.setenv("DOCKER_HOST", host)
        [job] = jobs(inline(*CPU, "trainer.train").stdout)
        assert job[job.index("--user") + 1] == "1234:567"
        assert (
            f"source={home}/.caliban/accounts/passwd-1234-567-{USER}" in " ".join(job)
        ) is mounted
        assert not (home / ".caliban").exists()


def test_nothing_is_touched(project: Path, home: Path, tmp_path: Path, caliban: Caliban) -> None:
    (project / "requirements.txt").write_text("tqdm\n")
    (tmp_path / "empty").mkdir()

    def listing() -> dict[Path, tuple[int, int]]:
        return {
            path: (path.lstat().st_mtime_ns, path.lstat().st_ino)
            for folder in (project, home, tmp_path)
            for path in (folder, *folder.rglob("*"))
        }

    environment = {
        "DOCKER_HOST": "unix:///nonexistent.sock",  # no engine
        "PATH": str(tmp_path / "empty"),  # no programs
        "CALIBAN_DB_URL": "sqlite:////nonexistent/caliban.db",  # no history
    }
    name = experiments(tmp_path, {"a": list(range(3))})
    before = listing()
    ended = caliban(
        *("run", "--dry_run", "--experiment_config", str(tmp_path / name), "trainer.train"),
        env=environment,
    )
    assert ended.returncode == 0
    assert ended.stderr == f"Dependencies: requirements.txt\n3 jobs; {NOTHING}"
    assert listing() == before
    assert not (home / ".caliban").exists()


class TestWrong:
    @pytest.mark.parametrize(
        "run_args",
        [
            *("--name x", "--name=x", "-d", "--detach", "--detach=true", "--cidfile f"),
            *("--restart always", "--rm -d", "-dit", "-itd"),
        ],
    )
    def test_arguments_that_hide_a_container_are_refused(
        self, project: Path, inline: Inline, run_args: str
    ) -> None:
        ended = inline(*CPU, f"--docker_run_args={run_args}", "trainer.train")
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith("caliban: error: --docker_run_args must not hold '-")

    @pytest.mark.parametrize("run_args", ["--device /dev/fuse", "--tty", "-e NAME=1", "-v d:/d"])
    def test_others_are_not(self, project: Path, inline: Inline, run_args: str) -> None:
        ended = inline(*CPU, f"--docker_run_args={run_args}", "trainer.train")
        assert ended.returncode == 0
        assert run_args in ended.stdout

    def test_a_container_is_never_removed_before_its_outcome_is_known(
        self, project: Path, inline: Inline
    ) -> None:
        ended = inline(*CPU, "--docker_run_args=--rm --tty", "trainer.train")
        assert ended.returncode == 0
        assert "--tty" in ended.stdout
        assert "--rm" not in ended.stdout

    @pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\udcff"])
    def test_a_group_has_a_name_that_can_be_printed(
        self, project: Path, inline: Inline, name: str
    ) -> None:
        ended = inline(*CPU, "--xgroup", name, "trainer.train")
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "--xgroup" in ended.stderr

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("[1]", "experiment.json: [0]: found 1, expected a dict of flags"),
            ('{"a": []}', 'experiment.json: "a": found an empty list, expected at least one value'),
            ('{"[a,b]": [[1]]}', "expected rows of 2 values, for a, b"),
            ("{", "experiment.json:1:2: found the end of the document"),
            ("[]", "experiment.json: found an empty list"),
        ],
    )
    def test_a_wrong_experiment_file_is_named_with_what_is_wrong(
        self, project: Path, inline: Inline, content: str, problem: str
    ) -> None:
        experiments(project, content)
        ended = inline(*CPU, "--experiment_config", "experiment.json", "trainer.train")
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith("caliban: error: experiment.json")
        assert problem in ended.stderr

    def test_all_problems_are_told_at_once(self, project: Path, inline: Inline) -> None:
        (project / FILE_NAME).write_text('{"bogus": 1}')
        experiments(project, {"a": []})
        ended = inline(
            *(*CPU, "--cloud_key", "missing.json", "--docker_run_args", "'", "--dir", "nowhere"),
            *("--experiment_config", "experiment.json", "trainer.missing"),
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        lines = ended.stderr.splitlines()
        assert lines[0] == "caliban: error: 6 problems:"
        problems = [line for line in lines if line.startswith("- ")]
        assert len(problems) == 6
        for word in (FILE_NAME, "trainer.missing", "missing.json", "nowhere", "experiment", "'"):
            assert any(word in problem for problem in problems), word

    def test_a_missing_experiment_file_is_named(self, project: Path, inline: Inline) -> None:
        ended = inline(*CPU, "--experiment_config", "missing.json", "trainer.train")
        assert ended.returncode == 2
        assert ended.stderr == (
            "caliban: error: cannot read 'missing.json': No such file or directory\n"
        )


def test_what_is_printed_can_be_counted_in_lines(project: Path, inline: Inline) -> None:
    name = experiments(project, {"a": list(range(50)), "b": list(range(20))})
    ended = inline(*CPU, "--experiment_config", name, "trainer.train")
    lines = ended.stdout.splitlines()
    assert ended.stderr == f"1000 jobs; {NOTHING}"
    assert len(lines) == 1000
    assert shlex.split(lines[999])[-4:] == ["--a", "49", "--b", "19"]
