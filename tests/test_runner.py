"""Seeing jobs through, with an engine that is pretended: what the real one does too rarely."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from caliban import runner
from caliban.board import Board
from caliban.errors import EngineAwayError, EngineError
from caliban.history.store import HistoryStore
from caliban.interrupt import Interruption
from caliban.launch import Launch, record, requests
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, JobRequest, Outcome, Status, Submission
from caliban.platform.local import LocalBackend
from caliban.runner import Launched, Runner

NOW = datetime.datetime.now(datetime.UTC)
GOOD = Outcome(Status.SUCCEEDED, 0, "", NOW, NOW)


class Done:
    """A program that has ended well."""

    def poll(self) -> int:
        return 0


class Engine:
    """A backend whose containers are entries of a dictionary.

    Attributes:
      there: the state of each container.
      started: the names of containers, as often as they were started.
      away: how many more questions it leaves without an answer.
    """

    target = "here"

    def __init__(self) -> None:
        self.there: dict[Handle, Outcome] = {}
        self.started: list[str] = []
        self.away = 0
        self.refuses: list[str] = []

    def plan(self, request: JobRequest) -> Submission:
        return Submission("local", self.target, {"uid": request.uid})

    def handle(self, submission: Submission) -> Handle:
        return Handle("local", self.target, str(submission.payload["uid"]))

    def submit(
        self, submission: Submission, gpus: Sequence[str], variables: Mapping[str, str]
    ) -> Handle:
        handle = self.handle(submission)
        if not self.refuses:
            self.started.append(handle.id)
            self.there[handle] = GOOD
        return handle

    def follow(
        self, handle: Handle, write: Callable[[int, bytes], None], tick: Callable[[], None]
    ) -> tuple[int, str]:
        if self.refuses:
            return 125, self.refuses.pop()
        write(1, b"hello\n")
        return 0, ""

    def unstarted(self, code: int, printed: str) -> Outcome | None:
        return None if printed == "again" else Outcome(Status.FAILED, code, printed)

    def status(self, handles: Sequence[Handle]) -> Mapping[Handle, Outcome]:
        if self.away:
            self.away -= 1
            raise EngineAwayError("no engine")
        return {handle: self.there[handle] for handle in handles if handle in self.there}

    def discard(self, handle: Handle) -> None:
        self.there.pop(handle, None)

    def release(self, handle: Handle) -> None:
        self.there.pop(handle, None)

    def stop(self, handle: Handle, kill: bool = False) -> Any:
        now = datetime.datetime.now(datetime.UTC)
        self.there[handle] = Outcome(Status.FAILED, 143, "signal", NOW, now)
        return Done()

    def logs(
        self, handle: Handle, follow: bool = False, tail: int | None = None
    ) -> Iterator[bytes]:
        yield b"what it printed\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_AGAIN", 0.01)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HistoryStore]:
    with HistoryStore.open(f"sqlite:///{tmp_path}/history.db") as opened:
        yield opened


def recorded(engine: Engine, store: HistoryStore, number: int) -> list[Launched]:
    experiments = [Experiment((), {"n": each}) for each in range(number)]
    wanted = [*requests(experiments, "image", "group", {})]
    backend = cast(LocalBackend, engine)
    return [*record(backend, store, Launch("tester", "group", {}, wanted)).jobs]


def left(jobs: Sequence[Launched]) -> list[Launched]:
    """The same, as those who take them over see them."""
    return [replace(job, is_left=True) for job in jobs]


def run(
    engine: Engine, store: HistoryStore, jobs: Sequence[Launched], wishes: int = 0
) -> list[Outcome]:
    interruption = Interruption()
    interruption.count = wishes
    backend = cast(LocalBackend, engine)
    ended = Runner(backend, store, Board(len(jobs)), interruption).run(jobs, 4)
    assert [store.outcome(job.request.uid).status for job in ended] == [
        job.outcome.status for job in ended
    ]
    return [job.outcome for job in ended]


def test_an_engine_that_is_away_for_a_while_costs_nothing(store: HistoryStore) -> None:
    engine = Engine()
    jobs = recorded(engine, store, 20)
    engine.away = 15
    assert {each.status for each in run(engine, store, jobs)} == {Status.SUCCEEDED}
    assert len(set(engine.started)) == len(engine.started) == 20
    assert engine.there == {}


def test_a_job_that_the_engine_did_not_start_is_tried_again(store: HistoryStore) -> None:
    engine = Engine()
    jobs = recorded(engine, store, 1)
    engine.refuses = ["again", "again"]
    assert [each.status for each in run(engine, store, jobs)] == [Status.SUCCEEDED]
    assert len(engine.started) == 1


def test_a_job_that_cannot_be_started_is_not_tried_again(store: HistoryStore) -> None:
    engine = Engine()
    jobs = recorded(engine, store, 1)
    engine.refuses = ["no such flag"]
    assert [each.reason for each in run(engine, store, jobs)] == ["no such flag"]
    assert engine.started == []


def test_when_the_engine_stays_away_what_may_run_stays_open(
    store: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_PATIENCE", 1.0)
    engine = Engine()
    jobs = recorded(engine, store, 10)
    engine.away = 10**9
    with pytest.raises(EngineError, match="no engine"):
        run(engine, store, jobs)
    statuses = [store.outcome(job.request.uid).status for job in jobs]
    assert statuses[:4] == [Status.RUNNING] * 4
    assert set(statuses[4:]) == {Status.STOPPED}


def test_containers_that_are_there_are_taken_over_and_not_started(store: HistoryStore) -> None:
    engine = Engine()
    jobs = left(recorded(engine, store, 3))
    engine.there = {
        jobs[0].handle: GOOD,
        # Made, and never started: its `docker run` has gone.
        jobs[1].handle: Outcome(Status.SUBMITTED),
    }
    assert {each.status for each in run(engine, store, jobs)} == {Status.SUCCEEDED}
    assert sorted(engine.started) == sorted(job.handle.id for job in jobs[1:])


def test_an_interrupt_stops_also_those_that_were_to_be_taken_over(store: HistoryStore) -> None:
    engine = Engine()
    jobs = left(recorded(engine, store, 8))
    engine.there = {job.handle: Outcome(Status.RUNNING) for job in jobs[:6]}
    outcomes = run(engine, store, jobs, wishes=1)
    assert [each.reason for each in outcomes] == ["interrupted"] * 6 + ["not started"] * 2
    assert engine.started == []
    assert engine.there == {}


def test_a_job_that_was_settled_by_somebody_else_is_not_run(store: HistoryStore) -> None:
    engine = Engine()
    jobs = left(recorded(engine, store, 1))
    store.settle({jobs[0].request.uid: GOOD})
    assert [each.status for each in run(engine, store, jobs)] == [Status.SUCCEEDED]
    assert engine.started == []
