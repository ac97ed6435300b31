from __future__ import annotations

import json
import re
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, inspect, text

import caliban
from caliban.errors import HistoryError
from caliban.history import forms, migrations, schema
from caliban.history.database import Database
from caliban.history.store import HistoryStore
from caliban.model.experiment import Experiment
from caliban.model.job import JobRequest, Outcome, Status, Submission
from caliban.model.provenance import Provenance
from tests.history.recent import recent_jobs

# What SQLite's .schema says of a database that caliban 0.4.1 made.
SCHEMA_0_4 = """
CREATE TABLE container_specs (
    id INTEGER NOT NULL, user VARCHAR, spec JSON, created DATETIME NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE experiment_groups (
    id INTEGER NOT NULL, name VARCHAR, created DATETIME NOT NULL, user VARCHAR,
    PRIMARY KEY (id)
);
CREATE TABLE experiments (
    id INTEGER NOT NULL, created DATETIME NOT NULL, args JSON, kwargs JSON,
    container_spec_id INTEGER, xgroup_id INTEGER,
    PRIMARY KEY (id),
    FOREIGN KEY(container_spec_id) REFERENCES container_specs (id),
    FOREIGN KEY(xgroup_id) REFERENCES experiment_groups (id)
);
CREATE TABLE job_specs (
    id INTEGER NOT NULL, created DATETIME NOT NULL, spec JSON NOT NULL,
    platform VARCHAR(5) NOT NULL, experiment_id INTEGER,
    PRIMARY KEY (id),
    CONSTRAINT platform CHECK (platform IN ('CAIP', 'GKE', 'LOCAL', 'TEST')),
    FOREIGN KEY(experiment_id) REFERENCES experiments (id)
);
CREATE TABLE jobs (
    id INTEGER NOT NULL, created DATETIME NOT NULL, job_spec_id INTEGER,
    experiment_id INTEGER, container VARCHAR NOT NULL, status VARCHAR(9), details JSON,
    user VARCHAR,
    PRIMARY KEY (id),
    FOREIGN KEY(job_spec_id) REFERENCES job_specs (id),
    FOREIGN KEY(experiment_id) REFERENCES experiments (id),
    CONSTRAINT jobstatus CHECK
    (status IN ('SUBMITTED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'STOPPED', 'UNKNOWN'))
);
"""

SPEC = '{"build_path": "/home/totoro/sweep", "job_mode": "CPU"}'
THEN = "2020-05-28 11:33:35.123456"

ROWS_0_4: dict[str, list[tuple[Any, ...]]] = {
    "container_specs (id, user, spec, created)": [
        (1, "totoro", SPEC, THEN),
        (2, None, None, THEN),
        (5, "mei", "{not JSON", THEN),
    ],
    "experiment_groups (id, name, created, user)": [
        (1, "sweep", THEN, "totoro"),
        (2, "sweep", THEN, "mei"),
        (4, "sweep", THEN, "totoro"),
        (5, None, THEN, "totoro"),
        (6, None, THEN, "totoro"),
        (7, "late", "2020-13-99", "totoro"),
    ],
    "experiments (id, created, args, kwargs, container_spec_id, xgroup_id)": [
        (10, THEN, '["--a", 1]', '{"z": 1.0, "a": "\\u65e5"}', 1, 1),
        (11, THEN, "null", "null", 1, 4),
        (12, THEN, None, None, None, None),
        (13, THEN, "[not JSON", '{"not": JSON', 5, 2),
        (14, THEN, "[]", "{}", 999, 999),
    ],
    "job_specs (id, created, spec, platform, experiment_id)": [
        (20, THEN, '{"command": ["docker", "run"], "container": "c0"}', "LOCAL", 10),
        (21, THEN, '{"jobId": "x"}', "CAIP", 11),
        (22, THEN, "{not JSON", "GKE", 13),
        (23, THEN, "[]", "TEST", 999),
    ],
    "jobs (id, created, job_spec_id, experiment_id, container, status, details, user)": [
        (30, THEN, 20, 10, "c0", "FAILED", '{"ret_code": 3}', "totoro"),
        (31, THEN, 21, 11, "gcr.io/p/c1", "RUNNING", '{"jobId": "x"}', "totoro"),
        (32, THEN, 22, 13, "gcr.io/p/c2", "STOPPED", "{not JSON", "totoro"),
        (33, THEN, None, None, "c3", None, None, "totoro"),
        (34, THEN, 999, 999, "c4", "UNKNOWN", "null", None),
        (40, THEN, 23, 10, "c5", "SUBMITTED", "{}", "totoro"),
    ],
}


