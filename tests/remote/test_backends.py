"""The platforms are opened once, when they are needed, and their waits can be ended."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from caliban.errors import CalibanError
from caliban.history.store import HistoryStore
from caliban.platform.google import CredentialsError
from caliban.platform.kubernetes.backend import KubernetesBackend
from caliban.remote.backends import (
    PLATFORMS,
    Backends,
    WaitEndedError,
    Waits,
    is_remote,
    resume_command,
)
from caliban.remote.parallel import for_each
from tests.remote.conftest import jobs_of, record, wanted


def test_each_platform_is_opened_once() -> None:
    with Backends({}) as backends:
        found = backends.of("kubernetes")
        assert isinstance(found, KubernetesBackend)
        assert backends.of("kubernetes") is found


def test_without_credentials_there_is_no_vertex_ai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with Backends({}) as backends, pytest.raises(CredentialsError):
        backends.of("vertex")


def test_what_is_no_platform_cannot_be_asked() -> None:
    with pytest.raises(CalibanError, match="caliban can't ask 'caip' for jobs"):
        Backends({}).of("caip")


def test_the_command_that_goes_on_can_be_pasted_into_a_shell() -> None:
    assert resume_command("vertex", "my sweep") == "caliban cloud --resume 'my sweep'"
    assert resume_command("kubernetes", "g") == "caliban cluster job submit --resume g"


def test_jobs_of_caliban_0_4_are_not_asked_about(backends: Backends, store: HistoryStore) -> None:
    record(backends, store, wanted(1))
    (job,) = jobs_of(store)
    for platform in (*PLATFORMS, "local", "caip", "gke", ""):
        other = replace(job, submission=replace(job.submission, platform=platform))
        assert is_remote(other) == (platform in PLATFORMS)


def test_waits_are_ended_all_at_once_and_begin_anew() -> None:
    waits = Waits()
    ended: list[str] = []

    def wait() -> None:
        try:
            waits.clock.sleep(60)
        except WaitEndedError:
            ended.append("ended")

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    waits.end()
    for thread in threads:
        thread.join(10)
    assert ended == ["ended"] * 3
    with pytest.raises(WaitEndedError):
        waits.clock.sleep(0.001)
    waits.begin()
    waits.clock.sleep(0.001)


def test_what_never_answers_is_not_waited_for() -> None:
    done: list[int] = []

    def ask(number: int) -> None:
        time.sleep(30 if number == 3 else 0)
        done.append(number)

    began = time.monotonic()
    for_each(range(20), ask, seconds=2)
    assert time.monotonic() - began < 20
    assert sorted(done) == [number for number in range(20) if number != 3]
