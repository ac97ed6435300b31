"""What jobs have said to a server that was away, as it is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from caliban.errors import CalibanError
from caliban.model import tracking
from caliban.tracking.journal import Journal, Names, Request


def test_half_a_request_is_passed_over_and_what_was_before_it_is_sent(tmp_path: Path) -> None:
    file = Path.home() / ".caliban" / "journal"
    journal = Journal(file)
    for number in range(3):
        journal.write(Request("POST", f"/{number}", "text/plain", b"x" * 100))
    file.write_bytes(file.read_bytes()[:-50])
    sent: list[str] = []
    journal.pass_on(lambda requests: sent.extend(each.address for each in requests))
    assert sent == ["/0", "/1"]
    assert journal.is_empty()


def test_what_was_passed_on_before_an_error_is_not_sent_again(tmp_path: Path) -> None:
    journal = Journal(Path.home() / ".caliban" / "journal")
    for number in range(4):
        journal.write(Request("POST", f"/{number}"))
    sent: list[str] = []

    def fail_once(requests: Sequence[Request]) -> None:
        sent.extend(each.address for each in requests)
        if len(sent) == 2:
            journal.write(Request("POST", "/later"))
            raise CalibanError("away")

    with pytest.raises(CalibanError):
        journal.pass_on(fail_once)
    journal.pass_on(fail_once)
    assert sent == ["/0", "/1", "/1", "/2", "/3", "/later"]


def test_ids_are_replaced_where_they_are_ids_and_nowhere_else() -> None:
    old, new = Names.stand_in("caliban-0123"), Names("abc", "7", "7/abc/artifacts")
    content = {
        "run_id": "caliban-0123",
        "value": "caliban-0123",
        "experiment_ids": ["caliban-0123", "1"],
        "params": [{"key": "x", "value": "caliban-0123"}, {"run_uuid": "caliban-0123"}],
    }
    request = Request(
        "POST",
        "/api/2.0/mlflow/runs/log-batch?experiment_id=caliban-0123&x=1",
        "application/json",
        json.dumps(content).encode(),
    )
    assert request.renamed(old, new).arguments == {
        "experiment_id": "7",
        "x": "1",
        "run_id": "abc",
        "value": "caliban-0123",
        "experiment_ids": ["7", "1"],
        "params": [{"key": "x", "value": "caliban-0123"}, {"run_uuid": "abc"}],
    }
    file = Request("PUT", "/api/2.0/mlflow-artifacts/artifacts/caliban-0123/a%20b")
    assert file.renamed(old, new).file == "7/abc/artifacts/a%20b"
    assert tracking.run_name("0123") == old.run
