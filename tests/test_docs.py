"""Holds the documentation to the program: its commands, flags, keys, files and examples."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import caliban
from caliban import cli, config, document, errors, expansion, main
from caliban.model import experiment
from caliban.parsers import HelpfulParser

ROOT = Path(caliban.__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("tutorials/**/*.md")],
    key=lambda page: page.relative_to(ROOT).as_posix(),
)

# Flags that the pages speak of and that are not caliban's.
FOREIGN_FLAGS = {
    *("--a", "--key", "--rates"),  # of imaginary programs
    *("--batch_size", "--epochs", "--hidden", "--learning_rate", "--seed"),  # of the tutorial
    *("--cidfile", "--detach", "--env", "--gpus"),  # of docker run
    *("--name", "--network", "--restart"),
    *("--pdb", "--verbosity"),  # of absl
    "--include-apps",  # of pipx
    *("--base_url", "--config", "--from"),  # of scripts/
    *("--google_cloud_cli", "--list", "--no_registry"),
    *("--file", "--mount", "--project"),  # of docker build and gcloud
    *("--backend-store-uri", "--no-serve-artifacts"),  # of MLflow's server
}


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, `caliban` and `expansion` among them."""
    found = {"expansion": expansion.build_parser()}
    for path in cli.command_paths():
        name = " ".join(path)
        found[name] = HelpfulParser(prog=f"caliban {name}")
        cli.module_of(path).add_arguments(found[name])
    return found


def pages_of(command: str) -> list[Path]:
    """The pages that explain a command."""
    name, *inner = command.split()
    return [DOCS / f"{each}.md" for each in ([name, "gke"] if inner else [name])]


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


ALL_FLAGS = [(name, flag) for name, parser in parsers().items() for flag in flags_of(parser)]
KNOWN_FLAGS = {"--flagfile", "--version", *(flag for _, flag in ALL_FLAGS)}


