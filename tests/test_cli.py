"""The command line: what is split, expanded, understood and refused before a command runs."""

from __future__ import annotations

import argparse
import logging
import shlex
from pathlib import Path

import pytest

from caliban import __version__, flagfiles
from caliban.cli import (
    COMMANDS,
    Group,
    command_paths,
    module_of,
    run,
    split_at_dashes,
)
from caliban.errors import UsageError
from tests.conftest import Caliban, Inline

DRY = ("run", "--nogpu", "--dry_run")


def job(stdout: str) -> list[str]:
    """The words of the only `docker run` that a dry run has printed."""
    [line] = stdout.splitlines()
    return shlex.split(line)


class TestDashes:
    @pytest.mark.parametrize(
        ("words", "own", "script_args"),
        [
            ([], [], []),
            (["run", "m"], ["run", "m"], []),
            (["run", "m", "--", "-x", "1"], ["run", "m"], ["-x", "1"]),
            (["run", "m", "--"], ["run", "m"], []),
            (["run", "m", "--", "a", "--", "b"], ["run", "m"], ["a", "--", "b"]),
            (["--", "run"], [], ["run"]),
        ],
    )
    def test_the_first_one_alone_separates(
        self, words: list[str], own: list[str], script_args: list[str]
    ) -> None:
        assert split_at_dashes(words) == (own, script_args)

    def test_what_follows_reaches_the_code_untouched(self, project: Path, inline: Inline) -> None:
        words = ["--epochs", "2", "--nogpu", "", "a b", "$HOME", "--flagfile", "x", "--", "'", "-h"]
        ended = inline(*DRY, "trainer.train", "--", *words)
        assert ended.returncode == 0
        assert job(ended.stdout)[-len(words) :] == words

    def test_status_has_no_code_to_pass_anything_to(self, inline: Inline) -> None:
        ended = inline("status", "--", "x")
        assert ended.returncode == 2
        assert ended.stderr == "caliban: error: 'caliban status' takes no arguments after '--'\n"


