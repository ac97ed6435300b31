"""Where runs are kept, by a project's settings and the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caliban.config import parse
from caliban.errors import UsageError
from caliban.tracking.place import PASSWORD, Place, find, with_password

CLOUD_SQL = {"project": "p", "region": "r", "db": "d", "user": "u"}


def found(tmp_path: Path, settings: dict[str, Any], **environment: str) -> Place | None:
    return find(parse({"mlflow_config": settings}).mlflow, tmp_path, environment)


def test_a_project_that_says_nothing_has_none_whatever_the_environment_says(tmp_path: Path) -> None:
    assert find(None, tmp_path, {"MLFLOW_TRACKING_URI": "http://example.com"}) is None


@pytest.mark.parametrize(
    ("url", "is_server", "is_on_loopback"),
    [
        ("http://mlflow.example.com:5000", True, False),
        ("https://mlflow.example.com/team/", True, False),
        ("http://localhost:5000", True, True),
        ("http://127.0.0.1:5000", True, True),
        ("http://[::1]:5000", True, True),
        ("http://10.0.0.7:5000", True, False),
        ("postgresql://me@db.example.com/runs", False, False),
        ("postgresql+psycopg2://me@localhost/runs", False, True),
        ("sqlite:///mlflow.db", False, True),
    ],
)
def test_servers_and_databases_are_told_apart(
    tmp_path: Path, url: str, is_server: bool, is_on_loopback: bool
) -> None:
    place = found(tmp_path, {"tracking_uri": url})
    assert place is not None
    assert (place.is_server, place.is_on_loopback) == (is_server, is_on_loopback)
    assert Place.from_json(place.to_json()) == place


def test_a_file_of_sqlite_is_one_of_the_project(tmp_path: Path) -> None:
    place = found(tmp_path, {"tracking_uri": "sqlite:///runs/mlflow.db"})
    artifacts = f"{tmp_path}/runs/mlartifacts"
    assert place == Place(f"sqlite:///{tmp_path}/runs/mlflow.db", artifacts)
    place = found(tmp_path, {"tracking_uri": "sqlite:////srv/mlflow.db", "artifact_root": "gs://b"})
    assert place == Place("sqlite:////srv/mlflow.db", "gs://b")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    place = found(tmp_path, {"tracking_uri": "http://a"}, MLFLOW_TRACKING_URI="http://b")
    assert place == Place("http://b")


def test_what_caliban_04_documented_is_an_instance_of_cloud_sql(tmp_path: Path) -> None:
    place = found(tmp_path, {**CLOUD_SQL, "password": "hunter2", "artifact_root": "gs://b"})
    assert place == Place("", "gs://b", "p:r:d", "u", "d")
    assert "hunter2" not in str(place.to_json())
    assert place.is_on_loopback and not place.is_server


@pytest.mark.parametrize(
    "url",
    [
        *("mlflow.example.com", "ftp://example.com", "http://", "sqlite://", "sqlite:///"),
        *("http://[::1", "databricks", "postgres://a/b"),
    ],
)
def test_what_is_no_address_is_refused_with_examples(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError) as error:
        found(tmp_path, {"tracking_uri": url})
    assert "sqlite:///mlflow.db" in str(error.value.hint)


@pytest.mark.parametrize("scheme", ["https", "postgresql", "mysql+pymysql"])
def test_a_password_in_an_address_is_refused_and_not_shown(tmp_path: Path, scheme: str) -> None:
    for where in ({}, {"MLFLOW_TRACKING_URI": f"{scheme}://me:hunter2@example.com/db"}):
        url = "http://a" if where else f"{scheme}://me:hunter2@example.com/db"
        with pytest.raises(UsageError) as error:
            found(tmp_path, {"tracking_uri": url}, **where)
        assert "hunter2" not in f"{error.value.message} {error.value.hint}"
        assert PASSWORD in str(error.value.hint)


def test_the_password_of_a_database_is_quoted_in_its_address() -> None:
    url = "postgresql://me@localhost:5432/runs"
    assert with_password(url, {}) == url
    assert with_password(url, {PASSWORD: "a/b@c:d"}) == (
        "postgresql://me:a%2Fb%40c%3Ad@localhost:5432/runs"
    )
    assert with_password("sqlite:////x.db", {PASSWORD: "x"}) == "sqlite:////x.db"
