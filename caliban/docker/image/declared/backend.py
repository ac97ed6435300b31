"""The files that a build backend needs to say what a package is: its name, dependencies, commands.

That is far less than the package. setup.py, pyproject.toml and setup.cfg are there, and what they
name: a file or folder is taken if every part of its path is a word of theirs. So are a README that
setup.py opens, `os.path.join("src", "digits", "version.py")`, `attr: digits.version.VERSION`, and
the folders of `packages=["digits", "digits.data"]`. Of packages there are the folders with an
`__init__.py`, empty unless it is read: enough to install them where their code will be. That may be
edited as often as one likes without anything being installed again.
"""

from __future__ import annotations

import ast
import fnmatch
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from caliban.docker.image.declared import pyproject, requirements, setup_cfg
from caliban.errors import UsageError

DECLARING = ("pyproject.toml", "setup.py", "setup.cfg")

# What backends look for by themselves.
_ALWAYS = ("README", "README.md", "README.rst", "LICENSE", "MANIFEST.in", "VERSION")

# Nobody keeps a version or a list of requirements in files that are larger; data they may be.
_LARGEST = 1 << 20

# What setup.py reads by patterns and computed names; of other kinds, those are in packages.
_READ = (".txt", ".in", ".md", ".rst")

_PART = r"[\w.*+@ -]+"
_DEEPEST = 6


def files(project: Path, root: str) -> Iterator[str]:
    """Lists the files and folders that tell what a package is.

    Args:
      project: the directory of the project.
      root: that of the package, relative to it; "." for the project itself.

    Yields:
      Their paths, relative to the project.

    Raises:
      UsageError: one of those that declare it can't be read.
    """
    top = project / root
    words, imported = _words(top)
    names = [*DECLARING, *_ALWAYS, *_named(top, "", words, _DEEPEST)]
    names += packages(top)
    if _is_read(top):
        names += [f"{package}/__init__.py" for package in packages(top)]
    for module in imported:
        names += [path.relative_to(top).as_posix() for path in _sources(top / module)]
    for name in dict.fromkeys(names):
        if (top / name).exists():
            yield os.path.normpath(PurePosixPath(root, name))


def placeholders(project: Path, root: str) -> list[str]:
    """Lists the files of a package that have to be there, and of which nothing is read.

    Those are its `__init__.py`, and what `missing` says.

    Args:
      project: the directory of the project.
      root: that of the package, relative to it.

    Raises:
      UsageError: see `files`.
    """
    found = [os.path.normpath(f"{root}/{each}/__init__.py") for each in packages(project / root)]
    read = {*files(project, root)}
    found = [each for each in found if each not in read and (project / each).is_file()]
    return found + missing(project, root)


def missing(project: Path, root: str) -> list[str]:
    """What a package lacks for uv to take it for one: a pyproject.toml beside a mere setup.cfg.

    Args:
      project: the directory of the project.
      root: that of the package, relative to it.
    """
    declaring = [name for name in DECLARING if (project / root / name).is_file()]
    return [os.path.normpath(f"{root}/{pyproject.NAME}")] if declaring == [setup_cfg.NAME] else []


def _is_read(top: Path) -> bool:
    """Whether the backend reads a version and a description in the package itself: flit does."""
    return str(_build_system(top).get("build-backend", "")).startswith("flit")


def _build_system(top: Path) -> Mapping[str, Any]:
    return pyproject.table(top / pyproject.NAME, pyproject.read(top).content, "build-system")


def python_requires(top: Path) -> str:
    """The versions of Python that setup.py or setup.cfg say the package is for; "" for any.

    Of setup.py it is found where it is written down as a string.

    Raises:
      UsageError: one of the two can't be read.
    """
    if (top / "setup.py").is_file():
        tree = _tree(_read(top / "setup.py"))
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.keyword) and node.arg == "python_requires":
                value = node.value.value if isinstance(node.value, ast.Constant) else None
                return value if isinstance(value, str) else ""
    return setup_cfg.python_requires(top)


def packages(top: Path) -> list[str]:
    """The folders of the Python packages that are installed with a package, relative to it.

    In a folder named src these are all, elsewhere those at the top that have an `__init__.py`.

    Raises:
      UsageError: one of the files that declare the package can't be read.
    """
    if is_src_layout(top):
        return sorted({each.parent.relative_to(top).as_posix() for each in _code(top / "src")})
    found = [each.name for each in _folders(top) if (each / "__init__.py").is_file()]
    # setuptools refuses to choose among several. Without them, it installs what else there is.
    return [] if len(found) > 1 and _is_left_to_setuptools(top) else sorted(found)


