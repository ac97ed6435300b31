"""Remove images, containers and logs that caliban has made and nobody needs any more.

Everything is listed first, with what it takes, and nothing happens before you have said yes. Only
what caliban has made is ever removed; never what an open job needs, an image that a container or
another image needs, or anything that is recorded of a job. Without --images, --containers and
--logs, all three.

  caliban prune --older_than 7d
  caliban prune --xgroup tuning --logs --yes
  caliban prune --dry_run
"""

from __future__ import annotations

import argparse
import datetime
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import flag_types, flags, home, joblog, process, terminal
from caliban.errors import CalibanError
from caliban.model.job import Job

if TYPE_CHECKING:
    from caliban.docker.debris import Debris
    from caliban.docker.engine import Engine
    from caliban.history.store import HistoryStore

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

_KINDS = ("images", "containers", "logs")

_SHOWN = 40

# A step of a build that is younger may be of one that is under way, somebody else's perhaps.
_BUILDING = datetime.timedelta(minutes=10)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "--xgroup",
        type=flag_types.group_name,
        metavar="NAME",
        help="Only what belongs to the jobs of this experiment group, and to no other one.",
    )
    parser.add_argument(
        "--older_than",
        type=_span,
        metavar="TIME",
        help="Only what has not been used for this long: '7d', '12h', '30m', '2w'.",
    )
    parser.add_argument("--images", action="store_true", help="Remove images, and steps of builds.")
    parser.add_argument("--containers", action="store_true", help="Remove containers.")
    parser.add_argument("--logs", action="store_true", help="Remove what jobs have printed.")
    parser.add_argument(
        "--all_users",
        action="store_true",
        help="Also the images that were built for other users, or for another history of yours. "
        "Their open jobs may need them.",
    )
    parser.add_argument("--dry_run", action="store_true", help="Only list what would be removed.")
    parser.add_argument("-y", "--yes", action="store_true", help="Don't ask.")


@dataclass(frozen=True)
class _Item:
    """Something that can be removed.

    Attributes:
      kind: "container", "image", "step" (what the legacy builder keeps of a build) or "log".
      name: by which people know it.
      used: when it was used last (UTC).
      size: how many bytes become free.
      remove: removes it, or raises a CalibanError.
      known_as: an image's id and names, by which jobs may know it.
    """

    kind: str
    name: str
    used: datetime.datetime
    size: int
    remove: Callable[[], None]
    known_as: Collection[str] = ()


def run(args: argparse.Namespace) -> int:
    """Lists, asks, removes; 0 only if all that was to go is gone."""
    from caliban import launch, settle
    from caliban.commands import job_choice

    now = datetime.datetime.now(datetime.UTC)
    user = flags.user_name()
    kinds = [kind for kind in _KINDS if getattr(args, kind)] or [*_KINDS]
    with launch.open_history() as store:
        if args.xgroup is not None:
            store.group_jobs(user, args.xgroup, 1)  # says so if there is none
        if set(kinds) & {"images", "containers"}:
            # What has ended without anybody's notice is no open job's any more.
            settle.refresh(store, store.open_jobs(user), job_choice.connect)
        age = args.older_than or datetime.timedelta()
        since = now - min(age, now - datetime.datetime.min.replace(tzinfo=datetime.UTC))
        items = [*_found(store, kinds, args.xgroup, since, args.all_users)]
        for line in _listed(items, now):
            terminal.result(line)
        if not items:
            terminal.note("Nothing to remove.")
            return 0
        if args.dry_run:
            terminal.note("Nothing was removed.")
            return 0
        hint = "Pass --yes to remove them without being asked; nothing was removed."
        if not args.yes and not terminal.confirm("Remove all of these?", hint):
            terminal.note("Nothing was removed.")
            return 0
        # An answer may take its time, in which other terminals launch jobs.
        needed = {use.image for use in store.image_uses() if use.is_open}
        return _remove(items, needed)


