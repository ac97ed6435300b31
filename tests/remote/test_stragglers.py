"""Jobs that were ended while they were on their way, by somebody else than who was sending them."""

from __future__ import annotations

import os
import time as real

import pytest

from caliban import home, settle
from caliban.history.store import HistoryStore
from caliban.model.job import Status
from caliban.remote import stopping, stragglers
from caliban.remote.backends import Backends
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault
from tests.remote.conftest import jobs_of, record, wanted
from tests.remote.test_stopping import states
from tests.remote.test_submit import disown

LIST = "customJobs.list"


def refresh(store: HistoryStore, backends: Backends) -> None:
    """What `caliban status` does."""
    settle.refresh(store, [], lambda: pytest.fail("no engine is needed"), lambda: backends)


def age(seconds: float) -> None:
    """Lets what has been ended have been ended some time ago."""
    for mark in home.path("stragglers").iterdir():
        os.utime(mark, (real.time() - seconds,) * 2)


def test_one_that_arrived_although_it_was_cancelled_is_found_and_ended(
    cloud: GoogleCloud,
    backends: Backends,
    store: HistoryStore,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sent, unsent = record(backends, store, wanted(2))
    stopped = stopping.stop(store, backends, jobs_of(store))
    assert stopped.cancelled == {sent.uid, unsent.uid}
    # The request was under way; whoever has sent it is killed before it has seen that.
    backends.of("vertex").submit(sent.submission, is_new=True)
    refresh(store, backends)
    assert states(cloud) == {sent.uid: "RUNNING"}  # who sends it is there yet, and ends it
    disown(store)
    refresh(store, backends)
    assert states(cloud) == {sent.uid: "CANCELLED"}
    found, never = jobs_of(store)
    assert [job.outcome.status for job in (found, never)] == [Status.STOPPED] * 2
    assert found.handle is not None and never.handle is None
    assert f"job {found.id}, stopped at" in capsys.readouterr().err


def test_after_a_while_one_is_looked_for_once_more_and_then_forgotten(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    record(backends, store, wanted(2))
    stopping.stop(store, backends, jobs_of(store))
    disown(store)
    for _ in range(2):
        refresh(store, backends)
    assert len(cloud.server.calls(LIST)) == 2
    age(61)
    for _ in range(2):
        refresh(store, backends)
    assert len(cloud.server.calls(LIST)) == 3
    assert stragglers.expected() == {}


def test_a_place_that_does_not_answer_is_asked_again_for_an_hour(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    record(backends, store, wanted(1))
    stopping.stop(store, backends, jobs_of(store))
    disown(store)
    cloud.faults.add(LIST, Fault(status=403, message="not for you"))
    age(3000)
    refresh(store, backends)
    assert len(stragglers.expected()) == 1
    age(3700)
    refresh(store, backends)
    assert stragglers.expected() == {}
    assert len(cloud.server.calls(LIST)) == 1


def test_one_that_nobody_can_have_sent_is_not_looked_for(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    record(backends, store, wanted(1))
    disown(store)
    stopping.stop(store, backends, jobs_of(store))
    assert stragglers.expected() == {}
