from __future__ import annotations

import datetime
import threading
import time
import timeit
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text

from caliban.errors import HistoryError, UsageError
from caliban.history import schema
from caliban.history.store import HistoryStore
from caliban.model.experiment import Experiment, Value
from caliban.model.job import Handle, Job, JobRequest, Outcome, Status, Submission
from caliban.model.report import Report
from tests.history.recent import recent_jobs

NOW = datetime.datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=datetime.UTC)
PLAN = {"mode": "cpu", "directory": "/home/totoro/sweep", "requirements": ["requirements.txt"]}

Entry = tuple[JobRequest, Submission, Handle | None]


def entry(params: Mapping[str, Value], args: tuple[str, ...] = (), group: str = "g") -> Entry:
    uid = uuid.uuid4().hex
    experiment = Experiment(args, params)
    return (
        JobRequest(uid, experiment, "sha256:1234", group, 0),
        Submission("local", "unix:///var/run/docker.sock", {"flags": experiment.flags()}),
        None,
    )


def sweep(size: int, group: str = "g") -> list[Entry]:
    return [entry({"step": step}, group=group) for step in range(size)]


def uids(entries: list[Entry]) -> list[str]:
    return [request.uid for request, _, _ in entries]


def record(
    store: HistoryStore,
    *entries: Entry,
    group: str = "g",
    user: str = "totoro",
    owner: str = "",
    plan: Mapping[str, Any] = PLAN,
) -> list[int]:
    """Records jobs, and returns their ids."""
    sent = {request.uid: (submission, handle) for request, submission, handle in entries}
    requests = [request for request, _, _ in entries]
    recorded, _ = store.record(user, group, owner, plan, requests, lambda _, each: sent[each.uid])
    return [job.id for job in recorded]


@pytest.fixture
def store(url: str) -> Iterator[HistoryStore]:
    with HistoryStore.open(url) as opened:
        yield opened


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[HistoryStore]:
    with HistoryStore.open(f"sqlite:///{tmp_path}/caliban.db") as opened:
        yield opened


def test_a_job_comes_back_as_it_was_recorded(store: HistoryStore) -> None:
    params: Mapping[str, Value] = MappingProxyType(
        {"z": 1.0, "a": ["x", [True]], "ü": "日本 🙂 \\"}
    )
    experiment = Experiment(("--data", "a b"), MappingProxyType(params))
    submission = Submission("vertex", "projects/p", {"jobSpec": {"b": 1, "a": [None, "\0"]}})
    handle = Handle("vertex", "projects/p", "customJobs/17")
    request = JobRequest("uid-1", experiment, "registry/image@sha256:12", "mushi", 0)
    before = datetime.datetime.now(datetime.UTC)
    ids = record(store, (request, submission, handle), group="mushi", owner="host/1/2")
    (job,) = recent_jobs(store, "totoro", 8)
    assert before <= job.created <= datetime.datetime.now(datetime.UTC)
    assert job.created.tzinfo is datetime.UTC
    assert job == Job(
        id=ids[0],
        uid="uid-1",
        user="totoro",
        group="mushi",
        experiment_id=job.experiment_id,
        experiment=Experiment(experiment.args, params),
        container_spec_id=job.container_spec_id,
        container_spec=PLAN,
        submission=submission,
        handle=handle,
        image="registry/image@sha256:12",
        outcome=Outcome(Status.SUBMITTED),
        owner="host/1/2",
        created=job.created,
    )
    assert list(job.experiment.params) == ["z", "a", "ü"]


def test_the_ids_of_the_jobs_come_in_their_order(store: HistoryStore) -> None:
    entries = sweep(2000)
    ids = record(store, *entries)
    assert ids == sorted(ids)
    jobs = store.group_jobs("totoro", "g", 0)
    assert [(job.id, job.uid) for job in jobs] == list(zip(ids, uids(entries), strict=True))
    assert record(store) == []


def test_what_will_be_sent_may_depend_on_the_number_of_the_job(store: HistoryStore) -> None:
    record(store, *sweep(3))
    requests = [request for request, _, _ in sweep(300)]

    def plan(number: int, request: JobRequest) -> tuple[Submission, Handle]:
        payload = {"output": f"/results/{number}", "step": request.experiment.params["step"]}
        return Submission("local", "here", payload), Handle("local", "here", f"job-{number}")

    recorded, _ = store.record("totoro", "g", "", PLAN, requests, plan)
    assert [each.request for each in recorded] == requests
    assert [(each.submission, each.handle) for each in recorded] == [
        plan(each.id, each.request) for each in recorded
    ]
    jobs = recent_jobs(store, "totoro", 300)
    assert [job.id for job in jobs] == [each.id for each in recorded]
    assert [(job.submission, job.handle) for job in jobs] == [
        (each.submission, each.handle) for each in recorded
    ]
    assert [job.submission.output for job in jobs] == [f"/results/{job.id}" for job in jobs]


