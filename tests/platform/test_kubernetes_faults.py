"""Jobs on a real cluster that loses answers, is busy, or doesn't answer at all."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import http.server
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from caliban.errors import UnknownOutcomeError
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, JobRequest, Status, Submission
from caliban.platform.kubernetes import kubeconfig
from caliban.platform.kubernetes.backend import KubernetesBackend
from caliban.platform.kubernetes.options import Options
from caliban.platform.quota import Clock
from tests.kubernetes_cluster import Cluster
from tests.kubernetes_proxy import Proxy, query


@pytest.fixture
def proxy(cluster: Cluster, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(cluster, tmp_path) as started:
        yield started


@pytest.fixture
def target(cluster: Cluster, proxy: Proxy) -> str:
    return kubeconfig.place("", str(proxy.kubeconfig), cluster.namespace, {}).target


@pytest.fixture
def backend() -> KubernetesBackend:
    return KubernetesBackend({})


@pytest.fixture
def group(cluster: Cluster) -> Iterator[str]:
    """A group, whose jobs are deleted after the test."""
    name = f"faults-{uuid.uuid4().hex[:8]}"
    yield name
    selector = {"labelSelector": f"caliban_group={name}", "propagationPolicy": "Background"}
    cluster.connection.delete(f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs", selector)


def plan(backend: KubernetesBackend, target: str, group: str, **options: Any) -> Submission:
    """A job that no node has room for, so that it costs nothing."""
    changes = {"cpu": 10**7, "failure_policy": False, **options}
    found = Options(target, **changes)
    uid = uuid.uuid4().hex[:16]
    return backend.plan(JobRequest(uid, Experiment((), {}), "image:1", group, 0, found.to_json()))


class TestSubmitting:
    def test_makes_each_job_once_though_answers_are_lost(
        self, cluster: Cluster, backend: KubernetesBackend, proxy: Proxy, target: str, group: str
    ) -> None:
        proxy.lose = 4
        submissions = [plan(backend, target, group) for _ in range(60)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            handles = list(pool.map(backend.submit, submissions))
        there = cluster.connection.items(
            f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs",
            {"labelSelector": f"caliban_group={group}"},
        )
        assert sorted(each["metadata"]["name"] for each in there) == sorted(
            handle.id for handle in handles
        )
        assert len(proxy.asked("POST", "/jobs")) > len(submissions)

    def test_twice_makes_one_job(self, backend: KubernetesBackend, target: str, group: str) -> None:
        submission = plan(backend, target, group)
        first = backend.submit(submission, is_new=True)
        assert backend.submit(submission) == first
        assert list(backend.find(target, group).values()) == [first]

    def test_waits_as_long_as_the_cluster_wants(
        self, proxy: Proxy, target: str, group: str
    ) -> None:
        waits: list[float] = []
        backend = KubernetesBackend({}, None, Clock(time.monotonic, waits.append))
        proxy.busy = 2
        backend.submit(plan(backend, target, group), is_new=True)
        assert len(waits) == 2
        assert all(1 <= each < 2 for each in waits)
        assert len(proxy.asked("POST", "/jobs")) == 3

    def test_says_that_nobody_knows_if_nobody_answers(
        self, proxy: Proxy, target: str, group: str
    ) -> None:
        backend = KubernetesBackend({}, None, Clock(time.monotonic, lambda _: None))
        proxy.stop()
        with pytest.raises(UnknownOutcomeError, match=r"doesn't answer: .*refused") as caught:
            backend.submit(plan(backend, target, group), is_new=True)
        assert "version' tells whether that reaches it" in caught.value.hint
        proxy.start()
        backend.submit(plan(backend, target, group), is_new=True)

    def test_ends_when_nobody_wants_to_wait_any_more(
        self, proxy: Proxy, target: str, group: str
    ) -> None:
        class Ended(Exception):  # noqa: N818 - as the caller's own
            pass

        def end(_: float) -> None:
            raise Ended

        backend = KubernetesBackend({}, None, Clock(time.monotonic, end))
        proxy.busy = 1
        with pytest.raises(Ended):
            backend.submit(plan(backend, target, group), is_new=True)


class TestAsking:
    def test_takes_two_lists_however_many_jobs_there_are(
        self,
        backend: KubernetesBackend,
        proxy: Proxy,
        target: str,
        group: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        handles = [backend.submit(plan(backend, target, group)) for _ in range(7)]
        for few in (1000, 3):
            monkeypatch.setattr("caliban.platform.kubernetes.survey._FEW", few)
            proxy.requests.clear()
            found = backend.status(handles)
            assert {each.status for each in found.values()} == {Status.SUBMITTED}
            assert len(found) == 7
            assert len(proxy.requests) == 2

    def test_of_hundreds_of_jobs_is_not_for_all_that_there_are(
        self, backend: KubernetesBackend, proxy: Proxy, target: str, group: str
    ) -> None:
        handles = [backend.submit(plan(backend, target, group)) for _ in range(2)]
        gone = [Handle("kubernetes", target, f"caliban-{n:016x}") for n in range(498)]
        proxy.requests.clear()
        assert {*backend.status([*handles, *gone])} == {*handles}
        assert len(proxy.requests) == 2
        selectors = [query(path)["labelSelector"] for _, path in proxy.requests]
        assert all(each.count(",") == 499 for each in selectors)

    def test_is_for_all_jobs_where_an_address_cannot_be_that_long(
        self, backend: KubernetesBackend, proxy: Proxy, target: str, group: str
    ) -> None:
        handles = [backend.submit(plan(backend, target, group)) for _ in range(20)]
        proxy.requests.clear()
        proxy.longest = 300
        assert {*backend.status(handles)} == {*handles}
        assert len(proxy.requests) == 3

    def test_reads_all_pages(
        self,
        backend: KubernetesBackend,
        proxy: Proxy,
        target: str,
        group: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("caliban.platform.kubernetes.connection._PAGE", 2)
        handles = {backend.submit(plan(backend, target, group)) for _ in range(5)}
        assert set(backend.find(target, group).values()) == handles
        pages = proxy.asked("GET", "/jobs")
        assert ["continue" in query(page) for page in pages] == [False, True, True]

    def test_a_cluster_that_is_away_is_unknown_at_once(
        self, cluster: Cluster, backend: KubernetesBackend, proxy: Proxy, target: str, group: str
    ) -> None:
        away = backend.submit(plan(backend, target, group))
        here = Handle(away.platform, cluster.target, away.id)
        proxy.stop()
        began = time.monotonic()
        found = backend.status([away, here])
        assert time.monotonic() - began < 10
        assert found[away].status is Status.UNKNOWN
        assert "doesn't answer" in found[away].reason
        assert found[here].status is Status.SUBMITTED
        proxy.start()

    @pytest.mark.parametrize("attempt", range(3))
    def test_several_places_are_asked_at_once_by_a_program_that_has_just_begun(
        self, cluster: Cluster, attempt: int
    ) -> None:
        # Each of the threads needs the Kubernetes client, which takes a while to import.
        code = (
            "import sys; from caliban.model.job import Handle\n"
            "from caliban.platform.kubernetes.backend import KubernetesBackend\n"
            "places = [f'{sys.argv[1]}/n{each} ({sys.argv[2]})' for each in range(8)]\n"
            "handles = [Handle('kubernetes', each, 'x-0123456789abcdef') for each in places]\n"
            "print(KubernetesBackend({}).status(handles))"
        )
        command = [sys.executable, "-c", code, cluster.place.cluster, str(cluster.kubeconfig)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        assert (ended.stdout, ended.stderr) == ("{}\n", "")

    def test_a_cluster_that_never_answers_is_unknown_soon(
        self, backend: KubernetesBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import socket

        monkeypatch.setattr("caliban.platform.kubernetes.connection._READ", 0.5)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            target = elsewhere(tmp_path / "silent", silent.getsockname()[1])
            handle = Handle("kubernetes", target, "x-0123456789abcdef")
            assert backend.status([handle])[handle].status is Status.UNKNOWN

    @pytest.mark.parametrize(
        "body", ["{}", "[]", '"x"', '{"items": 1, "metadata": {}}', "<p>Log in</p>"]
    )
    def test_somebody_else_who_answers_is_no_cluster_that_has_lost_its_jobs(
        self, backend: KubernetesBackend, tmp_path: Path, body: str
    ) -> None:
        with portal(tmp_path, body) as target:
            handle = Handle("kubernetes", target, "x-0123456789abcdef")
            found = backend.status([handle])[handle]
        assert found.status is Status.UNKNOWN
        assert "the cluster c answers something that isn't" in found.reason

    @pytest.mark.parametrize("body", ["{}", "<p>Log in</p>"])
    def test_somebody_else_who_says_yes_has_made_no_job(
        self, backend: KubernetesBackend, tmp_path: Path, body: str
    ) -> None:
        with (
            portal(tmp_path, body) as target,
            pytest.raises(UnknownOutcomeError, match="the cluster c answers something that isn't"),
        ):
            backend.submit(plan(backend, target, "g"))


@contextlib.contextmanager
def portal(folder: Path, body: str) -> Iterator[str]:
    """A target at somebody who gives the same answer to everything."""

    class Portal(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815 - the server's name

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Portal) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield elsewhere(folder / "portal", server.server_port)
        server.shutdown()


def elsewhere(file: Path, port: int) -> str:
    """A target at a port of this machine."""
    file.write_text(
        f"clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n"
        "users: [{name: u, user: {token: t}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
    )
    return kubeconfig.place("c", str(file), "", {}).target


COUNT = """
import sys, time
for number in range(int(sys.argv[1])):
    print(number, "x" * (40_000 if number == 5 else 3))
    time.sleep(float(sys.argv[2]))
