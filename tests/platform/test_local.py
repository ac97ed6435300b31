"""The `docker run` of a job: every word of it, in its order."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from caliban.docker.containers import Containers
from caliban.docker.engine import Engine
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, JobRequest, Submission
from caliban.platform.local import (
    LocalBackend,
    Mount,
    Options,
    hide_secrets,
    variables,
    without_values,
)

HOST = "unix:///nonexistent.sock"
TARGET = f"{socket.gethostname()} {HOST}"

REQUEST = JobRequest(
    uid="0123456789abcdef",
    experiment=Experiment(("--epochs", "2"), {"lr": 0.1, "name": "a b", "debug": True}),
    image="sha256:feed",
    group="night",
    index=0,
)


def backend(secrets: Mapping[str, str] | None = None) -> LocalBackend:
    return LocalBackend(Containers(Engine()), HOST, secrets)


def plan(request: JobRequest = REQUEST, **options: Any) -> Submission:
    settings = Options(**options).to_json()
    return backend().plan(dataclasses.replace(request, settings=settings))


def command(**options: Any) -> list[str]:
    """The argv of a job, without what every job has."""
    words: list[str] = plan(**options).payload["command"]
    return words


def test_a_network_of_the_users_own_wins() -> None:
    assert "--network host" in " ".join(command(network="host"))
    for given in (("--network", "mine"), ("--network=mine",), ("--net", "mine"), ("--net=mine",)):
        words = command(network="host", run_args=given)
        assert "host" not in words[words.index("--ipc") + 2 :]


def test_this_is_the_whole_command_of_a_plain_job() -> None:
    assert plan() == Submission(
        "local",
        TARGET,
        {
            "settings": {},
            "command": [
                *("docker", "run", "--name", "caliban-0123456789abcdef"),
                *("--label", "caliban.uid=0123456789abcdef"),
                *("--label", "caliban.xgroup=night"),
                *("--init", "--ipc", "host"),
                *("--env", "PYTHONUNBUFFERED=1"),
                *("--env", "COLUMNS", "--env", "LINES"),
                "sha256:feed",
                *("--epochs", "2", "--lr", "0.1", "--name", "a b", "--debug"),
            ],
        },
    )


def test_this_is_the_whole_command_of_a_job_with_everything() -> None:
    assert command(
        command=("python", "-m", "trainer.train"),
        gpus=("--gpus", "all"),
        user="1234:567",
        directory="/usr/app",
        mounts=(
            Mount("/home/totoro/key.json", "/.creds/credentials.json"),
            Mount("/a", "/b", writable=True),
        ),
        scratch=("/home/caliban",),
        environment=(("GOOGLE_APPLICATION_CREDENTIALS", "/.creds/credentials.json"),),
        run_args=("-v", "/data:/data", "--rm"),
    ) == [
        *("docker", "run", "--name", "caliban-0123456789abcdef"),
        *("--label", "caliban.uid=0123456789abcdef"),
        *("--label", "caliban.xgroup=night"),
        *("--init", "--ipc", "host"),
        *("--user", "1234:567"),
        *("--workdir", "/usr/app"),
        *("--gpus", "all"),
        *("--env", "PYTHONUNBUFFERED=1"),
        *("--env", "GOOGLE_APPLICATION_CREDENTIALS=/.creds/credentials.json"),
        *("--env", "COLUMNS", "--env", "LINES"),
        *("--tmpfs", "/home/caliban:exec,mode=1777"),
        "--mount",
        "type=bind,source=/home/totoro/key.json,target=/.creds/credentials.json,readonly",
        *("--mount", "type=bind,source=/a,target=/b"),
        *("-v", "/data:/data", "--rm"),
        *("--entrypoint", "python"),
        "sha256:feed",
        *("-m", "trainer.train"),
        *("--epochs", "2", "--lr", "0.1", "--name", "a b", "--debug"),
    ]


def test_planning_asks_nobody_and_gives_the_same_each_time() -> None:
    # There is no engine at HOST.
    gpus = ("--gpus", "all")
    assert plan(gpus=gpus) == plan(gpus=gpus)


def test_arguments_of_the_user_come_last_and_so_win_over_calibans() -> None:
    given = ("--ipc", "private", "--env", "PYTHONUNBUFFERED=0", "--user", "0")
    words = command(user="1234:567", run_args=given)
    at = words.index("sha256:feed")
    assert tuple(words[at - len(given) : at]) == given


@pytest.mark.parametrize(
    ("run_args", "all_gpus"),
    [
        ((), True),
        (("--shm-size", "1g"), True),
        (("--gpus", "device=0"), False),
        (("--gpus=2",), False),
        (("--runtime", "nvidia"), False),
        (("--runtime=nvidia",), False),
        (("--device", "nvidia.com/gpu=0"), False),
        (("--device=nvidia.com/gpu=all",), False),
        (("--device", "/dev/fuse"), True),
    ],
)
def test_all_gpus_are_given_unless_the_user_chooses(
    run_args: tuple[str, ...], all_gpus: bool
) -> None:
    words = command(gpus=("--device", "nvidia.com/gpu=every"), run_args=run_args)
    assert ("nvidia.com/gpu=every" in words) is all_gpus


@pytest.mark.parametrize(
    "source",
    [
        *(
            "/plain",
            "/with space",
            "/a,b",
            '/say "hi"',
            "/a=b",
            "/it's",
            '/",',
            "/ünï",
            "/readonly",
        ),
        *("/new\nline", "/return\r"),
    ],
)
def test_a_mount_names_any_file(source: str) -> None:
    words = command(mounts=(Mount(source, "/t"),))
    value = words[words.index("--mount") + 1]
    # `docker run` reads the value as a line of CSV.
    [fields] = csv.reader([value])
    assert fields == ["type=bind", f"source={source}", "target=/t", "readonly"]


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ("/plain", "source=/plain"),
        ("/a,b", '"source=/a,b"'),
        # Go's reader of CSV takes quotes within quotes only.
        ('/say "hi"', '"source=/say ""hi"""'),
    ],
)
def test_a_mount_is_quoted_where_it_must_be(source: str, field: str) -> None:
    words = command(mounts=(Mount(source, "/t"),))
    assert words[words.index("--mount") + 1] == f"type=bind,{field},target=/t,readonly"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), ["sha256:feed"]),
        (("/bin/bash", "go.sh"), ["--entrypoint", "/bin/bash", "sha256:feed", "go.sh"]),
        (("tool",), ["--entrypoint", "tool", "sha256:feed"]),
    ],
)
def test_an_image_that_is_used_as_it_is_gets_the_command(
    given: tuple[str, ...], words: list[str]
) -> None:
    flags = REQUEST.experiment.flags()
    assert command(command=given)[-len(words) - len(flags) :] == [*words, *flags]


