"""What `caliban status` prints of a job: as lines for people, and as JSON."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from caliban.commands.job_lines import as_json, failures, render
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, Job, Outcome, Status, Submission
from caliban.model.report import Metric, Report
from caliban.model.selection import Outline, causes

NOW = datetime.datetime(2026, 11, 21, 3, 43, 41, tzinfo=datetime.UTC)
NOTHING = Report({})
HANDLE = Handle("local", "here", "caliban-0123456789abcdef")


def job(
    payload: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
    status: Status = Status.SUCCEEDED,
    started: datetime.datetime | None = NOW,
    live: bool = False,
    reason: str = "",
    report: Report = NOTHING,
) -> Job:
    spec = {"mode": "cpu", "directory": "/p", "module": {"name": "trainer.train"}}
    return Job(
        id=6,
        uid="0123456789abcdef",
        user="tester",
        group="tuning",
        experiment_id=3,
        experiment=Experiment(("--epochs", "20"), {"learning_rate": 0.1}),
        container_spec_id=1,
        container_spec={**spec, "live": True} if live else spec,
        submission=Submission("local", "here", payload or {}),
        handle=HANDLE,
        image="sha256:4d3da2be160512345678",
        outcome=Outcome(
            status, 0, reason, started, NOW + datetime.timedelta(seconds=1.9) if started else None
        ),
        owner="",
        created=NOW,
        details=details or {},
        report=report,
    )


def lines(*jobs: Job) -> list[str]:
    return list(render(jobs))


def test_this_is_how_a_job_is_shown() -> None:
    when = NOW.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert lines(job()) == [
        "xgroup tuning:",
        "docker config 1: job_mode: CPU, build url: /p, extra dirs: None",
        "  experiment id 3: trainer.train --epochs 20 --learning_rate 0.1",
        f"    job 6        SUCCEEDED    LOCAL {when} container: 4d3da2be1605 in 1.9 s",
    ]


def test_live_code_is_named_by_its_digest() -> None:
    _, config, _, shown = lines(job(details={"code": "sha256:3f2a91bc0d1277"}, live=True))
    assert config == "docker config 1: job_mode: CPU, build url: /p, extra dirs: None, live code"
    assert shown.endswith(" container: 4d3da2be1605 live code: 3f2a91bc0d12 in 1.9 s")


def test_the_files_of_a_job_have_a_line_of_their_own() -> None:
    written = job({"output": "/results/tuning/6"})
    shown = lines(written, written)
    assert shown[4] == "      files: /results/tuning/6"
    assert shown[3].startswith("    job 6 ")
    assert shown[5:] == shown[3:5]


def test_a_job_that_was_never_started_has_no_files() -> None:
    for status in (Status.SUBMITTED, Status.STOPPED):
        waiting = job({"output": "/results/tuning/6"}, status=status, started=None)
        assert len(lines(waiting)) == 4
        assert as_json(waiting)["output"] is None


def test_programs_find_both_in_the_json() -> None:
    found = as_json(job({"output": "/results/6"}, {"code": "sha256:3f2a"}, live=True))
    assert (found["output"], found["code"]) == ("/results/6", "sha256:3f2a")
    found = as_json(job())
    assert (found["output"], found["code"]) == (None, None)


def test_details_of_another_kind_do_no_harm() -> None:
    old = dataclasses.replace(job(details={"code": 3, "ret_code": 1}), handle=None)
    assert as_json(old)["code"] is None
    assert "live code" not in "\n".join(lines(old))


def test_metrics_stand_on_the_line_of_their_job_the_wanted_one_first() -> None:
    metrics: dict[str, Metric] = {
        "loss": 0.123456,
        "steps": 3000,
        "accuracy": 0.97,
        "best": True,
        "note": "x" * 99,
    }
    shown = lines(job(report=Report(metrics)))[3]
    assert shown.endswith(" in 1.9 s loss=0.1235 steps=3000 accuracy=0.97 best=True (and 1 more)")
    *_, shown = render([job(report=Report(metrics))], first="note")
    assert f" note={'x' * 21}... loss=0.1235 " in shown


def test_a_failed_job_says_why_and_of_what_cause_it_is() -> None:
    failed = job(status=Status.FAILED, reason="exit code 1", report=Report({}, "ValueError: no"))
    *_, line, why = lines(failed)
    assert line.endswith(" in 1.9 s (exit code 1)")
    assert why == "      cause: ValueError: no"
    *_, why = render([failed], causes={6: 2})
    assert why == "      cause 2: ValueError: no"


def test_what_jobs_print_cannot_move_the_cursor() -> None:
    mean = Report({"a\x1b[2J": "b\x1b[2J"}, "no\x1b]0;title\x07")
    text = "".join(lines(job(status=Status.FAILED, report=mean)))
    assert "\x1b" not in text and "\x07" not in text


def test_a_running_job_says_for_how_long_it_has_been() -> None:
    running = dataclasses.replace(job(), outcome=Outcome(Status.RUNNING, started=NOW))
    *_, line = render([running], now=NOW + datetime.timedelta(seconds=90))
    assert line.endswith(" container: 4d3da2be1605 for 1 min 30 s")
    assert lines(running)[-1].endswith(" container: 4d3da2be1605")


def outline(
    number: int, status: Status = Status.FAILED, reason: str = "", cause: str = ""
) -> Outline:
    return Outline(number, f"u{number}", number, 1, Experiment((), {}), status, reason, {}, cause)


def test_failures_have_a_line_for_each_cause() -> None:
    jobs = [outline(n, cause=f"no gpu {n}") for n in range(1, 8)]
    jobs += [outline(8, reason="out of memory", cause="epoch 3"), outline(9, Status.SUCCEEDED)]
    assert list(failures(causes(jobs), jobs)) == [
        "8 failed jobs, 2 causes:",
        "  cause 1: 7 jobs (1, 2, 3, 4, 5, ...): no gpu 1",
        "  cause 2: 1 job (8): out of memory",
    ]
    assert list(failures(causes(jobs), jobs[7:])) == [
        "1 failed job, 1 cause:",
        "  cause 2: 1 job (8): out of memory",
    ]
    assert list(failures(causes(jobs[8:]), jobs)) == []


def test_programs_find_metrics_and_cause_in_the_json() -> None:
    found = as_json(job(report=Report({"accuracy": 0.97}, "ValueError: no")), 3)
    assert (found["metrics"], found["cause"]) == ({"accuracy": 0.97}, "ValueError: no")
    assert found["cause_number"] == 3
