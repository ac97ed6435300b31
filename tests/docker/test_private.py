"""What no container may see: found wherever it lies, and by whatever name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from caliban.docker import private


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "keys").mkdir(parents=True)
    (folder / "keys/mine.json").write_text("secret")
    return folder


class TestEnclosing:
    @pytest.mark.parametrize(
        "name",
        [
            *(".caliban", ".caliban/logs/not there yet", ".ssh", ".aws/x", ".kube", ".docker"),
            *(".config/gcloud", ".gnupg", ".azure/deep/down"),
        ],
    )
    def test_a_private_folder_and_all_that_is_in_it(self, home: Path, name: str) -> None:
        found = private.enclosing(home / name, {})
        assert found
        assert (home / name).is_relative_to(found)

    @pytest.mark.parametrize("name", ["", "project", ".calibanon", ".config", "x/.ssh"])
    def test_nothing_around_other_folders(self, home: Path, name: str) -> None:
        assert private.enclosing(home / name, {}) is None

    def test_also_behind_links_and_dots(self, home: Path, tmp_path: Path) -> None:
        (home / ".caliban/logs").mkdir(parents=True)
        (tmp_path / "link").symlink_to(home / ".caliban/logs")
        for name in ("link", "link/..", "link/../new", "nowhere/../link/x"):
            assert private.enclosing(tmp_path / name, {}) == home / ".caliban"

    def test_also_where_the_environment_puts_it(self, tmp_path: Path) -> None:
        environment = {"CLOUDSDK_CONFIG": "cloud", "DOCKER_CONFIG": str(tmp_path / "whale")}
        assert private.enclosing(tmp_path / "cloud/x", environment) == tmp_path / "cloud"
        assert private.enclosing(tmp_path / "whale", environment) == tmp_path / "whale"
        assert private.enclosing(tmp_path, environment) is None


class TestInside:
    def test_is_what_is_secret_and_exists(self, project: Path, tmp_path: Path) -> None:
        (tmp_path / "outside.json").touch()
        secrets = [project / "keys/mine.json", project / "missing.json", tmp_path / "outside.json"]
        assert private.inside(project, secrets, {}) == [project / "keys/mine.json"]

    def test_is_found_behind_links(self, project: Path) -> None:
        (project / "alias.json").symlink_to("keys/mine.json")
        (project / "same").symlink_to("keys")
        for name in ("alias.json", "same/mine.json", "keys/../same/mine.json"):
            found = private.inside(project, [project / name], {})
            assert found == [project / "keys/mine.json"]

    def test_is_nothing_behind_a_link_that_leads_out(self, project: Path, home: Path) -> None:
        (home / ".ssh").mkdir()
        (home / "key.json").touch()
        (project / "ssh").symlink_to(home / ".ssh")
        (project / "key.json").symlink_to(home / "key.json")
        assert private.inside(project, [project / "key.json"], {}) == []

    def test_has_the_other_names_of_a_file(self, project: Path, home: Path) -> None:
        key = home / "key.json"
        key.touch()
        os.link(key, project / "copy.json")
        os.link(key, project / "keys/copy.json")
        found = [project / "copy.json", project / "keys/copy.json"]
        assert private.inside(project, [key], {}) == found

    def test_has_folders_as_a_whole(self, project: Path, home: Path) -> None:
        (project / "gcloud").mkdir()
        (project / "gcloud/adc.json").touch()
        (project / "ssh").mkdir()
        (home / ".ssh").symlink_to(project / "ssh")
        environment = {"CLOUDSDK_CONFIG": str(project / "gcloud")}
        secrets = [project / "gcloud/adc.json", project / "keys/mine.json"]
        assert private.inside(project, secrets, environment) == [
            *(project / "gcloud", project / "keys/mine.json", project / "ssh"),
        ]

    def test_is_found_in_a_project_that_is_reached_by_a_link(
        self, project: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "link").symlink_to(project)
        secrets = [tmp_path / "link/keys/mine.json"]
        assert private.inside(tmp_path / "link", secrets, {}) == [project / "keys/mine.json"]

    def test_is_nothing_behind_links_that_go_round_in_circles(self, project: Path) -> None:
        (project / "loop").symlink_to("loop")
        assert private.inside(project, [project / "loop", project / "loop/x"], {}) == []
