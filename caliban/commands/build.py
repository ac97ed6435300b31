"""Build the image that `caliban run` would use, and print its id.

The image holds the project's declared dependencies, the code and the extra directories. It is built
only if it isn't there yet: the same files give the same image.

With --devcontainer it is the image of `caliban shell`, which holds no code, and the file is written
that makes VS Code open the project in it.

With --explain nothing is built: it is told what has changed since the last image of the same
directory, mode and module, and which layers that rebuilds. With --print_dockerfile nothing is built
either, and no engine is needed. Without a module, both are about the image of `caliban shell`.

  caliban build --nogpu trainer.train
  caliban build --nogpu --explain trainer.train
  caliban build --nogpu --print_dockerfile trainer.train
  caliban build --nogpu --devcontainer
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import flags, terminal
from caliban.errors import EngineError, Problems, UsageError

if TYPE_CHECKING:
    from caliban.commands.image_choice import ImageChoice
    from caliban.docker.engine import Engine
    from caliban.docker.image.explain import Explanation
    from caliban.images import Images
    from caliban.model.image import ImagePlan

# How many changes are listed one by one.
_LISTED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    flags.add_image_arguments(parser)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--devcontainer",
        action="store_true",
        help="Write .devcontainer/devcontainer.json, by which VS Code and other editors open the "
        "project in its image. No module is needed.",
    )
    instead.add_argument(
        "--explain",
        action="store_true",
        help="Only say what has changed since the last image, and which layers that rebuilds.",
    )
    instead.add_argument(
        "--print_dockerfile",
        action="store_true",
        help="Only print the Dockerfile that the image is built from.",
    )
    parser.add_argument(
        "--pull",
        action="store_true",
        help="Look for a newer base image of the same name in its registry.",
    )
    parser.add_argument("--json", action="store_true", help="With --explain: print JSON.")
    flags.add_code_arguments(parser, is_optional=True)


def run(args: argparse.Namespace) -> int:
    """Builds the image and prints its id on stdout, or says what there would be to build."""
    from caliban.commands import image_choice
    from caliban.docker.engine import Engine
    from caliban.history.opening import open_history

    if args.json and not args.explain:
        raise UsageError("--json goes with --explain", "Without it, the image's id is printed.")
    if args.module is None and not (args.devcontainer or args.explain or args.print_dockerfile):
        raise UsageError("no module is named", "caliban build trainer.train, for example.")
    problems = Problems()
    choice = image_choice.choose(args, problems)
    engine = Engine()
    if args.devcontainer:
        problems.attempt(lambda: _check_devcontainer(engine), None)
    problems.check()
    assert choice is not None

    plan = choice.plan
    if args.devcontainer or args.module is None:
        plan = plan.interactive()
    if args.print_dockerfile:
        _print_dockerfile(plan)
        return 0
    images = image_choice.images(args, choice, engine, open_history)
    if args.explain:
        _explain(plan, images, args.json)
        return 0
    _, image = replace(images, pull=args.pull).ensure(plan)
    if args.devcontainer:
        terminal.note(f"Wrote {_write_devcontainer(choice, engine, image)}")
    terminal.result(image)
    return 0


def _print_dockerfile(plan: ImagePlan) -> None:
    """Prints the Dockerfile of a plan, as BuildKit takes it."""
    from caliban.docker.image import dockerfile

    terminal.result(dockerfile.annotated(plan, buildkit=True).rstrip())


def _explain(plan: ImagePlan, images: Images, as_json: bool) -> None:
    """Says what has changed since the last image, and what that rebuilds."""
    from caliban.docker.image import explain, inputs
    from caliban.docker.image.declared import resolution

    known = images.known(plan)
    if images.upgrade:
        known = replace(known, lock="")
    is_resolved = bool(known.lock) or not resolution.needs_resolution(known)
    now = explain.inputs_now(known, images.engine, images.hidden)
    found = explain.explain(inputs.newest(known), now, Path(plan.directory), is_resolved)
    is_there = bool(found.image) and images.engine.image_id(found.image) is not None
    if as_json:
        terminal.result_json({**found.to_json(), "exists": is_there})
        return
    for line in _explanation(found, is_there, plan.module is None):
        terminal.result(line)


def _explanation(found: Explanation, is_there: bool, is_shell: bool) -> Iterator[str]:
    """What has changed, which layers that concerns, and what a build would do."""
    if not found.last:
        yield "There is no earlier image of this project to compare with."
        if is_shell:
            yield "This is about the image of `caliban shell`; for that of `run`, name a module."
    elif not found.changes:
        yield f"Nothing has changed since the last image, {found.last}."
    else:
        yield f"Changed since the last image, {found.last}:"
        rows = [
            (f"  {each.input}", each.what, ", ".join(each.layers) or "(makes no difference)")
            for each in found.changes[:_LISTED]
        ]
        yield from terminal.columns(rows)
        if more := len(found.changes) - _LISTED:
            yield from [f"  ... and {more} more; --json lists them all"] if more > 0 else []
    if is_there:
        yield f"The image {found.image} is there: nothing is to be built."
        return
    if not found.is_resolved:
        yield "The dependencies are resolved anew, and installed if they come in other versions."
    yield "Layers:"
    for title, rebuilt in found.layers:
        yield f"  {terminal.paint('rebuilt', 'yellow') if rebuilt else 'kept   '}  {title}"
    first = next((title for title, rebuilt in found.layers if rebuilt), None)
    if first is None:
        yield "The engine does not have the image any more: it is built again."
    elif found.last:
        yield f"The first layer that must be rebuilt: {first}"


def _check_devcontainer(engine: Engine) -> None:
    """Finds out what stands in the way of a devcontainer.json, before anything is built."""
    from caliban.docker import devcontainer

    devcontainer.check(Path.cwd())
    if not engine.is_local:
        raise UsageError(
            f"the engine at {engine.host} is on another machine, where the project cannot be "
            "mounted: --devcontainer is of no use"
        )


def _write_devcontainer(choice: ImageChoice, engine: Engine, image: str) -> Path:
    """Writes the file by which editors open the project in an image."""
    from caliban.commands import container_choice
    from caliban.docker import devcontainer, identity

    uid, gid = os.getuid(), os.getgid()
    accounts = identity.account_files(uid, gid, flags.user_name())
    for file in accounts:
        file.write()
    try:
        gpus = container_choice.gpus(engine, choice.mode, "build")
    except EngineError:
        gpus = ()  # another machine may build the image that this one can't use
    project = Path(choice.plan.directory)
    text = devcontainer.render(
        engine.image_name(image),
        choice.mode,
        project,
        uid,
        gid,
        Path.home(),
        {file.path: file.target for file in accounts},
        gpus,
    )
    return devcontainer.write(project, text)