class TestFlagfile:
    def test_takes_the_place_of_its_lines(self, tmp_path: Path) -> None:
        # The example of the documentation.
        (tmp_path / "my_args.txt").write_text(
            '--docker_run_args "CUDA_VISIBLE_DEVICES=0"\n'
            "--experiment_config experiment_one.json\n"
            "--cloud_key my_key.json\n"
            "--extras extra_deps\n"
        )
        assert flagfiles.expand(["run", "--flagfile", "my_args.txt", "trainer.train"]) == [
            "run",
            *("--docker_run_args", "CUDA_VISIBLE_DEVICES=0"),
            *("--experiment_config", "experiment_one.json"),
            *("--cloud_key", "my_key.json"),
            *("--extras", "extra_deps"),
            "trainer.train",
        ]

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("--nogpu", ["--nogpu"]),
            ("  --nogpu\t", ["--nogpu"]),
            ("", []),
            ("# --nogpu", []),
            ("  // --nogpu", []),
            ("--xgroup=night", ["--xgroup=night"]),
            ("--xgroup night", ["--xgroup", "night"]),
            ("--xgroup 'a night'", ["--xgroup", "a night"]),
            ('--xgroup "a night"', ["--xgroup", "a night"]),
            ("--docker_run_args=-v a:b", ["--docker_run_args=-v a:b"]),
            ("--docker_run_args=-e 'A=b c'", ["--docker_run_args=-e 'A=b c'"]),
            ("--xgroup='night'", ["--xgroup=night"]),
            ("--xgroup ünï", ["--xgroup", "ünï"]),
        ],
    )
    def test_lines_are_read_as_a_shell_reads_them(
        self, tmp_path: Path, line: str, words: list[str]
    ) -> None:
        (tmp_path / "flags").write_text(f"{line}\n", encoding="utf-8")
        assert flagfiles.expand(["--flagfile=flags"]) == words

    def test_may_name_others_and_the_same_one_twice(self, tmp_path: Path) -> None:
        (tmp_path / "inner").write_text("--nogpu\n")
        (tmp_path / "outer").write_text("-v 1\n--flagfile inner\n--flagfile=inner\n--dry_run\n")
        expanded = flagfiles.expand(["--flagfile", "outer", "m"])
        assert expanded == ["-v", "1", "--nogpu", "--nogpu", "--dry_run", "m"]

    def test_is_found_in_the_home_directory(self, home: Path) -> None:
        (home / "flags").write_text("--nogpu\n")
        assert flagfiles.expand(["--flagfile", "~/flags"]) == ["--nogpu"]

    @pytest.mark.parametrize(
        ("files", "problem"),
        [
            ({"flags": b"--flagfile flags"}, "flagfile flags includes itself: flags -> flags"),
            (
                {"flags": b"--flagfile b", "b": b"--nogpu\n--flagfile flags"},
                "flagfile flags includes itself: flags -> b -> flags",
            ),
            ({}, "cannot read flagfile flags: "),
            ({"flags": b"--flagfile missing"}, "cannot read flagfile missing: "),
            ({"flags": b"--flagfile ~nobody-has-this-name/x"}, "cannot read flagfile ~nobody-has-"),
            ({"flags": b"--xgroup \xff"}, "cannot read flagfile flags: "),
            ({"flags": b"--nogpu\n\n--xgroup 'a"}, "flags:3: No closing quotation: --xgroup 'a"),
            ({"flags": b"--nogpu\n--output=a\0b"}, "flags:2: found a NUL, which no argument can"),
            ({"flags": b"--flagfile"}, "--flagfile needs the name of a file"),
            ({"flags": b"--flagfile="}, "--flagfile needs the name of a file"),
        ],
    )
    def test_says_what_is_wrong_with_it(
        self, tmp_path: Path, files: dict[str, bytes], problem: str
    ) -> None:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError) as error:
            flagfiles.expand(["run", "--flagfile", "flags", "m"])
        assert error.value.message.startswith(problem)

    def test_works_on_the_command_line(self, project: Path, inline: Inline) -> None:
        (project / "flags").write_text('--nogpu\n--dry_run\n--docker_run_args "-v a:b"\n')
        ended = inline("run", "--flagfile", "flags", "trainer.train")
        assert ended.returncode == 0
        assert "-v a:b" in ended.stdout

    def test_that_is_missing_is_wrong_usage(self, project: Path, inline: Inline) -> None:
        ended = inline("run", "--flagfile", "flags", "trainer.train")
        assert ended.returncode == 2
        assert ended.stderr.startswith("caliban: error: cannot read flagfile flags: ")