print("no end of line", end="")
"""


def expected(count: int) -> list[bytes]:
    lines = [f"{number} {'x' * (40_000 if number == 5 else 3)}\n" for number in range(count)]
    return [line.encode() for line in (*lines, "no end of line\n")]


class TestFollowing:
    @pytest.fixture
    def count(
        self, cluster: Cluster, backend: KubernetesBackend, target: str, group: str
    ) -> Callable[[int], Handle]:
        """Starts a job that counts so far."""

        def start(numbers: int) -> Handle:
            command = ("python3", "-c", COUNT, str(numbers), "0.25")
            options = Options(target, command=command, failure_policy=False, grace=1)
            uid = uuid.uuid4().hex[:16]
            experiment, settings = Experiment((), {}), options.to_json()
            request = JobRequest(uid, experiment, cluster.image, group, 0, settings)
            return backend.submit(backend.plan(request), is_new=True)

        return start

    def test_gives_each_line_once_though_connections_break(
        self, backend: KubernetesBackend, proxy: Proxy, count: Callable[[int], Handle]
    ) -> None:
        counting = count(12)
        proxy.breaks = [3, 0, 4]
        arrived: list[tuple[float, bytes]] = []
        for line in backend.logs(counting, follow=True):
            arrived.append((time.monotonic(), line))
        assert [line for _, line in arrived] == expected(12)
        assert proxy.breaks == []
        # They came while it ran, and not when it had ended.
        assert arrived[-1][0] - arrived[0][0] > 1

        # What has been printed can be read afterwards, all of it or the end.
        assert list(backend.logs(counting)) == expected(12)
        assert list(backend.logs(counting, tail=2)) == expected(12)[-2:]
        assert list(backend.logs(counting, follow=True, tail=2)) == expected(12)[-2:]

    def test_ends_when_the_job_is_deleted(
        self, backend: KubernetesBackend, count: Callable[[int], Handle]
    ) -> None:
        counting = count(400)
        arrived: list[bytes] = []
        for line in backend.logs(counting, follow=True):
            arrived.append(line)
            if len(arrived) == 2:
                backend.stop(counting)
        assert arrived == expected(400)[: len(arrived)]
        assert 2 <= len(arrived) < 400

    def test_survives_a_cluster_that_is_away_for_a_while(
        self, backend: KubernetesBackend, proxy: Proxy, count: Callable[[int], Handle]
    ) -> None:
        lines = backend.logs(count(12), follow=True)
        found = [next(lines)]
        proxy.breaks = [1]
        proxy.stop()
        time.sleep(1)
        proxy.start()
        found += lines
        assert collections.Counter(found) == collections.Counter(expected(12))
