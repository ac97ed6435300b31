"""Holds the layout of the package: what may import what, and what the help costs."""

from __future__ import annotations

import ast
import re
import resource
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

import caliban

PACKAGE = Path(caliban.__file__).parent
# What is copied into images runs there, with another Python: it is no part of the program.
FILES = sorted(
    file for file in PACKAGE.rglob("*.py") if not file.is_relative_to(PACKAGE / "resources")
)

# The units of the package by height. A unit imports only units below its own line, so that those on
# one line never import one another.
LINES = (
    ("errors",),
    ("flag_types", "home", "interrupt", "process", "result_file", "terminal"),
    ("board", "document", "flagfiles", "joblog", "model", "steps"),
    ("config", "docker", "history", "parsers", "platform"),
    ("bundle", "ending", "gpu_pool", "provenance", "remote", "report", "tracking"),
    ("settle",),
    ("runner",),
    ("flags", "images", "launch"),
    ("dispatch",),
    ("commands",),
    ("cli",),
    ("completion",),
    ("main",),
    ("__main__", "expansion"),
)
HEIGHT = {unit: height for height, line in enumerate(LINES) for unit in line}

# Beyond this, a file usually holds two subjects.
LONGEST_FILE = 400

HEAVY = frozenset(
    (
        "absl",
        "commentjson",
        "docker",
        "google",
        "googleapiclient",
        "kubernetes",
        "sqlalchemy",
        "tqdm",
    )
)
HELP = {
    "caliban --help": ("-m", "caliban", "--help"),
    "caliban run --help": ("-m", "caliban", "run", "--help"),
    "expansion --help": ("-m", "caliban.expansion", "--help"),
}


def unit(module: str) -> str:
    """The part of the package that a module belongs to: "docker" for caliban.docker.image.build."""
    return module.split(".")[1]


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it, also those for type checks only."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (PACKAGE.parent / inner.replace(".", "/")).with_suffix(".py").is_file()
                is_package = (PACKAGE.parent / inner.replace(".", "/")).is_dir()
                in_caliban = node.module.split(".")[0] == "caliban"
                yield inner if in_caliban and (is_module or is_package) else node.module


ALL_IMPORTS = [(name_of(file), imported) for file in FILES for imported in sorted({*imports(file)})]


def users_of(*packages: str) -> set[str]:
    return {importer for importer, each in ALL_IMPORTS if each.split(".")[0] in packages}


def test_every_part_of_the_package_has_its_place_among_the_layers() -> None:
    assert {unit(name) for name in map(name_of, FILES) if name != "caliban"} == set(HEIGHT)


def test_imports_point_downward_only() -> None:
    wrong = [
        f"{importer} imports {imported}"
        for importer, imported in ALL_IMPORTS
        if imported.startswith("caliban.") and unit(importer) != unit(imported)
        if HEIGHT[unit(imported)] >= HEIGHT[unit(importer)]
    ]
    assert wrong == []


def test_the_page_on_the_structure_has_the_same_layers() -> None:
    page = (PACKAGE.parent / "docs" / "structure.md").read_text()
    layers = re.search(r"^Downward only:\n\n(.*?)\n\n", page, re.MULTILINE | re.DOTALL)
    assert layers is not None
    shown = [{*re.findall(r"`(\w+)`", line)} for line in layers[1].split("→")]
    assert shown == [{*line} for line in reversed(LINES)]


def test_the_package_itself_imports_nothing() -> None:
    assert [imported for importer, imported in ALL_IMPORTS if importer == "caliban"] == []


def test_modules_that_are_loaded_by_name_are_loaded_by_the_command_line_only() -> None:
    assert users_of("importlib", "runpy", "pkgutil") == {"caliban.cli"}
    assert [file for file in FILES if "__import__" in file.read_text()] == []


def test_the_model_imports_the_standard_library_and_the_errors_only() -> None:
    foreign = {
        imported
        for importer, imported in ALL_IMPORTS
        if importer.startswith("caliban.model")
        and imported.split(".")[0] not in sys.stdlib_module_names
        and not imported.startswith(("caliban.model", "caliban.errors"))
    }
    assert foreign == set()


def test_the_model_neither_reads_the_clock_nor_starts_anything() -> None:
    wanted = {"os", "shutil", "socket", "subprocess", "tempfile", "time", "uuid"}
    assert {each for each in users_of(*wanted) if each.startswith("caliban.model")} == set()


def test_only_the_history_knows_sqlalchemy() -> None:
    users = users_of("sqlalchemy")
    assert users
    assert {unit(each) for each in users} == {"history"}


def test_only_one_module_starts_other_programs() -> None:
    assert users_of("subprocess", "multiprocessing", "pty") == {"caliban.process"}
    calls = ("os.system", "os.popen", "os.spawn", "os.exec", "os.fork", "os.posix_spawn")
    assert [file for file in FILES if any(call in file.read_text() for call in calls)] == []


def test_only_one_module_knows_absl() -> None:
    assert users_of("absl") == {"caliban.cli"}


def test_no_file_is_so_long_that_it_holds_two_subjects() -> None:
    lengths = {name_of(file): len(file.read_text().splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


@pytest.mark.parametrize("vague", ["common", "helpers", "misc", "types", "util", "utils"])
def test_a_thing_lives_with_its_subject(vague: str) -> None:
    assert [file for file in PACKAGE.rglob(f"{vague}*") if file.stem == vague] == []


def imported_by(*args: str) -> set[str]:
    """The top-level modules that a Python process imports."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", *args], capture_output=True, text=True, check=True
    )
    lines = [line for line in ended.stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 20, ended.stderr
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize("args", HELP.values(), ids=HELP.keys())
def test_help_loads_nothing_heavy(args: tuple[str, ...]) -> None:
    imported = imported_by(*args)
    assert {"caliban", "argparse"} <= imported
    assert imported & HEAVY == set()


def test_what_is_heavy_would_be_noticed() -> None:
    assert imported_by("-c", "import sqlalchemy.orm, tqdm, docker") & HEAVY == {
        "sqlalchemy",
        "tqdm",
        "docker",
    }


def cpu_seconds(python: Path, *args: str) -> float:
    """What a Python process costs, user and system time together."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([python, *args], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_costs_little_more_than_python_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not the Python that runs the tests: where caliban is installed for development, its start
    # alone imports half of what the help needs, and would hide that.
    venv.create(tmp_path / "venv", symlinks=True)
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    commands = {"python": ("-c", "pass"), **HELP}
    cheapest = dict.fromkeys(commands, float("inf"))
    for _ in range(8):
        for name, args in commands.items():
            cost = cpu_seconds(tmp_path / "venv/bin/python", *args)
            cheapest[name] = min(cheapest[name], cost)
    base = cheapest.pop("python")
    ratios = {name: round(cost / base, 1) for name, cost in cheapest.items()}
    assert {name: ratio for name, ratio in ratios.items() if ratio > 6} == {}
