"""Which project and region are meant: who is asked, in which order, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caliban.commands.google_project import Found, project, region
from caliban.config import Config, GCloud
from caliban.errors import UsageError

CONFIG = Config(gcloud=GCloud(project_id="of-the-file", region="europe-west1"))


@pytest.fixture
def gcloud(home: Path) -> Path:
    """Configures gcloud, whose folder it is."""
    folder = home / ".config" / "gcloud"
    (folder / "configurations").mkdir(parents=True)
    text = "[core]\nproject = of-gcloud\n[compute]\nregion = asia-east1\n"
    (folder / "configurations" / "config_default").write_text(text)
    return folder


class TestTheProject:
    def test_is_that_of_the_flag_then_of_the_variable_then_of_the_file(self, gcloud: Path) -> None:
        variables = {"PROJECT_ID": "of-the-variable"}
        assert project("of-the-flag", variables, CONFIG) == Found("of-the-flag")
        assert project(None, variables, CONFIG) == Found("of-the-variable", "$PROJECT_ID")
        assert project("", {"PROJECT_ID": ""}, CONFIG) == Found(
            "of-the-file", ".calibanconfig.json"
        )

    def test_is_gclouds_where_nobody_else_names_one(self, gcloud: Path) -> None:
        found = project(None, {}, Config())
        assert found == Found("of-gcloud", "gcloud's configuration")
        assert found.remark == " (from gcloud's configuration)"

    def test_is_that_of_the_credentials_at_last(self, home: Path) -> None:
        folder = home / ".config" / "gcloud"
        folder.mkdir(parents=True)
        adc = {"type": "authorized_user", "quota_project_id": "of-adc"}
        (folder / "application_default_credentials.json").write_text(json.dumps(adc))
        assert project(None, {}, Config()) == Found("of-adc", "your credentials")
        key = home / "key.json"
        key.write_text(json.dumps({"type": "service_account", "project_id": "of-the-key"}))
        named = {"GOOGLE_APPLICATION_CREDENTIALS": str(key)}
        assert project(None, named, Config()).value == "of-the-key"
        assert project(None, {}, Config(), "~/key.json").value == "of-the-key"
        settings = Config(gcloud=GCloud(cloud_key="~/key.json"))
        assert project(None, {}, settings).value == "of-the-key"

    @pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
    def test_that_nobody_names_is_asked_for(self, home: Path, content: str) -> None:
        key = home / "key.json"
        key.write_text(content)
        with pytest.raises(UsageError, match="no project of Google Cloud is named") as error:
            project(None, {}, Config(), str(key))
        assert "--project_id PROJECT" in error.value.hint
        assert "$PROJECT_ID" in error.value.hint

    @pytest.mark.parametrize("name", ["a/b", "A", "a b", "p?x", "a:b:c", "p#", "-1", "p" * 64])
    def test_that_can_be_none_is_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match="can't be the id of a project"):
            project(name, {}, Config())
        with pytest.raises(UsageError, match=r"from \$PROJECT_ID, can't be"):
            project(None, {"PROJECT_ID": name}, Config())

    @pytest.mark.parametrize("name", ["my-project-314", "example.com:my-project", "123456789"])
    def test_has_an_id_of_several_forms(self, name: str) -> None:
        assert project(name, {}, Config()).value == name


class TestTheRegion:
    def test_is_that_of_whoever_names_one_first(self, gcloud: Path) -> None:
        variables = {"REGION": "us-east1"}
        assert region("us-west1", variables, CONFIG, "us-central1") == Found("us-west1")
        assert region(None, variables, CONFIG, "us-central1") == Found("us-east1", "$REGION")
        assert region(None, {}, CONFIG, "us-central1").value == "europe-west1"
        found = region(None, {}, Config(), "us-central1")
        assert found == Found("asia-east1", "gcloud's configuration")

    def test_is_the_usual_one_where_nobody_names_one(self) -> None:
        assert region(None, {}, Config(), "us-central1") == Found(
            "us-central1", "caliban's default"
        )

    @pytest.mark.parametrize("name", ["evil.example.com/", "a@b", "US", "us central1"])
    def test_is_no_way_to_send_a_token_elsewhere(self, name: str) -> None:
        with pytest.raises(UsageError, match="can't be a region"):
            region(name, {}, Config(), "us-central1")
