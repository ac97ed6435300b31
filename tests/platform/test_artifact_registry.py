"""The repository of images: made once, on first use."""

from __future__ import annotations

import pytest

from caliban.errors import CalibanError, RefusedError
from caliban.platform.artifact_registry import Repository, ensure
from caliban.platform.rest import Session
from tests.google_cloud import faults
from tests.google_cloud.client import FakeTime
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault

REPOSITORY = Repository("p1", "us-central1", "caliban")
NAME = "projects/p1/locations/us-central1/repositories/caliban"


def test_images_are_named_after_it() -> None:
    assert REPOSITORY.prefix == "us-central1-docker.pkg.dev/p1/caliban"
    of_domain = Repository("example.com:p1", "us-central1", "caliban")
    assert of_domain.prefix == "us-central1-docker.pkg.dev/example.com/p1/caliban"


def test_it_is_made_once(cloud: GoogleCloud, session: Session, time: FakeTime) -> None:
    cloud.artifacts.slow = 3
    assert ensure(session, REPOSITORY, cloud.environment())
    assert cloud.artifacts.repositories[NAME]["format"] == "DOCKER"
    assert time.slept == [2, 2, 2]
    assert not ensure(session, REPOSITORY, cloud.environment())
    assert len(cloud.artifacts.repositories) == 1


@pytest.mark.parametrize(
    "fault", [faults.ANSWER_LOST, faults.REQUEST_LOST, faults.UNAVAILABLE, faults.TOO_MANY]
)
def test_it_is_made_whatever_happens(cloud: GoogleCloud, session: Session, fault: Fault) -> None:
    cloud.faults.add("repositories.create", faults.first(1, fault))
    assert ensure(session, REPOSITORY, cloud.environment())
    assert list(cloud.artifacts.repositories) == [NAME]


def test_somebody_else_may_be_quicker(cloud: GoogleCloud, session: Session) -> None:
    cloud.faults.add("repositories.get", faults.first(1, Fault(status=404)))
    cloud.artifacts.repositories[NAME] = {"name": NAME, "format": "DOCKER"}
    assert ensure(session, REPOSITORY, cloud.environment())


def test_one_of_another_kind_is_left_alone(cloud: GoogleCloud, session: Session) -> None:
    cloud.artifacts.repositories[NAME] = {"name": NAME, "format": "PYTHON"}
    with pytest.raises(CalibanError, match="'caliban' in us-central1 is for PYTHON, not for"):
        ensure(session, REPOSITORY, cloud.environment())


def test_who_may_not_is_told(cloud: GoogleCloud, session: Session) -> None:
    cloud.faults.add("repositories.create", Fault(status=403))
    with pytest.raises(RefusedError) as error:
        ensure(session, REPOSITORY, cloud.environment())
    assert error.value.reason == "PERMISSION_DENIED"
    assert "roles/artifactregistry" in error.value.hint


def test_an_operation_that_never_ends_is_given_up(cloud: GoogleCloud, session: Session) -> None:
    cloud.artifacts.slow = 10**6
    with pytest.raises(CalibanError, match="is not done after 120 s"):
        ensure(session, REPOSITORY, cloud.environment())
