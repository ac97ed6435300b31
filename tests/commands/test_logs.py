"""`caliban logs` of jobs that have ended, some of whose logs can't be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from caliban import joblog
from caliban.history.store import HistoryStore
from tests.conftest import Inline
from tests.report import sweeps


@pytest.fixture
def damaged(home: Path) -> str:
    """Three jobs that have printed something; that of the second can't be read any more."""
    with HistoryStore.open() as store:
        sweeps.record(store, "sweep", 3)
        uids = [store.job("tester", number).uid for number in (1, 2, 3)]
    for number, uid in enumerate(uids, 1):
        with joblog.JobLog(uid) as log:
            log.write(b"of job %d\n" % number)
    file = joblog.compressed(uids[1])
    file.write_bytes(file.read_bytes()[:20])
    return str(file)


@pytest.mark.parametrize("how", [(), ("--follow",)], ids=["shown", "followed"])
def test_a_damaged_log_hides_no_other_one(
    inline: Inline, damaged: str, how: tuple[str, ...]
) -> None:
    ended = inline("logs", *how, "1", "2", "3")
    assert ended.returncode == 1
    assert "of job 1\n" in ended.stdout and "of job 3\n" in ended.stdout
    assert f"job 2: the log {damaged} is damaged" in ended.stderr
