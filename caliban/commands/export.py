"""Put an experiment group into one file, with all that anybody needs to run it again.

The file holds the code, the versions of all packages, the Dockerfile, the experiment file, what
became of each job, and what exactly ran; with --with_image, the image as well. The same group gives
the same bytes, and each of its parts has a digest. What looks like a key is refused.

  caliban export tuning -o tuning.tar
  caliban export tuning --with_image -o tuning.tar
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from caliban import flag_types, flags, home, steps, terminal
from caliban.errors import UsageError

if TYPE_CHECKING:
    from caliban.bundle.contents import Contents
    from caliban.docker.engine import Engine


# How hard images are compressed, of 9: much of one is compressed already.
_LEVEL = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "group",
        type=flag_types.group_name,
        metavar="GROUP",
        help="Name of the experiment group.",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="File to write; what is there is replaced.",
    )
    parser.add_argument(
        "--with_image",
        action="store_true",
        help="Put the image in as well, so that it need not be built again.",
    )
    parser.add_argument(
        "--allow_key",
        action="append",
        default=[],
        metavar="NAME",
        help="Let something into the file that looks like a key: a path of the code, a part, or a "
        "pattern with *. May be given several times.",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the file, and prints its digest."""
    from caliban import launch
    from caliban.bundle import archive, contents
    from caliban.bundle.spool import Spool
    from caliban.commands import jobs_now
    from caliban.docker.engine import Engine

    user = flags.user_name()
    with launch.open_history() as store:
        jobs = jobs_now.of_group(store, user, args.group)
        numbers = {job.uid: job.id for job in jobs}
        known = store.provenances.of_jobs(list(numbers)).values()
        launches = [(each, [numbers[uid] for uid in uids]) for each, uids in known]
    engine = Engine()
    path = home.expand(args.output)
    with steps.patience(f"Put {args.group} together") as tick, Spool(tick) as spool:
        found = contents.gather(args.group, jobs, launches, engine, spool, args.allow_key)
        if args.with_image:
            _add_images(found, engine)
        digest = archive.write(path, found.manifest, found.parts)
    size = f", {terminal.amount(path.stat().st_size)}" if path.is_file() else ""
    terminal.note(f"Written: {path}, {launch.count_of_jobs(len(jobs))}{size}")
    terminal.result(digest)
    return 0


def _add_images(found: Contents, engine: Engine) -> None:
    """Adds the images of all launches, as `docker load` takes them.

    Raises:
      UsageError: the engine has not got one any more.
    """
    ids = sorted({launch["image"]["id"] for launch in found.manifest["launches"]})
    found.manifest["images"] = {}
    for number, image in enumerate(ids):
        if not image or engine.image_id(image) is None:
            raise UsageError(f"the image {image} is not in the engine at {engine.host} any more")
        with engine.errors(f"saving the image {image}"):
            pieces = engine.client.get_image(image)
            name = found.add_packed(f"images/{number}.tar.gz", pieces, _LEVEL)
        found.manifest["images"][image] = name
