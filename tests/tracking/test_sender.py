"""What is sent beside the jobs, and what a server costs them that is away, or never answers."""

from __future__ import annotations

import contextlib
import datetime
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from caliban.history.store import HistoryStore
from caliban.model import tracking
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, JobRequest, Outcome, Status, Submission
from caliban.tracking import outbox, sender
from caliban.tracking.place import Place
from caliban.tracking.sender import Sender
from tests import mlflow_server

NOW = datetime.datetime.now(datetime.UTC)
GOOD = Outcome(Status.SUCCEEDED, 0, "", NOW, NOW)

STOPPED = Outcome(Status.STOPPED, reason="not started")

# Nobody listens there.
NOWHERE = Place("http://127.0.0.1:9")


@pytest.fixture
def store(home: Path) -> Iterator[HistoryStore]:
    with HistoryStore.open() as opened:
        yield opened


@pytest.fixture
def silent() -> Iterator[Place]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as stack:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    stack.enter_context(server.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        yield Place(f"http://127.0.0.1:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def recorded(store: HistoryStore, number: int, group: str = "group") -> list[str]:
    uids = [f"{number:04}{each:04}" for each in range(number)]
    experiments = [Experiment((), {"n": each}) for each in range(number)]
    wanted = [
        JobRequest(uid, experiment, "image", group, index)
        for index, (uid, experiment) in enumerate(zip(uids, experiments, strict=True))
    ]

    def plan(_: int, request: JobRequest) -> tuple[Submission, Handle]:
        return Submission("local", "here", {}), Handle("local", "here", request.uid)

    store.record("tester", group, "", {}, wanted, plan, None)
    return uids


def run_jobs(store: HistoryStore, sending: Sender, uids: list[str]) -> list[str]:
    """Starts and ends jobs that take no time; returns the ids of runs that they were told."""
    told = []
    for index, uid in enumerate(uids):
        sending.prepare(uids[index : index + 5])
        told.append(sending.variables(uid).get(tracking.ID, ""))
        store.settle({uid: GOOD})
        sending.ended(uid)
    return told


def test_a_server_that_is_away_costs_a_job_nothing(
    store: HistoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    uids = recorded(store, 40)
    with Sender(store, NOWHERE, "group", uids) as sending:
        assert run_jobs(store, sending, uids) == [""] * 40
    assert "40 jobs are not in MLflow yet: the tracking server at" in capsys.readouterr().err
    assert [entry.uid for entry in outbox.entries()] == uids
    [left] = sender.flush(store, 5)
    assert left.number == 40


def test_a_server_that_never_answers_is_waited_for_once(
    store: HistoryStore, silent: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_GLANCE", 0.1)
    monkeypatch.setattr(sender, "_PATIENCE", 0.2)
    monkeypatch.setattr("caliban.tracking.server._ANSWER", 1.5)
    uids = recorded(store, 20)
    waits = []
    with Sender(store, silent, "group", uids) as sending:
        for index, uid in enumerate(uids):
            sending.prepare(uids[index : index + 5])
            began = time.monotonic()
            assert tracking.ID not in sending.variables(uid)
            waits.append(time.monotonic() - began)
    # It is asked for the run of the first job; that the others have none is known at once.
    assert sum(wait >= 0.09 for wait in waits) == 1


def test_what_waits_is_sent_when_the_server_is_back(
    store: HistoryStore, mlflow: mlflow_server.Server
) -> None:
    uids = recorded(store, 3, "late")
    outbox.expect(outbox.Entry(uid, Place(mlflow.url), "late") for uid in uids)
    store.settle(dict.fromkeys(uids[:2], GOOD))
    assert sender.flush(store, 20) == []
    assert len(mlflow.runs("late")) == 2
    # The third has not ended: it stays.
    assert [entry.uid for entry in outbox.entries()] == uids[2:]


def test_the_next_launch_sends_what_waits_as_well(
    store: HistoryStore, mlflow: mlflow_server.Server
) -> None:
    uids = recorded(store, 2, "earlier")
    outbox.expect(outbox.Entry(uid, Place(mlflow.url), "earlier") for uid in uids)
    store.settle(dict.fromkeys(uids, GOOD))
    with Sender(store, Place(mlflow.url), "later", []):
        pass
    assert len(mlflow.runs("earlier")) == 2


def test_a_job_that_was_told_of_a_run_keeps_it_whoever_completes_it(
    store: HistoryStore, mlflow: mlflow_server.Server
) -> None:
    uids = recorded(store, 4, "told")
    place = Place(mlflow.url)
    with Sender(store, place, "told", uids) as sending:
        sending.prepare(uids)
        first = [sending.variables(uid)[tracking.ID] for uid in uids]
    with Sender(store, place, "told", uids) as again:
        assert run_jobs(store, again, uids) == first
    runs = mlflow.runs("told")
    assert {run.id for run in runs} == {*first}
    assert {run.state for run in runs} == {"FINISHED"}
    assert outbox.entries() == []


def test_jobs_that_never_started_get_no_run_but_one_that_was_made_is_closed(
    store: HistoryStore, mlflow: mlflow_server.Server
) -> None:
    uids = recorded(store, 6, "cut")
    with Sender(store, Place(mlflow.url), "cut", uids) as sending:
        sending.prepare(uids[:2])
        assert sending.variables(uids[1])[tracking.ID]  # the first one's is there, too
        store.settle({uids[1]: GOOD, **dict.fromkeys(uids[2:], STOPPED), uids[0]: STOPPED})
        sending.ended(uids[1])
    states = {run.name: run.state for run in mlflow.runs("cut")}
    assert states == {
        tracking.run_name(uids[0]): "KILLED",
        tracking.run_name(uids[1]): "FINISHED",
    }
    assert outbox.entries() == []


def test_another_history_has_notes_of_its_own(
    store: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.expect([outbox.Entry("0123", NOWHERE, "g")])
    monkeypatch.setenv("CALIBAN_DB_URL", "sqlite:////somewhere/else.db")
    assert outbox.entries() == []


def test_a_damaged_note_is_passed_over(store: HistoryStore, home: Path) -> None:
    outbox.expect([outbox.Entry(uid, NOWHERE, "g") for uid in ("0123", "4567")])
    [folder] = (home / ".caliban" / "mlflow").iterdir()
    (folder / "0123").write_text("{")
    assert [entry.uid for entry in outbox.entries()] == ["4567"]


def test_a_database_without_mlflow_is_told_with_what_to_install(
    store: HistoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    uids = recorded(store, 2)
    place = Place(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path))
    with Sender(store, place, "group", uids) as sending:
        assert run_jobs(store, sending, uids) == ["", ""]
    assert "'mlflow' is needed" in capsys.readouterr().err
