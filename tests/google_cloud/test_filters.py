"""The filters of list methods."""

from __future__ import annotations

import re

import pytest

from tests.google_cloud.filters import FilterError, parse

FIELDS = re.compile(r"state|display_name|create_time|labels\.\w+|resource\.labels\.\w+")
JOB = {
    "state": "JOB_STATE_RUNNING",
    "displayName": "night_3",
    "createTime": "2026-11-21T09:00:00Z",
    "labels": {"caliban_uid": "0a1b", "lr": "0_1"},
    "resource": {"labels": {"job_id": "17"}},
}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("labels.caliban_uid=0a1b", True),
        ('labels.caliban_uid="0a1b"', True),
        ("labels.caliban_uid=ffff", False),
        ("labels.caliban_uid:*", True),
        ("labels.other:*", False),
        ('state="JOB_STATE_RUNNING"', True),
        ('state!="JOB_STATE_RUNNING"', False),
        ('state="JOB_STATE_FAILED" OR labels.lr=0_1', True),
        ('labels.lr=0_1 AND state="JOB_STATE_FAILED"', False),
        ('labels.lr=0_1 state="JOB_STATE_FAILED"', False),
        ('NOT state="JOB_STATE_FAILED"', True),
        ('labels.lr=0_1 AND (state="JOB_STATE_FAILED" OR labels.caliban_uid=0a1b)', True),
        ('display_name:"night*"', True),
        ('create_time>="2026-11-21T09:00:00Z"', True),
        ('create_time>"2026-11-21T09:00:00Z"', False),
        ('resource.labels.job_id="17"\nlabels.lr="0_1"', True),
    ],
)
def test_say_what_is_listed(text: str, matches: bool) -> None:
    assert parse(text, FIELDS)(JOB) == matches


@pytest.mark.parametrize(
    "text",
    ["uid=1", "state", "state=", "=x", "(state=x", "state=x)", "state=x AND", 'state="x', "OR"],
)
def test_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(FilterError):
        parse(text, FIELDS)
