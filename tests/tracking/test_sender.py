"""What is sent beside the jobs, and what a server costs them that is away, or never answers."""

from __future__ import annotations

import contextlib
import datetime
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import requests

from caliban.errors import CalibanError
from caliban.history.store import HistoryStore
from caliban.model import tracking
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, JobRequest, Outcome, Status, Submission
from caliban.tracking import completion, outbox, sender
from caliban.tracking.place import Place
from caliban.tracking.sender import Sender
from tests import mlflow_server
from tests.tracking.test_relay import answering

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


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that wait for their runs, however slow this machine is."""
    monkeypatch.setattr(sender, "_GLANCE", 60)


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
    [left] = completion.flush(store, 5)
    assert left.number == 40


def test_a_server_that_never_answers_is_waited_for_once(
    store: HistoryStore, silent: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_GLANCE", 1.0)
    monkeypatch.setattr(sender, "_PATIENCE", 0.2)
    monkeypatch.setattr("caliban.tracking.server._ANSWER", 10.0)
    uids = recorded(store, 20)
    waits = []
    with Sender(store, silent, "group", uids) as sending:
        for index, uid in enumerate(uids):
            sending.prepare(uids[index : index + 5])
            began = time.monotonic()
            assert tracking.ID not in sending.variables(uid)
            waits.append(time.monotonic() - began)
    # It is asked for the run of the first job; that the others have none is known at once, as far
    # as a busy machine does anything at once.
    assert sum(wait >= 0.9 for wait in waits) == 1


def test_a_server_that_did_not_answer_at_last_is_not_waited_for_at_the_end(
    store: HistoryStore, silent: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_AGAIN", 0.1)
    monkeypatch.setattr("caliban.tracking.server._ANSWER", 3.0)
    uids = recorded(store, 4)
    with Sender(store, silent, "group", uids) as sending:
        run_jobs(store, sending, uids)
        time.sleep(4)  # it is just being asked again
        began = time.monotonic()
    assert time.monotonic() - began < 2.5
    assert [entry.uid for entry in outbox.entries()] == uids


def test_what_waits_is_sent_when_the_server_is_back(
    store: HistoryStore, mlflow: mlflow_server.Server
) -> None:
    uids = recorded(store, 3, "late")
    outbox.expect(outbox.Entry(uid, Place(mlflow.url), "late") for uid in uids)
    store.settle(dict.fromkeys(uids[:2], GOOD))
    assert completion.flush(store, 20) == []
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
    store: HistoryStore, mlflow: mlflow_server.Server, patient: None
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


def log_metric(variables: Mapping[str, str], value: float) -> None:
    """What MLflow does for a job that finds these variables."""
    address = f"{variables[tracking.URI]}/api/2.0/mlflow/runs/log-metric"
    content = {"run_id": variables[tracking.ID], "key": "own", "value": value, "timestamp": 1}
    assert requests.post(address, json=content, timeout=30).ok


def test_what_jobs_log_themselves_while_the_server_is_away_is_sent_by_whoever_comes_to_it(
    store: HistoryStore,
    mlflow: mlflow_server.Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uids = recorded(store, 7, "spoken")
    monkeypatch.setattr(sender, "_AGAIN", 0.2)
    mlflow.kill()
    try:
        with Sender(store, Place(mlflow.url), "spoken", uids, uids) as sending:
            for index, uid in enumerate(uids):
                sending.prepare(uids[index : index + 5])
                log_metric(sending.variables(uid), index)
                store.settle({uid: GOOD})
                sending.ended(uid)
        assert "7 jobs are not in MLflow yet" in capsys.readouterr().err
    finally:
        mlflow.start()
        mlflow.wait()
    assert completion.flush(store, 60) == []
    runs = mlflow.runs("spoken")
    assert sorted(run.metrics["own"] for run in runs) == [*range(7)]
    assert {run.state for run in runs} == {"FINISHED"}
    [folder] = (Path.home() / ".caliban" / "mlflow").iterdir()
    assert [*folder.iterdir()] == []


def test_a_job_that_still_runs_is_told_of_as_soon_as_the_server_is_back(
    store: HistoryStore, mlflow: mlflow_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_AGAIN", 0.2)
    [uid] = recorded(store, 1, "live")
    mlflow.kill()
    with Sender(store, Place(mlflow.url), "live", [uid], [uid]) as sending:
        try:
            sending.prepare([uid])
            found = sending.variables(uid)
            log_metric(found, 0)
        finally:
            mlflow.start()
            mlflow.wait()
        for value in (1, 2):
            log_metric(found, value)
            deadline = time.monotonic() + 30
            while not outbox.journal(uid).is_empty():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            [run] = mlflow.runs("live")
            assert (run.state, run.metrics) == ("RUNNING", {"own": value})
        store.settle({uid: GOOD})
        sending.ended(uid)
    assert [each.id for each in mlflow.runs("live")] == [run.id]


def test_a_job_that_outlived_its_caliban_finds_its_server_where_it_was(
    store: HistoryStore, mlflow: mlflow_server.Server
) -> None:
    [uid] = recorded(store, 1, "outlived")
    place = Place(mlflow.url)
    with Sender(store, place, "outlived", [uid], [uid]) as sending:
        sending.prepare([uid])
        found = sending.variables(uid)
    with pytest.raises(requests.ConnectionError):
        log_metric(found, 1)
    with Sender(store, place, "outlived", [uid], [uid]) as sending:  # has not started the job
        log_metric(found, 2)
        store.settle({uid: GOOD})
        sending.ended(uid)
    [run] = mlflow.runs("outlived")
    assert (run.state, run.metrics) == ("FINISHED", {"own": 2})


@pytest.mark.parametrize(
    ("code", "content", "why"),
    [
        (200, b"{}", "is no tracking server of MLflow"),
        (200, b"[1]", "is no tracking server of MLflow"),
        (200, b"null", "is no tracking server of MLflow"),
        (200, b"<html>welcome</html>", "is no tracking server of MLflow"),
        (200, b'{"experiment": {"experiment_id": 1}, "run": 3}', "is no tracking server of MLflow"),
        (401, b"", "wants another login (HTTP 401)"),
        (403, b"{}", "wants another login (HTTP 403)"),
        (404, b"<html>nothing</html>", "says: HTTP 404"),
        (301, b"", "says: HTTP 301"),
        (500, b"{}", "is in trouble (HTTP 500)"),
    ],
)
def test_whatever_a_server_answers_is_said_in_one_line_and_kept_for_later(
    store: HistoryStore,
    capsys: pytest.CaptureFixture[str],
    code: int,
    content: bytes,
    why: str,
) -> None:
    uids = recorded(store, 3)
    with answering(code, content) as url:
        place = Place(url)
        with Sender(store, place, "group", uids) as sending:
            assert run_jobs(store, sending, uids) == [""] * 3
        [line] = capsys.readouterr().err.splitlines()
        assert "3 jobs are not in MLflow yet" in line
        assert why in line
        [left] = completion.flush(store, 10)
        assert (left.number, why in left.why) == (3, True)
    assert [entry.uid for entry in outbox.entries()] == uids


def test_a_job_that_was_stopped_before_it_started_gets_no_run_later(store: HistoryStore) -> None:
    uids = recorded(store, 2)
    outbox.expect(outbox.Entry(uid, NOWHERE, "g") for uid in uids)
    store.settle({uids[0]: STOPPED, uids[1]: GOOD})
    [left] = completion.flush(store, 5)
    assert left.number == 1
    assert [entry.uid for entry in outbox.entries()] == uids[1:]


def test_jobs_that_never_started_get_no_run_but_one_that_was_made_is_closed(
    store: HistoryStore, mlflow: mlflow_server.Server, patient: None
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


def test_a_job_that_is_in_its_run_already_is_not_noted_again(store: HistoryStore) -> None:
    [uid] = recorded(store, 1)
    with Sender(store, NOWHERE, "group", [uid]) as sending:
        sending.prepare([uid])
        outbox.forget(uid)  # as it has been sent
        sending.prepare([uid])  # by a job before it, which is late
        assert outbox.entries() == []


def test_jobs_that_cannot_be_noted_run_all_the_same_and_that_is_said(
    store: HistoryStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: outbox.Entry) -> None:
        raise CalibanError("cannot write it: No space left on device")

    monkeypatch.setattr(outbox, "_write", fail)
    uids = recorded(store, 3)
    with Sender(store, NOWHERE, "group", uids) as sending:
        assert run_jobs(store, sending, uids) == [""] * 3
    [line] = capsys.readouterr().err.splitlines()
    assert "jobs are missing in MLflow: cannot write it: No space left on device" in line


def test_a_database_whose_server_does_not_get_ready_is_told_with_where_to_look(
    store: HistoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mlflow").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "mlflow").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(sender, "_PATIENCE_TO_START", 0.5)
    uids = recorded(store, 2)
    place = Place(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path))
    with Sender(store, place, "group", uids) as sending:
        assert run_jobs(store, sending, uids) == ["", ""]
    [line] = capsys.readouterr().err.splitlines()
    assert "2 jobs are not in MLflow yet" in line
    assert "has not started yet: see" in line
    assert "server.log" in line
