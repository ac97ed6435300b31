"""What exactly jobs ran, written down and read back, on SQLite and PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import select, text

from caliban.history import schema
from caliban.history.store import HistoryStore
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, JobRequest, Submission
from caliban.model.provenance import Image, Machine, Provenance, Repository, Source

LONG = "numpy==2.1.0 --hash=sha256:abc\n" * 2000

WHOLE = Provenance(
    version="1.0",
    command="run",
    flags={"jobs": 4, "nogpu": True, "dir": ["data"]},
    variables=("API_KEY", "LINES"),
    experiments='{"rate": [1, 2]}',
    plan={"mode": "cpu", "lock": LONG, "extras": ["a"]},
    image=Image("sha256:1", "caliban:cpu-1", "r@sha256:2", "base", "sha256:3", "b@sha256:4"),
    source=Source(
        digest="sha256:5",
        files={"train.py": "666 aa", "b\udcff": "666 bb"},
        repository=Repository(
            commit="c0ffee",
            branch="main",
            remote="https://example.com/p",
            folder="digits",
            changed={"train.py": ".M", "b\udcff": "??"},
            diff="-a\n+b\udcff\0\x1b\n",
            note="cut",
            submodules={"lib": "beef"},
        ),
        note="why",
    ),
    machine=Machine("box", "Debian", "6.1", "EPYC", 4, 2**34, ("H100", "H100"), "560.1", "28.0"),
)


def record(store: HistoryStore, *uids: str, image: str = "sha256:1") -> None:
    def plan(_: int, request: JobRequest) -> tuple[Submission, Handle]:
        return Submission("local", "here", {}), Handle("local", "here", request.uid)

    requests = [
        JobRequest(uid, Experiment((), {"uid": uid}), image, "group", index)
        for index, uid in enumerate(uids)
    ]
    store.record("totoro", "group", "owner", {}, requests, plan)


def test_what_was_written_down_is_read_back(url: str) -> None:
    with HistoryStore.open(url) as store:
        record(store, "a", "b")
        store.provenances.keep(["a"], WHOLE)
        assert store.provenances.of_job("a") == WHOLE
        assert store.provenances.of_job("b") is None
        assert store.provenances.of_job("nobody") is None


def test_what_many_launches_have_in_common_is_kept_once(url: str) -> None:
    with HistoryStore.open(url) as store:
        record(store, "a", "b", "c")
        store.provenances.keep(["a", "b"], WHOLE)
        store.provenances.keep(["c"], replace(WHOLE, command="resubmit"))
        store.provenances.keep(["c"], replace(WHOLE, command="resubmit"))
        with store._database.reading() as connection:
            records = connection.execute(select(schema.provenances.c.record)).scalars().all()
            texts = connection.execute(select(schema.texts.c.content)).scalars().all()
    assert len(records) == 2
    assert len(texts) == 4  # experiments, lock, files, diff
    assert max(map(len, records)) < 2000
    assert sum(map(len, texts)) < len(LONG) / 50


def test_jobs_are_put_together_by_what_they_ran(url: str) -> None:
    other = replace(WHOLE, source=None)
    with HistoryStore.open(url) as store:
        record(store, *(uids := [f"{number:04}" for number in range(2500)]), "none")
        store.provenances.keep(uids[1:2], other)
        store.provenances.keep([uids[0], *uids[2:]], WHOLE)
        found = [*store.provenances.of_jobs(["none", *uids]).values()]
    assert found == [(WHOLE, [uids[0], *uids[2:]]), (other, uids[1:2])]


def test_of_an_image_the_newest_record_is_found(url: str) -> None:
    with HistoryStore.open(url) as store:
        record(store, "a", "b", "c")
        record(store, "d", image="sha256:2")
        store.provenances.keep(["a"], WHOLE)
        store.provenances.keep(["b"], replace(WHOLE, version="2.0"))
        found = store.provenances.of_image("sha256:1")
        assert found is not None
        assert found.version == "2.0"
        assert store.provenances.of_image("sha256:2") is None


def test_a_damaged_record_is_one_that_is_not_there(url: str) -> None:
    with HistoryStore.open(url) as store:
        record(store, "a", "b", "c")
        store.provenances.keep(["a", "b", "c"], WHOLE)
        with store._database.writing() as connection:
            connection.execute(text("UPDATE texts SET content = :x"), {"x": b"\x1f\x8bno"})
        found = store.provenances.of_job("a")
        assert found is not None
        assert (found.image, found.plan.get("lock")) == (WHOLE.image, None)
        with store._database.writing() as connection:
            connection.execute(text("UPDATE provenances SET record = '{\"image\": 3}'"))
        assert store.provenances.of_job("a") is None


def test_the_record_of_a_newer_caliban_can_be_read(url: str) -> None:
    with HistoryStore.open(url) as store:
        record(store, "a")
        store.provenances.keep(["a"], Provenance("9.0"))
        newer = '{"version": "9.0", "planet": "Mars", "machine": {"host": "h", "moons": 2}}'
        with store._database.writing() as connection:
            connection.execute(text("UPDATE provenances SET record = :x"), {"x": newer})
        assert store.provenances.of_job("a") == Provenance("9.0", machine=Machine("h"))