class TestSpellings:
    @pytest.mark.parametrize(
        ("words", "run_args"),
        [
            (["--docker_run_args", "-v a:b"], ["-v", "a:b"]),
            (["--docker_run_args=-v a:b"], ["-v", "a:b"]),
            (["--docker_run_args", "--tty"], ["--tty"]),
            (["--docker_run_args", "-e 'A=b c' --tty"], ["-e", "A=b c", "--tty"]),
            (["--docker_run_args", "--env=A=b"], ["--env=A=b"]),
            (["--docker_run", "--shm-size 1g"], ["--shm-size", "1g"]),
            (["--docker_run", "-v a:b"], ["-v", "a:b"]),
        ],
    )
    def test_values_of_docker_run_args_may_begin_with_a_dash(
        self, project: Path, inline: Inline, words: list[str], run_args: list[str]
    ) -> None:
        ended = inline(*DRY, *words, "trainer.train")
        assert ended.returncode == 0, ended.stderr
        assert job(ended.stdout)[-1 - len(run_args) : -1] == run_args

    def test_docker_run_args_needs_a_value(self, inline: Inline) -> None:
        ended = inline("run", "--docker_run_args")
        assert ended.returncode == 2
        assert "argument --docker_run_args: expected one argument" in ended.stderr

    def test_extras_can_be_given_both_ways_and_repeatedly(
        self, project: Path, inline: Inline
    ) -> None:
        ended = inline(*DRY, "-e", "a", "--extras", "b", "-ec", "trainer.train")
        assert ended.returncode == 0
        assert "--extras a b c has no effect" in ended.stderr

    @pytest.mark.parametrize(
        "flags",
        [
            ["--no_cache"],
            ["--no-cache"],
            ["--nog"],
            ["--dry"],
            ["--xg", "night"],
            ["-v", "1"],
            ["--verbosity=1"],
            ["--verbosity", "-2"],
            ["--noshowprefixforinfo"],
        ],
        ids=" ".join,
    )
    def test_these_flags_are_understood(
        self, project: Path, caliban: Caliban, flags: list[str]
    ) -> None:
        ended = caliban(*DRY, *flags, "trainer.train", "--", "a")
        assert ended.returncode == 0, ended.stderr
        assert job(ended.stdout)[-1] == "a"

    def test_flags_of_absl_may_stand_before_the_command(
        self, project: Path, caliban: Caliban
    ) -> None:
        ended = caliban("--verbosity=1", *DRY, "trainer.train")
        assert ended.returncode == 0, ended.stderr
        assert job(ended.stdout)[-1] == "caliban:not-built-yet"

    def test_how_absl_logs_ends_with_the_command(self, project: Path, inline: Inline) -> None:
        before = logging.root.level, [*logging.root.handlers]
        ended = inline(*DRY, "--verbosity=1", "trainer.train")
        assert ended.returncode == 0, ended.stderr
        assert (logging.root.level, logging.root.handlers) == before

    def test_an_exit_code_is_the_same_with_flags_of_absl(
        self, project: Path, caliban: Caliban
    ) -> None:
        ended = caliban(*DRY, "-v", "1", "trainer.missing")
        assert ended.returncode == 2
        assert ended.stderr.startswith("caliban: error: neither a file 'trainer.missing' nor ")

    @pytest.mark.parametrize("command", [[], ["run"], ["status"]])
    def test_helpfull_shows_the_flags_of_absl_as_well(
        self, caliban: Caliban, command: list[str]
    ) -> None:
        ended = caliban(*command, "--helpfull")
        assert ended.returncode == 0
        assert ended.stdout.startswith(" ".join(["usage: caliban", *command, "[-h]"]))
        assert "--verbosity: Logging verbosity level." in ended.stdout

    def test_an_ambiguous_abbreviation_is_refused(self, project: Path, inline: Inline) -> None:
        ended = inline("run", "--ex", "x", "trainer.train")
        assert ended.returncode == 2
        assert "--ex could match --extras, --experiment_config" in ended.stderr


class TestHelp:
    @pytest.mark.parametrize("path", list(command_paths()), ids=" ".join)
    def test_every_command_explains_itself(self, inline: Inline, path: tuple[str, ...]) -> None:
        ended = inline(*path, "--help")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith(f"usage: caliban {' '.join(path)} [-h]")

    @pytest.mark.parametrize("path", list(command_paths()), ids=" ".join)
    def test_it_is_as_wide_as_the_terminal_but_for_command_lines(
        self, inline: Inline, monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]
    ) -> None:
        monkeypatch.setenv("COLUMNS", "70")
        lines = inline(*path, "--help").stdout.splitlines()
        examples = [line for line in lines if line.startswith("  caliban ")]
        assert examples
        assert [line for line in lines if len(line) > 70 and line not in examples] == []

    @pytest.mark.parametrize("group", [("cluster",), ("cluster", "job")], ids=" ".join)
    def test_a_group_lists_its_commands(self, inline: Inline, group: tuple[str, ...]) -> None:
        ended = inline(*group, "--help")
        assert (ended.returncode, ended.stderr) == (0, "")
        names = {path[len(group)] for path in command_paths() if path[: len(group)] == group}
        assert names == {name for name in names if f"\n    {name} " in ended.stdout}

    def test_it_lists_the_commands(self, inline: Inline) -> None:
        ended = inline("--help")
        assert (ended.returncode, ended.stderr) == (0, "")
        for command, each in COMMANDS.items():
            summary = each.summary if isinstance(each, Group) else each
            assert command in ended.stdout
            assert summary.split()[0] in ended.stdout

    def test_the_version_is_a_result(self, inline: Inline) -> None:
        ended = inline("--version")
        assert (ended.returncode, ended.stdout) == (0, f"caliban {__version__}\n")


