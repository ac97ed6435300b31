"""`caliban shell` before and after Docker: what it refuses, what it would mount, what it says."""

from __future__ import annotations

import datetime
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caliban.commands import container_choice, shell
from caliban.commands.container_choice import ContainerChoice
from caliban.docker.engine import Engine
from caliban.docker.identity import Credentials
from caliban.errors import CalibanError, UsageError
from caliban.model.experiment import Experiment
from caliban.model.image import ImagePlan, Mode
from caliban.model.job import Job, Outcome, Status, Submission
from caliban.model.module import Kind, Module
from caliban.platform.local import Mount
from tests.conftest import Inline

NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
PLAN = ImagePlan(
    Mode.CPU, "base", "/home/me/project", Module(Kind.PYTHON_MODULE, "trainer.train", "trainer")
)
JOB = Job(
    id=61,
    uid="f00",
    user="tester",
    group="night",
    experiment_id=1,
    experiment=Experiment(("--epochs", "2"), {"lr": 0.1, "name": "a b"}),
    container_spec_id=1,
    container_spec=PLAN.to_json(),
    submission=Submission("local", "here", {}),
    handle=None,
    image="sha256:0123456789abcdef",
    outcome=Outcome(Status.SUCCEEDED),
    owner="",
    created=NOW,
)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--pinned",), "--pinned needs an image: --image_id IMAGE, or --job JOB"),
        (("--image_id", "x", "--job", "1"), "--image_id and --job both name an image"),
        (("--job", "7"), "tester has no job 7"),
        (
            ("--job", "x"),
            "argument --job: expected the number of a job, as 'caliban status' shows it",
        ),
        (("--shell", "fish"), "argument --shell: invalid choice: 'fish'"),
        (("--docker_run_args", "--name x"), "--docker_run_args must not hold '--name'"),
        (("--image_id", "x", "--cloud_key", "none"), "key"),
        (("trainer.train",), "unrecognized arguments: trainer.train"),
        (("--", "ls"), "'caliban shell' takes no arguments after '--'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_docker_is_asked(
    inline: Inline, flags: tuple[str, ...], said: str
) -> None:
    ended = inline("shell", "--nogpu", *flags)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"error: {said}" in ended.stderr or said == "key" in ended.stderr


def test_a_project_that_is_not_needed_may_be_broken(tmp_path: Path, inline: Inline) -> None:
    (tmp_path / "pyproject.toml").write_text("[")
    assert "is not valid TOML" in inline("shell", "--nogpu").stderr
    assert "tester has no job 7" in inline("shell", "--nogpu", "--job", "7").stderr


