"""Jobs as lines for people, and as JSON for programs."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from caliban import joblog, process, terminal
from caliban.model import experiment_text
from caliban.model.job import Job, Status, duration
from caliban.model.report import Metric
from caliban.model.selection import Cause, Outline, Tally, why
from caliban.remote.backends import is_remote, resume_command
from caliban.terminal import one_line

_COLOUR = {
    Status.SUCCEEDED: "green",
    Status.FAILED: "red",
    Status.STOPPED: "yellow",
    Status.RUNNING: "cyan",
}

# How many metrics a job's line has, and how much of one that is a text.
_METRICS = 4
_LONGEST_METRIC = 24

# How many jobs the line of a cause names.
_NAMED = 5


def render(
    jobs: Iterable[Job],
    heading: str = "",
    causes: Mapping[int, int] | None = None,
    first: str = "",
    now: datetime.datetime | None = None,
) -> Iterator[str]:
    """Lays out jobs by experiment group, image and experiment, in the order they come in.

    Args:
      jobs: read as they are needed.
      heading: a line above them; "" for none.
      causes: the number of the cause of failure, by number of the job.
      first: name of the metric that is shown before the others.
      now: the time, for which running jobs say how long they have been; None to leave that out.
    """
    if heading:
        yield f"{heading}\n"
    is_first = True
    for group, of_group in groupby(jobs, lambda job: job.group):
        if not is_first:
            yield ""
        is_first = False
        yield f"xgroup {terminal.paint(group, 'bold')}:"
        for _, of_spec in groupby(of_group, lambda job: job.container_spec_id):
            is_new = True
            for experiment, repeats in groupby(of_spec, lambda job: job.experiment_id):
                for number, job in enumerate(repeats):
                    if is_new:
                        yield docker_config(job)
                        is_new = False
                    if not number:
                        yield f"  experiment id {experiment}: {command(job)}"
                    yield f"    {line(job, first, now)}"
                    if job.outcome.status is Status.FAILED and job.report.cause:
                        which = (causes or {}).get(job.id)
                        yield f"      cause{f' {which}' if which else ''}: {one_line(_why(job))}"
                    if output := _output(job):
                        yield f"      files: {output}"


def _why(job: Job) -> str:
    return why(job.outcome.reason, job.report.cause)


def docker_config(job: Job) -> str:
    """The line about the image that a job is built from."""
    return f"docker config {job.container_spec_id}: {_describe_spec(job.container_spec)}"


def _describe_spec(spec: Mapping[str, Any]) -> str:
    """The image in a line. Plans of caliban 0.4 have the same things under other names."""
    mode = str(spec.get("mode") or spec.get("job_mode") or "?").upper()
    project = spec.get("directory") or spec.get("build_url") or spec.get("build_path")
    extra = spec.get("directories") or spec.get("extra_dirs")
    directories = ", ".join(map(str, extra)) if extra else None
    line = f"job_mode: {mode}, build url: {project}, extra dirs: {directories}"
    return f"{line}, live code" if spec.get("live") else line


def command(job: Job) -> str:
    """What a job executes, and its flags."""
    return f"{_module_name(job)} {experiment_text.quoted(job.experiment)}".strip()


def _module_name(job: Job) -> str:
    module = job.container_spec.get("module")
    return str(module.get("name", "")) if isinstance(module, Mapping) else ""


def line(job: Job, first: str = "", now: datetime.datetime | None = None) -> str:
    """A job in a line; see `render` for the arguments."""
    outcome = job.outcome
    when = job.created.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    status = terminal.paint(f"{outcome.status.value:9s}", _COLOUR.get(outcome.status, "dim"))
    platform = job.submission.platform.upper()
    text = f"job {job.id:<8d} {status} {platform:>8s} {when} container: {short_image(job.image)}"
    if job.handle is not None and job.handle.platform != "local":
        text += f" name: {job.handle.id}"
    if code := _code(job):
        text += f" live code: {code.removeprefix('sha256:')[:12]}"
    if outcome.started and outcome.finished:
        text += f" in {duration(outcome.finished - outcome.started)}"
    elif outcome.started and now and outcome.status is Status.RUNNING:
        text += f" for {duration(now - outcome.started)}"
    if shown := _metrics(job.report.metrics, first):
        text += f" {shown}"
    reason = _why_unsent(job) if is_unsent(job) else outcome.reason
    return f"{text} ({reason})" if reason else text


def short_image(image: str) -> str:
    """An image in short: the first digits of its id or digest, and in a registry its last name."""
    name, _, digest = image.rpartition("sha256:")
    return f"{name.rpartition('/')[2]}{digest[:12]}" if digest and _ else image


def is_unsent(job: Job) -> bool:
    """Whether a job for elsewhere waits to be sent, as far as it is known."""
    return is_remote(job) and job.handle is None and not job.outcome.status.is_final


def _why_unsent(job: Job) -> str:
    is_alive = process.is_alive(job.owner)
    if is_alive is None:
        return f"not sent yet by caliban on {job.owner.partition('/')[0]}"
    if is_alive:
        return "not sent yet"
    command = resume_command(job.submission.platform, job.group)
    return f"not sent: '{command}' goes on"


def ways_on(unsent: Iterable[Job]) -> Iterator[str]:
    """The commands that send jobs that nobody sends any more."""
    counts = Counter((job.submission.platform, job.group) for job in unsent)
    for (platform, group), number in counts.items():
        command = resume_command(platform, group)
        yield f"{numbered(number, 'job')} not sent, as far as is known: '{command}' goes on"


def _metrics(metrics: Mapping[str, Metric], first: str) -> str:
    """The first few of them: "accuracy=0.9733 loss=0.1"."""
    names = sorted(metrics, key=lambda name: name != first)
    shown = [f"{one_line(name)}={_short(metrics[name])}" for name in names[:_METRICS]]
    if more := len(names) - len(shown):
        shown.append(f"(and {more} more)")
    return " ".join(shown)


def _short(value: Metric) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = one_line(str(value))
    return text if len(text) <= _LONGEST_METRIC else f"{text[: _LONGEST_METRIC - 3]}..."


def _output(job: Job) -> str | None:
    """The directory with the files of a job that has started, if it has one."""
    return (job.submission.output or None) if job.outcome.started else None


def _code(job: Job) -> str | None:
    """What names the code of a job that had it live."""
    code = job.details.get("code")
    return code if isinstance(code, str) else None


def counts(tallies: Sequence[Tally], examples: Iterable[Job]) -> Iterator[str]:
    """Says of each image of a group how many jobs there are, and where they stand.

    Args:
      tallies: how many there are.
      examples: a job of each image.
    """
    for job in examples:
        found = {
            each.status: each.number
            for each in tallies
            if each.container_spec_id == job.container_spec_id
        }
        yield docker_config(job)
        parts = [
            terminal.paint(f"{found[status]} {status.value}", _COLOUR.get(status, "dim"))
            for status in Status
            if status in found
        ]
        yield f"  {numbered(sum(found.values()), 'experiment')}: {', '.join(parts)}"


def failures(causes: Sequence[Cause], shown: Sequence[Outline]) -> Iterator[str]:
    """A line for each cause of failure, with the jobs that are among those shown."""
    ids = {job.id for job in shown}
    lines = []
    total = 0
    for cause in causes:
        jobs = [job for job in cause.jobs if job in ids]
        if jobs:
            total += len(jobs)
            named = ", ".join(map(str, jobs[:_NAMED])) + (", ..." if len(jobs) > _NAMED else "")
            what = f"{numbered(len(jobs), 'job')} ({named})"
            lines.append(f"  cause {cause.number}: {what}: {one_line(cause.example)}")
    if lines:
        title = f"{numbered(total, 'failed job')}, {numbered(len(lines), 'cause')}:"
        yield terminal.paint(title, "bold")
        yield from lines


def numbered(number: int, what: str) -> str:
    """A number of things in words."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def as_json(job: Job, cause_number: int | None = None) -> dict[str, Any]:
    """A job as JSON, for programs; times are ISO 8601 in UTC.

    Args:
      job: the job.
      cause_number: number of the cause of its failure in its group.
    """
    outcome = job.outcome
    return {
        "job": job.id,
        "uid": job.uid,
        "user": job.user,
        "xgroup": job.group,
        "experiment": job.experiment_id,
        "module": _module_name(job),
        "args": list(job.experiment.args),
        "params": dict(job.experiment.params),
        "platform": job.submission.platform,
        "target": job.submission.target,
        "name": job.handle.id if job.handle else None,
        "image": job.image,
        "code": _code(job),
        "status": outcome.status.value,
        "exit_code": outcome.exit_code,
        "reason": outcome.reason,
        "cause": job.report.cause,
        "cause_number": cause_number,
        "metrics": dict(job.report.metrics),
        "log": str(joblog.find(job.uid) or joblog.path(job.uid)),
        "output": _output(job),
        "created": job.created.isoformat(),
        "started": outcome.started and outcome.started.isoformat(),
        "finished": outcome.finished and outcome.finished.isoformat(),
    }