def test_the_output_directory_of_a_job_is_its_own_and_the_user_learns_where_it_is() -> None:
    request = dataclasses.replace(REQUEST, output="/home/totoro/results/night/7")
    environment = (("CALIBAN_OUTPUT", "/elsewhere"),)
    planned = plan(request, mounts=(Mount("/a", "/b"),), environment=environment)
    words = planned.payload["command"]
    assert words[words.index("CALIBAN_OUTPUT=/output") - 1] == "--env"
    assert words.count("--mount") == 2
    assert "type=bind,source=/home/totoro/results/night/7,target=/output" in words
    assert planned.output == "/home/totoro/results/night/7"
    assert plan().output == ""


def test_a_job_is_found_by_the_name_of_its_container() -> None:
    expected = Handle("local", TARGET, "caliban-0123456789abcdef")
    assert backend().handle(plan()) == expected
    assert backend().handle_of(REQUEST.uid) == expected


def test_a_flag_called_name_does_not_hide_the_containers_name() -> None:
    planned = plan(run_args=("--label", "--name"), command=("x", "--name"))
    assert backend().handle(planned).id == "caliban-0123456789abcdef"


# Every field of Options has a value that is not the usual one.
EVERYTHING = Options(
    command=("python", "-m", "trainer.train"),
    gpus=("--gpus", "all"),
    gpus_per_job=2,
    user="1234:567",
    directory="/usr/app",
    mounts=(Mount("/home/totoro/key.json", "/key.json"), Mount("/a", "/b", writable=True)),
    scratch=("/home/caliban",),
    environment=(("A", "1"), ("B", None)),
    run_args=("-e", "API_KEY", "--rm"),
    secrets=(("API_KEY", "hunter2"),),
    network="host",
)


class TestSettings:
    def test_nothing_of_how_a_job_is_run_is_lost_in_the_history_but_the_secrets(self) -> None:
        for each in dataclasses.fields(Options):
            assert getattr(EVERYTHING, each.name) != getattr(Options(), each.name)
        stored = json.dumps(EVERYTHING.to_json())
        assert "hunter2" not in stored
        without = dataclasses.replace(EVERYTHING, secrets=(("API_KEY", ""),))
        assert Options.from_json(json.loads(stored)) == without

    @pytest.mark.parametrize("name", [each.name for each in dataclasses.fields(Options)])
    def test_what_is_as_usual_is_not_stored(self, name: str) -> None:
        one = dataclasses.replace(Options(), **{name: getattr(EVERYTHING, name)})
        assert [*one.to_json()] == [name]
        assert Options.from_json(one.to_json()).to_json() == one.to_json()
        assert Options.from_json(Options().to_json()) == Options()

    def test_a_job_that_is_run_again_has_the_same_command(self) -> None:
        first = backend().plan(dataclasses.replace(REQUEST, settings=EVERYTHING.to_json()))
        stored = json.loads(json.dumps(first.payload))
        again = backend().plan(dataclasses.replace(REQUEST, settings=stored["settings"]))
        assert json.loads(json.dumps(again.payload)) == stored

    def test_something_that_caliban_has_not_written_is_no_settings(self) -> None:
        with pytest.raises(TypeError):
            Options.from_json({"colour": "red"})


