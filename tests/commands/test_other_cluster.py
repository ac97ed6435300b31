"""A context of the same name that leads to another cluster now: no job of the old one is gone."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from caliban.platform.kubernetes import identity
from caliban.remote.backends import Backends
from tests.commands.kubernetes import Namespace
from tests.conftest import Inline
from tests.kubernetes_cluster import Cluster, lock_nodes
from tests.workshop import Workshop

SUBMIT = ("cluster", "job", "submit", "--force", "--xgroup", "g")

HERE = {"server": "https://one.example.com", "uid": "1"}


class Handler(BaseHTTPRequestHandler):
    """A cluster without any jobs."""

    protocol_version = "HTTP/1.1"
    uid = "another"

    def answer(self) -> None:
        """Says who it is, or that there is nothing."""
        content: dict[str, Any] = {"items": [], "metadata": {}}
        status = 200
        if self.path.partition("?")[0].endswith("/kube-system"):
            status, content = (200 if self.uid else 403), {"metadata": {"uid": self.uid}}
        elif self.command == "DELETE":
            status, content = 404, {"message": "not found", "reason": "NotFound"}
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_DELETE = do_POST = answer  # noqa: N815 - names that the server asks for

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=["another", ""])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of another cluster; it tells everybody, or nobody, which one it is."""
    handler = type("Other", (Handler,), {"uid": request.param})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def lead_to(kubeconfig: Path, address: str) -> None:
    content = yaml.safe_load(kubeconfig.read_text())
    for each in content["clusters"]:
        each["cluster"] = {"server": address}
    kubeconfig.write_text(yaml.safe_dump(content))


def status(inline: Inline) -> tuple[list[str], str]:
    ended = inline("status", "--max_jobs", "0", "--json")
    return [job["status"] for job in json.loads(ended.stdout)], ended.stderr


@lock_nodes()
def test_its_jobs_stay_as_last_known_and_are_neither_stopped_nor_sent_there(
    own_namespace: Namespace, project: Path, workshop: Workshop, inline: Inline, elsewhere: str
) -> None:
    # The job wants a GPU that isn't there, so that it waits.
    ended = inline(*SUBMIT, "--image_tag", workshop.base("plain"), "trainer.train")
    assert ended.returncode == 0, ended.stderr
    assert status(inline)[0] == ["SUBMITTED"]
    before = own_namespace.kubeconfig.read_text()
    lead_to(own_namespace.kubeconfig, elsewhere)
    found, said = status(inline)
    assert found == ["SUBMITTED"]
    why = f"the context {own_namespace.context} leads to {elsewhere} now, not to "
    assert f"warning: {why}" in said
    assert "; 1 of the jobs is shown as last known" in said
    assert "'caliban stop --give_up' gives them up" in said
    stopped = inline("stop", "1", "--yes")
    assert stopped.returncode == 1
    assert why in stopped.stdout + stopped.stderr
    own_namespace.kubeconfig.write_text(before)
    assert status(inline) == (["SUBMITTED"], "")
    assert len(own_namespace.jobs()) == 1
    # Back where it belongs, a job that is not there has been deleted.
    own_namespace.clear()
    assert status(inline)[0] == ["STOPPED"]


@lock_nodes()
def test_its_jobs_can_be_given_up_and_run_again(
    own_namespace: Namespace, project: Path, workshop: Workshop, inline: Inline, elsewhere: str
) -> None:
    given = ("--image_tag", workshop.base("plain"), "trainer.train")
    assert inline(*SUBMIT, *given).returncode == 0
    # As long as it can be asked about, it is only stopped.
    ended = inline("stop", "--give_up", "1", "--yes")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "job 1 can be asked about: 'caliban stop 1' stops it" in ended.stderr
    assert inline("stop", "--give_up").returncode == 0
    before = own_namespace.kubeconfig.read_text()
    lead_to(own_namespace.kubeconfig, elsewhere)
    asked = inline("stop", "--give_up", "--dry_run")
    assert asked.returncode == 0 and "would be given up:" in asked.stdout
    assert status(inline)[0] == ["SUBMITTED"]
    ended = inline("stop", "--give_up", "--yes")
    assert ended.returncode == 0, ended.stderr
    why = f"the context {own_namespace.context} leads to {elsewhere} now"
    assert f"job 1 STOPPED (given up, how it ended is not known: {why}" in ended.stdout
    assert status(inline) == (["STOPPED"], "")
    # Nothing has been asked of the old cluster, nor of the new one.
    assert len(own_namespace.jobs()) == 1
    own_namespace.kubeconfig.write_text(before)
    assert status(inline) == (["STOPPED"], "")
    again = inline("resubmit", "--xgroup", "g", "--yes")
    assert again.returncode == 0, again.stderr
    assert status(inline)[0] == ["STOPPED", "SUBMITTED"]
    assert len(own_namespace.jobs()) == 2


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (HERE, ""),
        ({**HERE, "server": "https://moved.example.com"}, ""),
        (
            {**HERE, "uid": "2"},
            "the cluster tank has been replaced by another one at https://one.example.com",
        ),
        (
            {"server": "https://two.example.com"},
            "the context tank leads to https://two.example.com now, not to https://one.example.com",
        ),
        ({"server": "https://one.example.com"}, ""),
    ],
)
def test_clusters_are_told_apart_by_their_own_mark_or_else_by_their_address(
    now: dict[str, Any], said: str
) -> None:
    assert identity.difference("tank", HERE, now) == said


def test_connections_to_clusters_are_closed_with_the_rest(cluster: Cluster) -> None:
    with contextlib.closing(Backends({})) as backends:
        backend: Any = backends.of("kubernetes")
        backend.jobs(cluster.target)
        pools = backend._connection(cluster.target)._http.pools
        assert len(pools) == 1
    assert len(pools) == 0
