"""The server: what it understands, what it refuses and how, and what goes wrong on demand."""

from __future__ import annotations

import time

import pytest
import requests

from tests.google_cloud import faults
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.conftest import Ask, Clock

JOBS = "aiplatform/v1/projects/p1/locations/us-central1/customJobs"
JOB = {
    "displayName": "x",
    "jobSpec": {
        "workerPoolSpecs": [
            {
                "machineSpec": {"machineType": "n1-standard-4"},
                "replicaCount": "1",
                "containerSpec": {"imageUri": "us-docker.pkg.dev/p1/r/i"},
            }
        ]
    },
}


def test_errors_come_in_googles_envelope(ask: Ask) -> None:
    status, answer = ask("POST", JOBS, {**JOB, "display_name": "y", "state": "JOB_STATE_QUEUED"})
    error = answer["error"]
    assert (status, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    (details,) = error["details"]
    assert details["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert {each["field"] for each in details["fieldViolations"]} == {"display_name", "state"}


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "aiplatform/v1/projects/p1/customJobs", 404),
        ("GET", "ml/v1/projects/p1/jobs", 404),
        ("DELETE", JOBS, 404),
        ("GET", "aiplatform/v1/projects/p1/locations/us-central1/endpoints", 501),
    ],
)
def test_what_does_not_exist_is_not_found(ask: Ask, verb: str, path: str, status: int) -> None:
    found, answer = ask(verb, path)
    assert (found, answer["error"]["code"]) == (status, status)


def test_parameters_of_the_query_are_checked(ask: Ask) -> None:
    assert ask("GET", JOBS, pageSize=5, alt="json")[0] == 200
    for wrong in ({"pageSize": "many"}, {"page_size": 5}, {"requestId": "1"}):
        status, answer = ask("GET", JOBS, **wrong)
        assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_nobody_gets_in_without_a_token(cloud: GoogleCloud, ask: Ask) -> None:
    assert ask("GET", JOBS, token="ya29.guessed")[1]["error"]["status"] == "UNAUTHENTICATED"
    token = cloud.tokens.new()
    assert ask("GET", JOBS, token=token)[0] == 200
    cloud.tokens.expire(token)
    assert ask("GET", JOBS, token=token)[0] == 401


def test_all_requests_are_recorded(cloud: GoogleCloud, ask: Ask) -> None:
    ask("POST", JOBS, JOB)
    ask("GET", JOBS, pageSize=1)
    created, listed = cloud.server.records
    assert (created.method, created.body, created.status) == ("customJobs.create", JOB, 200)
    assert (listed.method, listed.path) == ("customJobs.list", f"/{JOBS}?pageSize=1")
    assert cloud.server.calls("customJobs.list") == [listed]


class TestFaults:
    def test_refuse_without_carrying_out(self, cloud: GoogleCloud, ask: Ask) -> None:
        cloud.faults.add("customJobs.create", faults.first(2, faults.TOO_MANY))
        answers = [ask("POST", JOBS, JOB) for _ in range(3)]
        assert [status for status, _ in answers] == [429, 429, 200]
        assert answers[0][1]["error"]["status"] == "RESOURCE_EXHAUSTED"
        assert len(cloud.vertex.jobs) == 1

    def test_ask_to_wait(self, cloud: GoogleCloud) -> None:
        cloud.faults.add("customJobs.list", faults.TOO_MANY)
        headers = {"Authorization": f"Bearer {cloud.tokens.new()}"}
        answer = requests.get(cloud.server.url() + JOBS, headers=headers, timeout=10)
        assert answer.headers["Retry-After"] == "2"

    def test_may_carry_out_and_fail_all_the_same(self, cloud: GoogleCloud, ask: Ask) -> None:
        cloud.faults.add("customJobs.create", faults.ACCEPTED_BUT_UNAVAILABLE)
        assert ask("POST", JOBS, JOB)[0] == 503
        assert len(cloud.vertex.jobs) == 1

    @pytest.mark.parametrize(("fault", "jobs"), [(faults.ANSWER_LOST, 1), (faults.REQUEST_LOST, 0)])
    def test_may_break_the_connection(
        self, cloud: GoogleCloud, ask: Ask, fault: faults.Fault, jobs: int
    ) -> None:
        cloud.faults.add("customJobs.create", fault)
        with pytest.raises(requests.ConnectionError):
            ask("POST", JOBS, JOB)
        assert len(cloud.vertex.jobs) == jobs

    def test_are_for_the_requests_that_are_meant(self, cloud: GoogleCloud, ask: Ask) -> None:
        cloud.faults.add("customJobs.list", faults.every(3, faults.UNAVAILABLE), "us-east1")
        east = JOBS.replace("us-central1", "us-east1")
        assert [ask("GET", east)[0] for _ in range(6)] == [200, 200, 503] * 2
        assert [ask("GET", JOBS)[0] for _ in range(3)] == [200] * 3

    def test_may_take_the_token_away(self, cloud: GoogleCloud, ask: Ask) -> None:
        cloud.faults.add("customJobs.list", faults.first(1, faults.EXPIRED))
        token = cloud.tokens.new()
        assert ask("GET", JOBS, token=token)[0] == 401
        assert ask("GET", JOBS, token=token)[0] == 401
        assert ask("GET", JOBS)[0] == 200

    def test_may_be_slow(self, cloud: GoogleCloud, ask: Ask) -> None:
        cloud.faults.add("customJobs.list", faults.slow(0.2))
        before = time.monotonic()
        assert ask("GET", JOBS)[0] == 200
        assert time.monotonic() - before >= 0.2

    def test_end_when_they_are_cleared(self, cloud: GoogleCloud, ask: Ask) -> None:
        cloud.faults.add("customJobs.list", faults.UNAVAILABLE)
        cloud.faults.clear()
        assert ask("GET", JOBS)[0] == 200


def test_a_quota_lets_a_burst_pass_and_then_so_many_a_minute(clock: Clock) -> None:
    quota = faults.Quota(60, clock)
    assert [quota.take("p1") for _ in range(61)] == [0.0] * 60 + [1.0]
    assert quota.take("p2") == 0.0
    clock.now += 10
    assert [quota.take("p1") for _ in range(11)] == [0.0] * 10 + [1.0]
