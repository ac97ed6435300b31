"""How that which a plan declares becomes a lock, and how local packages are installed: commands.

The resolver runs `script` with sh in a container of the base image, in a copy of the project's
declaring files (the folder DEPENDENCIES of the build context) that lies at the image's working
directory, with uv on the PATH. `lock` makes a lock of what that prints on stdout: a requirements
file with hashes. Options may stand first in it: --index-url, --extra-index-url, --find-links,
--no-binary, --only-binary. With several indexes, each version is pinned with its hash already, so
that it may come from any of them: uv's --index-strategy unsafe-best-match.

Packages that lie in the project are not in the lock: `install_packages` installs those, after it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from caliban.docker.image.declared.requirements import NAME, package
from caliban.model.image import ImagePlan

# The tools that made a lock also read it. uv runs them, in environments of their own.
_POETRY = (
    "uv tool run --quiet --from poetry==2.5.1 --with poetry-plugin-export==1.10.1 poetry "
    "--no-interaction"
)
_PIPENV = "uv tool run --quiet --from pipenv==2026.10.3 pipenv"

# The indexes that a uv.lock names, which uv leaves out where it exports one.
_UV_INDEXES = (
    r"""sed -n 's/^source = { registry = "\(http[^"]*\)" }.*/\1/p' uv.lock | sort -u """
    "| sed '1s/^/--index-url /; 1!s/^/--extra-index-url /'"
)

# A project whose version is a tag of git has this one: its history is not there when it is built.
VERSIONS = " ".join(
    f"{name}=0"
    for name in (
        "SETUPTOOLS_SCM_PRETEND_VERSION",
        "PBR_VERSION",
        "PDM_BUILD_SCM_VERSION",
        "POETRY_DYNAMIC_VERSIONING_BYPASS",
        "UV_DYNAMIC_VERSIONING_BYPASS",
    )
)


# The end of a line that goes on, as long as lines are looked at one by one.
_CONTINUED = "\\\0"

# What no lock holds, as it is recorded: whoever may install from there is asked again then. What
# names a variable, me:${PASSWORD}@, is no secret, and the steps that install need it.
_CREDENTIALS = r"(https?://)(?![^/\s@]*\$\{)[^/\s@]+@"


def needs_resolution(plan: ImagePlan) -> bool:
    """Whether there is anything to resolve: Python packages, declared by whatever file."""
    return bool(plan.requirements or plan.project or plan.groups or plan.pip)


def script(plan: ImagePlan, python: str, before: str = "") -> str:
    """The shell commands that resolve what a plan declares.

    They exit with another code than 0, and say why on stderr, where the declaration can't be
    resolved, or the project's own lock does not match it.

    Args:
      plan: what is declared; its `lock` makes no difference.
      python: the interpreter that the packages are for.
      before: a file with a lock whose versions stay what they are as far as they still will do,
        which is written to; "" for none.
    """
    commands = {"uv.lock": _uv_lock, "poetry.lock": _poetry_lock, "Pipfile.lock": _pipfile_lock}
    if plan.lock_file in commands:
        return f"export {VERSIONS} && {commands[plan.lock_file](plan, python)}"
    return f"export {VERSIONS} && {_compile(plan, python, before)}"


def lock(printed: str, hashes: Mapping[str, Sequence[str]] = MappingProxyType({})) -> str:
    """The lock, from what `script` has printed.

    It has no comments, no packages that lie in the project, and no credentials of indexes.

    Args:
      printed: by `script`.
      hashes: those that the project gives for packages, by their normalised names. uv prints the
        hashes that an index has: if these count, nobody notices that a file is another one.
    """
    lines = printed.replace("\\\n", _CONTINUED).splitlines()
    kept = (line for line in lines if line.strip() and line.lstrip()[0] != "#")
    locked = (_with_hashes(line, hashes) for line in kept if not package(line))
    text = "".join(f"{line}\n" for line in locked).replace("\0", "\n")
    return re.sub(_CREDENTIALS, r"\1", text)


def _with_hashes(line: str, hashes: Mapping[str, Sequence[str]]) -> str:
    """A line of a lock, with the hashes that are given for its package, if any are."""
    from packaging.utils import canonicalize_name

    named = NAME.match(line)
    given = hashes.get(canonicalize_name(named[0]), ()) if named else ()
    if not given:
        return line
    head = line.partition(_CONTINUED)[0].rstrip()
    return f" {_CONTINUED}".join([head, *(f"    --hash={each}" for each in given)])


def install_packages(plan: ImagePlan) -> str:
    """What follows `uv pip install`, to install the packages that lie in the project.

    To be run where the resolver runs: in a copy of the declaring files that lies at the image's
    working directory, as that is where editable packages are found from then on.
    """
    return shlex.join(["--no-deps", *_words(plan.packages)])


def _words(packages: tuple[str, ...]) -> Iterator[str]:
    for line in packages:
        if line.startswith("-e "):
            yield "--editable"
        yield line.removeprefix("-e ")


def _compile(plan: ImagePlan, python: str, before: str) -> str:
    """What uv resolves itself, as no other tool has locked it."""
    command = ["uv", "pip", "compile", "--generate-hashes", "--no-header"]
    command += ["--no-annotate", "--python", python]
    command += ["--emit-index-url", "--emit-find-links", "--emit-build-options"]
    command += ["--output-file", before] if before else []
    lines, prepare = list(plan.pip), ""
    if plan.project == "pyproject.toml":
        command += ["pyproject.toml", *(f"--extra={extra}" for extra in plan.extras)]
    elif plan.project:
        # Not as a file: for that, extras that it does not declare would be an error.
        lines.append(f"-e .[{','.join(plan.extras)}]" if plan.extras else "-e .")
    command += [f"--group={group}" for group in plan.groups]
    command += plan.requirements[:1]
    if plan.requirements:
        # pip takes an option and its value in one word, -rmore.txt or -e., and uv doesn't.
        space = ["sed", "-i", r"s/^\( *-[cefir]\)\([^ =-]\)/\1 \2/", *plan.requirements]
        prepare = f"{shlex.join(space)} && "
    if not lines:
        return f"{prepare}{shlex.join(command)}"
    return f"{prepare}printf '%s\\n' {shlex.join(lines)} | {shlex.join([*command, '-'])}"


def _uv_lock(plan: ImagePlan, python: str) -> str:
    command = ["uv", "export", "--quiet", "--locked", "--no-header", "--no-annotate"]
    command += ["--no-emit-local", "--no-default-groups", "--python", python]
    command += [f"--extra={extra}" for extra in plan.extras]
    command += [f"--group={group}" for group in plan.groups]
    return f"{_UV_INDEXES} && {shlex.join(command)}"


def _poetry_lock(plan: ImagePlan, _: str) -> str:
    options = [f"--extras={extra}" for extra in plan.extras]
    options += [f"--with={group}" for group in plan.groups]
    make = f"{{ [ -f poetry.lock ] || {_POETRY} lock >&2; }}"
    return f"{make} && {_POETRY} export {shlex.join(options)}".rstrip()


def _pipfile_lock(plan: ImagePlan, _: str) -> str:
    categories = ["default", *("develop" if each == "dev" else each for each in plan.groups)]
    check = f"{{ if [ -f Pipfile.lock ]; then {_PIPENV} verify; else {_PIPENV} lock; fi; }} >&2"
    return f"{check} && {_PIPENV} requirements --hash --categories={','.join(categories)}"
