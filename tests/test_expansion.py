"""The command `expansion`: its output, its messages, and what it costs."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

import caliban
from caliban import expansion
from caliban.model import experiment, shell_words
from caliban.model.experiment import Experiment
from tests.experiment_configs import CONFIGS, MALFORMED

SWEEP = {
    "epochs": [1, 2],
    "batch_size": [64, 128],
    "constant_arg": "some thing",
    "important_toggle": [True, False],
}

# Each of 10 ** 6, 10 ** 5 ... experiments has some of all that a config may hold.
LARGE = """{
  "learning_rate": [1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003],  # powers
  "model": "resnet",
  "[width,depth]": [[1, 9], [2, 8], [3, 7], [4, 6], [5, 5], [6, 4], [7, 3], [8, 2], [9, 1], [0, 0]],
  "augment": [true, false],
  "optimizer": ["adam", "sgd", "lamb", "lion", "a name with \\"quotes\\" and spaces"],
  "seed": %s,
}"""

JSON_LOOP = """
import json, sys
from caliban import document
from caliban.model import experiment, shell_words
separator = "["
for each in experiment.expand(document.read(sys.argv[1])):
    sys.stdout.write(separator)
    sys.stdout.write(json.dumps(each))
    separator = ", "
sys.stdout.write("]\\n")
"""


def run(*argv: str) -> tuple[int, str, str]:
    """Runs the command in this process; returns its exit code, stdout and stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        code = expansion.main(argv)
    for stream in (out, err):
        stream.flush()
        stream.seek(0)
    return code, out.read(), err.read()


def output(config: object, *options: str) -> str:
    Path("exp.json").write_text(json.dumps(config))
    code, out, err = run(*options, "exp.json")
    assert (code, err) == (0, "")
    return out


def process(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv],
        env={**os.environ, "PYTHONPATH": str(Path(caliban.__file__).parents[1])},
        check=False,
        text=True,
        **{"capture_output": True, **options},
    )


def cpu_seconds(argv: Sequence[str], repeat: int) -> float:
    """The least CPU time that a process took, of several."""
    times = []
    for _ in range(repeat):
        with subprocess.Popen(
            [sys.executable, *argv],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(caliban.__file__).parents[1])},
        ) as child:
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        times.append(usage.ru_utime + usage.ru_stime)
    return min(times)


def test_the_experiments_are_written_as_one_line_of_json() -> None:
    assert output(SWEEP) == json.dumps(list(experiment.expand(SWEEP))) + "\n"
    assert output([{}]) == "[{}]\n"
    assert output([{"a": [1, 2]}, {}]) == '[{"a": 1}, {"a": 2}, {}]\n'


def test_pprint_indents_them() -> None:
    config = [SWEEP, {}, {"layers": [[], [64, 1]]}]
    wanted = json.dumps(list(experiment.expand(config)), indent=2) + "\n"
    assert output(config, "--pprint") == wanted


def test_print_flags_writes_a_line_of_shell_words_for_each() -> None:
    assert output([SWEEP, {}, {"x": "$HOME 'n"}], "--print_flags").splitlines() == [
        "--epochs 1 --batch_size 64 --constant_arg 'some thing' --important_toggle",
        "--epochs 1 --batch_size 64 --constant_arg 'some thing'",
        "--epochs 1 --batch_size 128 --constant_arg 'some thing' --important_toggle",
        "--epochs 1 --batch_size 128 --constant_arg 'some thing'",
        "--epochs 2 --batch_size 64 --constant_arg 'some thing' --important_toggle",
        "--epochs 2 --batch_size 64 --constant_arg 'some thing'",
        "--epochs 2 --batch_size 128 --constant_arg 'some thing' --important_toggle",
        "--epochs 2 --batch_size 128 --constant_arg 'some thing'",
        "",
        """--x '$HOME '"'"'n'""",
    ]


@given(CONFIGS)
@settings(max_examples=300, deadline=None)
def test_the_output_is_what_json_and_the_shell_make_of_the_experiments(config: Any) -> None:
    experiments = list(experiment.expand(config))
    assert output(config) == json.dumps(experiments) + "\n"
    assert output(config, "--pprint") == json.dumps(experiments, indent=2) + "\n"
    flags = [Experiment((), each).flags() for each in experiments]
    text = output(config, "--print_flags")
    assert text == "".join(shell_words.join(each) + "\n" for each in flags)
    assert text.count("\n") == len(experiments)


def test_flags_with_newlines_stay_on_the_line_of_their_experiment() -> None:
    text = output({"prompt": ["one\ntwo", "three"], "seed": 1}, "--print_flags")
    assert text == "--prompt $'one\\ntwo' --seed 1\n--prompt three --seed 1\n"
    command = f"printf '%s|' {text.splitlines()[0]}"
    words = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert words.stdout == b"--prompt|one\ntwo|--seed|1|"