def fill(connection: sqlite3.Connection) -> None:
    connection.executescript(SCHEMA_0_4)
    for table, rows in ROWS_0_4.items():
        values = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {table} VALUES ({values})", rows)
    connection.commit()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The file of a database of caliban 0.4, with all that one may hold."""
    file = tmp_path / "caliban.db"
    with closing(sqlite3.connect(file)) as connection:
        fill(connection)
    return file


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone nine hours ahead, in which caliban 0.4 wrote its local times."""
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def contents(file: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(statement).fetchall()


def tables(file: Path) -> list[tuple[Any, ...]]:
    """The tables and indices, without the blanks that depend on how a column came into being."""
    rows = contents(file, "SELECT name, sql FROM sqlite_master WHERE sql <> '' ORDER BY name")
    return [(name, re.sub(r",\s*", ", ", sql)) for name, sql in rows]


def backups(file: Path) -> list[str]:
    """Names of what lies beside a database, but for its reserve."""
    found = {path.name for path in file.parent.iterdir()}
    return sorted(found - {file.name, f"{file.name}-reserve"})


def planned(_number: int, _request: JobRequest) -> tuple[Submission, None]:
    return Submission("gke", "", {}), None


def test_the_first_migration_makes_the_tables_of_0_4(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/ours.db")
    with database.writing() as connection:
        migrations.m001(connection)
    database.close()
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as theirs:
        theirs.executescript(SCHEMA_0_4)

    def words(name: str) -> list[tuple[str, list[str]]]:
        return [(table, sql.split()) for table, sql in tables(tmp_path / name)]

    assert words("ours.db") == words("theirs.db")


def test_a_migrated_database_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    HistoryStore.open(f"sqlite:///{old}").close()
    HistoryStore.open(f"sqlite:///{tmp_path}/new.db").close()
    assert tables(old) == tables(tmp_path / "new.db")
    assert contents(old, "SELECT version FROM caliban_schema") == [(len(migrations.MIGRATIONS),)]


def test_a_database_of_form_2_is_migrated_in_place(tmp_path: Path) -> None:
    file = tmp_path / "caliban.db"
    database = Database(f"sqlite:///{file}")
    with database.writing() as connection:
        forms.V2.create_all(connection)
        connection.execute(forms.V2.tables["caliban_schema"].insert().values(version=2))
        job = {"uid": "u", "owner": "", "image": "i", "reason": "", "user": "totoro"}
        then = datetime(2026, 11, 1, tzinfo=UTC)
        connection.execute(forms.V2.tables["jobs"].insert().values(created=then, **job))
    database.close()
    with HistoryStore.open(f"sqlite:///{file}") as store:
        assert [job.uid for job in recent_jobs(store, "totoro")] == ["u"]
    assert backups(file) == []
    HistoryStore.open(f"sqlite:///{tmp_path}/new.db").close()
    assert tables(file) == tables(tmp_path / "new.db")


def test_a_database_of_form_3_gets_a_table_for_locks(url: str) -> None:
    with HistoryStore.open(url) as store, store._database.writing() as connection:
        connection.execute(text("DROP TABLE locks"))
        _without_provenance(connection)
        connection.execute(schema.schema_version.update().values(version=3))
    with HistoryStore.open(url) as store:
        assert store.locks.keep("project", "declaration", "lock") == "lock"
        with store._database.reading() as connection:
            version = connection.execute(text("SELECT version FROM caliban_schema")).scalar()
    assert version == len(migrations.MIGRATIONS)


def _without_provenance(connection: Connection) -> None:
    """Undoes the fifth migration."""
    connection.execute(text("DROP TABLE provenances"))
    connection.execute(text("DROP TABLE texts"))
    connection.execute(text("ALTER TABLE jobs DROP COLUMN provenance"))


def test_the_jobs_of_a_database_of_form_4_have_no_provenance_yet(url: str) -> None:
    request = JobRequest("uid", Experiment((), {}), "image", "group", 0)
    with HistoryStore.open(url) as store:
        store.record("totoro", "group", "owner", {}, [request], planned)
        with store._database.writing() as connection:
            _without_provenance(connection)
            connection.execute(schema.schema_version.update().values(version=4))
    with HistoryStore.open(url) as store:
        assert [job.uid for job in store.group_jobs("totoro", "group", 0)] == ["uid"]
        assert store.provenances.of_job("uid") is None
        store.provenances.keep(["uid"], Provenance("1.0"))
        assert store.provenances.of_job("uid") == Provenance("1.0")


def test_a_migration_keeps_every_row_as_it_was(old: Path) -> None:
    HistoryStore.open(f"sqlite:///{old}").close()
    utc = "2020-05-28 02:33:35.123456"
    assert contents(old, "SELECT id, user, spec, created FROM container_specs") == [
        (1, "totoro", SPEC, utc),
        (2, None, None, utc),
        (5, "mei", "{not JSON", utc),
    ]
    assert contents(old, "SELECT id, name, created, user FROM experiment_groups") == [
        (1, "sweep", utc, "totoro"),
        (2, "sweep", utc, "mei"),
        (5, None, utc, "totoro"),
        (6, None, utc, "totoro"),
        (7, "late", "1970-01-01 00:00:00.000000", "totoro"),
    ]
    assert contents(
        old, "SELECT id, created, args, params, container_spec_id, group_id FROM experiments"
    ) == [
        (10, utc, '["--a", 1]', '{"z": 1.0, "a": "\\u65e5"}', 1, 1),
        (11, utc, "null", "null", 1, 1),
        (12, utc, None, None, None, None),
        (13, utc, "[not JSON", '{"not": JSON', 5, 2),
        (14, utc, "[]", "{}", None, None),
    ]
    assert contents(old, "SELECT id, payload, platform, experiment_id FROM job_specs") == [
        (20, '{"command": ["docker", "run"], "container": "c0"}', "local", 10),
        (21, '{"jobId": "x"}', "caip", 11),
        (22, "{not JSON", "gke", 13),
        (23, "[]", "test", None),
    ]
    assert contents(
        old, "SELECT id, uid, job_spec_id, experiment_id, image, status, details, user FROM jobs"
    ) == [
        (30, "legacy-30", 20, 10, "c0", "FAILED", '{"ret_code": 3}', "totoro"),
        (31, "legacy-31", 21, 11, "gcr.io/p/c1", "RUNNING", '{"jobId": "x"}', "totoro"),
        (32, "legacy-32", 22, 13, "gcr.io/p/c2", "STOPPED", "{not JSON", "totoro"),
        (33, "legacy-33", None, None, "c3", None, None, "totoro"),
        (34, "legacy-34", None, None, "c4", "UNKNOWN", "null", None),
        (40, "legacy-40", 23, 10, "c5", "SUBMITTED", "{}", "totoro"),
    ]


def test_the_jobs_of_0_4_can_be_read(old: Path) -> None:
    with HistoryStore.open(f"sqlite:///{old}") as store:
        local, caip, broken, bare, last = recent_jobs(store, "totoro")
        assert [job.id for job in store.group_jobs("totoro", "sweep", 0)] == [30, 40, 31]
        assert [job.id for job in store.open_jobs("totoro")] == [31, 40]
    assert local.outcome == Outcome(Status.FAILED, exit_code=3)
    assert local.experiment == Experiment(("--a", "1"), {"z": 1.0, "a": "日"})
    assert local.submission == Submission(
        "local", "", {"command": ["docker", "run"], "container": "c0"}
    )
    assert local.container_spec == json.loads(SPEC)
    assert local.created == datetime(2020, 5, 28, 2, 33, 35, 123456, UTC)
    assert {job.handle for job in (local, caip, broken, bare, last)} == {None}
    assert (caip.submission.platform, caip.details) == ("caip", {"jobId": "x"})
    assert (broken.experiment, broken.details) == (Experiment((), {}), {})
    assert (bare.group, bare.outcome) == ("", Outcome(Status.UNKNOWN))


def test_a_migrated_history_goes_on(old: Path) -> None:
    with HistoryStore.open(f"sqlite:///{old}") as store:
        store.settle({"legacy-30": Outcome(Status.SUCCEEDED), "legacy-31": Outcome(Status.FAILED)})
        request = JobRequest("new", Experiment((), {}), "image", "sweep", 0)
        recorded, _ = store.record("totoro", "sweep", "", {}, [request], planned)
        assert [job.id for job in recorded] == [41]
        jobs = {job.id: job for job in store.group_jobs("totoro", "sweep", 0)}
    assert jobs[30].outcome.status is jobs[31].outcome.status is Status.FAILED
    assert jobs[41].experiment_id == 15


def test_a_database_of_0_4_is_backed_up_before_it_is_migrated(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(old, "SELECT * FROM jobs")
    old.chmod(0o644)
    earlier = old.with_name("caliban.db.caliban-0.4-backup")
    earlier.write_text("mine")
    HistoryStore.open(f"sqlite:///{old}").close()
    backup = old.with_name("caliban.db.caliban-0.4-backup-2")
    assert backups(old) == [earlier.name, backup.name]
    assert earlier.read_text() == "mine"
    assert {stat.S_IMODE(file.stat().st_mode) for file in (old, backup)} == {0o600}
    assert contents(backup, "SELECT * FROM jobs") == before
    assert str(backup) in capsys.readouterr().err
    HistoryStore.open(f"sqlite:///{old}").close()
    assert capsys.readouterr().err == ""
    assert backups(old) == [earlier.name, backup.name]


def test_a_migration_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(connection: Connection) -> None:
        migrations.m002(connection)
        connection.execute(text("SELECT * FROM no_such_table"))

    before = old.read_bytes()
    monkeypatch.setattr(migrations, "MIGRATIONS", (migrations.m001, failing))
    with pytest.raises(HistoryError, match="no such table"):
        HistoryStore.open(f"sqlite:///{old}")
    assert old.read_bytes() == before
    assert backups(old) == []


def test_one_of_several_processes_migrates_and_the_others_wait(old: Path) -> None:
    code = """
import sys
from caliban.history.store import HistoryStore
with HistoryStore.open(sys.argv[1]) as store:
    print(len(store.recent_outlines("totoro", 100_000)))
"""
    with closing(sqlite3.connect(old)) as connection:
        connection.executemany(
            "INSERT INTO jobs (created, container, user) VALUES (?, '', 'totoro')", [(THEN,)] * 5000
        )
        connection.commit()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"sqlite:///{old}"],
            cwd=Path(caliban.__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    results = [(*process.communicate(timeout=120), process.returncode) for process in processes]
    assert [(output, code) for output, _, code in results] == [("5005\n", 0)] * 5
    assert sum("a copy of it is" in errors for _, errors, _ in results) == 1
    # Where several close it at once, SQLite may leave its -wal and -shm to the next who closes it.
    assert contents(old, "SELECT version FROM caliban_schema") != []
    assert backups(old) == ["caliban.db.caliban-0.4-backup"]


def test_the_history_of_a_newer_caliban_is_left_alone(url: str) -> None:
    with HistoryStore.open(url) as store, store._database.writing() as connection:
        connection.execute(schema.schema_version.update().values(version=99))
    with pytest.raises(HistoryError, match="a newer caliban wrote the history") as caught:
        HistoryStore.open(url)
    assert "99" in caught.value.message
    assert caught.value.hint == "Upgrade with: pip install --upgrade caliban"


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER, name VARCHAR)")
    file.chmod(0o644)
    before = file.read_bytes()
    with pytest.raises(HistoryError, match="is no history of caliban's"):
        HistoryStore.open(f"sqlite:///{file}")
    assert file.read_bytes() == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert backups(file) == []


def test_a_database_of_0_4_on_a_server_is_migrated_and_its_tables_stay(postgresql: str) -> None:
    database = Database(postgresql)
    old = forms.V1.tables
    then = datetime(2020, 5, 28, 2, 33, 35, 123456, UTC)
    with database.writing() as connection:
        migrations.m001(connection)
        for name, values in (
            ("container_specs", {"user": "totoro", "spec": json.loads(SPEC)}),
            ("experiment_groups", {"user": "totoro", "name": "sweep"}),
            ("experiment_groups", {"user": "totoro", "name": "sweep"}),
            ("experiments", {"args": None, "kwargs": {"a": 1}, "xgroup_id": 2}),
            ("job_specs", {"spec": {"x": 1}, "platform": "LOCAL", "experiment_id": 1}),
        ):
            connection.execute(insert(old[name]).values(created=then, **values))
        job = {"created": then, "container": "c", "user": "totoro", "details": {"ret_code": 1}}
        for status in ("FAILED", None):
            connection.execute(
                insert(old["jobs"]).values(status=status, job_spec_id=1, experiment_id=1, **job)
            )
    database.close()
    with HistoryStore.open(postgresql) as store:
        failed, unknown = store.group_jobs("totoro", "sweep", 0)
        assert (failed.uid, failed.created, failed.outcome.exit_code) == ("legacy-1", then, 1)
        assert failed.submission == Submission("local", "", {"x": 1})
        assert unknown.outcome.status is Status.UNKNOWN
        request = JobRequest("new", Experiment((), {}), "image", "sweep", 0)
        recorded, _ = store.record("totoro", "sweep", "", {}, [request], planned)
        assert [job.id for job in recorded] == [3]
        with store._database.reading() as connection:
            names = set(inspect(connection).get_table_names())
            kept = connection.execute(text("SELECT count(*) FROM jobs_0_4")).scalar()
    assert {f"{name}_0_4" for name in old} <= names
    assert kept == 2
