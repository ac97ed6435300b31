"""What launches, resumed sweeps and `stop` ask of the store, on both databases."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

import pytest

from caliban.errors import UsageError
from caliban.history.store import HistoryStore
from caliban.model.job import Job, JobRequest, Outcome, Status, Submission
from caliban.model.report import Report
from tests.history.recent import recent_jobs
from tests.history.test_store import NOW, PLAN, Entry, entry, record, sweep, together, uids

LATER = NOW + datetime.timedelta(minutes=5)

Suffices = Callable[[JobRequest, Job], bool]


@pytest.fixture
def store(url: str) -> Iterator[HistoryStore]:
    with HistoryStore.open(url) as opened:
        yield opened


def missing(
    store: HistoryStore,
    entries: list[Entry],
    suffices: Suffices,
    group: str = "g",
    user: str = "totoro",
) -> tuple[list[str], list[str]]:
    """Records the jobs that are not superfluous: the uids of those, and of what makes others so."""
    recorded, enough = store.record(
        user,
        group,
        "",
        PLAN,
        [request for request, _, _ in entries],
        lambda number, request: (Submission("local", "here", {"number": number}), None),
        suffices,
    )
    return [job.request.uid for job in recorded], [job.uid for job in enough]


def succeeded(request: JobRequest, job: Job) -> bool:
    return job.outcome.status is Status.SUCCEEDED


def is_known(request: JobRequest, job: Job) -> bool:
    return True


def state(store: HistoryStore, uid: str) -> tuple[Status, str]:
    found = store.outcome(uid)
    return found.status, found.reason


class TestWhatIsMissing:
    def test_an_experiment_with_a_job_that_suffices_gets_no_other_one(
        self, store: HistoryStore
    ) -> None:
        first, second = sweep(4), sweep(6)
        record(store, *first)
        outcomes = (Status.SUCCEEDED, Status.FAILED, Status.STOPPED, Status.SUCCEEDED)
        store.settle(dict(zip(uids(first), map(Outcome, outcomes), strict=True)))
        new, enough = missing(store, second, succeeded)
        assert new == [uids(second)[i] for i in (1, 2, 4, 5)]
        assert enough == [uids(first)[i] for i in (0, 3)]
        assert len(store.group_jobs("totoro", "g", 0)) == 8
        # Of several that do, the newest.
        newest = [uids(first)[0], *new[:2], uids(first)[3], *new[2:]]
        assert missing(store, sweep(6), is_known) == ([], newest)

    def test_any_of_its_jobs_may_suffice_and_each_is_asked_about_with_what_is_wanted(
        self, store: HistoryStore
    ) -> None:
        one, other, third = entry({"a": 1}), entry({"a": 1}), entry({"a": 1})
        record(store, one, other)
        store.settle({one[0].uid: Outcome(Status.SUCCEEDED), other[0].uid: Outcome(Status.FAILED)})
        asked: list[tuple[str, str]] = []

        def note(request: JobRequest, job: Job) -> bool:
            asked.append((request.uid, job.uid))
            return False

        assert missing(store, [third], note) == (uids([third]), [])
        assert sorted(asked) == sorted((third[0].uid, each[0].uid) for each in (one, other))

    def test_jobs_of_another_group_or_user_do_not_suffice(self, store: HistoryStore) -> None:
        record(store, *sweep(2))
        assert missing(store, sweep(2), is_known, group="other")[1] == []
        assert missing(store, sweep(2), is_known, user="mei")[1] == []

    def test_equal_experiments_of_one_launch_are_all_run_and_once(
        self, store: HistoryStore
    ) -> None:
        twice = [entry({"a": 1}), entry({"a": 1})]
        assert missing(store, twice, is_known) == (uids(twice), [])
        assert missing(store, [entry({"a": 1}), entry({"a": 1})], is_known)[0] == []

    def test_more_experiments_than_a_statement_takes_parameters(self, store: HistoryStore) -> None:
        first = sweep(2500)
        record(store, *first[::2])
        new, enough = missing(store, sweep(2500), is_known)
        assert (len(new), enough) == (1250, uids(first[::2]))

    def test_of_launches_at_one_moment_one_runs_each_experiment(self, url: str) -> None:
        def launch(number: int) -> list[str]:
            with HistoryStore.open(url) as own:
                return missing(own, sweep(200)[:: -1 if number % 2 else 1], is_known)[0]

        assert sum(map(len, together(4, launch))) == 200


class TestTheStart:
    def test_a_job_is_started_by_the_first_who_wants_to(self, store: HistoryStore) -> None:
        job = entry({})
        record(store, job, owner="first")
        uid = job[0].uid
        assert store.claim(uid, "second", NOW)
        assert not store.claim(uid, "third", LATER)
        [found] = store.open_jobs("totoro")
        assert found.outcome == Outcome(Status.RUNNING, started=NOW)
        assert found.owner == "second"
        assert not store.claim("no such job", "third", NOW)

    def test_of_many_at_one_moment_one_starts_it(self, url: str) -> None:
        job = entry({})
        with HistoryStore.open(url) as store:
            record(store, job)

        def start(number: int) -> bool:
            with HistoryStore.open(url) as own:
                return own.claim(job[0].uid, f"owner {number}", NOW)

        assert sum(together(6, start)) == 1

    def test_a_job_is_taken_over_from_the_owner_that_one_has_seen(
        self, store: HistoryStore
    ) -> None:
        first, second = jobs = sweep(2)
        record(store, *jobs, owner="dead")
        assert store.adopt({first[0].uid: "dead"}, "mine") == {first[0].uid}
        owners = dict.fromkeys(uids(jobs), "dead")
        assert store.adopt(owners, "another's") == {second[0].uid}
        assert [job.owner for job in store.open_jobs("totoro")] == ["mine", "another's"]


class TestStopping:
    def test_what_waits_ends_and_what_runs_does_not(self, store: HistoryStore) -> None:
        waiting, running, ended = jobs = sweep(3)
        record(store, *jobs)
        store.claim(running[0].uid, "me", NOW)
        store.settle({ended[0].uid: Outcome(Status.SUCCEEDED, 0, finished=NOW)})
        assert store.cancel([*uids(jobs), "no such job"], LATER) == [waiting[0].uid]
        found = recent_jobs(store, "totoro", 3)
        assert [job.outcome for job in found] == [
            Outcome(Status.STOPPED, reason="stopped before it started", finished=LATER),
            Outcome(Status.RUNNING, started=NOW),
            Outcome(Status.SUCCEEDED, 0, finished=NOW),
        ]
        assert [job.stop_requested for job in found] == [LATER, None, None]
        assert not store.claim(waiting[0].uid, "me", LATER)

    @pytest.mark.parametrize(
        ("ended", "expected"),
        [
            (Outcome(Status.FAILED, 143, "signal 15 (SIGTERM)"), (Status.STOPPED, "stopped")),
            (Outcome(Status.FAILED, 3, "exit code 3"), (Status.STOPPED, "stopped")),
            # It was done before it heard of that.
            (Outcome(Status.SUCCEEDED, 0), (Status.SUCCEEDED, "")),
            (Outcome(Status.STOPPED, 143, "interrupted"), (Status.STOPPED, "interrupted")),
            (Outcome(Status.RUNNING), (Status.RUNNING, "")),
        ],
    )
    def test_what_fails_after_that_has_been_stopped(
        self, store: HistoryStore, ended: Outcome, expected: tuple[Status, str]
    ) -> None:
        wanted, other = jobs = sweep(2)
        record(store, *jobs)
        for uid in uids(jobs):
            store.claim(uid, "me", NOW)
        store.request_stop([wanted[0].uid, "no such job"], LATER)
        store.settle(dict.fromkeys(uids(jobs), ended))
        assert state(store, wanted[0].uid) == expected
        assert store.outcome(wanted[0].uid).exit_code == ended.exit_code
        assert state(store, other[0].uid) == (ended.status, ended.reason)
        first, second = recent_jobs(store, "totoro", 2)
        assert (first.stop_requested, second.stop_requested) == (LATER, None)

    def test_a_job_that_had_failed_before_stays_failed(self, store: HistoryStore) -> None:
        job = entry({})
        record(store, job)
        store.settle({job[0].uid: Outcome(Status.FAILED, 1, "exit code 1")})
        store.request_stop(uids([job]), LATER)
        store.settle({job[0].uid: Outcome(Status.FAILED, 1, "exit code 1")})
        assert state(store, job[0].uid) == (Status.FAILED, "exit code 1")


class TestReports:
    def test_what_a_job_said_is_found_again(self, store: HistoryStore) -> None:
        first, second = sweep(2)
        record(store, first, second)
        said = Report({"loss": 0.25, "epoch": 3, "best": "ünï", "done": True}, "ValueError: no")
        store.settle(
            {first[0].uid: Outcome(Status.FAILED, 1, "exit code 1")}, reports={first[0].uid: said}
        )
        found, other = recent_jobs(store, "totoro", 2)
        assert found.report == said
        assert list(found.report.metrics) == ["loss", "epoch", "best", "done"]
        assert other.report == Report({})

    def test_the_newest_counts_also_of_a_job_that_runs(self, store: HistoryStore) -> None:
        job = entry({})
        record(store, job)
        for loss in (0.5, 0.25):
            store.settle({}, reports={job[0].uid: Report({"loss": loss})})
        assert recent_jobs(store, "totoro", 1)[0].report == Report({"loss": 0.25})


def test_jobs_that_wait_for_their_launcher_need_not_be_read(store: HistoryStore) -> None:
    mine, lost, running = sweep(3), sweep(2, group="h"), entry({})
    record(store, *mine, owner="alive")
    record(store, *lost, owner="dead", group="h")
    record(store, running, owner="alive")
    store.claim(running[0].uid, "alive", NOW)

    def unsettled(group: str | None = None) -> list[str]:
        return [job.uid for job in store.open_jobs("totoro", group, lambda owner: owner == "alive")]

    assert unsettled() == [*uids(lost), running[0].uid]
    assert unsettled("g") == [running[0].uid]
    assert unsettled("h") == uids(lost)
    with pytest.raises(UsageError):
        unsettled("no such group")