def test_nothing_is_recorded_when_what_will_be_sent_is_not_known(store: HistoryStore) -> None:
    def plan(number: int, _: JobRequest) -> tuple[Submission, None]:
        if number > 1:
            raise ValueError("no")
        return Submission("local", "here", {}), None

    with pytest.raises(ValueError, match="no"):
        store.record("totoro", "g", "", PLAN, [each[0] for each in sweep(3)], plan)
    assert recent_jobs(store, "totoro") == []


def test_details_are_added_to_a_job_one_by_one(store: HistoryStore) -> None:
    job, other = sweep(2)
    record(store, job, other)
    store.add_detail(job[0].uid, "code", "sha256:1")
    store.add_detail(job[0].uid, "more", {"a": [1, None]})
    store.add_detail(job[0].uid, "code", "sha256:2")
    first, second = recent_jobs(store, "totoro", 2)
    assert first.details == {"code": "sha256:2", "more": {"a": [1, None]}}
    assert second.details == {}


def test_a_job_is_found_by_its_number_by_its_user(store: HistoryStore) -> None:
    first, second = record(store, *sweep(2))
    assert store.job("totoro", second) == recent_jobs(store, "totoro", 1)[0]
    assert store.job("totoro", first).id == first
    newest = f"The newest one is job {second}; 'caliban status' shows the numbers of the jobs."
    for user, number, hint in (
        ("mei", first, "No job of mei has been recorded yet."),
        ("totoro", second + 1, newest),
    ):
        with pytest.raises(UsageError) as error:
            store.job(user, number)
        assert error.value.message == f"{user} has no job {number}"
        assert error.value.hint == hint


def test_an_experiment_that_is_run_again_has_another_job(store: HistoryStore) -> None:
    record(store, entry({"a": 1, "b": 2}), entry({"b": 2, "a": 1}))
    record(store, entry({"a": 1, "b": 2}))
    jobs = recent_jobs(store, "totoro")
    assert len({job.experiment_id for job in jobs}) == 1
    assert len({job.id for job in jobs}) == 3


def test_all_that_makes_an_experiment_keeps_it_apart(store: HistoryStore) -> None:
    values: list[Value] = [1, 1.0, True, "1", [1]]
    record(
        store,
        *(entry({"a": value}) for value in values),
        entry({"a": 1}, args=("--a",)),
        entry({"b": 1}),
    )
    record(store, entry({"a": 1}), group="other")
    record(store, entry({"a": 1}), user="mei")
    record(store, entry({"a": 1}), plan={**PLAN, "mode": "gpu"})
    jobs = recent_jobs(store, "totoro") + recent_jobs(store, "mei")
    assert len({job.experiment_id for job in jobs}) == len(jobs) == 10
    assert len({job.container_spec_id for job in jobs}) == 3


def test_jobs_are_recorded_all_or_none(store: HistoryStore) -> None:
    known = entry({"a": 1})
    record(store, known)
    with pytest.raises(HistoryError, match=r"(?i)unique"):
        record(store, entry({"a": 2}), known, group="other")
    assert len(recent_jobs(store, "totoro")) == 1
    with pytest.raises(UsageError):
        store.group_jobs("totoro", "other", 0)


def test_an_outcome_and_a_handle_are_found_again(store: HistoryStore) -> None:
    first, second = sweep(2)
    record(store, first, second)
    zone = datetime.timezone(datetime.timedelta(hours=9))
    handle = Handle("local", "unix:///var/run/docker.sock", "c0ffee")
    store.settle({}, {uids([first])[0]: handle})
    store.settle({uids([first])[0]: Outcome(Status.RUNNING, started=NOW.astimezone(zone))})
    store.settle({uids([first])[0]: Outcome(Status.FAILED, 3, "exit code 3", finished=NOW)})
    store.settle({"no such job": Outcome(Status.FAILED, 1)})
    settled, other = recent_jobs(store, "totoro")
    assert settled.outcome == Outcome(Status.FAILED, 3, "exit code 3", NOW, NOW)
    assert settled.handle == handle
    assert other.outcome == Outcome(Status.SUBMITTED)