def _remove(items: Sequence[_Item], needed: Collection[str]) -> int:
    gone: list[_Item] = []
    for item in items:
        try:
            if any(name in needed for name in item.known_as):
                raise CalibanError("a job that was launched meanwhile needs it")
            item.remove()
        except CalibanError as error:
            terminal.warn(f"the {item.kind} {item.name} stays: {error.message}")
        else:
            gone.append(item)
    terminal.note(f"Removed {_total(gone)}.")
    return 0 if len(gone) == len(items) else 1


def _found(
    store: HistoryStore,
    kinds: Sequence[str],
    group: str | None,
    since: datetime.datetime,
    of_all: bool,
) -> Iterator[_Item]:
    """What has not been used since then and can go, in the order in which it has to."""
    if set(kinds) & {"images", "containers"}:
        from caliban.docker import debris
        from caliban.docker.engine import Engine

        engine = Engine()
        there = debris.find(engine)
        if "containers" in kinds:
            found = _containers(engine, there, store, group)
            yield from (item for item in found if item.used <= since)
        if "images" in kinds:
            yield from _images(engine, there, store, group, since, of_all)
    if "logs" in kinds:
        yield from (item for item in _logs(store, group) if item.used <= since)


def _containers(
    engine: Engine, there: Debris, store: HistoryStore, group: str | None
) -> Iterator[_Item]:
    """Those of jobs of yours that have ended, and those that you worked in."""
    from caliban.docker.containers import Containers

    jobs = {job.uid: job for job in store.jobs(sorted(each.uid for each in there.containers))}
    strange = 0
    for each in there.containers:
        job = jobs.get(each.uid)
        if each.uid and (job is None or job.user != flags.user_name()):
            strange += 1
        elif _may_go(job, group) if job else group is None:
            used = (job.outcome.finished if job else None) or each.created

            def remove(name: str = each.name) -> None:
                Containers(engine).remove(name)

            yield _Item("container", each.name, used, each.size, remove)
    if strange and group is None:
        what = "container of a job" if strange == 1 else "containers of jobs"
        terminal.note(f"Not touched: {strange} {what} that your history does not know.")


def _images(
    engine: Engine,
    there: Debris,
    store: HistoryStore,
    group: str | None,
    since: datetime.datetime,
    of_all: bool,
) -> Iterator[_Item]:
    """Those that no open job needs; with a group, those that only its jobs have used.

    What open jobs of another history need, nobody can know: unless `of_all`, its images stay.
    """
    from caliban.docker import debris
    from caliban.docker.image import builder, inputs

    uses: dict[str, set[tuple[str, str]]] = {}
    last: dict[str, datetime.datetime] = {}
    busy: set[str] = set()
    # Jobs elsewhere know an image by its name: in a registry, or here if their cluster is here.
    ids = {name: image.id for image in there.images for name in image.known_as}
    for use in store.image_uses():
        used_image = ids.get(use.image, use.image)
        uses.setdefault(used_image, set()).add((use.user, use.group))
        last[used_image] = max(use.last, last.get(used_image, use.last))
        if use.is_open:
            busy.add(used_image)
    user = flags.user_name()
    mine = {(user, group)}
    going: set[str] = set()
    strange = 0
    # What a build goes on from looks like what a build has left behind.
    latest = datetime.datetime.now(datetime.UTC) - _BUILDING
    is_building = builder.is_under_way()
    for image in there.images:
        if image.is_for_builds and not image.children and (is_building or image.created > latest):
            continue
        used = max(image.created, last.get(image.id, image.created))
        is_wanted = used <= since and (group is None or uses.get(image.id) == mine)
        # A step of a build goes with the last image that was built on it.
        is_wanted |= group is not None and image.id not in uses and bool(image.children)
        if not is_wanted or image.id in busy or not image.children <= going:
            continue
        is_mine = image.history == home.history_mark() or any(
            owner == user for owner, _ in uses.get(image.id, ())
        )
        if image.is_named and not is_mine and not of_all:
            strange += 1
            continue
        going.add(image.id)

        def remove(image: debris.Image = image) -> None:
            debris.remove_image(engine, image)
            inputs.forget(image.name)

        kind = "image" if image.is_named else "step"
        yield _Item(kind, image.name, used, image.size, remove, image.known_as)
    if strange and group is None:
        what = "image that was" if strange == 1 else "images that were"
        terminal.note(f"Not touched: {strange} {what} built by others (--all_users).")