def test_a_large_output_is_the_same_as_a_small_one() -> None:
    toggles = {f"toggle{index}": [True, False] for index in range(6)}
    for config in (
        json.loads(LARGE.replace("# powers", "").replace("%s,", str(list(range(5))))),
        {"long": "x" * 10_000, "seed": list(range(10)), **toggles},
        {**toggles, "seed": list(range(500)), "off": False},
        {"seed": list(range(3000)), "off": [False, True, "maybe"]},
        {"seed": list(range(70_000))},
    ):
        experiments = list(experiment.expand(config))
        assert output(config) == json.dumps(experiments) + "\n"
        lines = output(config, "--print_flags").splitlines()
        assert lines == [shlex.join(Experiment((), each).flags()) for each in experiments]


def test_flags_are_written_in_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    (tmp_path / "exp.json").write_text('{"größe": "語"}', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "caliban.expansion", "--print_flags", "exp.json"],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(caliban.__file__).parents[1]),
            "PYTHONIOENCODING": "latin-1",
        },
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == "'--größe' '語'\n"


def test_the_output_is_a_config_that_expands_to_itself() -> None:
    Path("exp.json").write_text(json.dumps(SWEEP))
    once = process("-m", "caliban.expansion", "exp.json")
    twice = process("-m", "caliban.expansion", "stdin", input=once.stdout)
    assert once.stdout == twice.stdout != ""


def test_a_reader_that_has_enough_ends_it_quietly(tmp_path: Path) -> None:
    (tmp_path / "exp.json").write_text(LARGE % list(range(1000)))
    command = shlex.join([sys.executable, "-m", "caliban.expansion", "exp.json"])
    done = process("-c", f"import os; os.system({command + ' | head -c 9'!r})")
    assert (done.stdout, done.stderr) == ('[{"learni', "")


@given(MALFORMED)
@settings(max_examples=400, deadline=None)
def test_a_malformed_config_gets_one_message_and_no_output(content: bytes) -> None:
    Path("exp.json").write_bytes(content)
    code, out, err = run("exp.json")
    assert (code, out) == (2, "")
    assert err.startswith("expansion: error: exp.json:")
    assert err.count("error:") == 1
    assert "Traceback" not in err


def test_a_config_may_be_yaml() -> None:
    Path("exp.yaml").write_text("a: [1, 2]\nb: x\n")
    assert run("exp.yaml")[1] == '[{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]\n'
    Path("exp.yaml").write_text("when: 2001-01-01\n")
    code, _, err = run("exp.yaml")
    assert code == 2
    assert err.startswith('expansion: error: exp.yaml: "when": found a value of type date,')


def test_a_missing_file_is_named() -> None:
    assert run("no.json") == (
        2,
        "",
        "expansion: error: cannot read 'no.json': No such file or directory\n",
    )


@pytest.mark.parametrize("option", ["-h", "--help", "--helpfull"])
def test_help_names_every_option(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        expansion.main([option])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for word in ("--helpfull", "--version", "--pprint", "--print_flags", "experiment_config"):
        assert word in shown


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        expansion.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"expansion {caliban.__version__}\n"


def test_wrong_usage_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        expansion.main([])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: expansion ")


def test_help_costs_at_most_six_times_a_bare_interpreter() -> None:
    bare = cpu_seconds(["-c", "pass"], repeat=7)
    assert cpu_seconds(["-m", "caliban.expansion", "--help"], repeat=7) <= 6 * bare


def test_a_million_experiments_take_less_than_64_megabytes(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell the peak memory of a process by itself")
    (tmp_path / "exp.json").write_text(LARGE % list(range(1000)))
    # What the system tells a parent about its child would count the parent's own memory as well.
    program = (
        "import sys; from caliban.expansion import main; main(sys.argv[1:]); "
        "sys.stderr.write(open('/proc/self/status').read())"
    )
    for options in ([], ["--pprint"], ["--print_flags"]):
        done = process(
            "-c",
            program,
            *options,
            "exp.json",
            stdout=subprocess.DEVNULL,
            capture_output=False,
            stderr=subprocess.PIPE,
        )
        fields = dict(line.split(":", 1) for line in done.stderr.splitlines())
        assert int(fields["VmHWM"].split()[0]) <= 64 * 1024


def test_expansion_costs_no_more_than_writing_each_experiment_with_json_dumps(
    tmp_path: Path,
) -> None:
    (tmp_path / "exp.json").write_text(LARGE % list(range(100)))
    ours = cpu_seconds(["-m", "caliban.expansion", "exp.json"], repeat=3)
    assert ours <= 1.5 * cpu_seconds(["-c", JSON_LOOP, "exp.json"], repeat=1)