def test_whatever_a_job_has_printed_can_be_recorded(store: HistoryStore) -> None:
    entries = sweep(1)
    record(store, *entries)
    (uid,) = uids(entries)
    said = Report({"metric\0": "\ud800"}, "the cause\0 \udcff")
    store.settle({uid: Outcome(Status.FAILED, 1, "reason\0\ud800")}, reports={uid: said})
    (job,) = store.jobs([uid])
    assert job.outcome.reason == "reason\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
    assert job.report.cause == "the cause\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}"


def test_the_jobs_of_a_user_that_have_not_ended_are_open(store: HistoryStore) -> None:
    entries = sweep(5)
    record(store, *entries)
    record(store, entry({}), group="other")
    record(store, entry({}), user="mei")
    statuses = (Status.SUCCEEDED, Status.FAILED, Status.STOPPED, Status.RUNNING)
    store.settle(dict(zip(uids(entries), map(Outcome, statuses), strict=False)))
    assert [job.uid for job in store.open_jobs("totoro", "g")] == uids(entries)[3:]
    assert len(store.open_jobs("totoro")) == 3
    with pytest.raises(UsageError):
        store.open_jobs("totoro", "h")


def test_recent_jobs_are_the_newest_of_one_user_the_oldest_first(store: HistoryStore) -> None:
    entries = sweep(12)
    for number, each in enumerate(entries):
        record(store, each, group=f"g{number % 2}")
        record(store, entry({}), user="mei")
    assert [job.uid for job in recent_jobs(store, "totoro", 5)] == uids(entries)[-5:]
    assert [job.uid for job in recent_jobs(store, "totoro")] == uids(entries)
    assert recent_jobs(store, "satsuki", 8) == []


def test_a_group_shows_the_newest_jobs_of_each_experiment(store: HistoryStore) -> None:
    rounds = [sweep(3) for _ in range(4)]
    for entries in rounds:
        record(store, *entries)
    record(store, *sweep(3), group="other")
    by_experiment = list(zip(*map(uids, rounds), strict=True))
    for newest in (1, 2, 4, 9, 0):
        jobs = store.group_jobs("totoro", "g", newest)
        assert [job.uid for job in jobs] == [uid for row in by_experiment for uid in row[-newest:]]


def test_a_misspelt_group_gets_a_hint(store: HistoryStore) -> None:
    def hint(name: str) -> str:
        with pytest.raises(UsageError, match=f"no experiment group '{name}'") as caught:
            store.group_jobs("totoro", name, 1)
        return caught.value.hint

    assert hint("sweep") == "No experiment group of totoro has been recorded yet."
    for name in ("mushi-sweep", "susuwatari"):
        store.group("totoro", name, NOW)
    assert hint("mushi-sweeep") == "Did you mean mushi-sweep?"
    assert hint("xyz") == "The newest are: susuwatari, mushi-sweep."


def test_a_group_without_a_name_gets_a_free_one_from_the_time(store: HistoryStore) -> None:
    assert store.group("totoro", "mine", NOW) == store.group("totoro", "mine", NOW) == "mine"
    stem = "totoro-xgroup-2026-03-01-12-30-15"
    names = [store.group("totoro", None, NOW) for _ in range(3)]
    assert names == [stem, f"{stem}-2", f"{stem}-3"]
    assert store.group("mei", None, NOW) == "mei-xgroup-2026-03-01-12-30-15"


def together(count: int, action: Callable[[int], Any]) -> list[Any]:
    """Calls an action with 0, 1, ... in as many threads at once."""
    results: list[Any] = [None] * count
    start = threading.Barrier(count)

    def work(number: int) -> None:
        start.wait()
        results[number] = action(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_no_two_launches_at_one_moment_get_the_same_group(url: str) -> None:
    def launch(_: int) -> str:
        with HistoryStore.open(url) as store:
            return store.group("totoro", None, NOW)

    assert len(set(together(6, launch))) == 6


def test_launches_into_one_group_at_one_moment_share_its_experiments(url: str) -> None:
    def launch(number: int) -> int:
        with HistoryStore.open(url) as store:
            entries = sweep(300)
            return len(record(store, *entries[:: -1 if number % 2 else 1]))

    assert together(4, launch) == [300] * 4
    with HistoryStore.open(url) as store:
        jobs = store.group_jobs("totoro", "g", 0)
    assert len(jobs) == 1200
    assert len({job.experiment_id for job in jobs}) == 300


def test_the_threads_of_a_process_share_a_store(store: HistoryStore) -> None:
    entries = sweep(40)
    record(store, *entries)
    together(40, lambda number: store.settle({uids(entries)[number]: Outcome(Status.SUCCEEDED, 0)}))
    assert store.open_jobs("totoro") == []


@pytest.fixture(scope="module")
def lasting_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HistoryStore]:
    with HistoryStore.open(f"sqlite:///{tmp_path_factory.mktemp('lasting')}/caliban.db") as opened:
        yield opened


