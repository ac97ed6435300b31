"""The project's .calibanconfig.json: what it may hold, what it means, and what wins over it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caliban.config import FILE_NAME, Config, GCloud, MLFlow, choose, load, parse
from caliban.errors import UsageError
from caliban.main import main
from caliban.model.image import DEFAULT_BASE_IMAGES, Mode, ProjectDockerfile
from tests.conftest import Inline

CPU, GPU, Own = Mode.CPU, Mode.GPU, ProjectDockerfile
DLC = "us-docker.pkg.dev/deeplearning-platform-release/gcr.io"

MLFLOW: dict[str, Any] = {
    "project": "p",
    "region": "r",
    "db": "d",
    "user": "u",
    "password": "hunter2",
    "artifact_root": "gs://bucket",
}
CLOUD_SQL: dict[str, Any] = {key: value for key, value in MLFLOW.items() if key != "password"}
SERVER: dict[str, Any] = {"tracking_uri": "http://mlflow.example.com:5000"}

VALID: list[tuple[dict[str, Any], Config]] = [
    ({}, Config()),
    (
        {"apt_packages": ["libxext6", " libsm6 ", "libxext6"]},
        Config(apt_packages={CPU: ("libsm6", "libxext6"), GPU: ("libsm6", "libxext6")}),
    ),
    (
        {"apt_packages": {"gpu": ["b", "a"], "cpu": ["c"]}},
        Config(apt_packages={GPU: ("a", "b"), CPU: ("c",)}),
    ),
    (
        {"apt_packages": {"gpu": ["g++=4:12.2.0-3"]}},
        Config(apt_packages={GPU: ("g++=4:12.2.0-3",)}),
    ),
    ({"apt_packages": []}, Config(apt_packages={CPU: (), GPU: ()})),
    ({"apt_packages": {}}, Config()),
    (
        {"base_image": " gcr.io/project/base:gpu-py38 "},
        Config(base_images=dict.fromkeys(Mode, "gcr.io/project/base:gpu-py38")),
    ),
    ({"base_image": "base:{}-{}"}, Config(base_images={CPU: "base:cpu-cpu", GPU: "base:gpu-gpu"})),
    ({"base_image": "{}-base:1"}, Config(base_images={CPU: "cpu-base:1", GPU: "gpu-base:1"})),
    ({"base_image": {"cpu": "a", "gpu": "b:{}"}}, Config(base_images={CPU: "a", GPU: "b:gpu"})),
    ({"base_image": {"gpu": "b"}}, Config(base_images={GPU: "b"})),
    ({"base_image": None}, Config()),
    (
        {"base_image": "dlvm:tf2-{}-2.17"},
        Config(base_images={CPU: f"{DLC}/tf2-cpu.2-17.py310", GPU: f"{DLC}/tf2-cu123.2-17.py310"}),
    ),
    (
        {"dockerfile": " ./docker/{}.Dockerfile "},
        Config(dockerfiles={mode: Own(f"docker/{mode.value}.Dockerfile") for mode in Mode}),
    ),
    (
        {
            "dockerfile": {
                "path": "Dockerfile",
                "target": "t-{}",
                "build_args": {"B": "{}", "A": ""},
            }
        },
        Config(
            dockerfiles={
                mode: Own("Dockerfile", f"t-{mode.value}", (("A", ""), ("B", mode.value)))
                for mode in Mode
            }
        ),
    ),
    (
        {"dockerfile": {"gpu": {"path": "a"}, "cpu": "b"}},
        Config(dockerfiles={GPU: Own("a"), CPU: Own("b")}),
    ),
    (
        {"dockerfile": {"gpu": "a"}, "base_image": {"cpu": "b"}},
        Config(dockerfiles={GPU: Own("a")}, base_images={CPU: "b"}),
    ),
    ({"dockerfile": None}, Config()),
    ({"default_mode": "cpu"}, Config(default_mode=CPU)),
    ({"default_mode": " GPU "}, Config(default_mode=GPU)),
    ({"build_time_credentials": True}, Config(build_time_credentials=True)),
    ({"build_time_credentials": False}, Config()),
    ({"allowed_keys": [" tests/a.pem", "b/*"]}, Config(allowed_keys=("tests/a.pem", "b/*"))),
    ({"allowed_keys": []}, Config()),
    ({"julia_version": " 1.10 "}, Config(julia_version="1.10")),
    ({"julia_version": "1.12.0-rc1"}, Config(julia_version="1.12.0-rc1")),
    ({"julia_version": None}, Config()),
    ({"image_registry": " localhost:5000/ "}, Config(image_registry="localhost:5000")),
    (
        {"image_registry": "registry.example.com/team"},
        Config(image_registry="registry.example.com/team"),
    ),
    (
        {"gcloud": {"project_id": "p", "cloud_key": "~/k.json"}},
        Config(gcloud=GCloud("p", "~/k.json")),
    ),
    (
        {"gcloud": {"region": "europe-west4", "per_minute": 120}},
        Config(gcloud=GCloud(region="europe-west4", per_minute=120)),
    ),
    ({"gcloud": {}}, Config()),
    ({"mlflow_config": MLFLOW}, Config(mlflow=MLFlow(**CLOUD_SQL, has_password=True))),
    (
        {"mlflow_config": {**CLOUD_SQL, "debug": True}},
        Config(mlflow=MLFlow(**CLOUD_SQL, debug=True)),
    ),
    ({"mlflow_config": SERVER}, Config(mlflow=MLFlow(**SERVER))),
    (
        {"mlflow_config": {**SERVER, "artifact_root": "files"}},
        Config(mlflow=MLFlow(**SERVER, artifact_root="files")),
    ),
    (
        {"uv": {"mlflow": {"pubsub_project": "p", "pubsub_topic": "t"}}},
        Config(uv={"mlflow": {"pubsub_project": "p", "pubsub_topic": "t"}}),
    ),
]

WRONG: dict[str, list[Any]] = {
    "apt_packages": [
        *(None, 3, "libsm6", True, [3], [""], ["a", " "], [["a"]]),
        *({"cpu": "a"}, {"cpu": [3]}, {"tpu": ["a"]}, {"gpu": None}),
        *(["a b"], ["a\nRUN b"], ["--yes"]),
    ],
    "base_image": [
        *(3, False, "", " ", [], ["a"], {}, {"tpu": "a"}, {"cpu": None}, {"cpu": ""}),
        *("a:{mode}", "a:{", "a:{}{0}", {"gpu": "a:{x}"}, "a b", "a\nRUN b"),
    ],
    "default_mode": [None, 3, "", "tpu", ["cpu"], {"mode": "cpu"}],
    "build_time_credentials": [None, 0, 1, "true", []],
    "allowed_keys": [None, 3, "a.pem", [3], [""], [" "], {"a.pem": True}],
    "dockerfile": [
        *(3, True, "", " ", ".", "/Dockerfile", "../Dockerfile", "a/../../b", [], ["Dockerfile"]),
        *({}, {"target": "x"}, {"path": 3}, {"path": "a", "target": ""}, {"path": "a", "args": {}}),
        *({"path": "a", "build_args": value} for value in (["A=1"], {"A": 1}, {"A B": "1"})),
        *({"tpu": "a"}, {"cpu": None}, {"cpu": {"target": "x"}}, {"cpu": "a", "path": "b"}),
    ],
    "image_registry": [None, 5000, "", " ", "https://x.com", "x.com/Team", "x.com/a:1/b", ["x"]],
    "julia_version": [1.10, True, "", "  ", ["1.10"], "lts", "1.x", "1.2.3.4", "1.10 && rm"],
    "gcloud": [
        *(None, 3, "p", [], {"project": "p"}, {"project_id": ""}, {"cloud_key": 3}),
        *({"region": 3}, {"per_minute": 0}, {"per_minute": True}, {"per_minute": "60"}),
    ],
    "mlflow_config": [
        *(None, 3, "db", [], {}, [MLFLOW]),
        *({**MLFLOW, "db": 3}, {**MLFLOW, "db": ""}, {**MLFLOW, "debug": 1}, {**MLFLOW, "more": 1}),
        *(
            {key: value for key, value in CLOUD_SQL.items() if key != left}
            for left in ("project", "region", "db", "user")
        ),
        *({"tracking_uri": ""}, {"tracking_uri": 3}, {**SERVER, "project": "p"}),
    ],
    "uv": [None, 3, [], {"mlflow": 3}, {"other": {}}, {"mlflow": {"pubsub_topic": 3}}],
}


@pytest.mark.parametrize(("content", "config"), VALID, ids=lambda value: str(value)[:40])
def test_what_is_documented_is_understood(content: dict[str, Any], config: Config) -> None:
    assert parse(content) == config


def test_every_key_has_valid_and_wrong_examples_here() -> None:
    with pytest.raises(UsageError) as error:
        parse({"zzzzz": 1})
    known = error.value.message.partition("known keys: ")[2].rstrip(")").split(", ")
    assert {key for content, _ in VALID for key in content} == set(known) == set(WRONG)


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in WRONG.items() for value in values],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_value_is_answered_with_what_was_expected_and_found(key: str, value: Any) -> None:
    with pytest.raises(UsageError) as error:
        parse({key: value}, "conf")
    first, *problems = error.value.message.split("\n  ")
    assert first == "conf has errors:"
    [problem] = problems
    assert problem.startswith(f'"{key}": expected ')
    assert ", found " in problem


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("apt_package", 'did you mean "apt_packages"?'),
        ("baseimage", 'did you mean "base_image"?'),
        ("mlflow", 'did you mean "mlflow_config"?'),
        ("Default_Mode", 'did you mean "default_mode"?'),
        ("xyz", "known keys: apt_packages, base_image, dockerfile, default_mode, "),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(key: str, near: str) -> None:
    with pytest.raises(UsageError) as error:
        parse({key: 1})
    assert f'unknown key "{key}" ({near}' in error.value.message


def test_all_problems_are_told_at_once() -> None:
    content = {"apt_packages": 3, "julia_version": "1", "bogus": {}, "default_mode": "x", "uv": 1}
    with pytest.raises(UsageError) as error:
        parse(content)
    keys = [line.split('"')[1] for line in error.value.message.splitlines()[1:]]
    assert keys == ["apt_packages", "bogus", "default_mode", "uv"]


@pytest.mark.parametrize(
    "content",
    [
        {"mlflow_config": {**MLFLOW, "db": 3}},
        {"mlflow_config": {"password": "hunter2"}},
        {"mlflow_config": [{"password": "hunter2"}]},
        {"mlflow_config": {"mlflow": {"password": "hunter2"}}},
        {"mlflow_config": {"pasword": "hunter2"}},
        {"mlflow_config": "mysql://user:hunter2@host/db"},
        {"uv": {"mlflow": {"password": "hunter2"}}},
        {"password": "hunter2"},
        {"mlflow_confg": {"password": "hunter2"}},
    ],
    ids=json.dumps,
)
def test_a_password_is_never_in_a_message(content: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        parse(content)
    assert "hunter2" not in f"{error.value.message} {error.value.hint}"


def test_a_password_is_not_shown_with_a_mistake_beside_it(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('{"mlflow_config": {"password": "hunter2" "db": "d"}}')
    with pytest.raises(UsageError) as error:
        load(tmp_path)
    assert "hunter2" not in error.value.message


def test_a_password_is_not_in_what_python_shows_of_the_configuration() -> None:
    assert "hunter2" not in repr(parse({"mlflow_config": MLFLOW}))


def test_what_has_no_effect_is_said_with_what_to_do(project: Path, inline: Inline) -> None:
    uv = {"mlflow": {"pubsub_project": "p"}}
    content = {"mlflow_config": MLFLOW, "uv": uv, "default_mode": "cpu"}
    (project / FILE_NAME).write_text(json.dumps(content))
    ended = inline("run", "--dry_run", "trainer.train")
    assert ended.returncode == 0
    uv_metrics, password = ended.stderr.splitlines()[:-1]
    assert '"uv" in .calibanconfig.json has no effect' in uv_metrics
    assert 'the "password" of "mlflow_config"' in password
    assert "set $MLFLOW_DB_PASSWORD" in password
    assert "hunter2" not in ended.stdout + ended.stderr


def test_an_image_and_a_dockerfile_to_build_on_are_one_too_many() -> None:
    with pytest.raises(UsageError, match=r'both "base_image" and "dockerfile" .* for gpu$'):
        parse({"base_image": {"gpu": "a"}, "dockerfile": "Dockerfile"})


def test_a_deep_learning_container_that_there_is_not_is_told_of_at_once() -> None:
    with pytest.raises(UsageError, match=r"the nearest one is dlvm:pytorch-cpu-1\.13"):
        parse({"base_image": "dlvm:pytorch-{}-1.4"})


class TestFile:
    def test_a_project_needs_none(self, tmp_path: Path) -> None:
        assert load(tmp_path) == Config()

    def test_it_may_have_comments(self, tmp_path: Path) -> None:
        # From the documentation.
        (tmp_path / FILE_NAME).write_text(
            "# This is a list by itself. Comments are fine, by the way.\n"
            "{\n"
            '     // "base_image": "other",\n'
            '     "apt_packages": ["libsm6", "libxext6"] # these\n'
            "}\n"
        )
        packages = ("libsm6", "libxext6")
        assert load(tmp_path) == Config(apt_packages={CPU: packages, GPU: packages})

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", ":1:1: found the end of the document"),
            (b"{", ":1:2: found the end of the document"),
            (b'{"uv": {}\n "gcloud": {}}', ':2:2: found "gcloud", expected '),
            (b'{"uv": {}, "uv": {}}', ':1:12: found "uv", expected a key that'),
            (b"\xff{}", ":1: found byte 0xff"),
            (b"3", ": expected an object with settings, found 3"),
            (b'["apt_packages"]', ': expected an object with settings, found ["apt_packages"]'),
            (b"null", ": expected an object with settings, found null"),
        ],
    )
    def test_says_where_it_is_wrong(self, tmp_path: Path, content: bytes, problem: str) -> None:
        path = tmp_path / FILE_NAME
        path.write_bytes(content)
        with pytest.raises(UsageError) as error:
            load(tmp_path)
        assert error.value.message.startswith(f"{path}{problem}")

    def test_a_folder_of_that_name_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / FILE_NAME).mkdir()
        with pytest.raises(UsageError, match=r"cannot read .*\.calibanconfig\.json"):
            load(tmp_path)


class TestPrecedence:
    @pytest.mark.parametrize(
        ("flag", "variable", "file", "chosen"),
        [
            ("flag", "variable", "file", "flag"),
            (None, "variable", "file", "variable"),
            ("", "variable", "file", "variable"),
            (None, None, "file", "file"),
            (None, "", "file", "file"),
            (None, None, None, "default"),
            ("", "", "", "default"),
        ],
    )
    def test_flag_then_environment_then_file_then_default(
        self, flag: str | None, variable: str | None, file: str | None, chosen: str
    ) -> None:
        assert choose(flag, variable, file, "default") == chosen

    def test_what_is_false_counts_as_given(self) -> None:
        assert choose(None, 0, 1, 2) == 0

    def test_the_key_is_the_flags_then_the_variables_then_the_files(self) -> None:
        variables = {"GOOGLE_APPLICATION_CREDENTIALS": "variable.json"}
        of_file = Config(gcloud=GCloud(cloud_key="file.json"))
        assert of_file.cloud_key("flag.json", variables) == "flag.json"
        assert of_file.cloud_key(None, variables) == "variable.json"
        assert of_file.cloud_key(None, {}) == "file.json"
        assert Config().cloud_key(None, {}) == ""

    @pytest.mark.parametrize("mode", Mode)
    def test_the_base_image_is_the_variables_then_the_files_then_the_default(
        self, mode: Mode
    ) -> None:
        config = parse({"base_image": "file:{}"})
        variable = {"CALIBAN_BASE_IMAGE": " variable:{} "}
        assert config.base_image(mode, variable) == f"variable:{mode.value}"
        assert config.base_image(mode, {"CALIBAN_BASE_IMAGE": ""}) == f"file:{mode.value}"
        assert Config().base_image(mode, {}) == DEFAULT_BASE_IMAGES[mode]

    def test_a_variable_may_name_a_deep_learning_container(self) -> None:
        variable = {"CALIBAN_BASE_IMAGE": "dlvm:pytorch-{}"}
        assert Config().base_image(GPU, variable) == f"{DLC}/pytorch-cu124.2-4.py310"

    def test_the_variable_wins_over_a_dockerfile(self) -> None:
        config = parse({"dockerfile": {"cpu": "Dockerfile"}})
        assert config.dockerfile(CPU, {}) == Own("Dockerfile")
        assert config.dockerfile(CPU, {"CALIBAN_BASE_IMAGE": ""}) == Own("Dockerfile")
        assert config.dockerfile(CPU, {"CALIBAN_BASE_IMAGE": "mine"}) is None
        assert config.dockerfile(GPU, {}) is None

    def test_a_mode_without_a_base_image_has_the_default_one(self) -> None:
        config = parse({"base_image": {"gpu": "mine"}})
        assert config.base_image(CPU, {}) == DEFAULT_BASE_IMAGES[CPU]
        assert config.base_image(GPU, {}) == "mine"

    @pytest.mark.parametrize(
        ("content", "flags", "gpus"),
        [
            ({}, [], True),
            ({}, ["--nogpu"], False),
            ({"default_mode": "cpu"}, [], False),
            ({"default_mode": "gpu"}, [], True),
            ({"default_mode": "gpu"}, ["--nogpu"], False),
        ],
    )
    def test_the_mode_is_the_flags_then_the_files_then_gpu(
        self, project: Path, inline: Inline, content: object, flags: list[str], gpus: bool
    ) -> None:
        (project / FILE_NAME).write_text(json.dumps(content))
        ended = inline("run", "--dry_run", *flags, "trainer.train")
        assert ended.returncode == 0
        assert (" --gpus all " in ended.stdout) is gpus


def other_than(*types: type) -> st.SearchStrategy[Any]:
    return JSON.filter(lambda value: not isinstance(value, types))


def with_one(key: str, value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return value.map(lambda drawn: {key: drawn})


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
JSON = st.recursive(
    SCALARS.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
WRONG_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "apt_packages": other_than(list, dict)
    | st.lists(other_than(str), min_size=1)
    | st.dictionaries(st.sampled_from(["cpu", "gpu"]), other_than(list), min_size=1),
    "base_image": other_than(str, dict, type(None))
    | TEXT.map(lambda text: f"{text}{{x}}")
    | st.dictionaries(st.sampled_from(["cpu", "gpu"]), other_than(str), min_size=1),
    "dockerfile": other_than(str, dict, type(None))
    | with_one("path", other_than(str))
    | st.dictionaries(st.sampled_from(["cpu", "gpu"]), other_than(str, dict), min_size=1),
    "default_mode": JSON.filter(lambda value: str(value).strip().lower() not in ("cpu", "gpu")),
    "build_time_credentials": other_than(bool),
    "allowed_keys": other_than(list) | st.lists(other_than(str), min_size=1),
    "image_registry": other_than(str),
    "julia_version": other_than(str, type(None)),
    "gcloud": other_than(dict) | with_one("project_id", other_than(str)),
    "mlflow_config": other_than(dict)
    | st.dictionaries(st.sampled_from([*MLFLOW]), TEXT, max_size=3),
    "uv": other_than(dict) | with_one("mlflow", other_than(dict)),
}
RIGHT = st.sampled_from([content for content, _ in VALID])


@st.composite
def malformed_files(draw: st.DrawFn) -> bytes:
    """Files that no reader may accept: broken JSON, no object, unknown keys, wrong values."""
    content = {**draw(RIGHT), **draw(RIGHT)}
    kind = draw(st.sampled_from(["cut", "bytes", "no object", "unknown", "wrong", "wrong"]))
    if kind == "cut":
        text = json.dumps(content, indent=draw(st.sampled_from([None, 2])))
        return text[: draw(st.integers(0, len(text) - 1))].encode()
    if kind == "bytes":
        return json.dumps(content).encode() + draw(st.sampled_from([b"\xff", b"\x00{", b"}", b"x"]))
    if kind == "no object":
        return json.dumps(draw(other_than(dict))).encode()
    if kind == "unknown":
        content[draw(TEXT.filter(lambda key: key not in WRONG_VALUES))] = draw(JSON)
    else:
        key = draw(st.sampled_from(sorted(WRONG_VALUES)))
        content[key] = draw(WRONG_VALUES[key])
    return json.dumps(content, ensure_ascii=draw(st.booleans())).encode()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=malformed_files())
def test_whatever_is_wrong_with_the_file_there_is_one_message_and_no_traceback(
    content: bytes,
) -> None:
    out, err = io.StringIO(), io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        Path("train.py").touch()
        Path(FILE_NAME).write_bytes(content)
        code = main(["run", "--dry_run", "train.py"])
        path = Path(FILE_NAME).resolve()
    message = err.getvalue()
    assert code == 2, message
    assert out.getvalue() == ""
    assert message.startswith(f"caliban: error: {path}")
    assert message.count("caliban: error:") == 1
    assert "Traceback" not in message
    assert not Path(os.environ["HOME"], ".caliban").exists()