class TestAtHome:
    """The container that a user works in."""

    @pytest.fixture(autouse=True)
    def _somebody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "getuid", lambda: 1234)
        monkeypatch.setattr(os, "getgid", lambda: 567)

    def found(
        self, bare: bool = False, credentials: Credentials = Credentials()
    ) -> ContainerChoice:
        return container_choice.at_home(credentials, Engine(), (), Path("/my/project"), bare)

    def mounts(self, *args: Any) -> list[Mount]:
        """Those that are not the passwd and group files."""
        mounts = self.found(*args).options.mounts
        return [each for each in mounts if not each.target.startswith("/etc/")]

    def test_project_and_home_directory_are_there(self, home: Path) -> None:
        assert self.mounts() == [
            Mount("/my/project", "/usr/app", writable=True),
            Mount(str(home), "/home/tester", writable=True),
        ]
        options = self.found().options
        assert (options.user, options.directory) == ("1234:567", "/usr/app")
        assert dict(options.environment) == {
            "HOME": "/home/tester",
            "USER": "tester",
            "LOGNAME": "tester",
            "PYTHONNOUSERSITE": "1",
        }
        passwd = next(each.content for each in self.found().accounts if "passwd" in each.target)
        assert "tester:x:1234:567:tester:/home/tester:" in passwd

    def test_bare_it_stays_out(self) -> None:
        assert self.mounts(True) == [Mount("/my/project", "/usr/app", writable=True)]
        options = self.found(True).options
        assert dict(options.environment) == {"USER": "tester", "LOGNAME": "tester"}
        passwd = next(each.content for each in self.found(True).accounts if "passwd" in each.target)
        assert "tester:x:1234:567:tester:/home/caliban:" in passwd

    @pytest.mark.parametrize("name", ["jane.doe", "CORP\\jane", "1234"])
    def test_a_name_that_no_image_would_take_is_replaced(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LOGNAME", name)
        assert self.mounts()[1].target == "/home/caliban"
        assert dict(self.found().options.environment)["USER"] == "caliban"

    def test_credentials_in_the_home_directory_are_in_place(self, home: Path) -> None:
        inside = home / ".config/gcloud/application_default_credentials.json"
        key = Path("/keys/key.json")
        given = Credentials(key, inside)
        assert self.mounts(False, given)[2:] == [Mount(str(key), "/.creds/credentials.json")]
        assert [each.source for each in self.mounts(True, given)[1:]] == [str(key), str(inside)]
        environment = dict(self.found(False, given).options.environment)
        assert environment["GOOGLE_APPLICATION_CREDENTIALS"] == "/.creds/credentials.json"
        assert "CLOUDSDK_CONFIG" not in environment

    def test_credentials_elsewhere_are_mounted_and_named(self) -> None:
        elsewhere = Path("/gcloud/application_default_credentials.json")
        given = Credentials(None, elsewhere)
        folder = "/home/caliban/.config/gcloud"
        assert self.mounts(False, given)[2:] == [
            Mount(str(elsewhere), f"{folder}/{elsewhere.name}")
        ]
        assert dict(self.found(False, given).options.environment)["CLOUDSDK_CONFIG"] == folder

    def test_without_a_home_directory_there_is_advice(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", "/proc/nobody")
        with pytest.raises(CalibanError, match="cannot make the folder /proc/nobody"):
            self.found()

    def test_an_engine_on_another_machine_cannot_do_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2375")
        with pytest.raises(UsageError, match="/my/project cannot be mounted"):
            self.found(True)


class TestMode:
    """A job that needed no GPU needs none in its shell."""

    @pytest.mark.parametrize(
        ("spec", "otherwise", "mode"),
        [
            (PLAN.to_json(), Mode.GPU, Mode.CPU),
            (replace(PLAN, mode=Mode.GPU).to_json(), Mode.GPU, Mode.GPU),
            (replace(PLAN, mode=Mode.GPU).to_json(), Mode.CPU, Mode.CPU),
            ({"job_mode": "CPU"}, Mode.GPU, Mode.CPU),
            ({"job_mode": "GPU"}, Mode.GPU, Mode.GPU),
            ({}, Mode.GPU, Mode.GPU),
        ],
    )
    def test_the_job_or_the_flag_says_no(
        self, spec: dict[str, Any], otherwise: Mode, mode: Mode
    ) -> None:
        assert shell._mode(replace(JOB, container_spec=spec), otherwise) is mode


class TestExitCode:
    """A shell that has ended by itself."""

    @pytest.mark.parametrize("code", [0, 1, 7, 125, 126, 127, 130, 143, 255])
    def test_is_that_of_the_shell(self, code: int, capsys: pytest.CaptureFixture[str]) -> None:
        assert shell._exit_code(Outcome(Status.FAILED, code, "whatever", NOW, NOW)) == code
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize(
        ("outcome", "said"),
        [
            (Outcome(Status.FAILED, 137, "signal 9 (SIGKILL)"), "The container was removed"),
            (Outcome(Status.FAILED, 137, "out of memory", NOW), "The container ran out of memory."),
            (Outcome(Status.FAILED, 137, "signal 9", NOW), "The shell, or the last thing"),
            (Outcome(Status.FAILED, 129, "signal 1", NOW), "The shell was hung up (SIGHUP)."),
        ],
    )
    def test_comes_with_a_reason_if_somebody_else_ended_it(
        self, outcome: Outcome, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert shell._exit_code(outcome) == outcome.exit_code
        assert capsys.readouterr().err.startswith(f"\n{said}")

    def test_is_that_of_an_interruption_if_one_came_too_early(self) -> None:
        reason = "OCI runtime start failed: cannot start a container that has stopped: unknown"
        assert shell._exit_code(Outcome(Status.FAILED, 128, reason)) == 130

    @pytest.mark.parametrize(
        ("reason", "said"),
        [
            ("docker run failed: unknown flag: --x", "unknown flag: --x"),
            ("docker run failed: Error response from daemon: Duplicate", "Duplicate"),
            ("network x not found", "network x not found"),
        ],
    )
    def test_is_an_error_if_there_never_was_one(self, reason: str, said: str) -> None:
        with pytest.raises(CalibanError) as error:
            shell._exit_code(Outcome(Status.FAILED, 125, reason))
        assert error.value.message == f"the shell could not be started: {said}"


class TestTell:
    """What one is told of a job."""

    @pytest.mark.parametrize(
        ("job", "said"),
        [
            (JOB, "Job 61 ran:\n  python -m trainer.train --epochs 2 --lr 0.1 --name 'a b'\n"),
            (
                replace(
                    JOB,
                    experiment=Experiment((), {}),
                    container_spec=replace(
                        PLAN, module=Module(Kind.SHELL_SCRIPT, "my script.sh", ".")
                    ).to_json(),
                ),
                "Job 61 ran:\n  /bin/bash 'my script.sh'\n",
            ),
            # caliban 0.4 did not record the module.
            (
                replace(JOB, container_spec={"job_mode": "CPU", "base_dir": "x"}),
                "Job 61 ran with:\n  --epochs 2 --lr 0.1 --name 'a b'\n",
            ),
            (replace(JOB, container_spec={}, experiment=Experiment((), {})), ""),
            (replace(JOB, container_spec={"module": 3, "mode": "cpu"}), None),
        ],
    )
    def test_is_how_to_repeat_it(
        self, job: Job, said: str | None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shell._tell(job)
        printed = capsys.readouterr().err
        assert printed == said or (said is None and printed.startswith("Job 61 ran with:\n"))
