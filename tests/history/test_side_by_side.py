"""Several calibans that read and write the same jobs at one moment, on both databases."""

from __future__ import annotations

from sqlalchemy import func, select

from caliban.history import schema
from caliban.history.database import Database
from caliban.history.store import HistoryStore
from caliban.model.job import Handle, Outcome, Status
from tests.history.test_store import NOW, record, sweep, together, uids


def test_what_several_calibans_add_to_one_job_all_stays(url: str) -> None:
    entries = sweep(1)
    with HistoryStore.open(url) as store:
        record(store, *entries)

    def add(number: int) -> None:
        with HistoryStore.open(url) as store:
            for each in range(10):
                store.add_detail(uids(entries)[0], f"{number}/{each}", each)

    together(4, add)
    with HistoryStore.open(url) as store:
        (job,) = store.jobs(uids(entries))
    assert len(job.details) == 40


def test_sending_jobs_and_stopping_them_never_wait_for_one_another_in_a_circle(url: str) -> None:
    entries = sweep(2)
    first, last = sorted(uids(entries))
    with HistoryStore.open(url) as store:
        record(store, *entries)

    def change(number: int) -> None:
        with HistoryStore.open(url) as store:
            for _ in range(60):
                if number:
                    handle = Handle("kubernetes", "there", "it", last)
                    store.settle({first: Outcome(Status.RUNNING)}, {last: handle})
                else:
                    store.request_stop([first, last], NOW, waiting=True)

    together(2, change)
    with HistoryStore.open(url) as store:
        by_uid = {job.uid: job for job in store.jobs([first, last])}
    assert by_uid[first].outcome.status is Status.RUNNING
    assert by_uid[last].handle is not None


def test_who_reads_sees_one_state_whatever_others_write_meanwhile(url: str) -> None:
    number = select(func.count()).select_from(schema.jobs)
    with HistoryStore.open(url) as store:
        record(store, *sweep(2))
        reader = Database(url)
        with reader.reading() as connection:
            before = connection.execute(number).scalar_one()
            record(store, *sweep(3))
            assert connection.execute(number).scalar_one() == before == 2
        with reader.reading() as connection:
            assert connection.execute(number).scalar_one() == 5
        reader.engine.dispose()