def is_src_layout(top: Path) -> bool:
    """Whether the code lies in a folder src, where nothing finds it before it is installed."""
    return not (top / "src/__init__.py").exists() and any(_code(top / "src"))


def _is_left_to_setuptools(top: Path) -> bool:
    """Whether setuptools has to find out by itself which packages there are."""
    if not str(_build_system(top).get("build-backend", "setuptools")).startswith("setuptools"):
        return False
    texts = [_read(top / name) for name in DECLARING if (top / name).is_file()]
    return not any(b"packages" in each or b"py_modules" in each for each in texts)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None


def _code(folder: Path) -> Iterator[Path]:
    """The Python files in the packages of a folder."""
    return (
        each
        for each in folder.glob("*/**/*.py")
        if all(part.isidentifier() for part in each.relative_to(folder).parts[:-1])
        and "__pycache__" not in each.parts
    )


def _folders(place: Path) -> list[Path]:
    try:
        found = [each for each in place.iterdir() if each.is_dir() and each.name.isidentifier()]
    except OSError:
        return []
    return [each for each in found if _may_be_read(each)]


def _may_be_read(folder: Path) -> bool:
    """Whether it can be looked into: if not, and the code needs it, that is told at its copy."""
    return os.access(folder, os.R_OK | os.X_OK)


def _sources(module: Path) -> Iterable[Path]:
    """The Python files of a module that setup.py imports."""
    file = module.with_suffix(".py")
    return [file] if file.is_file() else sorted(module.rglob("*.py"))


def _named(top: Path, place: str, words: set[str], depth: int) -> Iterator[str]:
    """The files and folders of which each part of the path is among the words."""
    if not _may_be_read(top / place):
        return
    for entry in sorted((top / place).iterdir()):
        path = str(PurePosixPath(place, entry.name))
        if entry.name in words and entry.is_dir():
            yield path
            if depth:
                yield from _named(top, path, words, depth - 1)
        elif (entry.name in words or _is_made_of(entry, words)) and _is_small(entry):
            yield path


def _is_made_of(entry: Path, words: set[str]) -> bool:
    """Whether a name is computed from the words: by a pattern, or as f"{name}.txt"."""
    if entry.suffix not in _READ:
        return False
    if entry.suffix in words and any(entry.name.startswith(word) for word in words):
        return True
    return any("*" in word and fnmatch.fnmatch(entry.name, word) for word in words)


def _is_small(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size <= _LARGEST
    except OSError:
        return False


def _words(top: Path) -> tuple[set[str], list[str]]:
    """The words of the files that declare a package, and the modules that its setup.py imports."""
    texts: list[str] = []
    imported: list[str] = []
    if (top / "setup.py").is_file():
        code = _read(top / "setup.py")
        tree = _tree(code)
        if tree is None:
            texts += re.findall(r"""["']([^"'\n]*)["']""", code.decode(errors="replace"))
        else:
            texts += _strings(tree)
            imported = list(_imports(tree))
    if (top / "setup.cfg").is_file():
        texts += re.split(r"[\s,=:]+", requirements.text(top / "setup.cfg"))
    texts += _values(pyproject.read(top).content)
    words: set[str] = set()
    for each in texts:
        words.update(_parts(each, top))
    return words, [each for each in imported if _is_local(top, each)]


def _parts(text: str, top: Path) -> Iterator[str]:
    """What a string may mean as a path, or as the dotted name of a module or an attribute."""
    if len(text) > 200 or "\n" in text:
        return
    for part in text.split("/"):
        if re.fullmatch(_PART, part) and part.strip("*. "):
            yield part
    parts = text.split(".")
    if all(part.isidentifier() for part in parts):
        yield from parts
        if len(parts) > 1 and any((place / parts[0]).is_dir() for place in (top, *_folders(top))):
            yield from ("__init__.py", *(f"{part}.py" for part in parts[:-1]))


def _tree(code: bytes) -> ast.AST | None:
    """The syntax tree of a setup.py; None if it is written for another Python than this one."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(code)
    except (SyntaxError, ValueError):
        return None


def _strings(tree: ast.AST) -> list[str]:
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _is_local(top: Path, module: str) -> bool:
    return (top / f"{module}.py").is_file() or (top / module / "__init__.py").is_file()


def _values(value: Any) -> Iterator[str]:
    """The strings in a TOML file, the keys of its tables among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from _values(each)
    elif isinstance(value, list):
        for each in value:
            yield from _values(each)
