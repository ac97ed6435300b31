"""Show what exactly a job ran: its code, image, versions, flags and machine, and what became of it.

caliban show 12
caliban show --diff 12 | git apply
caliban show --lock 12
caliban show --json 12
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from caliban import flag_types, flags, joblog, terminal
from caliban.model import shell_words
from caliban.model.job import Job
from caliban.model.lock import Lock
from caliban.terminal import one_line

if TYPE_CHECKING:
    import datetime

    from caliban.model.provenance import Machine, Provenance, Repository, Source

# How many packages and changed files are named.
_PACKAGES = 12
_CHANGED = 10

# What git's letters mean; others are told by themselves.
_HOW = {"??": "new", ".M": "changed", "M.": "changed", "MM": "changed", ".D": "gone", "D.": "gone"}

_COLOUR = {"SUCCEEDED": "green", "FAILED": "red", "STOPPED": "yellow", "RUNNING": "cyan"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "job",
        type=flag_types.job_number,
        metavar="JOB",
        help="Number of a job, as `caliban status` shows it.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--diff",
        action="store_true",
        help="Print what had been changed since the commit, as `git apply` takes it, and nothing "
        "else.",
    )
    what.add_argument(
        "--lock",
        action="store_true",
        help="Print the versions of the image's Python packages, as a requirements file with "
        "hashes, and nothing else.",
    )
    what.add_argument("--json", action="store_true", help="Print JSON, for programs.")


def run(args: argparse.Namespace) -> int:
    """Brings the job up to date and shows it; 1 if the one thing that is asked for is missing."""
    from caliban import launch
    from caliban.commands import jobs_now

    user = flags.user_name()
    with launch.open_history() as store:
        (job,) = jobs_now.by_number(store, user, [args.job])
        provenance = store.provenances.of_job(job.uid)
    if args.diff:
        return _print(job, _diff_of(provenance), "no diff is recorded")
    if args.lock:
        return _print(job, _lock_of(job, provenance), "no lock is recorded")
    if args.json:
        terminal.result_json(as_json(job, provenance))
        return 0
    for line in lines(job, provenance):
        terminal.result(line)
    return 0


def _print(job: Job, text: str, otherwise: str) -> int:
    if not text:
        terminal.note(f"job {job.id}: {otherwise}")
        return 1
    terminal.result_bytes(text.encode(errors="surrogateescape"))
    return 0


def _diff_of(provenance: Provenance | None) -> str:
    source = provenance.source if provenance else None
    return source.repository.diff if source and source.repository else ""


def _lock_of(job: Job, provenance: Provenance | None) -> str:
    plan = provenance.plan if provenance else job.container_spec
    return str(plan.get("lock") or "")


def as_json(job: Job, provenance: Provenance | None) -> dict[str, Any]:
    """A job and what it is made of as JSON; "provenance" is null if that was not recorded."""
    from caliban.commands import job_lines

    return {
        **job_lines.as_json(job),
        "target": job.submission.target,
        "handle": job.handle and job.handle.id,
        "provenance": provenance and provenance.to_json(),
    }


def lines(job: Job, provenance: Provenance | None) -> Iterator[str]:
    """What is printed of a job."""
    yield from _head(job)
    if job.report.metrics:
        yield from _section("metrics", [(k, _value(v)) for k, v in job.report.metrics.items()])
    if provenance is None:
        yield from _section("image", [("id", job.image)])
        yield ""
        yield "What exactly it ran is not recorded: its caliban did not do that yet."
        return
    yield from _section("code", _code(job, provenance))
    yield from _section("image", _image(provenance))
    yield from _section("launched", _launched(job, provenance))
    yield from _section("machine", _machine(job, provenance.machine))


def _section(title: str, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """A title, and names with their values below it, aligned; nothing for no values."""
    shown = [(name, value) for name, value in rows if value]
    if not shown:
        return
    yield ""
    yield terminal.paint(title, "bold")
    width = max(max(len(name) for name, _ in shown), 10)
    for name, value in shown:
        # Whatever is recorded: it may have been taken over from somebody else's file.
        first, *more = map(one_line, value.split("\n"))
        yield f"  {terminal.paint(one_line(name).ljust(width), 'dim')}  {first}"
        yield from (f"  {'':{width}}  {line}" for line in more)


def _head(job: Job) -> Iterator[str]:
    from caliban.commands import job_lines

    outcome = job.outcome
    status = terminal.paint(outcome.status.value, _COLOUR.get(outcome.status.value, "dim"))
    told = outcome.describe().removeprefix(outcome.status.value)
    group = f" of {terminal.paint(one_line(job.group), 'bold')}" if job.group else ""
    yield f"job {job.id}{group}: {status}{told}"
    rows = [
        ("command", one_line(job_lines.command(job))),
        ("cause", one_line(job.report.cause)),
        ("recorded", _moment(job.created)),
        ("started", _moment(outcome.started)),
        ("finished", _moment(outcome.finished)),
        (
            "platform",
            one_line(" ".join(filter(None, (job.submission.platform, job.submission.target)))),
        ),
        ("name", one_line(job.handle.id) if job.handle else ""),
        ("log", str(found) if (found := joblog.find(job.uid)) else ""),
        ("files", one_line(job.submission.output) if outcome.started else ""),
    ]
    shown = [row for row in rows if row[1]]
    for name, value in shown:
        yield f"  {terminal.paint(name.ljust(10), 'dim')}  {value}"


def _moment(when: datetime.datetime | None) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z") if when else ""


def _value(value: object) -> str:
    return one_line(f"{value:.6g}" if isinstance(value, float) else str(value))


def _code(job: Job, provenance: Provenance) -> list[tuple[str, str]]:
    plan, source = provenance.plan, provenance.source
    live = job.details.get("code")
    rows = [
        ("project", one_line(str(plan.get("directory", "")))),
        ("live code", f"{live}" if isinstance(live, str) else ""),
    ]
    if source is None:
        return [*rows, ("source", "not known: the image was not made from the project at launch")]
    files = f"{source.digest} ({_counted(len(source.files), 'file')})" if source.digest else ""
    return [*rows, ("content", files), *_repository(job, source), ("note", one_line(source.note))]


def _repository(job: Job, source: Source) -> list[tuple[str, str]]:
    git = source.repository
    if git is None:
        return []
    commit = git.commit or "none yet"
    where = f" on {one_line(git.branch)}" if git.branch else ""
    rows = [("commit", f"{commit}{where}"), ("origin", git.remote), ("changes", _changes(job, git))]
    inner = [f"{commit[:12]} {one_line(path)}" for path, commit in git.submodules.items()]
    return [*rows, ("submodules", "\n".join(inner)), ("git", one_line(git.note))]


def _changes(job: Job, git: Repository) -> str:
    """Which files are not as they were committed, a line each."""
    if not git.changed:
        return "none since the commit" if git.commit and not git.note else ""
    named = [
        f"{_HOW.get(how, how.strip('.'))} {one_line(name)}" for name, how in git.changed.items()
    ]
    if len(named) > _CHANGED:
        named[_CHANGED:] = [f"and {len(named) - _CHANGED} more"]
    if git.diff:
        named.append(f"(caliban show --diff {job.id} prints the diff)")
    return "\n".join(named)


def _image(provenance: Provenance) -> list[tuple[str, str]]:
    image, plan = provenance.image, provenance.plan
    extra = [("extras", "extras"), ("apt", "apt_packages"), ("julia", "julia"), ("conda", "conda")]
    return [
        ("name", one_line(image.name)),
        ("id", image.id),
        ("digest", one_line(image.digest)),
        ("mode", str(plan.get("mode", ""))),
        (
            "base",
            " ".join(filter(None, (one_line(image.base), image.base_digest or image.base_id))),
        ),
        *((name, _listed(plan.get(key))) for name, key in extra),
        ("packages", _packages(plan)),
    ]


def _listed(value: Any) -> str:
    return one_line(", ".join(map(str, value)) if isinstance(value, list | tuple) else value or "")


def _packages(plan: Mapping[str, Any]) -> str:
    text = plan.get("lock")
    if not isinstance(text, str) or not text:
        return ""
    lock = Lock.parse(text)
    some = [f"{name} {version}" for name, version in lock.versions.items()]
    more = len(some) - _PACKAGES
    some[_PACKAGES:] = [f"and {more} more"] if more > 0 else []
    return one_line(f"Python {lock.python}, {', '.join(some)}")


def _launched(job: Job, provenance: Provenance) -> list[tuple[str, str]]:
    return [
        ("by", f"{one_line(job.user)} with caliban {provenance.version}"),
        ("command", shell_words.join(provenance.command_line(job.experiment.args))),
        ("variables", one_line(", ".join(provenance.variables))),
        ("secrets", one_line(", ".join(provenance.secrets))),
    ]


def _machine(job: Job, machine: Machine) -> list[tuple[str, str]]:
    if machine.requested:
        requested = [(one_line(name), one_line(each)) for name, each in machine.requested.items()]
        return [*requested, ("node", one_line(str(job.details.get("node", ""))))]
    found = asdict(machine)
    gigabytes = f"{machine.memory / 2**30:.1f} GiB" if machine.memory else ""
    gpus = ", ".join(machine.gpus)
    return [
        ("host", one_line(machine.host)),
        ("system", one_line(", Linux ".join(filter(None, (found["system"], found["kernel"]))))),
        ("cpu", f"{machine.cpus} x {one_line(machine.cpu)}" if machine.cpu else ""),
        ("memory", gigabytes),
        ("gpu", one_line(f"{gpus} (driver {machine.driver})") if gpus else ""),
        ("engine", f"Docker {one_line(machine.engine)}" if machine.engine else ""),
    ]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
