"""Leases of GPUs: of those who want a device at one moment, one has it."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator

import pytest

from caliban.history.leases import Lease, Leases
from caliban.history.store import HistoryStore
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, JobRequest, Outcome, Status, Submission

DEVICES = ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]


@pytest.fixture
def store(url: str) -> Iterator[HistoryStore]:
    with HistoryStore.open(url) as opened:
        yield opened


@pytest.fixture
def leases(store: HistoryStore) -> Leases:
    return store.leases("here")


def held(leases: Leases) -> list[tuple[str, str, str]]:
    return [(each.device, each.uid, each.owner) for each in leases.held()]


def test_a_job_gets_as_many_devices_as_it_needs_or_none(leases: Leases) -> None:
    assert leases.take(DEVICES, 3, "u1", "me") == DEVICES[:3]
    assert leases.take(DEVICES, 2, "u2", "me") == []
    assert leases.take(DEVICES, 1, "u3", "me") == ["GPU-d"]
    leases.give_back("u1")
    assert leases.take(DEVICES, 2, "u2", "me") == ["GPU-a", "GPU-b"]
    assert held(leases) == [("GPU-d", "u3", "me"), ("GPU-a", "u2", "me"), ("GPU-b", "u2", "me")]


def test_a_job_that_is_started_again_does_not_wait_for_itself(leases: Leases) -> None:
    assert leases.take(DEVICES, 3, "u1", "dead") == DEVICES[:3]
    assert leases.take(DEVICES, 3, "u1", "me") == DEVICES[:3]
    assert {owner for _, _, owner in held(leases)} == {"me"}


def test_the_devices_of_another_machine_are_others(store: HistoryStore, leases: Leases) -> None:
    assert store.leases("there").take(DEVICES, 4, "u1", "me") == DEVICES
    assert leases.take(DEVICES, 4, "u2", "me") == DEVICES
    assert len(leases.held()) == 4


def test_a_lease_that_is_over_is_free_unless_somebody_has_adopted_the_job(leases: Leases) -> None:
    leases.take(DEVICES, 2, "u1", "dead")
    leases.take(DEVICES, 2, "u2", "dead")
    over = leases.held()
    leases.adopt("u2", "other")
    assert leases.take(DEVICES, 2, "u3", "me", over) == ["GPU-a", "GPU-b"]
    assert [uid for _, uid, _ in held(leases)] == ["u2", "u2", "u3", "u3"]
    leases.take_back(over)
    assert len(leases.held()) == 4


def test_a_lease_says_where_its_job_runs_and_whether_it_has_ended(
    store: HistoryStore, leases: Leases
) -> None:
    request = JobRequest("u1", Experiment((), {}), "image", "group", 0)
    handle = Handle("local", "here unix:///socket", "caliban-u1")
    sent = Submission("local", handle.target, {})
    store.record("tester", "group", "me", {}, [request], lambda _number, _request: (sent, handle))
    leases.take(DEVICES, 1, "u1", "me")
    leases.take(DEVICES, 1, "unknown", "me")
    first, second = leases.held()
    assert first == Lease(first.id, "GPU-a", "u1", "me", handle.target, False, 1)
    assert (second.target, second.has_ended) == ("", False)
    now = datetime.datetime.now(datetime.UTC)
    store.settle({"u1": Outcome(Status.SUCCEEDED, 0, finished=now)})
    assert leases.held()[0].has_ended


def test_of_many_terminals_at_one_moment_none_fails_and_no_two_have_one_device(url: str) -> None:
    HistoryStore.open(url).close()
    start = threading.Barrier(12)
    got: list[str] = []
    problems: list[Exception] = []

    def terminal(number: int) -> None:
        with HistoryStore.open(url) as store:
            leases = store.leases("here")
            start.wait()
            try:
                for turn in range(10):
                    uid = f"{number}-{turn}"
                    found = leases.take(DEVICES, 1 + turn % 2, uid, "me")
                    others = [each for each in leases.held() if each.uid != uid]
                    assert not {each.device for each in others} & set(found)
                    got.extend(found)
                    leases.give_back(uid)
            except Exception as error:  # noqa: BLE001 - it is looked at below
                problems.append(error)

    threads = [threading.Thread(target=terminal, args=[number]) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert set(got) == set(DEVICES)
