"""A namespace of a test's own in the cluster."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import urllib3
import yaml

# Seconds after which something hangs: a machine with other things to do may take long.
_PATIENCE = 180


class Namespace:
    """A namespace, asked without anything of caliban's.

    Attributes:
      name: its own.
      kubeconfig: a file whose current context it is, for the cluster's administrator.
      viewer: the same for a user without any rights; None if the cluster has none.
      context: the name of that context.
      server: the cluster's address.
    """

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        """Makes it, and waits until it takes pods."""
        from kubernetes.config import new_client_from_config

        self.name = f"caliban-test-{uuid.uuid4().hex[:8]}"
        self.context: str = yaml.safe_load(kubeconfig.read_text())["current-context"]
        self.kubeconfig = self._copy(kubeconfig, folder)
        viewer = kubeconfig.with_name("viewer.kubeconfig")
        self.viewer = self._copy(viewer, folder) if viewer.is_file() else None
        client: Any = new_client_from_config(str(kubeconfig))  # type: ignore[no-untyped-call]
        self.server: str = client.configuration.host
        settings = client.configuration.auth_settings().values()
        self._headers = {each["key"]: each["value"] for each in settings}
        self._http: urllib3.PoolManager = client.rest_client.pool_manager
        status, answer = self.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.name}})
        assert status == 201, answer
        # Before that, pods are refused, and their jobs wait for long.
        deadline = time.monotonic() + _PATIENCE
        while self.ask("GET", self.path("serviceaccounts", "default"))[0] != 200:
            assert time.monotonic() < deadline, "the namespace has no service account"
            time.sleep(0.05)

    def _copy(self, kubeconfig: Path, folder: Path) -> Path:
        """Writes a copy of a kubeconfig, in which this is the contexts' namespace."""
        content = yaml.safe_load(kubeconfig.read_text())
        for each in content["contexts"]:
            each["context"]["namespace"] = self.name
        copy = folder / kubeconfig.name
        copy.write_text(yaml.safe_dump(content))
        copy.chmod(0o600)
        return copy

    def close(self) -> None:
        """Deletes it with all that is in it, and doesn't wait for that."""
        self.clear()
        self.ask("DELETE", f"/api/v1/namespaces/{self.name}")
        self._http.clear()

    def clear(self) -> None:
        """Deletes its jobs and pods."""
        at_once = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        for kind in ("jobs", "pods"):
            self.ask("DELETE", self.path(kind), at_once)

    def path(self, kind: str, name: str = "") -> str:
        """The address of the namespace's jobs, pods and the like, or of one of them."""
        group = "/apis/batch/v1" if kind == "jobs" else "/api/v1"
        return f"{group}/namespaces/{self.name}/{kind}" + (f"/{name}" if name else "")

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Asks the cluster; returns the status and the answer."""
        answer = self.send(method, path, b"" if body is None else json.dumps(body).encode())
        return answer.status, json.loads(answer.data or b"{}")

    def send(
        self, method: str, path: str, body: bytes, accept: str | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Sends the cluster a request."""
        return self._http.request(
            method,
            f"{self.server}{path}",
            body=body or None,
            headers={
                "Content-Type": "application/json",
                "Accept": accept or "application/json",
                **self._headers,
            },
        )

    def jobs(self) -> list[dict[str, Any]]:
        """Its jobs."""
        return self._items("jobs")

    def pods(self) -> list[dict[str, Any]]:
        """Its pods."""
        return self._items("pods")

    def events(self) -> str:
        """What is told of its pods."""
        return "\n".join(each.get("message", "") for each in self._items("events"))

    def account(self) -> str:
        """All that is told of its jobs and pods, for the message of a test that fails."""
        states = [
            f"{each['metadata']['name']}: {json.dumps(each['status'])}"
            for each in [*self.jobs(), *self.pods()]
        ]
        times = [
            f"{each.get('lastTimestamp')} {each['involvedObject'].get('name')}: {each['message']}"
            for each in self._items("events")
        ]
        return "\n".join([*states, *times])

    def _items(self, kind: str) -> list[dict[str, Any]]:
        status, answer = self.ask("GET", self.path(kind))
        assert status == 200, answer
        found: list[dict[str, Any]] = answer["items"]
        return found

    def wait(self, number: int, seconds: float = _PATIENCE) -> list[dict[str, Any]]:
        """Waits until so many jobs have ended, and returns all."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.jobs()
            if sum(bool(job["status"].get("conditions")) for job in found) >= number:
                return found
            assert time.monotonic() < deadline, self.account()
            time.sleep(0.2)
