"""Jobs that nobody can be asked about any more are given up, and no others."""

from __future__ import annotations

from caliban import launch
from caliban.history.store import HistoryStore
from caliban.model.job import Outcome, Status
from caliban.remote import giving_up, refresh
from caliban.remote.backends import Backends
from tests.conftest import USER
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault
from tests.remote.conftest import jobs_of, record, send, wanted
from tests.remote.test_submit import disown

GONE = Fault(status=403, message="Project p1 has been deleted")


def test_only_what_cannot_be_asked_about_is_lost(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    send(backends, store, record(backends, store, wanted(1, "day", "europe-west4")))
    jobs = record(backends, store, wanted(2))
    send(backends, store, jobs[:1])
    disown(store)
    here, sent, unsent = jobs_of(store)
    assert giving_up.lost(store, backends, [here, sent, unsent]) == {}
    cloud.faults.add("customJobs.list", GONE, region="us-central1")
    found = giving_up.lost(store, backends, [here, sent, unsent])
    assert set(found) == {sent.uid, unsent.uid}
    assert all("has been deleted" in why for why in found.values())
    assert {job.outcome.status for job in jobs_of(store)} == {Status.SUBMITTED}


def test_what_is_given_up_says_so_and_can_be_run_again(
    cloud: GoogleCloud, backends: Backends, store: HistoryStore
) -> None:
    send(backends, store, record(backends, store, wanted(2)))
    refresh.refresh(store, jobs_of(store), backends)
    before = jobs_of(store)
    assert {job.outcome.status for job in before} == {Status.RUNNING}
    whys = dict.fromkeys([job.uid for job in before], "the project p1 is gone")
    # One has ended meanwhile, as another caliban has found out.
    ended = Outcome(Status.SUCCEEDED, 0)
    store.settle({before[1].uid: ended})
    giving_up.give_up(store, before, whys)
    given_up, other = jobs_of(store)
    assert other.outcome.status is Status.SUCCEEDED
    assert given_up.outcome == Outcome(
        Status.STOPPED,
        None,
        "given up, how it ended is not known: the project p1 is gone",
        before[0].outcome.started,
        None,
    )
    assert [job.id for job in launch.left(store, USER, "night")] == [given_up.id]