class TestEmptyValues:
    @pytest.mark.parametrize("path", [*command_paths()], ids=" ".join)
    def test_are_those_of_variables_that_are_not_set_and_refused(
        self, path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        parser = argparse.ArgumentParser()
        module_of(path).add_arguments(parser)
        for action in parser._actions:
            if not action.option_strings or action.nargs == 0 or action.default == "":
                continue
            for option in action.option_strings:
                for empty in ("", " "):
                    with pytest.raises(SystemExit) as ended:
                        run([*path, option, empty])
                    assert ended.value.code == 2
                    said = capsys.readouterr().err
                    assert f"argument {'/'.join(action.option_strings)}: expected a value" in said

    def test_are_what_some_flags_have_by_default(self, project: Path, inline: Inline) -> None:
        assert inline(*DRY, "--docker_run_args", "", "trainer.train").returncode == 0


class TestWrongUsage:
    @pytest.mark.parametrize(
        ("words", "problem"),
        [
            ([], "caliban: error: no command is named: shell, notebook, "),
            (["--nonsense"], "caliban: error: no command is named: shell, notebook, "),
            (["nonsense"], "invalid choice: 'nonsense'"),
            (
                ["resubmit"],
                "caliban resubmit: error: the following arguments are required: --xgroup",
            ),
            (["cluster"], "caliban cluster: error: no command is named: ls, create, "),
            (["cluster", "job", "nonsense"], "invalid choice: 'nonsense'"),
            (["cluster", "ls", "--nonsense"], "caliban cluster ls: error: unrecognized"),
            (["status", "run"], "caliban status: error: unrecognized arguments: run"),
            (["status", "--max_jobs", "-1"], "expected 0 or a positive whole number, found '-1'"),
            (["status", "--max_jobs", "x"], "expected 0 or a positive whole number, found 'x'"),
            (
                ["status", "--max_jobs", "9" * 20],
                "argument --max_jobs: expected at most 2147483647",
            ),
            (["stop", "9" * 20], "argument JOB: expected at most 2147483647"),
            (["status", "--max_jobs", "9" * 5000], "argument --max_jobs: expected at most 214748"),
            (["stop", "9" * 5000], "argument JOB: expected at most 2147483647"),
            (["run", "--jobs", "9" * 5000, "m"], "argument --jobs: expected at most 2147483647"),
            (["run", "--jobs", "0" * 20, "m"], "expected a positive whole number"),
            (["notebook", "--port", "9" * 5000], "argument -p/--port: expected a port, 1 to 65535"),
            (["build", "--dry_run", "m"], "caliban build: error: unrecognized arguments"),
        ],
    )
    def test_ends_with_2_and_the_usage(
        self, inline: Inline, words: list[str], problem: str
    ) -> None:
        ended = inline(*words)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith("usage: caliban")
        assert problem in ended.stderr

    def test_a_run_needs_a_module_or_a_group_to_go_on_with(self, inline: Inline) -> None:
        ended = inline("run", "--nogpu")
        assert (ended.returncode, ended.stdout) == (2, "")
        error, hint = ended.stderr.splitlines()
        assert error == "caliban: error: no module is named"
        assert hint == "caliban run trainer.train, or caliban run --resume GROUP, for example."

    @pytest.mark.parametrize(
        ("command", "flag", "near"),
        [
            ("run", "--nogpuu", "--nogpu"),
            ("run", "--experiment_confg=x", "--experiment_config"),
            ("run", "--docker-run-args=x", "--docker_run_args"),
            ("build", "--nochache", "--no_cache"),
            ("status", "--maxjobs", "--max_jobs"),
            ("run", "--verbossity", "--verbosity"),
        ],
    )
    def test_an_unknown_flag_is_answered_with_the_nearest(
        self, project: Path, inline: Inline, command: str, flag: str, near: str
    ) -> None:
        ended = inline(command, flag, *(["trainer.train"] if command != "status" else []))
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"usage: caliban {command} ")
        problem = f"caliban {command}: error: unrecognized arguments: {flag} (did you mean {near}?)"
        assert ended.stderr.splitlines()[-1] == problem

    @pytest.mark.parametrize(
        ("words", "problem"),
        [
            (
                ["rum"],
                "caliban: error: argument COMMAND: invalid choice: 'rum' (did you mean run?)",
            ),
            (["Statsu", "--max_jobs", "3"], "invalid choice: 'Statsu' (did you mean status?)"),
            (["help"], "invalid choice: 'help' (did you mean --help?)"),
            (
                ["--verson"],
                "error: unrecognized arguments: --verson (did you mean --version?)",
            ),
            (["cluster", "job", "sumbit"], "invalid choice: 'sumbit' (did you mean submit?)"),
            (["cluster", "jobs", "--nogpu"], "invalid choice: 'jobs' (did you mean job?)"),
            (["shell", "--shell", "bsh"], "--shell: invalid choice: 'bsh' (did you mean bash?)"),
            (["status", "my tries"], "arguments: my tries (did you mean --xgroup 'my tries'?)"),
        ],
    )
    def test_a_mistyped_word_is_answered_with_the_nearest(
        self, inline: Inline, words: list[str], problem: str
    ) -> None:
        ended = inline(*words)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.splitlines()[-1].endswith(problem)

    @pytest.mark.parametrize("words", [["logs", "tries"], ["stop", "1", "tries"]])
    def test_a_group_in_the_place_of_a_job_is_answered_with_the_flag_for_groups(
        self, inline: Inline, words: list[str]
    ) -> None:
        ended = inline(*words)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.endswith(
            "argument JOB: expected the number of a job, as 'caliban status' shows it, found "
            "'tries' (a group is named by --xgroup)\n"
        )

    @pytest.mark.parametrize(
        "argv",
        [
            ["run", "--nogpu", "--jobs", "{}", "train.py"],
            ["shell", "--shell", "{}"],
            ["{}"],
            ["logs", "--absent={}"],
            ["--logtostderr", "status", "{}"],
            ["status", "--where", "{}"],
            ["report", "{}"],
        ],
    )
    def test_a_very_long_value_fills_no_screens(self, inline: Inline, argv: list[str]) -> None:
        ended = inline(*(word.format("begin" + 99_999 * "x" + "end") for word in argv))
        assert ended.returncode == 2
        error = ended.stderr[ended.stderr.index("error: ") :]
        assert "beginxxx" in error
        assert "xxxend" in error
        assert " more characters ... " in error
        assert len(error) < 2000

    def test_a_flag_like_no_other_gets_no_suggestion(self, inline: Inline) -> None:
        ended = inline("status", "--zzzzzzzzzz")
        assert ended.returncode == 2
        assert ended.stderr.endswith("error: unrecognized arguments: --zzzzzzzzzz\n")

    def test_arguments_after_the_module_are_answered_with_both_ways_to_say_it(
        self, project: Path, inline: Inline
    ) -> None:
        ended = inline("run", "trainer.train", "--epochs", "2")
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr == (
            "caliban: error: '--epochs 2' stands after the module, but not after '--'\n"
            "Flags of caliban go before the module:      caliban run --epochs 2 trainer.train\n"
            "Arguments of your own code go after a '--':  caliban run trainer.train -- --epochs 2\n"
        )

    def test_the_suggestions_can_be_typed_as_they_stand(
        self, project: Path, inline: Inline
    ) -> None:
        ended = inline("run", "--nogpu", "trainer.train", "--name", "a b", "--", "-x")
        assert ended.returncode == 2
        suggested = [
            shlex.split(line.partition(":  ")[2]) for line in ended.stderr.splitlines()[1:]
        ]
        assert suggested == [
            ["caliban", "run", "--nogpu", "--name", "a b", "trainer.train", "--", "-x"],
            ["caliban", "run", "--nogpu", "trainer.train", "--", "--name", "a b", "-x"],
        ]
