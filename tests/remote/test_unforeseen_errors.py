"""An error that nobody has foreseen, in any of the threads that send: nobody waits for ever."""

from __future__ import annotations

import time as real

import pytest

from caliban import dispatch
from caliban.history.store import HistoryStore
from caliban.remote.backends import Backends
from tests.remote.conftest import jobs_of, record, send, wanted
from tests.remote.test_submit import disown
from tests.remote.test_submit import patient as patient


@pytest.mark.parametrize("step", ["submit", "find", "settle", "ended"])
def test_of_any_step_ends_the_sending_and_is_raised(
    patient: Backends, store: HistoryStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    jobs = record(patient, store, wanted(40))
    backend = patient.of("vertex")
    if step == "find":
        disown(store)
        jobs = [*dispatch.again(backend, store, jobs_of(store)).jobs]

    def fail(*args: object) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(backend if step in ("submit", "find") else store, step, fail)
    began = real.monotonic()
    with pytest.raises(ZeroDivisionError, match="unforeseen"):
        send(patient, store, jobs)
    # At 60 a minute, the others would have taken 39 s.
    assert real.monotonic() - began < 10
