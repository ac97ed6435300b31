"""What a report says of an experiment group."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from caliban.errors import UsageError
from caliban.history.store import HistoryStore
from caliban.model.job import Job, Status
from caliban.model.report import Metric
from caliban.report import facts
from tests.report import sweeps


@pytest.fixture
def jobs(home: Path) -> Iterator[list[Job]]:
    with HistoryStore.open() as store:
        sweeps.record(store, "sweep", 60)
        yield store.group_jobs("tester", "sweep", 1)


def test_parameters_that_differ_are_told_apart_from_those_that_do_not(jobs: list[Job]) -> None:
    found = facts.find("sweep", jobs)
    assert found.parameters == ["learning_rate", "width", "dropout", "optimizer", "augment", "seed"]
    assert found.constants == {"epochs": 20}
    assert found.metrics == ["accuracy", "loss"]


def test_the_best_runs_come_first_and_have_succeeded(jobs: list[Job]) -> None:
    found = facts.find("sweep", jobs)
    values = [run.metrics["accuracy"] for run in found.best]
    assert values == sorted(values, key=float, reverse=True)
    assert all(run.job.outcome.status is Status.SUCCEEDED for run in found.best)
    assert len(found.best) == found.counts[Status.SUCCEEDED]


@pytest.mark.parametrize(
    ("sort", "metric", "smaller"),
    [("", "accuracy", False), ("loss", "loss", False), ("-loss", "loss", True)],
)
def test_the_metric_that_counts_can_be_chosen(
    jobs: list[Job], sort: str, metric: str, smaller: bool
) -> None:
    found = facts.find("sweep", jobs, sort)
    assert (found.metric, found.is_smaller_better) == (metric, smaller)


def test_a_metric_that_nobody_reported_is_an_error(jobs: list[Job]) -> None:
    with pytest.raises(UsageError, match="acuracy") as caught:
        facts.find("sweep", jobs, "acuracy")
    assert "accuracy" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "smaller"),
    [("val_loss", True), ("test-error", True), ("RMSE", True), ("accuracy", False),
     ("terror", False), ("f1", False), ("closs", False), ("seconds", True)],
)  # fmt: skip
def test_of_some_metrics_less_is_better(jobs: list[Job], name: str, smaller: bool) -> None:
    import dataclasses

    metrics: dict[str, Metric] = {name: 1.0}
    report = dataclasses.replace(jobs[0].report, metrics=metrics)
    found = facts.find("sweep", [dataclasses.replace(jobs[0], report=report)])
    assert found.is_smaller_better is smaller


def test_values_are_summed_up_one_by_one_or_by_ranges(jobs: list[Job]) -> None:
    found = facts.find("sweep", jobs)
    assert [each.value for each in found.levels("width")] == ["32", "64", "128", "256"]
    assert [each.value for each in found.levels("optimizer")] == ["adam", "lion", "sgd"]
    for name in found.parameters:
        levels = found.levels(name)
        assert sum(each.runs for each in levels) == 60
        assert sum(each.failed for each in levels) == found.counts[Status.FAILED]
        assert max(each.best or 0 for each in levels) == found.value(found.best[0])
    assert len(found.levels("dropout")) == 4


def test_what_a_run_has_reported_before_it_failed_is_no_result(jobs: list[Job]) -> None:
    found = facts.find("sweep", [sweeps.with_metrics(job) for job in jobs])
    assert found.counts[Status.FAILED] > 0
    levels = [each for name in found.parameters for each in found.levels(name)]
    known = {(each.best, each.median) for each in levels if each.runs > each.failed}
    assert known == {(0.1, 0.1)}
    assert {each.best for each in levels if each.runs == each.failed} <= {None}


def test_a_group_that_said_nothing_has_facts_as_well(jobs: list[Job]) -> None:
    import dataclasses

    from caliban.model.job import Outcome
    from caliban.model.report import Report

    quiet = [
        dataclasses.replace(job, report=Report({}), outcome=Outcome(Status.SUBMITTED))
        for job in jobs
    ]
    found = facts.find("sweep", quiet)
    assert (found.metric, found.best, found.times, found.span) == ("", [], [], None)


def test_the_span_goes_from_the_first_start_to_the_last_end(jobs: list[Job]) -> None:
    span = facts.find("sweep", jobs).span
    assert span is not None
    assert span[0] == sweeps.START
    assert span[1] - span[0] > datetime.timedelta(seconds=8 * 59)


@pytest.mark.parametrize(
    ("text", "cell"),
    [("0.1", 0.1), ("1e-3", 0.001), ("20", 20), ("nan", "nan"), ("inf", "inf"), ("0x1", "0x1"),
     ("1_000", "1_000"), ("1" * 30, "1" * 30), ("1e999", "1e999"), ("", ""), ("٣", "٣")],
)  # fmt: skip
def test_texts_that_are_numbers_are_numbers(text: str, cell: object) -> None:
    assert facts._cell(text) == cell
    assert type(facts._cell(text)) is type(cell)


def test_a_parameter_is_no_metric_that_counts(jobs: list[Job]) -> None:
    with pytest.raises(UsageError, match="no job has reported a number 'learning_rate'") as caught:
        facts.find("sweep", jobs, "learning_rate")
    assert caught.value.hint == "Metrics that are numbers: accuracy, loss"
