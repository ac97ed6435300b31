"""What a job that uses MLflow itself meets, whatever its tracking server does."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from caliban.tracking import completion, outbox
from caliban.tracking.journal import Names, Request
from caliban.tracking.line import Line
from caliban.tracking.outbox import Entry
from caliban.tracking.place import Place
from caliban.tracking.relay import Relay
from caliban.tracking.server import Server
from tests import mlflow_server

UID = "0123456789abcdef"

# When its job began, in milliseconds since 1970.
STARTED = 1_000_000

# As MLflow's documentation has it, with a file, a child, and a look at what it has logged.
SCRIPT = """
import os, mlflow
mlflow.set_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])
with mlflow.start_run() as run:
    print("run", run.info.run_id, run.info.run_name)
    mlflow.log_params({"rate": 0.1, "size": 3})
    for step in range(5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metrics({"a": 1, "b": 2}, step=7)
    mlflow.set_tag("note", "mine")
    mlflow.log_text("some words", "notes/a b.txt")
    mlflow.log_text("", "notes/empty.txt")
    print(mlflow.get_run(run.info.run_id).info.run_name)
"""


@pytest.fixture
def group(request: pytest.FixtureRequest) -> str:
    return f"group-{time.time_ns()}"


@pytest.fixture
def open_relay(home: Path) -> Iterator[Callable[..., tuple[Relay, Line]]]:
    """Opens relays, each with the line of a job whose run is not there yet."""
    with contextlib.ExitStack() as stack:

        def start(url: str, group: str = "g", **environment: str) -> tuple[Relay, Line]:
            relay = Relay(url, environment, lambda: None)
            line = Line(UID, group, outbox.journal(UID))
            line.begin(None)
            relay.add(line)
            relay.start()
            stack.callback(relay.close)
            return relay, line

        yield start


@contextlib.contextmanager
def answering(
    code: int, content: bytes = b"{}", seconds: float = 0, seen: list[dict[str, str]] | None = None
) -> Iterator[str]:
    """A web server that gives everybody the same answer; yields its address.

    Args:
      code: of HTTP.
      content: of the answer.
      seconds: it takes.
      seen: gets the headers of each request.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if seen is not None:
                seen.append(dict(self.headers))
            time.sleep(seconds)
            with contextlib.suppress(OSError):
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_PUT = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    class Web(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    with Web(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def run_script(
    program: str, relay: Relay, line: Line, script: str = SCRIPT
) -> subprocess.CompletedProcess[str]:
    """Runs a script with MLflow's own client, as a job finds it."""
    variables = {
        "MLFLOW_TRACKING_URI": relay.address(line.uid),
        "MLFLOW_EXPERIMENT_NAME": line.experiment,
        "MLFLOW_RUN_ID": line.run_id,
        "MLFLOW_DISABLE_TELEMETRY": "true",  # it races over the environment
        "PATH": "/usr/bin:/bin",
    }
    python = Path(program).parent / "python"
    return subprocess.run(
        [python, "-c", script],
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def pass_on(server: mlflow_server.Server, line: Line) -> completion.PassedOn:
    entry = Entry(line.uid, Place(server.url), line.experiment)
    with contextlib.closing(Server(server.url, {})) as client:
        found = completion.pass_on(client, entry, line.journal, STARTED)
    line.names = found.run
    return found


def log_metric(
    relay: Relay, run_id: str, step: int = 0, session: Any = requests, **more: Any
) -> requests.Response:
    content = {"run_id": run_id, "key": "loss", "value": 1.5, "timestamp": 7, "step": step}
    address = f"{relay.address(UID)}/api/2.0/mlflow/runs/log-metric"
    found: requests.Response = session.post(address, json=content, timeout=30, **more)
    return found


def check(server: mlflow_server.Server, group: str) -> mlflow_server.Run:
    """The one run of the script, which has all that it has logged."""
    [run] = server.runs(group)
    assert run.params == {"rate": "0.1", "size": "3"}
    assert run.metrics == {"loss": pytest.approx(0.2), "a": 1, "b": 2}
    assert run.tags["note"] == "mine"
    assert run.state == "FINISHED"
    assert server.file(run, "notes/a b.txt") == b"some words"
    assert server.file(run, "notes/empty.txt") == b""
    history = requests.get(
        f"{server.url}/api/2.0/mlflow/metrics/get-history",
        params={"run_id": run.id, "metric_key": "loss"},
        timeout=30,
    ).json()["metrics"]
    assert [each["step"] for each in history] == [0, 1, 2, 3, 4]
    return run


def test_a_script_notices_no_difference_while_its_server_is_there(
    mlflow: mlflow_server.Server,
    mlflow_program: str,
    open_relay: Callable[..., tuple[Relay, Line]],
    group: str,
) -> None:
    relay, line = open_relay(mlflow.url, group)
    with contextlib.closing(Server(mlflow.url, {})) as client:
        line.begin(client.create(group, UID))
    ended = run_script(mlflow_program, relay, line)
    assert ended.returncode == 0, ended.stderr
    assert line.journal.is_empty()
    assert check(mlflow, group).id == line.run_id


def test_a_script_whose_server_is_away_runs_as_usual_and_all_of_it_arrives_later(
    mlflow: mlflow_server.Server,
    mlflow_program: str,
    open_relay: Callable[..., tuple[Relay, Line]],
    group: str,
) -> None:
    relay, line = open_relay("http://127.0.0.1:9", group)
    began = time.monotonic()
    ended = run_script(mlflow_program, relay, line)
    assert ended.returncode == 0, ended.stderr
    assert f"run caliban-{UID} caliban-{UID}" in ended.stdout
    assert time.monotonic() - began < 30
    assert not line.journal.is_empty()
    assert pass_on(mlflow, line).refused == []
    assert line.journal.is_empty()
    # It began when the job did, and not when its server was back.
    assert check(mlflow, group).started == STARTED


def test_a_script_that_began_without_its_server_goes_on_with_it(
    mlflow: mlflow_server.Server,
    mlflow_program: str,
    open_relay: Callable[..., tuple[Relay, Line]],
    group: str,
) -> None:
    relay, line = open_relay(mlflow.url, group)  # which is not asked as long as it is behind
    first = run_script(mlflow_program, relay, line, "import mlflow; mlflow.start_run()")
    assert first.returncode == 0, first.stderr
    assert not line.journal.is_empty()
    pass_on(mlflow, line)
    ended = run_script(mlflow_program, relay, line)
    assert ended.returncode == 0, ended.stderr
    assert line.journal.is_empty()
    check(mlflow, group)


def test_what_the_server_refuses_is_refused_at_once_or_told_later(
    mlflow: mlflow_server.Server, open_relay: Callable[..., tuple[Relay, Line]], group: str
) -> None:
    relay, line = open_relay(mlflow.url, group)
    address = f"{relay.address(UID)}/api/2.0/mlflow/runs/log-parameter"
    for value in "ab":
        content = {"run_id": line.run_id, "key": "k", "value": value}
        assert requests.post(address, json=content, timeout=30).ok
    log_metric(relay, line.run_id)
    [why] = pass_on(mlflow, line).refused
    assert "says: " in why
    [run] = mlflow.runs(group)
    assert (run.params, run.metrics) == ({"k": "a"}, {"loss": 1.5})
    content = {"run_id": line.run_id, "key": "k", "value": "c"}
    refused = requests.post(address, json=content, timeout=30)
    assert refused.status_code == 400
    assert refused.json()["error_code"] == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize("code", [500, 502, 503, 429])
def test_a_server_in_trouble_is_no_trouble_of_the_job(
    open_relay: Callable[..., tuple[Relay, Line]], code: int
) -> None:
    with answering(code, b"<html>trouble</html>") as url:
        relay, line = open_relay(url)
        line.names = Names("real", "1", "files")
        answer = log_metric(relay, line.run_id)
        assert (answer.status_code, answer.json()) == (200, {})
        assert not line.journal.is_empty()


def test_a_server_that_hangs_costs_a_job_one_second_a_minute(
    open_relay: Callable[..., tuple[Relay, Line]],
) -> None:
    with answering(200, seconds=30) as url:
        relay, line = open_relay(url)
        line.names = Names("real", "1", "files")
        began = time.monotonic()
        for step in range(50):
            assert log_metric(relay, line.run_id, step).ok
        assert time.monotonic() - began < 5
        kept: list[int] = []
        line.journal.pass_on(lambda each: kept.extend(one.arguments["step"] for one in each))
        assert kept == [*range(50)]


def test_a_database_that_is_locked_costs_a_job_no_more_than_that(
    mlflow_program: str, open_relay: Callable[..., tuple[Relay, Line]], tmp_path: Path
) -> None:
    server = mlflow_server.Server(mlflow_program, tmp_path)
    try:
        relay, line = open_relay(server.url, "locked")
        with contextlib.closing(Server(server.url, {})) as client:
            line.begin(client.create("locked", UID))
        with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
            database.execute("BEGIN EXCLUSIVE")
            began = time.monotonic()
            for step in range(20):
                assert log_metric(relay, line.run_id, step).ok
            assert time.monotonic() - began < 5
            assert not line.journal.is_empty()
            database.rollback()
        entry = Entry(UID, Place(server.url), "locked", line.run_id)
        with contextlib.closing(Server(server.url, {})) as client:
            assert completion.pass_on(client, entry, line.journal, None).refused == []
        [run] = server.runs("locked")
        assert run.metrics == {"loss": 1.5}
    finally:
        server.kill()


def test_what_nobody_can_know_waits_as_mlflow_does(
    open_relay: Callable[..., tuple[Relay, Line]],
) -> None:
    relay, _ = open_relay("http://127.0.0.1:9")
    address = f"{relay.address(UID)}/api/2.0/mlflow/runs/search"
    assert requests.post(address, json={}, timeout=30).status_code == 503
    other = f"http://127.0.0.1:{relay.port}/another/api/2.0/mlflow/runs/log-metric"
    assert requests.post(other, json={}, timeout=30).status_code == 404


def test_large_files_of_a_job_are_kept_and_sent_in_pieces(
    mlflow: mlflow_server.Server, open_relay: Callable[..., tuple[Relay, Line]], group: str
) -> None:
    relay, line = open_relay("http://127.0.0.1:9", group)
    content = bytes(range(256)) * 40_000
    folder = f"{relay.address(UID)}/api/2.0/mlflow-artifacts/artifacts/{line.run_id}"
    assert requests.put(f"{folder}/model.bin", data=content, timeout=30).ok
    chunks = (content[at : at + 100_000] for at in range(0, len(content), 100_000))
    assert requests.put(f"{folder}/in/chunks.bin", data=chunks, timeout=30).ok
    pass_on(mlflow, line)
    [run] = mlflow.runs(group)
    assert mlflow.file(run, "model.bin") == content
    assert mlflow.file(run, "in/chunks.bin") == content


def test_thousands_of_metrics_are_passed_on_in_few_requests(
    mlflow: mlflow_server.Server, home: Path, group: str
) -> None:
    line = Line(UID, group, outbox.journal(UID))
    line.begin(None)

    def metric(number: int, value: float) -> dict[str, Any]:
        return {"key": f"m{number % 3}", "value": value, "timestamp": 7, "step": number}

    address, kind = "/api/2.0/mlflow/runs/", "application/json"
    for number in range(1500):
        content = {"run_id": line.run_id, **metric(number, number)}
        if number % 5 == 0:  # as mlflow.log_metrics does
            content = {"run_id": line.run_id, "metrics": [metric(number, number)]}
        method = "log-metric" if number % 5 else "log-batch"
        line.journal.write(Request("POST", address + method, kind, json.dumps(content).encode()))
        if number == 700:  # which the server refuses
            wrong = json.dumps({"run_id": line.run_id, **metric(number, 0), "key": "what?!"})
            line.journal.write(Request("POST", f"{address}log-metric", kind, wrong.encode()))
    began = time.monotonic()
    assert len(pass_on(mlflow, line).refused) == 1
    assert time.monotonic() - began < 60
    [run] = mlflow.runs(group)
    assert run.metrics == {f"m{number % 3}": number for number in (1497, 1498, 1499)}
    history = requests.get(
        f"{mlflow.url}/api/2.0/mlflow/metrics/get-history",
        params={"run_id": run.id, "metric_key": "m1"},
        timeout=30,
    ).json()["metrics"]
    assert [each["step"] for each in history] == [*range(1, 1500, 3)]


def test_a_disk_that_is_full_ends_no_job_and_leaves_no_half_request(
    open_relay: Callable[..., tuple[Relay, Line]], monkeypatch: pytest.MonkeyPatch
) -> None:
    relay, line = open_relay("http://127.0.0.1:9")
    assert log_metric(relay, line.run_id, 1).ok

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("caliban.tracking.journal.shutil.copyfileobj", fail)
        large = f"{relay.address(UID)}/api/2.0/mlflow-artifacts/artifacts/{line.run_id}/large"
        assert requests.put(large, data=io.BytesIO(bytes(3 << 20)), timeout=30).ok
    assert relay.lost == ["'large' could not be kept: No space left on device"]
    assert log_metric(relay, line.run_id, 2).ok
    kept: list[str] = []
    line.journal.pass_on(lambda requests: kept.extend(each.method for each in requests))
    assert kept == ["runs/log-metric"] * 2


def test_a_server_is_reached_by_the_proxy_of_the_environment_and_without_logins_of_netrc(
    open_relay: Callable[..., tuple[Relay, Line]], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    (home / ".netrc").write_text("machine mlflow.example.com login me password hunter2\n")
    (home / ".netrc").chmod(0o600)
    seen: list[dict[str, str]] = []
    with answering(200, seen=seen) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        relay, line = open_relay("http://mlflow.example.com:5000")
        line.names = Names("real", "1", "files")
        with requests.Session() as session:
            session.trust_env = False
            assert log_metric(relay, line.run_id, session=session).ok
    assert line.journal.is_empty()
    assert [each.get("Host") for each in seen] == ["mlflow.example.com:5000"]
    assert "Authorization" not in seen[0]