def title(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced code blocks of a page that are in one of these languages."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for language, text in fences if language in languages]


def inline_code(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`]+)`", prose)


def shell_commands(page: Path) -> Iterator[list[str]]:
    """The commands that a page tells the user to type, as words, those of a pipe one by one."""
    for block in blocks(page, "console"):
        for line in block.splitlines():
            if not line.startswith("$ "):
                continue
            lexer = shlex.shlex(line[2:], posix=True, punctuation_chars="|&;>")
            lexer.whitespace_split = True
            lexer.commenters = ""
            words: list[str] = []
            for word in (*lexer, "|"):
                if set(word) <= {"|", "&", ";", ">"}:
                    yield words
                    words = []
                elif words or not re.match(r"[A-Z_]+=", word):
                    words.append(word)


TYPED = [
    (page, words)
    for page in PAGES
    for words in shell_commands(page)
    if words[0] in ("caliban", "expansion")
]


def ids(values: list[tuple[Path, list[str]]]) -> list[str]:
    return [f"{title(page)}: {shlex.join(words)}" for page, words in values]


@pytest.mark.parametrize(("name", "flag"), ALL_FLAGS)
def test_every_flag_is_on_the_page_of_its_command(name: str, flag: str) -> None:
    assert any(re.search(rf"`{flag}[ `]", page.read_text()) for page in pages_of(name))


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_no_page_speaks_of_a_flag_that_does_not_exist(page: Path) -> None:
    spoken_of = {
        flag for code in inline_code(page) for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)
    }
    assert spoken_of - KNOWN_FLAGS - FOREIGN_FLAGS == set()


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_no_page_speaks_of_a_command_that_does_not_exist(page: Path) -> None:
    code = [*inline_code(page), *(shlex.join(words) for words in shell_commands(page))]
    spoken_of = {name for each in code for name in re.findall(r"(?:^|\s)caliban ([a-z]\w*)", each)}
    assert spoken_of - set(cli.COMMANDS) == set()


def test_the_readme_has_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in cli.COMMANDS:
        assert f"[`caliban {name}`](docs/{name}.md)" in readme
    assert "[`expansion`](docs/expansion.md)" in readme


@pytest.mark.parametrize(("page", "words"), TYPED, ids=ids(TYPED))
def test_every_command_that_a_page_shows_is_understood(
    page: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.flags").touch()
    try:
        if words[0] == "expansion":
            expansion.build_parser().parse_args(words[1:])
        else:
            parsed(words[1:], monkeypatch)
    except SystemExit as ended:
        assert ended.code == 0  # --help


def parsed(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What a command would be called with, without calling it."""
    calls: list[argparse.Namespace] = []

    def note(args: argparse.Namespace) -> int:
        calls.append(args)
        return 0

    for path in cli.command_paths():
        monkeypatch.setattr(cli.module_of(path), "run", note)
    assert cli.run(argv) == 0
    del calls[0].run
    return calls[0]


def test_the_flagfile_of_its_page_means_the_flags_that_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = DOCS / "flagfiles.md"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.flags").write_text(blocks(page, "text")[0])
    short, long = (parsed(words[1:], monkeypatch) for words in shell_commands(page))
    assert short == long
    assert short.nogpu and short.experiment_config == "experiment.json"


def test_the_experiment_files_of_their_page_stand_for_the_flags_below_them(tmp_path: Path) -> None:
    page = DOCS / "experiments.md"
    files, flags = blocks(page, "json"), blocks(page, "text")
    assert len(files) == len(flags) > 3
    for number, (text, expected) in enumerate(zip(files, flags, strict=True)):
        file = tmp_path / f"{number}.json"
        file.write_text(text)
        content = document.read(str(file))
        experiment.validate(content)
        made = (experiment.Experiment((), params).flags() for params in experiment.expand(content))
        assert [shlex.join(each) for each in made] == expected.splitlines()


@pytest.mark.parametrize("name", ["configuration.md", "base-images.md"])
def test_every_configuration_that_a_page_shows_is_valid(name: str, tmp_path: Path) -> None:
    examples = blocks(DOCS / name, "json")
    assert examples
    for text in examples:
        (tmp_path / config.FILE_NAME).write_text(text)
        assert config.load(tmp_path) != config.Config()


def test_every_key_of_the_configuration_has_a_row() -> None:
    rows = re.findall(r"^\|(.*?)\|", (DOCS / "configuration.md").read_text(), re.MULTILINE)
    assert set(config._checks()) <= {key for row in rows for key in re.findall(r"`(\w+)`", row)}


def test_every_environment_variable_that_the_program_reads_has_a_row() -> None:
    reading = re.compile(r"environ(?:ment)?\.get\(\s*\"(\w+)\"")
    read = {
        name for file in ROOT.glob("caliban/**/*.py") for name in reading.findall(file.read_text())
    }
    page = (DOCS / "configuration.md").read_text()
    # The docker command's own are covered by one row; TERM is everybody's.
    own = {name for name in read if not name.startswith("DOCKER_")} - {"TERM"}
    assert len(own) > 4
    assert {name for name in own if not re.search(rf"^\| `{name}` \|", page, re.MULTILINE)} == set()


def test_the_page_on_exit_codes_has_those_of_the_program() -> None:
    rows = re.findall(r"^\| (\d+) \|", (DOCS / "exit-codes.md").read_text(), re.MULTILINE)
    assert {0, 1, 2, main.BUG, errors.INTERRUPTED, main.BROKEN_PIPE} == set(map(int, rows))


def test_the_layout_names_every_file_of_the_package() -> None:
    folders: list[str] = []  # those that a line lies in, each two spaces deeper
    named = set()
    for line in blocks(DOCS / "structure.md", "text")[0].splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
        elif name.endswith(".py") and folders[:1] == ["caliban/"]:
            named.add("".join([*folders[1:], name]))
    package = ROOT / "caliban"
    there = {file.relative_to(package).as_posix() for file in package.rglob("*.py")}
    assert named == {name for name in there if not name.endswith("/__init__.py")}


def test_the_layout_names_every_script() -> None:
    layout = blocks(DOCS / "structure.md", "text")[0]
    named = re.findall(r"^scripts/(\S+)", layout, re.MULTILINE)
    assert {*named} == {
        file.name for file in (ROOT / "scripts").iterdir() if file.suffix in (".py", ".sh")
    }


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).is_file()] == []


def test_the_sweep_of_the_tutorial_has_the_three_jobs_of_the_readme() -> None:
    sweep = document.read(str(ROOT / "tutorials" / "basic" / "experiment.json"))
    assert json.dumps(sweep) in (ROOT / "README.md").read_text()
    assert experiment.count(sweep) == 3