@settings(max_examples=30, deadline=None)
@given(
    outcomes=st.lists(st.builds(Outcome, st.sampled_from(Status), st.none() | st.integers(0, 255)))
)
def test_the_first_final_outcome_stays_and_unknown_changes_nothing(
    lasting_store: HistoryStore, outcomes: list[Outcome]
) -> None:
    job = entry({})
    record(lasting_store, job)
    expected = Outcome(Status.SUBMITTED)
    for outcome in outcomes:
        if not expected.status.is_final and outcome.status is not Status.UNKNOWN:
            expected = outcome
        lasting_store.settle({job[0].uid: outcome})
    assert recent_jobs(lasting_store, "totoro", 1)[0].outcome == expected


def test_no_query_reads_more_of_the_history_than_it_returns(sqlite_store: HistoryStore) -> None:
    record(sqlite_store, entry({}))
    engine = sqlite_store._database.engine
    statements: list[tuple[str, Any]] = []

    @event.listens_for(engine, "before_cursor_execute")
    def collect(_c: object, _u: object, statement: str, values: Any, *_: object) -> None:
        statements.append((statement, values))

    queries: list[Callable[[], Any]] = [
        lambda: recent_jobs(sqlite_store, "totoro", 8),
        lambda: sqlite_store.group_jobs("totoro", "g", 1),
        lambda: sqlite_store.group_jobs("totoro", "g", 0),
        lambda: sqlite_store.open_jobs("totoro"),
        lambda: sqlite_store.open_jobs("totoro", "g"),
        lambda: sqlite_store.settle({"uid": Outcome(Status.FAILED)}, {"uid": Handle("", "", "")}),
        lambda: sqlite_store.group("totoro", "g", NOW),
        lambda: record(sqlite_store, entry({})),
    ]
    for query in queries:
        query()
    seen = [each for each in statements if not each[0].startswith("BEGIN")]
    assert len(seen) > len(queries)
    plans = {}
    with sqlite_store._database.reading() as connection:
        for statement, values in seen:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
            plans[statement] = [str(row.detail) for row in rows]
    for statement, plan in plans.items():
        scanned = {line.split()[1] for line in plan if line.startswith("SCAN")}
        assert scanned.isdisjoint(schema.metadata.tables), (statement, plan)
    used = " ".join(line for plan in plans.values() for line in plan)
    assert all(index.name in used for index in schema.jobs.indexes if index.name)


def fastest(action: Callable[[], Any], repeat: int = 5) -> float:
    """The seconds of a processor, which others that run beside it make no longer."""
    return min(timeit.repeat(action, timer=time.process_time, number=1, repeat=repeat))


def test_what_a_query_costs_does_not_grow_with_the_rest_of_the_history(
    sqlite_store: HistoryStore,
) -> None:
    record(sqlite_store, *sweep(200), group="small")
    queries = [
        lambda: recent_jobs(sqlite_store, "totoro", 8),
        lambda: sqlite_store.group_jobs("totoro", "small", 1),
        lambda: sqlite_store.open_jobs("totoro", "small"),
    ]
    before = [fastest(query) for query in queries]
    for number in range(15):
        entries = sweep(1000, f"g{number}")
        record(sqlite_store, *entries, group=f"g{number}")
        sqlite_store.settle({uid: Outcome(Status.SUCCEEDED, 0) for uid in uids(entries)})
    for query, small in zip(queries, before, strict=True):
        assert fastest(query) < 5 * small + 0.002


def test_recording_a_sweep_costs_little_more_than_its_rows(sqlite_store: HistoryStore) -> None:
    entries = sweep(5000)
    recorded = fastest(lambda: record(sqlite_store, *entries), repeat=1)

    def copy() -> None:
        with sqlite_store._database.writing() as connection:
            for table in ("experiments", "job_specs", "jobs"):
                connection.execute(text(f"DROP TABLE IF EXISTS copy_of_{table}"))
                connection.execute(text(f"CREATE TABLE copy_of_{table} AS SELECT * FROM {table}"))
                rows = connection.exec_driver_sql(f"SELECT * FROM {table}").all()
                values = ", ".join("?" * len(rows[0]))
                connection.exec_driver_sql(
                    f"INSERT INTO copy_of_{table} VALUES ({values})", [tuple(row) for row in rows]
                )

    assert recorded < 10 * fastest(copy)