def _logs(store: HistoryStore, group: str | None) -> Iterator[_Item]:
    """Those of jobs that have ended, and what a killed caliban has left half compressed."""
    folder = home.path(joblog.FOLDER)
    files: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        files.setdefault(file.name.partition(".")[0], []).append(file)
    for job in store.jobs(sorted(files)):
        if _may_go(job, group):
            sizes = map(_bytes, files[job.uid])

            def remove(found: Iterable[Path] = tuple(files[job.uid])) -> None:
                for file in found:
                    _unlink(file)

            used = job.outcome.finished or job.created
            yield _Item("log", f"of job {job.id}", used, sum(sizes), remove)


def _may_go(job: Job, group: str | None) -> bool:
    """Whether a job has ended, its caliban is through with it, and it is of the wanted group."""
    is_done = job.outcome.status.is_final
    # The caliban of a job that has just ended may still keep its output.
    just_now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=10)
    is_kept = (job.outcome.finished or job.created) < just_now
    is_left = is_kept or process.is_alive(job.owner) is not True
    return is_done and is_left and group in (None, job.group)


def _bytes(file: Path) -> int:
    """The size of a file; 0 for one that has gone since it was listed, by being compressed."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _unlink(file: Path) -> None:
    try:
        file.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise CalibanError(f"{file}: {error.strerror}") from None


def _listed(items: Sequence[_Item], now: datetime.datetime) -> Iterator[str]:
    """What can go: the largest of each kind one by one, and the total."""
    for kind in ("container", "image", "log"):  # steps of builds mean nothing to anybody
        of_kind = sorted((item for item in items if item.kind == kind), key=lambda item: -item.size)
        shown = of_kind[:_SHOWN]
        longest = max((len(terminal.amount(item.size)) for item in shown), default=0)
        cells = []
        for item in shown:
            size = terminal.amount(item.size).rjust(longest)
            cells.append((kind, item.name, size, f"used {_age(now - item.used)} ago"))
        yield from terminal.columns(cells)
        if rest := of_kind[_SHOWN:]:
            yield f"{kind}  ... and {len(rest)} more, {_size(rest)}"
    if items:
        yield f"total: {_total(items)}"


def _total(items: Sequence[_Item]) -> str:
    numbers = []
    for kind in ("container", "image", "step", "log"):
        if number := sum(item.kind == kind for item in items):
            what = kind if number == 1 else f"{kind}s"
            numbers.append(f"{number} {what} of builds" if kind == "step" else f"{number} {what}")
    # What images share becomes free with the last of them; an engine does not say how much it is.
    least = "at least " if any(item.kind in ("image", "step") for item in items) else ""
    return f"{', '.join(numbers) or 'nothing'}, {least}{_size(items)}"


def _size(items: Iterable[_Item]) -> str:
    return terminal.amount(sum(item.size for item in items))


def _age(span: datetime.timedelta) -> str:
    seconds = max(span.total_seconds(), 0)
    for unit, length in reversed(_UNITS.items()):
        if unit != "w" and seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "less than 1 m"


def _span(text: str) -> datetime.timedelta:
    """An argparse type: a number and a unit."""
    match = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected a time like 7d, 12h, 30m or 2w, found '{text}'")
    return datetime.timedelta(seconds=int(match[1]) * _UNITS[match[2]])