class TestGpusOfItsOwn:
    """What a job of --gpus_per_job gets in the place of all GPUs, when it starts."""

    def submitted(self, run_args: tuple[str, ...] = ()) -> list[str]:
        own = backend()
        planned = plan(gpus=("--gpus", "all"), run_args=run_args)
        words: list[str] = planned.payload["command"]
        words[:2] = ["echo", "-n"]
        before = list(words)
        handle = own.submit(planned, ("--gpus", '"device=GPU-1,GPU-2"'))
        with own._children.pop(handle) as child:
            printed, _ = child.communicate()
        assert words == before, "the record says what was asked for"
        return printed.decode().split()

    def test_it_gets_those_in_the_place_of_all(self) -> None:
        words = self.submitted()
        assert words[words.index("--gpus") + 1] == '"device=GPU-1,GPU-2"'
        assert "all" not in words
        assert words[0] == "--name"
        assert words[-2:] == ["b", "--debug"]

    def test_what_the_user_passes_stays(self) -> None:
        assert self.submitted(("--label", "gpus=all"))[-10:-8] == ["gpus=all", "sha256:feed"]


class TestSecrets:
    @pytest.mark.parametrize(
        ("given", "kept", "values"),
        [
            (["--env", "API_KEY=abc"], ["--env", "API_KEY"], {"API_KEY": "abc"}),
            (["-e", "API_KEY=abc"], ["-e", "API_KEY"], {"API_KEY": "abc"}),
            (["-eAPI_KEY=abc"], ["-eAPI_KEY"], {"API_KEY": "abc"}),
            (["--env=API_KEY=abc"], ["--env=API_KEY"], {"API_KEY": "abc"}),
            (["-e", "wandb_token=a=b c\nd"], ["-e", "wandb_token"], {"wandb_token": "a=b c\nd"}),
            (["-e", "DB_PASSWORD="], ["-e", "DB_PASSWORD"], {"DB_PASSWORD": ""}),
            (["-e", "MY_SECRET=x", "--rm"], ["-e", "MY_SECRET", "--rm"], {"MY_SECRET": "x"}),
            (
                ["-e", "A_KEY=1", "-e", "A_KEY=2"],
                ["-e", "A_KEY", "-e", "A_KEY"],
                {"A_KEY": "2"},
            ),
            (["-e", "API_KEY"], ["-e", "API_KEY"], {}),
            (["-e", "LEVEL=3"], ["-e", "LEVEL=3"], {}),
            (["-v", "API_KEY=a:/b"], ["-v", "API_KEY=a:/b"], {}),
            (["--label", "key=a"], ["--label", "key=a"], {}),
        ],
        ids=str,
    )
    def test_values_that_look_secret_are_taken_out_of_the_arguments(
        self, given: list[str], kept: list[str], values: dict[str, str]
    ) -> None:
        assert hide_secrets(given) == (kept, values)

    @pytest.mark.parametrize(
        "given",
        [
            ("-e", "LEVEL=3"),
            ("-eLEVEL=3",),
            ("-e=LEVEL=3",),
            ("-itPe", "LEVEL=a=3"),
            ("--env", "LEVEL=3"),
            ("--env=LEVEL=3",),
            ("-eLEVEL",),
            ("--env=LEVEL",),
        ],
        ids=str,
    )
    def test_a_record_has_the_names_of_variables_alone(self, given: tuple[str, ...]) -> None:
        words = without_values(given)
        assert "LEVEL" in " ".join(words)
        assert not [word for word in words if "3" in word]
        named = {*variables(plan(run_args=given), REQUEST.image)}
        assert named - {*variables(plan(), REQUEST.image)} == {"LEVEL"}

    def test_what_is_taken_out_is_not_in_a_submission(self) -> None:
        visible, values = hide_secrets(["-e", "API_KEY=hunter2"])
        planned = plan(run_args=tuple(visible), secrets=tuple(values.items()))
        assert "hunter2" not in str(planned)
        assert planned.payload["settings"]["secrets"] == ["API_KEY"]

    def test_docker_run_finds_it_in_its_environment(self) -> None:
        own = backend({"API_KEY": "hunter2"})
        script = 'printf "%s %s" "$API_KEY" "$1"'
        child_command = ["sh", "-c", script, "--name", "the-name"]
        handle = own.submit(Submission("local", TARGET, {"command": child_command}))
        assert handle.id == "the-name"
        with own._children.pop(handle) as child:
            assert child.communicate() == (b"hunter2 the-name", b"")
        assert "API_KEY" not in os.environ
