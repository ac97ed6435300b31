"""From an ImagePlan to the text of a Dockerfile."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from caliban.docker.identity import ADC_PATH
from caliban.docker.image import uv
from caliban.docker.image.declared import conda, interpreter, resolution
from caliban.model.image import HOME, WORKING_DIRECTORY, ImagePlan
from caliban.model.lock import Lock

# Label of every image that caliban makes.
LABEL = "caliban"

# Folders of the build context, each of which one COPY takes whole. A Dockerfile that named the
# user's own files would fail for some of their names: the builders read brackets, quotes and
# dollars in them differently, and BuildKit copies nothing, silently, where it finds nothing.
DEPENDENCIES = "dependencies"
CODE = "code"
JUPYTER = "jupyter"
JULIA = "julia"

# Those of them that hold files of caliban's own, from caliban/resources.
OWN_FOLDERS = (JUPYTER, JULIA)

_DEPENDENCIES_FOLDER = "/opt/dependencies"
VENV = "/opt/venv"
# Pythons that the base image does not have.
PYTHON_FOLDER = "/opt/python"
# Where an image has its Jupyter: the files of resources/jupyter, and what they install there.
JUPYTER_FOLDER = "/opt/jupyter"
_JULIA_FOLDER = "/opt/julia"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The attributes of a plan that decide which packages an image has, and whether it needs any.
_DECLARED = ("requirements", "project", "lock_file", "extras", "groups", "pip", "packages", "lock")

# Packages are installed from the lock alone: it decides their layer, whatever it was made of.
LOCK = "lock"
LOCK_FILE = "requirements.lock"

# Makes bytecode, see resources/dependencies.
COMPILER = "compile.py"
_COMPILE = (
    f"{VENV}/bin/python -I -W ignore {_DEPENDENCIES_FOLDER}/{COMPILER} {VENV}/lib "
    f"{uv.FOLDER}/bytecode"
)

# A lock holds for one version of Python, which its first line names; see model.lock.
OTHER_PYTHON = "the lock is for another version of Python"
PYTHON_LINE = """import sys; print("# Python %d.%d" % sys.version_info[:2])"""
_CHECK_LOCK = (
    f"""{{ [ "$({VENV}/bin/python -c '{PYTHON_LINE}')" = "$(head -n 1 {LOCK_FILE})" ] """
    f"|| {{ echo 'error: {OTHER_PYTHON}'; exit 1; }}; }}"
)

_APT_INSTALL = (
    "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes "
    "--no-install-recommends {packages} && apt-get clean && rm -rf /var/lib/apt/lists/*"
)
_INSTALL_PYTHON = _APT_INSTALL.format(packages="python3 python3-venv ca-certificates")


# Where the base image's own Python is a virtual environment, ours would be one beside it, and not
# on top of it: its packages are found by this file.
_SHARE_BASE = (
    "python3 -Ic 'import os, sys, sysconfig; "
    f'ours = "{VENV}/lib/python%d.%d/site-packages" % sys.version_info[:2]; '
    "sys.prefix != sys.base_prefix and os.path.isdir(ours) "
    'and open(ours + "/base-image.pth", "w").write(sysconfig.get_path("purelib"))\''
)


def directory_folder(index: int) -> str:
    """The folder of the build context that holds an extra directory, the first one being 0."""
    return f"directory-{index + 1}"


@dataclass(frozen=True)
class Section:
    """A part of a Dockerfile that serves one purpose.

    Attributes:
      title: what it does, in a few words for people: "Copy the code".
      instructions: those of the Dockerfile. What they copy comes by `COPY FOLDER/ ./`.
      decided_by: the attributes of the ImagePlan that the instructions depend on.
      why: what its reader may wonder about.
    """

    title: str
    instructions: tuple[str, ...]
    decided_by: tuple[str, ...] = ()
    why: str = ""

    @property
    def folders(self) -> list[str]:
        """The folders of the build context that it copies."""
        copies = (each.split() for each in self.instructions if each.startswith("COPY "))
        return [words[1].removesuffix("/") for words in copies]


def render(plan: ImagePlan, buildkit: bool = False) -> str:
    """Writes the Dockerfile of a plan, without comments.

    The order keeps the build cache warm: distribution packages, the Python environment, the
    dependencies, extra directories and, last because it changes most, the code. The text has no
    `# syntax` line, heredoc or COPY --link, which not every builder takes.

    Args:
      plan: what the image holds.
      buildkit: whether the builder knows `RUN --mount`; downloads are then kept between builds.
        The image's content is the same either way.
    """
    parts = sections(plan, buildkit)
    return "".join(f"{each}\n" for part in parts for each in part.instructions)


def annotated(plan: ImagePlan, buildkit: bool = False) -> str:
    """Writes the Dockerfile of a plan for people to read: with comments, in short lines.

    Args:
      plan: what the image holds.
      buildkit: see `render`.
    """
    parts = list(sections(plan, buildkit))
    lines = _comment(_origin(plan, [folder for part in parts for folder in part.folders]))
    for part in parts:
        lines += ["", *_comment(f"{part.title}. {part.why}" if part.why else part.title)]
        lines += [_folded(instruction) for instruction in part.instructions]
    return "\n".join(lines) + "\n"


def _origin(plan: ImagePlan, folders: Sequence[str]) -> str:
    """What a Dockerfile is, and where the folders come from that it copies."""
    known = {
        LOCK: "the versions to install",
        DEPENDENCIES: "the files that declare them",
        **{directory_folder(index): name for index, name in enumerate(plan.directories)},
        CODE: plan.module.copied if plan.module and plan.module.copied != "." else "all of it",
    }
    told = [f"{each}/ is {known[each]}" for each in dict.fromkeys(folders) if each in known]
    text = "Written by caliban"
    if told:
        text += f", which sends the builder what it needs of the project: {', '.join(told)}"
    return f"{text}."


def _comment(text: str) -> list[str]:
    """A comment in lines; names of files may hold anything."""
    import textwrap

    printable = "".join(each if each.isprintable() else " " for each in text)
    return [f"# {line}" for line in textwrap.wrap(printable, 98, break_on_hyphens=False)]


def _folded(instruction: str) -> str:
    """Puts each command of a RUN on a line of its own, further in within braces."""
    if not instruction.startswith("RUN "):
        return instruction
    lines, depth, quote = [""], 1, ""
    for before, word in itertools.pairwise(["", *instruction.split(" ")]):
        if not quote and (word in ("&&", "||") or before.startswith("--mount")):
            lines.append("    " * depth)
        lines[-1] += word if not lines[-1].strip() else f" {word}"
        if not quote:
            depth += (word == "{") - (word in ("}", "};"))
        for letter in word:
            if letter in "'\"" and quote in ("", letter):
                quote = "" if quote else letter
    return " \\\n".join(lines)


def sections(plan: ImagePlan, buildkit: bool = False) -> Iterator[Section]:
    """The parts of a plan's Dockerfile, in their order; see `render`."""
    yield from foundation(plan, buildkit)
    environment = f"ENV HOME={HOME} PYTHONUNBUFFERED=1"
    if _needs_python(plan):
        yield from _dependencies(plan, buildkit)
        environment += f" VIRTUAL_ENV={VENV} PATH={VENV}/bin:${{PATH:-{_PATH}}}"
    # After the dependencies, so that images with and without these share those layers.
    if plan.shell:
        install = _APT_INSTALL.format(packages=shlex.quote(plan.shell))
        command = f"RUN command -v {shlex.quote(plan.shell)} || {{ {install}; }}"
        yield Section(f"Install {plan.shell}", (command,), ("shell",))
    if plan.jupyter:
        yield _jupyter(plan, buildkit)
    yield Section(
        "Set the environment",
        (environment, f"WORKDIR {WORKING_DIRECTORY}"),
        (*_DECLARED, "module", "live"),
        "Only now, so that nothing that was executed wrote root's files into the jobs' home "
        "directory.",
    )
    if plan.live:
        return
    for index, name in enumerate(plan.directories):
        copy = f"COPY {directory_folder(index)}/ ./"
        yield Section(f"Copy {name}", (copy,), ("directories",))
    if plan.module is not None:
        yield Section(
            "Copy the code",
            # In this order, since the code changes more often.
            (f"ENTRYPOINT {json.dumps(plan.module.command)}", f"COPY {CODE}/ ./"),
            ("module",),
        )


def foundation(plan: ImagePlan, buildkit: bool = False) -> Iterator[Section]:
    """The parts before the dependencies: where these are resolved, and then installed."""
    yield Section(
        f"Start from {plan.base_image}",
        # So early, the label marks what a build that fails leaves behind as well. The shell is
        # inherited, too: one that stops at unset variables, for one, would stop here.
        (f"FROM {plan.base_image}", f'LABEL {LABEL}=""', "USER 0", 'SHELL ["/bin/sh", "-c"]'),
        ("base_image", "dockerfile"),
        f"It is made by {plan.dockerfile.path}." if plan.dockerfile else "",
    )
    credentials = PurePosixPath(ADC_PATH).parent
    yield Section(
        "Make the folders that jobs write to",
        (
            f"RUN mkdir -p {WORKING_DIRECTORY} {credentials} "
            f"&& chmod 777 {WORKING_DIRECTORY} && chmod -R 777 {HOME}",
        ),
        why="Jobs run as the user who started them, whose number no image knows beforehand: where "
        "a job may write, everybody may. That includes the folders that the mounted credentials "
        "lie in, which the engine would otherwise make for root alone.",
    )
    if plan.apt_packages:
        packages = " ".join(map(shlex.quote, plan.apt_packages))
        yield Section(
            f"Install {', '.join(plan.apt_packages)}",
            (f"RUN {_APT_INSTALL.format(packages=packages)}",),
            ("apt_packages",),
        )
    if plan.julia:
        yield _julia(plan)
    if plan.conda:
        search = f"${{PATH:-{_PATH}}}"
        steps = tuple(conda.instructions(plan, search))
        yield Section("Make the conda environment", steps, ("base_image", "conda"))
    if _needs_python(plan):
        yield _python(plan, buildkit)


def _julia(plan: ImagePlan) -> Section:
    """Julia, whose packages a job installs into its home directory."""
    see_to_it = f"{{ python3 -Ic 'import ssl' 2>/dev/null || {{ {_INSTALL_PYTHON}; }}; }}"
    install = f"python3 -I {_JULIA_FOLDER}/install_julia.py {shlex.quote(plan.julia)}"
    return Section(
        f"Install Julia {plan.julia}",
        (
            f"COPY {JULIA}/ /opt/",
            f"RUN {see_to_it} && {install}",
        ),
        ("julia",),
        "The script checks the download against the list of Julia's releases.",
    )


def _needs_python(plan: ImagePlan) -> bool:
    is_script = plan.module is not None and not plan.module.is_python
    return plan.live or not is_script or has_dependencies(plan)


def has_dependencies(plan: ImagePlan) -> bool:
    """Whether a plan declares Python packages."""
    return resolution.needs_resolution(plan) or bool(plan.packages)


def _python(plan: ImagePlan, buildkit: bool) -> Section:
    """An environment over the base image's own Python, whose packages stay importable."""
    needed = "ensurepip, venv" if has_dependencies(plan) else "venv"
    see_to_it = f"{{ python3 -Ic 'import {needed}' 2>/dev/null || {{ {_INSTALL_PYTHON}; }}; }}"
    if plan.python:
        make = interpreter.environment(plan.python, PYTHON_FOLDER, VENV)
        step = uv.step([make, _SHARE_BASE], (), buildkit, before=see_to_it)
    else:
        make = f"python3 -I -m venv --without-pip --system-site-packages {VENV}"
        step = f"RUN {see_to_it} && {make} && {_SHARE_BASE}"
    return Section(
        "Make a virtual environment",
        (step,),
        (*_DECLARED, "python", "module", "live"),
        "Its packages come before those of the base image's own Python, which stay importable.",
    )


def _dependencies(plan: ImagePlan, buildkit: bool) -> Iterator[Section]:
    """The packages of the lock, and then those of the project itself, which change more often."""
    copy = [f"COPY {DEPENDENCIES}/ ./"]
    python = ("--python", f"{VENV}/bin/python")
    is_resolved = resolution.needs_resolution(plan)
    if is_resolved:
        # Of several indexes, any may have the file whose hash the lock names.
        found = ("--no-deps", "--index-strategy", "unsafe-best-match", "--requirement", LOCK_FILE)
        install = (_CHECK_LOCK, shlex.join([*uv.INSTALL, *python, *found]), _COMPILE, uv.TIDY)
        number = len(Lock.parse(plan.lock).versions)
        packages = "1 package" if number == 1 else f"{number} packages"
        yield Section(
            f"Install {packages}" if plan.lock else "Install the dependencies",
            (
                f"WORKDIR {_DEPENDENCIES_FOLDER}",
                *(copy if _needs_links(plan) else ()),
                f"COPY {LOCK}/ ./",
                uv.step(install, plan.secrets, buildkit),
            ),
            (*_DECLARED, "secrets"),
            "The lock names each version, with its hashes. uv is lent to the step, and stays out "
            "of the image.",
        )
    if plan.packages:
        commands = (
            # Where the code will be, as that is where editable packages are looked for.
            f"mv {WORKING_DIRECTORY} {WORKING_DIRECTORY}.empty",
            f"cp -a . {WORKING_DIRECTORY}",
            f"cd {WORKING_DIRECTORY}",
            f"export {resolution.VERSIONS}",
            f"{shlex.join([*uv.INSTALL, *python])} {resolution.install_packages(plan)}",
            _COMPILE,
            "cd /",
            f"rm -rf {WORKING_DIRECTORY}",
            f"mv {WORKING_DIRECTORY}.empty {WORKING_DIRECTORY}",
            uv.TIDY,
        )
        yield Section(
            "Install the project's own packages",
            (
                f"WORKDIR {_DEPENDENCIES_FOLDER}",
                *(() if _needs_links(plan) else copy),
                *(() if is_resolved else (f"COPY {LOCK}/ ./",)),
                uv.step(commands, plan.secrets, buildkit),
            ),
            (*_DECLARED, "secrets"),
            "Editable ones are links to the code, which is copied later.",
        )


def copies_declarations(plan: ImagePlan) -> bool:
    """Whether the image is built from the files that declare its dependencies, besides the lock."""
    return bool(plan.packages) or _needs_links(plan)


def _needs_links(plan: ImagePlan) -> bool:
    """Whether the lock is installed from directories of the project as well, by --find-links."""
    lines = plan.lock.splitlines()
    return any(line.startswith("--find-links") and "://" not in line for line in lines)


def _jupyter(plan: ImagePlan, buildkit: bool) -> Section:
    """Jupyter, with packages of its own, so that those of the project stay what they are.

    The server sees none of the project's. The kernel does, see resources/jupyter/install_kernel.py.
    """
    instructions = [f"COPY {JUPYTER}/ /opt/"]
    if not has_dependencies(plan):
        check = f"RUN python3 -c 'import ensurepip' 2>/dev/null || {{ {_INSTALL_PYTHON}; }}"
        instructions.insert(0, check)
    python = f"{JUPYTER_FOLDER}/venv/bin/python"
    install = (*uv.INSTALL, "--compile-bytecode")
    server = [*install, "--python", python]
    server += ["--override", f"{JUPYTER_FOLDER}/overrides.txt", plan.jupyter]
    kernel = [python, f"{JUPYTER_FOLDER}/install_kernel.py", f"{VENV}/bin/python", *install]
    commands = (
        f"{VENV}/bin/python -m venv --without-pip {JUPYTER_FOLDER}/venv",
        shlex.join(server),
        shlex.join(kernel),
        uv.TIDY,
    )
    instructions.append(uv.step(commands, plan.secrets, buildkit))
    return Section(
        "Install Jupyter",
        tuple(instructions),
        ("jupyter", *_DECLARED),
        "It has packages of its own, so that those of the project stay what they are.",
    )
