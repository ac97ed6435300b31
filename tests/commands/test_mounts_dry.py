"""`--live` and `--output`: what they would mount, and what they refuse, before Docker is asked."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest

from caliban.config import FILE_NAME
from tests.commands.test_run_dry import CPU, arguments, expected, jobs, uid_of
from tests.conftest import Inline, Unprivileged

LIVE = (*CPU, "--live")


def mounts(inline: Inline, *flags: str) -> list[str]:
    """The mounts of the one job of a command line, but for those that every job has."""
    ended = inline(*flags, "trainer.train")
    assert ended.returncode == 0, ended.stderr
    [job] = jobs(ended.stdout)
    found = [value for flag, value in itertools.pairwise(job) if flag == "--mount"]
    return [each for each in found if "/accounts/" not in each]


def hidden(found: list[str], home: Path) -> list[str]:
    """What nothing is mounted over."""
    prefix = f"type=bind,source={home}/.caliban/empty/"
    return [each.rpartition("target=")[2] for each in found if each.startswith(prefix)]


def refusal(inline: Inline, *flags: str) -> str:
    ended = inline(*CPU, *flags, "trainer.train")
    assert (ended.returncode, ended.stdout) == (2, "")
    return ended.stderr


class TestLive:
    def test_the_directory_is_mounted_and_the_code_started_in_it(
        self, project: Path, inline: Inline
    ) -> None:
        [job] = jobs(inline(*LIVE, "trainer.train", "--", "--a").stdout)
        user = job.index("--user") + 2
        plain = expected(uid_of(job))
        mount = ["--mount", f"type=bind,source={project},target=/usr/app"]
        at = plain.index("LINES") + 1
        assert job == [
            *(*plain[:user], "--workdir", "/usr/app", *plain[user:at], *mount, *plain[at:]),
            *("--entrypoint", "python", "caliban:not-built-yet", "-m", "trainer.train", "--a"),
        ]

    def test_a_shell_script_is_started_by_bash(self, project: Path, inline: Inline) -> None:
        (project / "go.sh").touch()
        [job] = jobs(inline(*LIVE, "--image_id", "my/image", "go.sh").stdout)
        assert job[job.index("--entrypoint") + 1] == "/bin/bash"
        assert arguments(job, "my/image") == ["go.sh"]

    def test_nothing_is_hidden_that_is_not_there(
        self, project: Path, home: Path, inline: Inline
    ) -> None:
        assert mounts(inline, *LIVE) == [f"type=bind,source={project},target=/usr/app"]

    def test_keys_are_hidden_however_they_were_named(
        self, project: Path, home: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (project / "keys").mkdir()
        for name in ("flag", "variable", "file"):
            (project / f"keys/{name}.json").write_text("{}")
        (project / "link").symlink_to("keys")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "keys/variable.json")
        (project / FILE_NAME).write_text('{"gcloud": {"cloud_key": "link/file.json"}}')
        found = mounts(inline, *LIVE, "--cloud_key", f"{project}/link/flag.json")
        assert hidden(found, home) == [
            *(f"/usr/app/{FILE_NAME},readonly", "/usr/app/keys/file.json,readonly"),
            *("/usr/app/keys/flag.json,readonly", "/usr/app/keys/variable.json,readonly"),
        ]
        assert found[-1] == (
            f"type=bind,source={project}/link/flag.json,target=/.creds/credentials.json,readonly"
        )

    @pytest.mark.parametrize("relative", [True, False])
    def test_the_folder_of_gcloud_is_hidden_with_all_that_is_in_it(
        self,
        project: Path,
        home: Path,
        inline: Inline,
        monkeypatch: pytest.MonkeyPatch,
        relative: bool,
    ) -> None:
        (project / "cloud").mkdir()
        (project / "cloud/application_default_credentials.json").write_text("{}")
        monkeypatch.setenv("CLOUDSDK_CONFIG", "cloud" if relative else str(project / "cloud"))
        found = mounts(inline, *LIVE)
        assert hidden(found, home) == ["/usr/app/cloud,readonly"]
        assert len(found) == 3

    def test_calibans_records_are_hidden_where_a_link_puts_them_into_the_project(
        self, project: Path, home: Path, inline: Inline
    ) -> None:
        (project / "dotfiles").mkdir()
        (home / ".caliban").symlink_to(project / "dotfiles")
        found = mounts(inline, *LIVE)
        assert found[1].endswith("/.caliban/empty/folder,target=/usr/app/dotfiles,readonly")

    @pytest.mark.parametrize("place", ["", ".."])
    def test_the_home_directory_is_never_mounted(
        self, project: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        monkeypatch.setenv("HOME", str(project if place == "" else project / "trainer"))
        message = refusal(inline, "--live")
        assert f"--live would mount {project}, and that includes your home directory" in message

    @pytest.mark.parametrize("place", [".caliban", ".caliban/project", ".ssh", ".config/gcloud/x"])
    def test_neither_is_a_place_of_secrets(
        self,
        project: Path,
        home: Path,
        inline: Inline,
        monkeypatch: pytest.MonkeyPatch,
        place: str,
    ) -> None:
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        project.rename(home / place)
        monkeypatch.chdir(home / place)
        assert "but no job may see what is in" in refusal(inline, "--live")

    @pytest.mark.parametrize("name", ["trainer", "data"])
    def test_code_and_directories_must_not_be_behind_a_link_that_leads_out(
        self, project: Path, tmp_path: Path, inline: Inline, name: str
    ) -> None:
        (project / "data").mkdir()
        (project / name).rename(tmp_path / name)
        (project / name).symlink_to(tmp_path / name)
        (project / "inside").symlink_to("data")
        message = refusal(inline, "--live", "-d", "data", "-d", "inside")
        assert f"--live: '{name}' is a link that leads out of the project" in message

    def test_a_remote_engine_has_other_files(
        self, project: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2376")
        for flags, path in ((("--live",), project), (("--output", "out"), project / "out")):
            assert refusal(inline, *flags).startswith(
                "caliban: error: the engine at tcp://elsewhere:2376 is on another machine: "
                f"{path} cannot be mounted there\n"
            )


class TestOutput:
    @pytest.mark.parametrize(
        ("flags", "source"),
        [
            (("--output", "out"), "{project}/out/NEW-GROUP/JOB"),
            (("--output", "../a/b", "--xgroup", "my group"), "{project}/../a/b/my group/JOB"),
            (("--output", "~/results", "--xgroup", "a/b"), "{home}/results/a_b/JOB"),
            (("--output", "~"), "{home}/NEW-GROUP/JOB"),
            (("--output", ".", "--xgroup", ".."), "{project}/_../JOB"),
            (("--output", "trainer"), "{project}/trainer/NEW-GROUP/JOB"),
        ],
    )
    def test_each_job_gets_a_directory_of_its_own(
        self, project: Path, home: Path, inline: Inline, flags: tuple[str, ...], source: str
    ) -> None:
        path = os.path.normpath(source.format(project=project, home=home))
        assert mounts(inline, *CPU, *flags) == [f"type=bind,source={path},target=/output"]
        assert not (home / ".caliban").exists()
        assert sorted(each.name for each in project.rglob("*")) == [
            *("__init__.py", "train.py", "trainer"),
        ]

    def test_any_path_can_be_named(self, project: Path, inline: Inline) -> None:
        [mount] = mounts(inline, *CPU, "--output", 'a, "b" =c')
        assert mount == f'type=bind,"source={project}/a, ""b"" =c/NEW-GROUP/JOB",target=/output'

    def test_links_are_followed(self, project: Path, tmp_path: Path, inline: Inline) -> None:
        (tmp_path / "big/disk").mkdir(parents=True)
        (project / "out").symlink_to(tmp_path / "big/disk")
        for name in ("out/x", "out/../disk/x"):  # which the engine takes for out/disk/x
            [mount] = mounts(inline, *CPU, "--output", name)
            assert f"source={tmp_path}/big/disk/x/NEW-GROUP/JOB," in mount

    @pytest.mark.parametrize(
        "flags",
        [
            ("--output", "~/.caliban"),
            ("--output", "~/.caliban/logs"),
            ("--output", "link/x"),
            ("--output", "~", "--xgroup", ".caliban"),
            ("--output", "~/.config/gcloud/x"),
            ("--output", "~/.ssh"),
        ],
    )
    def test_it_is_never_among_secrets(
        self, project: Path, home: Path, inline: Inline, flags: tuple[str, ...]
    ) -> None:
        (home / ".caliban").mkdir()
        (project / "link").symlink_to(home / ".caliban")
        assert f"lies in {home}/." in refusal(inline, *flags)

    @pytest.mark.parametrize("name", ["file", "file/x", "loop", "loop/x/y"])
    def test_what_stands_in_the_way_is_named(
        self, project: Path, inline: Inline, name: str
    ) -> None:
        (project / "file").touch()
        (project / "loop").symlink_to("loop")
        way = project / name.partition("/")[0]
        message = refusal(inline, "--output", name)
        assert message == f"caliban: error: --output {name}: {way} is not a directory\n"

    def test_it_must_be_writable(self, unprivileged: Unprivileged) -> None:
        from caliban.commands.container_choice import output_directory
        from caliban.errors import UsageError

        def attempt(folder: Path) -> str:
            (folder / "shut").mkdir(mode=0o555)
            try:
                output_directory(str(folder / "shut/results"), None)
            except UsageError as error:
                return error.message
            return "it was taken"

        assert unprivileged(attempt).endswith("/shut")

    def test_it_is_told_with_all_other_problems(self, project: Path, inline: Inline) -> None:
        (project / "file").touch()
        (project / "outside").symlink_to("/etc")
        message = refusal(inline, "--output", "file", "--live", "-d", "outside", "-d", "missing")
        assert "--dir missing" in message
        assert "--output file" in message


def test_both_work_together(project: Path, inline: Inline) -> None:
    (project / "e.json").write_text(json.dumps({"a": [1, 2]}))
    flags = ("--output", "out", "--xgroup", "g", "--experiment_config", "e.json")
    printed = jobs(inline(*LIVE, *flags, "trainer.train").stdout)
    assert len(printed) == 2
    for job in printed:
        assert f"type=bind,source={project},target=/usr/app" in job
        assert f"type=bind,source={project}/out/g/JOB,target=/output" in job
        assert "CALIBAN_OUTPUT=/output" in job
