"""Show jobs and what became of them.

Without --xgroup, the newest jobs of all experiment groups; with it, the experiments of that group,
each with its newest jobs. Jobs that are still open are asked about first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from caliban import flags, terminal
from caliban.model.job import Job, Status, duration

_COLOUR = {
    Status.SUCCEEDED: "green",
    Status.FAILED: "red",
    Status.STOPPED: "yellow",
    Status.RUNNING: "cyan",
}

_NEWEST = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "--xgroup", type=flags.group_name, metavar="NAME", help="Experiment group to show."
    )
    parser.add_argument(
        "--max_jobs",
        type=flags.natural_number,
        metavar="N",
        help=f"How many jobs to show (default: {_NEWEST}) or, with --xgroup, how many for each "
        "experiment (default: 1). 0 shows all.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON, for programs.")


def run(args: argparse.Namespace) -> int:
    """Brings the open jobs up to date and prints; 1 if some could not be asked about."""
    from caliban import launch

    user = flags.user_name()
    with launch.open_history() as store:
        complete = launch.refresh(store, store.open_jobs(user, args.xgroup), _connect)
        if args.xgroup is None:
            limit = _NEWEST if args.max_jobs is None else args.max_jobs
            jobs = store.recent_jobs(user, limit)
            title = f"most recent {limit} jobs" if limit else "all jobs"
            heading = f"{title} for user {user}:\n"
        else:
            jobs = store.group_jobs(
                user, args.xgroup, 1 if args.max_jobs is None else args.max_jobs
            )
            heading = ""
    if args.json:
        terminal.result_json([as_json(job) for job in jobs])
    elif not jobs and args.xgroup is None:
        terminal.note(f"No recent jobs found for user {user}.")
    else:
        for line in render(jobs, heading):
            terminal.result(line)
    return 0 if complete else 1


def _connect() -> Any:
    from caliban.docker.containers import Containers
    from caliban.docker.engine import Engine
    from caliban.platform.local import LocalBackend

    engine = Engine()
    return LocalBackend(Containers(engine), engine.host)


def render(jobs: Sequence[Job], heading: str) -> Iterator[str]:
    """Lays out jobs by experiment group, image and experiment, in the order they come in."""
    if heading:
        yield heading
    first = True
    for group, of_group in groupby(jobs, lambda job: job.group):
        if not first:
            yield ""
        first = False
        yield f"xgroup {terminal.paint(group, 'bold')}:"
        for spec, of_spec in groupby(of_group, lambda job: job.container_spec_id):
            rows = list(of_spec)
            yield f"docker config {spec}: {_describe_spec(rows[0].container_spec)}"
            for experiment, of_experiment in groupby(rows, lambda job: job.experiment_id):
                repeats = list(of_experiment)
                yield f"  experiment id {experiment}: {_describe_command(repeats[0])}"
                for job in repeats:
                    yield f"    {_describe_job(job)}"
                    if output := _output(job):
                        yield f"      files: {output}"


def _describe_spec(spec: Mapping[str, Any]) -> str:
    """The image in a line. Plans of caliban 0.4 have the same things under other names."""
    mode = str(spec.get("mode") or spec.get("job_mode") or "?").upper()
    project = spec.get("directory") or spec.get("build_url") or spec.get("build_path")
    extra = spec.get("directories") or spec.get("extra_dirs")
    directories = ", ".join(map(str, extra)) if extra else None
    line = f"job_mode: {mode}, build url: {project}, extra dirs: {directories}"
    return f"{line}, live code" if spec.get("live") else line


def _describe_command(job: Job) -> str:
    from caliban import launch

    return f"{_module_name(job)} {launch.quoted(job.experiment)}".strip()


def _module_name(job: Job) -> str:
    module = job.container_spec.get("module")
    return str(module.get("name", "")) if isinstance(module, Mapping) else ""


def _describe_job(job: Job) -> str:
    outcome = job.outcome
    when = job.created.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    status = terminal.paint(f"{outcome.status.value:9s}", _COLOUR.get(outcome.status, "dim"))
    platform = job.submission.platform.upper()
    image = job.image.removeprefix("sha256:")[:12] if job.image.startswith("sha256:") else job.image
    line = f"job {job.id:<8d} {status} {platform:>8s} {when} container: {image}"
    if job.handle is not None and job.handle.platform != "local":
        line += f" name: {job.handle.id}"
    if code := _code(job):
        line += f" live code: {code.removeprefix('sha256:')[:12]}"
    if outcome.started and outcome.finished:
        line += f" in {duration(outcome.finished - outcome.started)}"
    return f"{line} ({outcome.reason})" if outcome.reason else line


def _output(job: Job) -> str | None:
    """The directory with the files of a job that has started, if it has one."""
    return (job.submission.output or None) if job.outcome.started else None


def _code(job: Job) -> str | None:
    """What names the code of a job that had it live."""
    code = job.details.get("code")
    return code if isinstance(code, str) else None


def as_json(job: Job) -> dict[str, Any]:
    """A job as JSON, for programs; times are ISO 8601 in UTC."""
    from caliban import launch

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
        "image": job.image,
        "code": _code(job),
        "status": outcome.status.value,
        "exit_code": outcome.exit_code,
        "reason": outcome.reason,
        "log": str(launch.log_path(job.uid)),
        "output": _output(job),
        "created": job.created.isoformat(),
        "started": outcome.started and outcome.started.isoformat(),
        "finished": outcome.finished and outcome.finished.isoformat(),
    }
