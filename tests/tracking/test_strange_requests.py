"""What nobody should say to a relay, and what it costs the others if somebody does."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import datetime
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from caliban.history.store import HistoryStore
from caliban.model.job import Outcome, Status
from caliban.tracking import completion, connections, outbox, sender
from caliban.tracking.journal import Names
from caliban.tracking.line import Line
from caliban.tracking.place import Place
from caliban.tracking.relay import Relay, _Handler
from caliban.tracking.sender import Sender
from caliban.tracking.server import AwayError, Server
from tests import mlflow_server
from tests.tracking.test_relay import (  # noqa: F401
    UID,
    answering,
    group,
    log_metric,
    open_relay,
    pass_on,
)
from tests.tracking.test_sender import GOOD, recorded, run_jobs, store  # noqa: F401

Opened = Callable[..., tuple[Relay, Line]]

BATCH = "/api/2.0/mlflow/runs/log-batch"


def connected(relay: Relay) -> socket.socket:
    """A connection on which nothing has been said yet."""
    return socket.create_connection(("127.0.0.1", relay.port), timeout=10)


def status_of(relay: Relay, head: str) -> int:
    """What a client is told that sends only this, and then waits."""
    with connected(relay) as client:
        client.sendall(head.encode())
        return int(client.makefile("rb").readline().split()[1])


def test_who_knows_of_no_job_gets_neither_memory_nor_disk(open_relay: Opened) -> None:  # noqa: F811
    relay, _ = open_relay("http://127.0.0.1:9")
    path = "/0000000000000000/api/2.0/mlflow-artifacts/artifacts/x"
    # The answer is there before any of the content is.
    for size in ("Content-Length: 999999999999", "Transfer-Encoding: chunked"):
        asked = f"PUT {path} HTTP/1.1\r\nHost: x\r\n{size}\r\n\r\n" + "x" * (1 << 16)
        assert status_of(relay, asked) == 404


def test_nothing_is_kept_of_those_who_have_not_logged_in(
    open_relay: Opened,  # noqa: F811
) -> None:
    names = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "hunter2hunter2"}
    relay, line = open_relay("http://127.0.0.1:9", **names)
    assert log_metric(relay, line.run_id).status_code == 503
    assert log_metric(relay, line.run_id, auth=("me", "wrong")).status_code == 503
    assert line.journal.is_empty()
    assert log_metric(relay, line.run_id, auth=("me", "hunter2hunter2")).ok
    [file] = Path.home().glob(".caliban/mlflow/*/*.requests")
    content = file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0
    for secret in (b"hunter2", base64.b64encode(b"me:hunter2hunter2")):
        assert secret not in content


@pytest.mark.parametrize(
    "rest",
    [
        "Content-Length: -1\r\n\r\n",
        "Content-Length: many\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        "Content-Type: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_what_is_no_proper_request_is_refused_and_not_kept(open_relay: Opened, rest: str) -> None:  # noqa: F811
    relay, line = open_relay("http://127.0.0.1:9")
    assert status_of(relay, f"POST /{UID}{BATCH} HTTP/1.1\r\nHost: x\r\n{rest}") == 400
    assert line.journal.is_empty()


def test_an_answer_to_head_has_no_content(open_relay: Opened) -> None:  # noqa: F811
    relay, _ = open_relay("http://127.0.0.1:9")
    head = f"HEAD /{UID}/ HTTP/1.1\r\nHost: x\r\n"
    with connected(relay) as client:
        client.sendall(f"{head}\r\n{head}Connection: close\r\n\r\n".encode())
        lines = client.makefile("rb").read().splitlines()
    assert sum(line.startswith(b"HTTP/1.1 503") for line in lines) == 2
    assert not any(b"message" in line for line in lines)


def test_nonsense_that_was_kept_is_lost_alone(
    mlflow: mlflow_server.Server,
    open_relay: Opened,  # noqa: F811
    group: str,  # noqa: F811
) -> None:
    relay, line = open_relay("http://127.0.0.1:9", group)
    log_metric(relay, line.run_id, 1)
    deep: Any = 1
    for _ in range(600):
        deep = [deep]
    for metrics in (5, "abc", {"a": 1}, [5], deep):
        content = {"run_id": line.run_id, "metrics": metrics}
        assert requests.post(f"{relay.address(UID)}{BATCH}", json=content, timeout=30).ok
    log_metric(relay, line.run_id, 2)
    assert pass_on(mlflow, line).refused
    assert line.journal.is_empty()
    [run] = mlflow.runs(group)
    assert run.metrics == {"loss": 1.5}


def test_what_is_about_a_run_that_is_not_there_yet_waits_for_it(
    mlflow: mlflow_server.Server,
    open_relay: Opened,  # noqa: F811
    group: str,  # noqa: F811
) -> None:
    relay, line = open_relay(mlflow.url, group)
    asked = f"{relay.address(UID)}/api/2.0/mlflow/metrics/get-history"
    query = {"run_id": line.run_id, "metric_key": "loss"}
    assert requests.get(asked, params=query, timeout=30).status_code == 503
    log_metric(relay, line.run_id)
    pass_on(mlflow, line)
    [metric] = requests.get(asked, params=query, timeout=30).json()["metrics"]
    assert metric["value"] == 1.5


def test_a_run_within_the_one_of_the_job_has_that_as_its_parent(
    mlflow: mlflow_server.Server,
    open_relay: Opened,  # noqa: F811
    group: str,  # noqa: F811
) -> None:
    relay, line = open_relay(mlflow.url, group)
    pass_on(mlflow, line)
    content = {
        "experiment_id": line.run_id,
        "run_name": "child",
        "tags": [{"key": "mlflow.parentRunId", "value": line.run_id}],
    }
    made = f"{relay.address(UID)}/api/2.0/mlflow/runs/create"
    assert requests.post(made, json=content, timeout=30).ok
    runs = {run.name: run for run in mlflow.runs(group)}
    assert runs["child"].tags["mlflow.parentRunId"] == runs[f"caliban-{UID}"].id


def test_a_large_file_is_kept_only_where_the_disk_has_room_for_it(
    open_relay: Opened,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relay, line = open_relay("http://127.0.0.1:9")
    usage = shutil.disk_usage("/")._replace(free=1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    large = f"{relay.address(UID)}/api/2.0/mlflow-artifacts/artifacts/{line.run_id}/large"
    assert requests.put(large, data=bytes(2 << 20), timeout=30).ok
    assert relay.lost == ["'large' could not be kept: the disk is too full"]
    assert line.journal.is_empty()
    assert log_metric(relay, line.run_id).ok


def test_a_run_that_is_made_late_does_not_begin_after_its_job_has_ended(
    store: HistoryStore,  # noqa: F811
    mlflow: mlflow_server.Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = Server._experiment

    def slowly(server: Server, name: str) -> str:
        time.sleep(1)
        return found(server, name)

    monkeypatch.setattr(Server, "_experiment", slowly)
    monkeypatch.setattr(sender, "_GLANCE", 0.05)
    [uid] = recorded(store, 1, "slow")
    with Sender(store, Place(mlflow.url), "slow", [uid]) as sending:
        sending.prepare([uid])
        time.sleep(0.01)
        sending.variables(uid)
        now = datetime.datetime.now(datetime.UTC)
        store.settle({uid: Outcome(Status.SUCCEEDED, 0, "", now, now)})
        sending.ended(uid)
    [run] = mlflow.runs("slow")
    assert run.is_timed


@pytest.mark.parametrize("gathering", [0, 60], ids=["meanwhile", "at the end"])
def test_what_a_server_fails_at_for_one_job_keeps_no_other_waiting(
    store: HistoryStore,  # noqa: F811
    mlflow: mlflow_server.Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gathering: float,
) -> None:
    uids = recorded(store, 3, "failing")
    bad, record = uids[0], Server.record

    def fail(server: Server, experiment: str, uid: str, *more: Any) -> str:
        if uid == bad:
            raise AwayError("in trouble", 503)
        return record(server, experiment, uid, *more)

    monkeypatch.setattr(Server, "record", fail)
    monkeypatch.setattr(sender, "_GATHERING", gathering)
    with Sender(store, Place(mlflow.url), "failing", uids) as sending:
        run_jobs(store, sending, uids)
        until = time.monotonic() + (0 if gathering else 10)
        while len(outbox.entries()) > 1 and time.monotonic() < until:
            time.sleep(0.05)
    assert "1 job is not in MLflow yet: in trouble" in capsys.readouterr().err
    more = recorded(store, 4, "failing")
    outbox.expect(outbox.Entry(uid, Place(mlflow.url), "failing") for uid in more)
    store.settle(dict.fromkeys(more, GOOD))
    [left] = completion.flush(store, 20)
    assert (left.number, left.why) == (1, "in trouble")
    assert [entry.uid for entry in outbox.entries()] == [bad]


def test_who_does_not_know_the_secret_of_an_address_gets_no_answer() -> None:
    relay = Relay("http://127.0.0.1:9", {}, lambda: None, secret="hush")
    assert relay.address(UID) == f"http://127.0.0.1:{relay.port}/hush/{UID}"
    assert relay.addressed(f"/hush/{UID}{BATCH}?a=/") == (UID, f"{BATCH}?a=/")
    for path in (f"/{UID}{BATCH}", f"/hus/{UID}/", f"/hush{UID}/", f"//{UID}/", "/", "", "/\xfc/"):
        assert relay.addressed(path) == ("", "")
    relay.start()
    relay.close()


def test_who_holds_connections_keeps_no_job_from_an_answer(
    open_relay: Opened,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_MOST", 8)
    relay, line = open_relay("http://127.0.0.1:9")
    with contextlib.ExitStack() as stack, requests.Session() as session:
        address = f"{relay.address(UID)}{BATCH}"
        content = {"run_id": line.run_id, "metrics": []}
        assert session.post(address, json=content, timeout=10).ok
        held = []
        for number in range(50):
            held.append(stack.enter_context(connected(relay)))
            if number % 2:
                held[-1].sendall(b"POST /")
        # The connection of the job was closed, too: it opens another one.
        assert session.post(address, json=content, timeout=10).ok
        # All but the last few of the others were.
        assert [each.recv(1) for each in held[:40]] == [b""] * 40


def test_a_request_that_is_being_answered_is_not_dropped_for_a_new_connection(
    open_relay: Opened,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_MOST", 4)
    with answering(200, b'{"runs": []}', seconds=2) as url, contextlib.ExitStack() as stack:
        relay, line = open_relay(url)
        line.names = Names("real", "1", "files")
        address = f"{relay.address(UID)}/api/2.0/mlflow/runs/search"
        with concurrent.futures.ThreadPoolExecutor() as pool:
            asked = [pool.submit(requests.post, address, json={}, timeout=30) for _ in range(3)]
            time.sleep(1)
            for _ in range(20):
                stack.enter_context(connected(relay))
            assert [each.result().json() for each in asked] == [{"runs": []}] * 3


def test_a_client_that_falls_silent_is_not_waited_for(
    open_relay: Opened,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_Handler, "timeout", 0.3)
    relay, line = open_relay("http://127.0.0.1:9")
    head = f"POST /{UID}{BATCH} HTTP/1.1\r\nHost: x\r\n"
    for said in ("", "POST /", head, f"{head}Content-Length: 100\r\n\r\n{{"):
        with connected(relay) as client:
            client.sendall(said.encode())
            assert client.recv(1) == b""
    assert line.journal.is_empty()
